//! `waystation route` and an agent behind it, as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use common::chat::look_until;
use common::{on_small_disk, run, set_room, stderr, stdout, waystation};
use waystation_test_process::Watchdog;

/// A process that says when it is ready.
struct Running {
    child: Child,
    ready: String,
    /// It ends with this process, whatever ends that.
    _watchdog: Watchdog,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::of(&mut waystation(args))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::over(&child);
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let ready = line
            .strip_prefix("ready ")
            .map(str::trim)
            .map(str::to_owned);
        Self {
            child,
            ready: ready.unwrap_or_else(|| panic!("expected the ready line, got {line:?}")),
            _watchdog: watchdog,
        }
    }

    /// Ends it as an operator does; its exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").arg(&pid).status();
        assert!(kill.unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

struct World {
    folder: tempfile::TempDir,
    server: Running,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let listen = ["--listen", "127.0.0.1:0", "--no-registry"];
        let serve = waystation(&[&["route", "serve", "--dir", dir], &listen[..]].concat());
        let server = Running::of(&mut on_small_disk(&serve));
        Self { folder, server }
    }

    fn at(&self) -> &str {
        self.server.ready.strip_prefix("route://").unwrap()
    }

    /// Runs `waystation route`: its exit code, and what it printed.
    fn route(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = run(&[&["route"], args, &["--server", self.at()]].concat());
        let text = if output.status.success() {
            stdout(&output)
        } else {
            stderr(&output)
        };
        (output.status.code(), text)
    }
}

#[test]
fn routes_are_added_listed_changed_and_removed() {
    let world = World::new();
    let add = [
        "add",
        "pay",
        "10.0.0.1:7000",
        "--lars",
        "-5/7",
        "--weight",
        "50",
    ];
    let more = ["--zone", "hel-1", "--meta", "rack=7"];
    assert_eq!(
        world.route(&[&add[..], &more].concat()),
        (Some(0), String::new())
    );
    assert_eq!(world.route(&["add", "1/1", "10.0.0.2:80"]).0, Some(0));
    assert_eq!(world.route(&["add", "pay", "[fd00::1]:80"]).0, Some(0));
    let (_, list) = world.route(&["list"]);
    let rows: Vec<Vec<&str>> = list
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0][..3], ["service", "address", "lars"]);
    assert_eq!(
        rows[1],
        ["lars.1.1", "10.0.0.2:80", "1/1", "100", "serving", "store"]
    );
    let first = [
        "pay",
        "10.0.0.1:7000",
        "-5/7",
        "50",
        "serving",
        "hel-1",
        "store",
        "rack=7",
    ];
    assert_eq!(rows[2], first);
    let (_, json) = world.route(&["list", "-5/7", "--json"]);
    assert_eq!(json, "", "its hosts have a name");
    assert_eq!(
        world
            .route(&["set", "pay", "10.0.0.1:7000", "--zone", "", "--weight", "0"])
            .0,
        Some(0)
    );
    let (_, json) = world.route(&["list", "pay", "--json"]);
    let line = json.lines().find(|line| line.contains("10.0.0.1")).unwrap();
    assert!(
        line.contains("\"weight\":0") && !line.contains("zone"),
        "{line}"
    );
    assert_eq!(world.route(&["remove", "pay", "10.0.0.1:7000"]).0, Some(0));
    let (code, text) = world.route(&["remove", "pay", "10.0.0.1:7000"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("pay has no route to 10.0.0.1:7000"), "{text}");
    for wrong in [["add", "pay", "host:80"], ["add", "Pay", "10.0.0.1:80"]] {
        assert_eq!(world.route(&wrong).0, Some(2));
    }
    let (_, status) = world.route(&["status"]);
    assert!(status.contains("routes.db (live)"), "{status}");
    assert!(status.contains("routes    2"), "{status}");
    assert_eq!(world.server.stop(), Some(0));
}

