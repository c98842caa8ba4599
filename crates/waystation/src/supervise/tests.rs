//! The supervisor with real processes: small shell scripts that the test plays
//! the admin sockets for.

use std::fs;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use axum::{Router, routing::get};
use tokio::net::UnixListener;
use waystation_base::BackoffConfig;

use super::*;

/// Long enough for a busy machine; no test waits for it when all is well.
const PATIENCE: Duration = Duration::from_mins(1);

fn policy() -> Policy {
    Policy {
        backoff: BackoffConfig {
            base: Duration::from_millis(1),
            max: Duration::from_millis(2),
            jitter: 0.0,
        },
        reset_after: PATIENCE,
        start_timeout: PATIENCE,
        drain_timeout: PATIENCE,
    }
}

struct Bench {
    folder: tempfile::TempDir,
    specs: Vec<ChildSpec>,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            specs: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a role that runs `script` in the test's folder. Its admin socket
    /// stands elsewhere, because the test serves it and the supervisor removes
    /// what it finds before a start.
    fn role(&mut self, name: &str, stage: u8, script: &str) {
        let script = format!("cd '{}'; {script}", self.folder.path().display());
        self.specs.push(ChildSpec {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            admin_socket: self.path(&format!("{name}.admin")),
            stage,
        });
    }

    async fn run(
        &self,
        policy: Policy,
        channel: (Events, mpsc::Receiver<Event>),
        snapshots: &watch::Sender<Snapshot>,
        on_ready: impl FnOnce(),
    ) -> Outcome {
        let mut dir = DataDir::acquire(&self.path("data")).unwrap();
        dir.wait_for_predecessors(PATIENCE, |_| {}).await.unwrap();
        let options = Options {
            clock: Uptime::start(),
            policy,
            health_interval: Duration::from_millis(10),
        };
        let run = run(
            self.specs.clone(),
            options,
            &mut dir,
            channel,
            snapshots,
            on_ready,
        );
        tokio::time::timeout(PATIENCE, run).await.expect("it ends")
    }
}

