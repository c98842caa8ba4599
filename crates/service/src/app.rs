//! A process that serves: its server, its admin side, its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waystation_net::{Address, NetConfig, Server, ServerBuilder, Shard, StartError};

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

/// Collects what a process serves. See [`App::builder`].
pub struct AppBuilder {
    name: String,
    server: ServerBuilder,
    admin: Option<Address>,
    sources: Vec<Source>,
    health: Vec<Health>,
}

impl AppBuilder {
    /// Runs on each shard before it serves: the place to build its state.
    #[must_use]
    pub fn on_shard(mut self, init: impl Fn(&Shard) + Send + Sync + 'static) -> Self {
        self.server = self.server.on_shard(init);
        self
    }

    /// Listens on `address`. `routes` gives each shard its methods; two
    /// methods that cannot stand together end the process at start, since
    /// no request could tell them apart.
    #[must_use]
    pub fn listen(
        mut self,
        address: Address,
        routes: impl Fn(&mut Router) -> Result<(), RegisterError> + Send + Sync + 'static,
    ) -> Self {
        self.server = self.server.listen(address, move |shard| {
            let mut router = Router::new(shard);
            if let Err(error) = routes(&mut router) {
                panic!("the routes cannot stand together: {error}");
            }
            router.into_protocol()
        });
        self
    }

    /// Serves health, contexts, tasks and metrics here.
    #[must_use]
    pub fn admin(mut self, address: Address) -> Self {
        self.admin = Some(address);
        self
    }

    /// Adds metrics of the application's own.
    #[must_use]
    pub fn metrics(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// Adds a condition of health.
    #[must_use]
    pub fn health(mut self, check: Health) -> Self {
        self.health.push(check);
        self
    }

    /// Starts everything.
    ///
    /// # Errors
    /// [`AppError`]; nothing runs then.
    pub fn start(self) -> Result<App, AppError> {
        let server = self.server.start()?;
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
            server,
            process,
            _admin: admin,
        })
    }
}

/// A running process.
pub struct App {
    server: Server,
    process: Arc<Process>,
    // Dropped last, so that health answers during the drain.
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
        tracing::info!(role = self.process.name, signal, "draining");
        self.drain();
        Ok(())
    }

    /// Drains and ends.
    pub fn drain(self) {
        self.process.draining.store(true, Ordering::Release);
        self.server.drain();
    }
}