#[test]
fn what_nobody_answers_and_what_makes_no_sense_is_told() {
    let output = run(&["route", "list", "--server", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("no answer from the route server at 127.0.0.1:1"),
        "{text}"
    );
    let output = run(&[
        "route",
        "serve",
        "--store",
        "oracle://x",
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("route.store: a store is sqlite://PATH"));
}

/// A disk without room: a change is refused and told so, no route is lost, and the
/// next change is made once there is room.
#[test]
fn a_full_disk_refuses_changes_and_takes_no_route_away() {
    let world = World::new();
    assert_eq!(world.route(&["add", "pay", "10.0.0.1:7000"]).0, Some(0));
    set_room(world.server.child.id(), false);
    let (code, why) = world.route(&["add", "pay", "10.0.0.2:7000"]);
    assert_eq!(code, Some(1), "{why}");
    let listed = world.route(&["list", "pay"]).1;
    assert!(listed.contains("10.0.0.1:7000"), "{listed}");
    assert!(!listed.contains("10.0.0.2:7000"), "{listed}");
    set_room(world.server.child.id(), true);
    let added = (0..100).find(|_| {
        let (code, _) = world.route(&["add", "pay", "10.0.0.3:7000"]);
        code == Some(0)
    });
    assert!(added.is_some(), "no change is made any more");
    let listed = world.route(&["list", "pay"]).1;
    for host in ["10.0.0.1:7000", "10.0.0.3:7000"] {
        assert!(listed.contains(host), "{listed}");
    }
}

#[test]
fn an_agent_behind_a_route_server_serves_its_callers() {
    let world = World::new();
    assert_eq!(world.route(&["add", "pay", "127.0.0.1:9001"]).0, Some(0));
    let dir = world.folder.path().to_str().unwrap();
    let args = [
        "agent",
        "--dir",
        dir,
        "--udp-port",
        "0",
        "--route",
        world.at(),
    ];
    let agent = Running::start(&args);
    // Each look starts a process; the first one waits for the route.
    let got = (0..1000).map(|_| run(&["host", "get", "pay", "--dir", dir]));
    let got = got
        .into_iter()
        .find(|output| output.status.success())
        .unwrap();
    assert_eq!(stdout(&got), "127.0.0.1:9001\n");
    assert_eq!(agent.stop(), Some(0));
}

/// A disk without room for an agent's copy of its routes: the agent goes on and says
/// so, the copy that is there stays as it is, and there is a new one once there is
/// room. An agent that starts without its route server answers from that.
#[test]
fn an_agent_whose_copy_finds_no_room_goes_on_and_copies_later() {
    let world = World::new();
    assert_eq!(world.route(&["add", "pay", "127.0.0.1:9001"]).0, Some(0));
    let at = world.at().to_owned();
    let dir = world.folder.path().to_str().unwrap();
    let args = ["agent", "--dir", dir, "--udp-port", "0", "--route", &at];
    let mut agent = Running::of(waystation(&args).stderr(Stdio::piped()));
    let list = || {
        let listed = run(&["host", "list", "pay", "--dir", dir]);
        stdout(&listed) + &stderr(&listed)
    };
    let copy = world.folder.path().join("agent/routes.jsonl");
    let is_copied = |host: &str| {
        // Somebody has to want the service.
        let _listed = list();
        std::fs::read_to_string(&copy).is_ok_and(|text| text.contains(host))
    };
    look_until("there is a copy", || is_copied("127.0.0.1:9001"));
    let first = std::fs::read(&copy).unwrap();

    // What the next copy is written into, before it takes the other's place.
    let next = copy.with_extension("new");
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    assert_eq!(world.route(&["add", "pay", "127.0.0.1:9002"]).0, Some(0));
    let told = BufReader::new(agent.child.stderr.take().unwrap()).lines();
    let mut told = told.map(Result::unwrap);
    let fault = told.find(|line| line.contains("cannot keep a copy of the routes"));
    let fault = fault.expect("it says so");
    for part in ["No space left", "routes.jsonl"] {
        assert!(fault.contains(part), "{fault}");
    }
    let listed = list();
    assert!(listed.contains("127.0.0.1:9002"), "{listed}");
    assert_eq!(std::fs::read(&copy).unwrap(), first);

    std::fs::remove_file(&next).unwrap();
    look_until("there is a new copy", || is_copied("127.0.0.1:9002"));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(world.server.stop(), Some(0));
    let agent = Running::start(&args);
    let mut listed = String::new();
    look_until("it knows the hosts", || {
        listed = list();
        listed.contains("127.0.0.1:9001")
    });
    for part in ["127.0.0.1:9002", "those of the copy on disk"] {
        assert!(listed.contains(part), "{listed}");
    }
    assert_eq!(agent.stop(), Some(0));
}