/// Serves `200 ok` at `socket` as soon as `marker` exists, again each time the
/// supervisor removes the socket. The role writes the marker, so that health
/// follows the start as it does in life.
async fn serve_admin(socket: PathBuf, marker: PathBuf) {
    let mut server: Option<JoinHandle<()>> = None;
    loop {
        if marker.exists() && !socket.exists() {
            if let Some(old) = server.take() {
                old.abort();
            }
            let listener = UnixListener::bind(&socket).unwrap();
            let router = Router::new().route("/healthz", get(|| async { (StatusCode::OK, "ok") }));
            server = Some(tokio::spawn(async move {
                axum::serve(listener, router).await.unwrap();
            }));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The script of a role that serves until it is asked to end, noting both.
fn well_behaved(name: &str) -> String {
    format!(
        "trap 'echo {name} >> ended; kill $! 2>/dev/null; exit 0' TERM; \
         echo $$ > {name}.pid.new; mv {name}.pid.new {name}.pid; sleep 100 >/dev/null 2>&1 & wait"
    )
}

fn pid_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn kill_dash_nine(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_role_that_is_killed_comes_back_and_all_end_in_order() {
    let mut bench = Bench::new();
    for (name, stage) in [("das-1", 2), ("logic-1", 1), ("entry-1", 0)] {
        bench.role(name, stage, &well_behaved(name));
        let socket = bench.path(&format!("{name}.admin"));
        tokio::spawn(serve_admin(socket, bench.path(&format!("{name}.pid"))));
    }
    let (events, happened) = events();
    let (snapshots, mut shown) = watch::channel(Snapshot::default());
    let logic_pid = bench.path("logic-1.pid");
    let stop = events.clone();
    let test = tokio::spawn(async move {
        let all = |shown: &Snapshot| {
            shown.processes.len() == 3 && shown.processes.iter().all(|process| process.healthy)
        };
        shown.wait_for(all).await.unwrap();
        let first = pid_in(&logic_pid).unwrap();
        kill_dash_nine(first);
        let back = |shown: &Snapshot| all(shown) && shown.processes[1].restarts == 1;
        let after = shown.wait_for(back).await.unwrap().clone();
        assert_eq!(after.processes[1].last_exit.as_deref(), Some("signal 9"));
        assert_ne!(after.processes[1].pid, u32::try_from(first).ok());
        assert_eq!(after.processes[0].restarts, 0);
        // A role is in health when its socket answers, which this test's does
        // before the second incarnation has set its trap.
        while pid_in(&logic_pid) == Some(first) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stop.send(Event::Stop(StopReason::Terminated))
            .await
            .unwrap();
    });
    let mut ready = 0;
    let outcome = bench
        .run(policy(), (events, happened), &snapshots, || ready += 1)
        .await;
    test.await.unwrap();
    assert_eq!(outcome, Outcome::Stopped);
    assert_eq!(ready, 1);
    let ended = fs::read_to_string(bench.path("ended")).unwrap();
    assert_eq!(ended, "entry-1\nlogic-1\ndas-1\n");
}

#[tokio::test]
async fn a_role_that_ignores_the_request_to_end_is_killed() {
    let mut bench = Bench::new();
    bench.role("entry-1", 0, "trap '' TERM; echo > up; exec sleep 1000");
    tokio::spawn(serve_admin(bench.path("entry-1.admin"), bench.path("up")));
    let (events, happened) = events();
    let stop = events.clone();
    let on_ready = move || stop.try_send(Event::Stop(StopReason::TimeOver)).unwrap();
    let (snapshots, _shown) = watch::channel(Snapshot::default());
    let policy = Policy {
        drain_timeout: Duration::from_millis(20),
        ..policy()
    };
    let outcome = bench
        .run(policy, (events, happened), &snapshots, on_ready)
        .await;
    assert_eq!(outcome, Outcome::Stopped);
    let entry = &snapshots.borrow().processes[0];
    assert_eq!(entry.last_exit.as_deref(), Some("signal 9"));
}

#[tokio::test]
async fn a_role_with_a_wrong_configuration_ends_everything() {
    let mut bench = Bench::new();
    bench.role("das-1", 2, &well_behaved("das-1"));
    bench.role(
        "logic-1",
        1,
        "while ! test -e das-1.pid; do sleep 0.01; done; exit 2",
    );
    let (snapshots, _shown) = watch::channel(Snapshot::default());
    let outcome = bench
        .run(policy(), events(), &snapshots, || panic!("never ready"))
        .await;
    assert_eq!(outcome, Outcome::Configuration("logic-1".to_owned()));
    assert_eq!(fs::read_to_string(bench.path("ended")).unwrap(), "das-1\n");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let mut bench = Bench::new();
    bench.role("das-1", 2, "");
    bench.specs[0].program = "/nonexistent/waystation".into();
    let (snapshots, _shown) = watch::channel(Snapshot::default());
    let outcome = bench
        .run(policy(), events(), &snapshots, || panic!("never ready"))
        .await;
    let message = outcome.to_string();
    assert!(
        message.contains("das-1") && message.contains("/nonexistent/waystation"),
        "{message}"
    );
}

/// Story: the supervisor was killed and its roles went on for ever, without
/// anybody who would have ended them. Here a shell plays the supervisor's part
/// of dying: the role is started by a thread, and the death signal follows the
/// thread that started it.
#[tokio::test]
async fn a_role_does_not_outlive_the_thread_that_started_it() {
    let mut bench = Bench::new();
    bench.role("das-1", 2, &well_behaved("das-1"));
    let spec = bench.specs[0].clone();
    let mut dir = DataDir::acquire(&bench.path("data")).unwrap();
    dir.wait_for_predecessors(PATIENCE, |_| {}).await.unwrap();
    let lock = dir.roles_lock().unwrap();
    let pid_file = bench.path("das-1.pid");
    let starter = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let started = process::start(&spec, lock).unwrap();
            // The role must have its trap before it is asked to end.
            while pid_in(&pid_file).is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            started
        })
    });
    drop(starter.join().unwrap());
    let ended = bench.path("ended");
    let wait = async {
        while !ended.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the role was asked to end");
}
