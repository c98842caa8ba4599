//! A process that serves: its server, its admin side, its end.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use waystation_net::{Address, NetConfig, Server, ServerBuilder, Shard, StartError, Termination};

use crate::admin::{Admin, Health, Process};
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
    #[error(transparent)]
    Routes(#[from] RegisterError),
    /// The admin side could not be bound.
    #[error("cannot serve the admin side on {address}")]
    Admin {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
}

/// Collects what a process serves. See [`App::builder`].
#[must_use = "nothing runs before `start`"]
pub struct AppBuilder {
    name: String,
    server: ServerBuilder,
    admin: Option<Address>,
    sources: Vec<Source>,
    health: Vec<Health>,
    /// The first fault that a shard found in its routes.
    fault: Arc<OnceLock<RegisterError>>,
}

impl AppBuilder {
    /// Runs on each shard before it serves: the place to build its state, and
    /// to keep it with [`Shard::set_extension`]. A panic there fails the start.
    pub fn on_shard(mut self, init: impl Fn(&Shard) + Send + Sync + 'static) -> Self {
        self.server = self.server.on_shard(init);
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
        let fault = self.fault.clone();
        self.server = self.server.listen(address, move |shard| {
            let mut router = Router::new(shard);
            if let Err(error) = routes(&mut router) {
                // Every shard finds the same.
                let _ = fault.set(error);
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

    /// Starts everything. On return every shard is ready to serve.
    ///
    /// # Errors
    /// [`AppError`]; nothing runs then.
    pub fn start(self) -> Result<App, AppError> {
        let server = self.server.start()?;
        if let Some(error) = self.fault.get() {
            return Err(error.clone().into());
        }
        let process = Arc::new(Process::of(&server, self.name, self.sources, self.health));
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

/// The admin side of a server that is no [`App`]: health, tasks, metrics. Ends
/// when it is dropped; drop it before the server is drained.
pub struct Attendant {
    _mark: DrainMark,
    _admin: Admin,
}

impl Attendant {
    /// Answers for `server` on `address`; `name` is its role in lists.
    ///
    /// # Errors
    /// [`AppError::Admin`] when the address cannot be bound.
    pub fn start(
        name: impl Into<String>,
        server: &Server,
        address: Address,
    ) -> Result<Self, AppError> {
        Self::with_metrics(name, server, address, Vec::new())
    }

    /// As [`Attendant::start`], with metrics beside those of the framework.
    ///
    /// # Errors
    /// [`AppError::Admin`] when the address cannot be bound.
    pub fn with_metrics(
        name: impl Into<String>,
        server: &Server,
        address: Address,
        sources: Vec<Source>,
    ) -> Result<Self, AppError> {
        let process = Arc::new(Process::of(server, name.into(), sources, Vec::new()));
        let admin = Admin::start(&address, process.clone());
        Ok(Self {
            _mark: DrainMark(process),
            _admin: admin.map_err(|source| AppError::Admin { address, source })?,
        })
    }
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
            fault: Arc::default(),
        }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Serves until SIGTERM or SIGINT, then drains. The signals are caught
    /// before anyone is told that this process is ready: one that comes right
    /// behind that must not kill it.
    pub fn run(self, mut signals: Termination) {
        let signal = signals.wait();
        tracing::info!(role = self.end.0.name, signal, "draining");
        self.drain();
    }

    /// Drains and ends: `/healthz` says so, hooks of the drain run, peers are
    /// told, requests in progress are answered, then connections close.
    /// Blocks for at most the configured drain time and a second.
    pub fn drain(self) {
        drop(self);
    }
}
