//! The route server.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use waystation_membership::{DirectoryConfig, Watch};
use waystation_net::native::NativeProtocol;
use waystation_net::{Address, ConnectionLimits, NetConfig, Server, Shard};
use waystation_registry::{
    Acks, Registries, Registry as _, RegistryUrl, Views, ViewsHome, WatchOptions, Watching,
};

use crate::desk::Desk;
use crate::error::Error;
use crate::http::Http;
use crate::keeper::{Keeper, KeeperConfig, Told};
use crate::lars::LarsSession;
use crate::limits::{COLLAPSE_WAIT, IDLE, OUTPUT_BYTES_MAX};
use crate::snapshot;
use crate::store::{RouteStore, StoreUrl};

/// Settings of a [`RouteServer`].
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Where copies, the lock and the epoch stand.
    pub dir: PathBuf,
    /// Where it listens: agents of Lars, native subscribers and the admin API,
    /// all on one port.
    pub listen: Address,
    /// Where routes are kept.
    pub store: StoreUrl,
    /// Registries whose instances are shown beside the routes; none goes without.
    pub registry: Vec<RegistryUrl>,
    /// How often a store that cannot notify is asked whether it changed. Default
    /// 1 s. Shorter costs the database a small question each time.
    pub poll: Duration,
    /// How often all of the store is read, whatever it says. Default 8 s. Shorter
    /// notices writers sooner that tell nobody, and costs a read of all routes.
    pub reload: Duration,
    /// How long a store that lost more than half of its routes at once must
    /// insist on that. Default 20 s.
    pub collapse_wait: Duration,
    /// How long the first answer of the store is waited for. Default 10 s.
    pub first_wait: Duration,
    /// How long the first answer of the registry is waited for. Default 1 s.
    pub registry_wait: Duration,
    /// Threads that move bytes for the one that knows the routes; with 0 that does
    /// it itself. Default 0.
    pub io_shards: u16,
    /// Connections at a time; one more is told so and closed.
    pub connections_max: usize,
    /// Patience with subscribers that were lost.
    pub directory: DirectoryConfig,
    /// Bounds of each connection.
    pub connection: ConnectionLimits,
    /// How long a stop may take.
    pub drain: Duration,
    /// Where its randomness starts.
    pub seed: u64,
}

impl RouteConfig {
    /// The defaults, for a directory, an address and a store.
    pub fn new(dir: PathBuf, listen: Address, store: StoreUrl) -> Self {
        Self {
            dir,
            listen,
            store,
            registry: Vec::new(),
            poll: Duration::from_secs(1),
            reload: Duration::from_secs(8),
            collapse_wait: COLLAPSE_WAIT,
            first_wait: Duration::from_secs(10),
            registry_wait: Duration::from_secs(1),
            io_shards: 0,
            connections_max: waystation_net::limits::CONNECTIONS_MAX,
            directory: DirectoryConfig::default(),
            connection: ConnectionLimits {
                idle: IDLE,
                output_bytes_max: OUTPUT_BYTES_MAX,
                ..ConnectionLimits::default()
            },
            drain: Duration::from_secs(2),
            seed: 0,
        }
    }
}

/// A running route server. It ends when it is dropped.
pub struct RouteServer {
    server: Server,
    registries: Option<Registries>,
}

/// What the shard begins with.
struct Start {
    home: ViewsHome,
    keeper: Keeper,
    told: Vec<Told>,
    news: mpsc::Receiver<Told>,
    registry: Option<(Registries, Watching)>,
    copy: PathBuf,
    directory: DirectoryConfig,
}

