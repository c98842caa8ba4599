//! The admin side of a process: health, contexts, tasks, metrics over HTTP,
//! on a thread of its own, so that it answers even while a shard is blocked.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::{fs, io};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, oneshot};
use waystation_base::{Clock, ShardId};
use waystation_net::{
    Address, BlockedReports, Counters, MonotonicClock, Remote, Server, Shard, TaskInfo,
};

use crate::contexts::{ContextInfo, Contexts};
use crate::limits::{ADMIN_WAIT, LISTED};
use crate::metrics::{self, Page, ShardFigures, Source};

/// What the admin thread knows of the process.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) remote: Remote,
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) blocked: BlockedReports,
    pub(crate) draining: AtomicBool,
    pub(crate) sources: Vec<Source>,
    pub(crate) health: Vec<Health>,
}

impl Process {
    /// What the admin side tells of `server`.
    pub(crate) fn of(
        server: &Server,
        name: String,
        sources: Vec<Source>,
        health: Vec<Health>,
    ) -> Self {
        Self {
            name,
            remote: server.remote().clone(),
            counters: server.counters().to_vec(),
            blocked: server.blocked().clone(),
            draining: false.into(),
            sources,
            health,
        }
    }
}

/// A condition of health: `Err` says what is wrong.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// One context with the role it belongs to.
#[derive(Serialize)]
struct ContextRow {
    role: String,
    #[serde(flatten)]
    context: ContextInfo,
}

/// One task of a shard.
#[derive(Serialize)]
struct TaskRow {
    role: String,
    shard: u16,
    task: &'static str,
    detail: String,
    waiting_for: String,
    age_ms: u64,
}

/// A handler that was found blocking.
#[derive(Serialize)]
struct BlockedRow {
    role: String,
    shard: u16,
    handler: &'static str,
    blocked_ms: u64,
    ago_ms: u64,
    stack: Vec<String>,
}

/// Runs the admin thread until it is dropped.
pub(crate) struct Admin {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    socket: Option<PathBuf>,
}

enum Bound {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Admin {
    /// Binds the address and starts the thread.
    pub(crate) fn start(address: &Address, process: Arc<Process>) -> io::Result<Self> {
        let (bound, socket) = bind(address)?;
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(bound, process, &stopped)) {
                    tracing::error!(%error, "the admin side ended");
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
            socket,
        })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was logged.
            let _ = thread.join();
        }
        if let Some(socket) = &self.socket {
            // It may be another process's by now only if that one replaced
            // it after we stopped listening; it checks that first.
            let _ = fs::remove_file(socket);
        }
    }
}

fn bind(address: &Address) -> io::Result<(Bound, Option<PathBuf>)> {
    match address {
        Address::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok((Bound::Tcp(listener), None))
        }
        Address::Unix(path) => {
            if is_left_over(path) {
                fs::remove_file(path)?;
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok((Bound::Unix(listener), Some(path.clone())))
        }
        Address::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Whether a socket that nobody listens on is in the way, such as that of a
/// process that was killed. Anything else there is not ours to remove.
fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let probe = is_socket.then(|| std::os::unix::net::UnixStream::connect(path));
    probe.is_some_and(|probe| {
        probe.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

async fn serve(bound: Bound, process: Arc<Process>, stop: &Arc<Notify>) -> io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_page))
        .route("/api/v1/contexts", get(contexts))
        .route("/api/v1/tasks", get(tasks))
        .route("/api/v1/blocked", get(blocked))
        .with_state(process);
    let stop = stop.clone();
    let stopped = async move { stop.notified().await };
    match bound {
        Bound::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            tokio::select! {
                result = axum::serve(listener, app).into_future() => result,
                () = stopped => Ok(()),
            }
        }
        Bound::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            tokio::select! {
                result = axum::serve(listener, app).into_future() => result,
                () = stopped => Ok(()),
            }
        }
    }
}

/// Asks every shard. A shard that does not answer in time is an error text.
async fn ask<T: Send + 'static>(
    process: &Process,
    question: impl Fn(&Shard) -> T + Send + Clone + 'static,
) -> Vec<Result<T, String>> {
    let asked = (0..process.remote.shards()).map(|index| {
        let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
        let (tx, rx) = oneshot::channel();
        let question = question.clone();
        let sent = process.remote.run_on(shard, move |shard| {
            // The admin side may have stopped waiting.
            let _ = tx.send(question(shard));
        });
        (shard, sent.map(|()| rx))
    });
    // All are asked before any is waited for, so that they share the wait.
    let asked: Vec<_> = asked.collect();
    let deadline = tokio::time::Instant::now() + ADMIN_WAIT;
    let mut answers = Vec::new();
    for (shard, sent) in asked {
        answers.push(match sent {
            Err(error) => Err(error.to_string()),
            Ok(rx) => match tokio::time::timeout_at(deadline, rx).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(format!("shard {shard} has ended")),
                Err(_) => Err(silent(process, shard)),
            },
        });
    }
    answers
}

