//! A process that serves: its server, its admin side, its end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use waystation_base::{Clock, ShardId};
use waystation_net::native::NativeProtocol;
use waystation_net::{
    Address, MonotonicClock, NetConfig, Server, ServerBuilder, Shard, StartError,
};

use crate::admin::{Admin, Health, Process};
use crate::limits::START_WAIT;
use crate::metrics::Source;
use crate::router::{RegisterError, Router};

/// Why a process did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Two methods of one listener cannot stand together.
    #[error("the methods of a listener cannot stand together")]
    Routes(#[from] RegisterError),
    /// What was given to `on_shard` or `listen` panicked; the message is in
    /// the log.
    #[error("shard {0} panicked before it was ready")]
    Panicked(ShardId),
    /// The shards did not get ready in time: something given to `on_shard` or
    /// `listen` blocks.
    #[error("not all shards were ready after {0:?}")]
    NotReady(Duration),
    /// The admin side could not be bound.
    #[error("cannot serve the admin side on {address}")]
    Admin {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// Signals could not be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

/// What a shard says of its start: that it is ready, or why it cannot be.
type Report = Result<(), AppError>;

/// Collects what a process serves. See [`App::builder`].
#[must_use = "nothing runs before `start`"]
pub struct AppBuilder {
    name: String,
    server: ServerBuilder,
    admin: Option<Address>,
    sources: Vec<Source>,
    health: Vec<Health>,
    reports: (Sender<Report>, Receiver<Report>),
}

impl AppBuilder {
    /// Runs on each shard before it serves: the place to build its state, and
    /// to keep it with [`Shard::set_extension`].
    pub fn on_shard(mut self, init: impl Fn(&Shard) + Send + Sync + 'static) -> Self {
        let reports = self.reports.0.clone();
        self.server = self.server.on_shard(move |shard| {
            guarded(shard, &reports, || init(shard));
        });
        self
    }

    /// Listens on `address`. `routes` gives each shard its methods; two
    /// methods that cannot stand together fail the start, since no request
    /// could tell them apart.
    pub fn listen(
        mut self,
        address: Address,
        routes: impl Fn(&mut Router) -> Result<(), RegisterError> + Send + Sync + 'static,
    ) -> Self {
        let reports = self.reports.0.clone();
        self.server = self.server.listen(address, move |shard| -> NativeProtocol {
            let mut router = Router::new(shard);
            let built = guarded(shard, &reports, || routes(&mut router));
            if let Err(error) = built {
                // Whoever starts us may have stopped waiting.
                let _ = reports.send(Err(error.into()));
            }
            router.into_protocol()
        });
        self
    }

    /// Serves health, contexts, tasks, blocked handlers and metrics here, on
    /// a thread of its own: it answers even while a shard is blocked.
    pub fn admin(mut self, address: Address) -> Self {
        self.admin = Some(address);
        self
    }

    /// Adds metrics of the application's own. They are read on the admin
    /// thread, which must not block.
    pub fn metrics(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// Adds a condition of health. It is asked on the admin thread, which
    /// must not block.
    pub fn health(mut self, check: Health) -> Self {
        self.health.push(check);
        self
    }

    /// Starts everything. On return every shard serves.
    ///
    /// Blocks until the shards are ready, for at most
    /// [`START_WAIT`](crate::limits::START_WAIT).
    ///
    /// # Errors
    /// [`AppError`]; nothing runs then.
    pub fn start(self) -> Result<App, AppError> {
        let server = self.server.start()?;
        wait_until_ready(&server, self.reports)?;
        let process = Arc::new(Process {
            name: self.name,
            remote: server.remote().clone(),
            counters: server.counters().to_vec(),
            blocked: server.blocked().clone(),
            draining: false.into(),
            sources: self.sources,
            health: self.health,
        });
        let admin = match self.admin {
            None => None,
            Some(address) => Some(
                Admin::start(&address, process.clone())
                    .map_err(|source| AppError::Admin { address, source })?,
            ),
        };
        Ok(App {
            end: DrainMark(process),
            server,
            _admin: admin,
        })
    }
}

/// Runs a part of a shard's start. A panic is reported before the thread ends.
fn guarded<T>(shard: &Shard, reports: &Sender<Report>, part: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|panic| {
        // Whoever starts us may have stopped waiting.
        let _ = reports.send(Err(AppError::Panicked(shard.id())));
        resume_unwind(panic)
    })
}

/// Waits until each shard has done all that it does before it takes mail.
fn wait_until_ready(
    server: &Server,
    (sender, reports): (Sender<Report>, Receiver<Report>),
) -> Result<(), AppError> {
    let shards = server.remote().shards();
    for index in 0..shards {
        let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
        let sender = sender.clone();
        let ready = move |_: &Shard| {
            let _ = sender.send(Ok(()));
        };
        // It has ended already only when it panicked, and has said so.
        let _ = server.remote().run_on(shard, ready);
    }
    let deadline = MonotonicClock.now() + START_WAIT;
    for _ in 0..shards {
        let left = deadline.saturating_since(MonotonicClock.now());
        match reports.recv_timeout(left) {
            Ok(report) => report?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(AppError::NotReady(START_WAIT));
            }
        }
    }
    Ok(())
}

/// Says that the process goes away, before anything of it does.
struct DrainMark(Arc<Process>);

impl Drop for DrainMark {
    fn drop(&mut self) {
        self.0.draining.store(true, Ordering::Release);
    }
}

/// A running process. Dropping it drains it, too.
pub struct App {
    // In the order of their ends: health says that we drain, the server
    // drains, and health answers until it has.
    end: DrainMark,
    server: Server,
    _admin: Option<Admin>,
}

impl App {
    /// Begins a process; `name` is its role in lists, such as `logic-1`.
    pub fn builder(name: impl Into<String>, config: NetConfig) -> AppBuilder {
        AppBuilder {
            name: name.into(),
            server: Server::builder(config),
            admin: None,
            sources: Vec::new(),
            health: Vec::new(),
            reports: channel(),
        }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    ///
    /// # Errors
    /// [`AppError::Signals`].
    pub fn run(self) -> Result<(), AppError> {
        let signal = waystation_net::wait_for_termination().map_err(AppError::Signals)?;
        tracing::info!(role = self.end.0.name, signal, "draining");
        self.drain();
        Ok(())
    }

    /// Drains and ends: `/healthz` says so, hooks of the drain run, peers are
    /// told, requests in progress are answered, then connections close.
    /// Blocks for at most the configured drain time and a second.
    pub fn drain(self) {
        drop(self);
    }
}