impl RouteServer {
    /// Reads the store and serves. Blocks until the store has answered, or for
    /// [`RouteConfig::first_wait`]; then a copy from before serves, if there is
    /// one. Not for threads with an event loop.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(config: RouteConfig) -> Result<Self, Error> {
        let url = config.store.clone();
        Self::start_with(config, move || url.store())
    }

    /// Like [`RouteServer::start`], with another store than the one that the URL
    /// names; `make` is called on its thread.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start_with(
        config: RouteConfig,
        make: impl FnOnce() -> Box<dyn RouteStore> + Send + 'static,
    ) -> Result<Self, Error> {
        let home = ViewsHome::open(&config.dir)?;
        let keeper = KeeperConfig {
            name: config.store.to_string(),
            poll: config.poll,
            reload: config.reload,
            collapse_wait: config.collapse_wait,
            snapshot: config.dir.join("routes.jsonl"),
            seed: config.seed,
        };
        let registry = open_registry(&config)?;
        let registries = registry.as_ref().map(|(registries, _)| registries.clone());
        let (keeper, mut news) = Keeper::start(keeper, make).map_err(Error::Thread)?;
        let told = first_told(&mut news, config.first_wait)?;
        if let Some((_, watching)) = &registry
            && !watching.wait_complete(config.registry_wait)
        {
            tracing::warn!("the registry has not answered; what it showed last is shown");
        }
        let start = Start {
            home,
            keeper,
            told,
            news,
            registry,
            copy: config.dir.join("registered.jsonl"),
            directory: config.directory,
        };
        let net = NetConfig {
            io_shards: config.io_shards,
            connections_max: config.connections_max,
            connection: config.connection,
            drain: config.drain,
            seed: config.seed,
            ..NetConfig::default()
        };
        let start = Mutex::new(Some(start));
        let server = Server::builder(net)
            .on_shard(move |shard| {
                let start = start.lock().unwrap_or_else(PoisonError::into_inner).take();
                begin(shard, start.expect("a route server has one shard"));
            })
            .listen(config.listen, |shard| {
                let desk = shard.extension::<Desk>();
                protocol(&desk.expect("it was made when the shard began"))
            })
            .start()?;
        Ok(Self { server, registries })
    }

    /// Where it listens, with the port that was given.
    pub fn address(&self) -> &Address {
        &self.server.addresses()[0]
    }

    /// The registries whose instances it shows, if there are any.
    pub fn registries(&self) -> Option<&Registries> {
        self.registries.as_ref()
    }

    /// The server below.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Stops: answers what it has been asked, and closes.
    pub fn drain(self) {
        self.server.drain();
    }
}

fn open_registry(config: &RouteConfig) -> Result<Option<(Registries, Watching)>, Error> {
    if config.registry.is_empty() {
        return Ok(None);
    }
    let registry = Registries::open(&config.registry)?;
    let options = WatchOptions {
        acks: Acks::ByCaller,
        restored: snapshot::read_views(&config.dir.join("registered.jsonl")),
        ..WatchOptions::default()
    };
    let watching = registry.watch(Watch::Prefix("".into()), options)?;
    Ok(Some((registry, watching)))
}

/// What the store says first, until it has been read.
fn first_told(news: &mut mpsc::Receiver<Told>, wait: Duration) -> Result<Vec<Told>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(Error::Thread)?;
    let mut told = Vec::new();
    let mut last = crate::keeper::StoreStatus::default();
    let heard = runtime.block_on(async {
        let read = async {
            while let Some(one) = news.recv().await {
                if let Told::Status(status) = &one {
                    last = status.clone();
                }
                told.push(one);
                if last.was_read {
                    return;
                }
            }
        };
        tokio::time::timeout(wait, read).await
    });
    if heard.is_ok() && last.was_read {
        return Ok(told);
    }
    let fault = last
        .fault
        .unwrap_or_else(|| "it has not answered".to_owned());
    if last.routes == 0 {
        return Err(Error::Store {
            url: last.url,
            fault,
        });
    }
    tracing::warn!(routes = last.routes, %fault, "serving by the copy on disk");
    Ok(told)
}

fn begin(shard: &Shard, start: Start) {
    let views = Views::begin(shard, start.home, start.directory);
    let desk = Desk::new(shard, views, start.keeper, start.registry);
    shard.set_extension(Rc::clone(&desk));
    desk.start(start.told, start.news, start.copy);
}

fn protocol(desk: &Rc<Desk>) -> NativeProtocol {
    let of_lars = Rc::clone(desk);
    let mut router = desk.views.router(move |conn| {
        of_lars.lars.borrow_mut().forget(conn.name());
    });
    let of_sessions = Rc::clone(desk);
    router.set_foreign(move |_conn| Box::new(LarsSession::new(Rc::clone(&of_sessions))));
    router.set_http(Rc::new(Http::new(Rc::clone(desk))));
    NativeProtocol::new(Rc::new(router))
}