/// Why a shard says nothing, as far as the monitor knows.
fn silent(process: &Process, shard: ShardId) -> String {
    let reports = process.blocked.list();
    let last = reports.iter().rev().find(|report| report.shard == shard);
    // One that had ended before we asked is not why we have no answer.
    let now = MonotonicClock.now();
    let last = last.filter(|report| report.at + report.blocked + ADMIN_WAIT >= now);
    let wait = ADMIN_WAIT.as_secs();
    match last {
        Some(report) => format!(
            "shard {shard} did not answer in {wait} s; blocked by {} since {} ms",
            report.handler,
            report.blocked.as_millis()
        ),
        None => format!("shard {shard} did not answer in {wait} s"),
    }
}

async fn healthz(State(process): State<Arc<Process>>) -> Response {
    let mut faults: Vec<String> = Vec::new();
    if process.draining.load(Ordering::Acquire) {
        faults.push("draining".to_owned());
    }
    faults.extend(process.health.iter().filter_map(|check| check().err()));
    faults.extend(
        ask(&process, |_| ())
            .await
            .into_iter()
            .filter_map(Result::err),
    );
    if faults.is_empty() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, faults.join("; ") + "\n").into_response()
}

fn json(rows: &[impl Serialize], left_out: usize) -> Response {
    let head = [
        (CONTENT_TYPE, "application/json".to_owned()),
        (LEFT_OUT, left_out.to_string()),
    ];
    match serde_json::to_vec(rows) {
        Ok(body) => (head, body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// How many rows an answer would have had beside those in it.
const LEFT_OUT: HeaderName = HeaderName::from_static("waystation-left-out");

/// Rows of one shard, and how many more it has.
type Rows<T> = (Vec<T>, usize);

/// All rows as JSON, or 503 with what is wrong when a shard did not answer.
fn rows_or_fault<T, R: Serialize>(
    answers: Vec<Result<Rows<T>, String>>,
    row: impl Fn(T) -> R,
) -> Response {
    let mut rows = Vec::new();
    let mut left_out = 0;
    for answer in answers {
        match answer {
            Ok((answer, more)) => {
                rows.extend(answer.into_iter().map(&row));
                left_out += more;
            }
            Err(fault) => {
                let body = serde_json::json!({ "error": fault }).to_string();
                let head = [(CONTENT_TYPE, "application/json")];
                return (StatusCode::SERVICE_UNAVAILABLE, head, body).into_response();
            }
        }
    }
    json(&rows, left_out)
}

async fn contexts(State(process): State<Arc<Process>>) -> Response {
    let answers = ask(&process, |shard| Contexts::of(shard).snapshot(shard)).await;
    rows_or_fault(answers, |context| ContextRow {
        role: process.name.clone(),
        context,
    })
}

async fn tasks(State(process): State<Arc<Process>>) -> Response {
    let dump = |shard: &Shard| {
        let id = shard.id().0;
        let mut tasks = shard.tasks_dump();
        let left_out = tasks.len().saturating_sub(LISTED);
        tasks.truncate(LISTED);
        let tasks: Vec<_> = tasks.into_iter().map(|task| (id, task)).collect();
        (tasks, left_out)
    };
    let answers = ask(&process, dump).await;
    rows_or_fault(answers, |(shard, task)| row(&process.name, shard, task))
}

fn row(role: &str, shard: u16, task: TaskInfo) -> TaskRow {
    let age = MonotonicClock.now().saturating_since(task.started);
    TaskRow {
        role: role.to_owned(),
        shard,
        task: task.task,
        detail: task.detail,
        waiting_for: task.waits_for,
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    }
}

async fn blocked(State(process): State<Arc<Process>>) -> Response {
    let now = MonotonicClock.now();
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let reports = process.blocked.list();
    let rows: Vec<BlockedRow> = reports
        .into_iter()
        .map(|report| BlockedRow {
            role: process.name.clone(),
            shard: report.shard.0,
            handler: report.handler,
            blocked_ms: millis(report.blocked),
            ago_ms: millis(now.saturating_since(report.at)),
            stack: report.stack,
        })
        .collect();
    json(&rows, 0)
}

async fn metrics_page(State(process): State<Arc<Process>>) -> Response {
    let mut page = Page::default();
    metrics::net(&mut page, &process.counters);
    let name = "waystation_blocked_handlers";
    page.family(
        name,
        waystation_net::Kind::Counter,
        "Handlers found blocking a shard.",
    );
    page.sample(
        name,
        waystation_net::Kind::Counter,
        "",
        process.blocked.total(),
    );
    let figures = ask(&process, figures).await;
    let silent = figures.iter().filter(|answer| answer.is_err()).count();
    let name = "waystation_shards_silent";
    let gauge = waystation_net::Kind::Gauge;
    page.family(name, gauge, "Shards that did not answer for this page.");
    page.sample(name, gauge, "", silent as u64);
    let figures: Vec<(usize, ShardFigures)> = figures
        .into_iter()
        .enumerate()
        .filter_map(|(index, figures)| Some((index, figures.ok()?)))
        .collect();
    metrics::service(&mut page, &figures);
    for source in &process.sources {
        source(&mut page);
    }
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page.finish()).into_response()
}

fn figures(shard: &Shard) -> ShardFigures {
    let contexts = Contexts::of(shard);
    let (tasks, timers, offload) = shard.load_figures();
    ShardFigures {
        counts: contexts.counts(),
        requests: contexts.requests(),
        contexts: contexts.len(),
        tasks,
        timers,
        offload,
        latency_us: contexts.load().latency_us,
    }
}
