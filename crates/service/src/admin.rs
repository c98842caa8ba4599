//! The admin side of a process: health, contexts, tasks, metrics over HTTP,
//! on a thread of its own, so that it answers even while a shard is blocked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::{fs, io};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, oneshot};
use waystation_base::{Clock, ShardId};
use waystation_net::{Address, BlockedReports, Counters, MonotonicClock, Remote, Shard, TaskInfo};

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
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok((Bound::Unix(listener), Some(path.clone())))
        }
        Address::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
    }
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
    let mut answers = Vec::new();
    for index in 0..process.remote.shards() {
        let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
        let (tx, rx) = oneshot::channel();
        let question = question.clone();
        let asked = process.remote.run_on(shard, move |shard| {
            // The admin side may have stopped waiting.
            let _ = tx.send(question(shard));
        });
        let answer = match asked {
            Err(error) => Err(error.to_string()),
            Ok(()) => match tokio::time::timeout(ADMIN_WAIT, rx).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(format!("shard {index} has ended")),
                Err(_) => Err(silent(process, shard)),
            },
        };
        answers.push(answer);
    }
    answers
}

/// Why a shard says nothing, as far as the monitor knows.
fn silent(process: &Process, shard: ShardId) -> String {
    let reports = process.blocked.list();
    let last = reports.iter().rev().find(|report| report.shard == shard);
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

fn json(rows: &[impl Serialize]) -> Response {
    match serde_json::to_vec(rows) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The rows, or 503 with what is wrong when a shard did not answer.
fn rows_or_fault<T>(answers: Vec<Result<Vec<T>, String>>) -> Result<Vec<T>, Box<Response>> {
    let mut rows = Vec::new();
    for answer in answers {
        match answer {
            Ok(answer) => rows.extend(answer),
            Err(fault) => {
                let body = serde_json::json!({ "error": fault }).to_string();
                let head = [(CONTENT_TYPE, "application/json")];
                let response = (StatusCode::SERVICE_UNAVAILABLE, head, body).into_response();
                return Err(Box::new(response));
            }
        }
    }
    Ok(rows)
}

async fn contexts(State(process): State<Arc<Process>>) -> Response {
    let answers = ask(&process, |shard| Contexts::of(shard).snapshot(shard)).await;
    match rows_or_fault(answers) {
        Err(response) => *response,
        Ok(contexts) => {
            let role = |context| ContextRow {
                role: process.name.clone(),
                context,
            };
            json(&contexts.into_iter().map(role).collect::<Vec<_>>())
        }
    }
}

async fn tasks(State(process): State<Arc<Process>>) -> Response {
    let name = process.name.clone();
    let dump = move |shard: &Shard| {
        let id = shard.id().0;
        let mut tasks = shard.tasks_dump();
        tasks.truncate(LISTED);
        tasks
            .into_iter()
            .map(|task| row(&name, id, task))
            .collect::<Vec<_>>()
    };
    match rows_or_fault(ask(&process, dump).await) {
        Err(response) => *response,
        Ok(rows) => json(&rows),
    }
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
    json(&rows)
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
