//! The report server: its threads and what they share.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use waystation_net::native::{NativeProtocol, Router};
use waystation_net::{Address, ConnectionLimits, Counter, Label, NetConfig, Server, Shard};
use waystation_wire::calls::CALL_COUNTS;

use crate::batch::Retention;
use crate::error::Error;
use crate::http::Http;
use crate::ledger::{Counters, Ledger, LedgerConfig};
use crate::limits::IDLE;
use crate::native::CountsHandler;
use crate::protocol::ReportProtocol;
use crate::store::{Store, StoreUrl};
use crate::writer::{Shared, StoreState, Writer, machine_clocks};

/// Settings of a [`ReportServer`].
#[derive(Clone, Debug)]
pub struct ReportConfig {
    /// Where agents report. Default port: 7779.
    pub listen: SocketAddr,
    /// Threads that serve. Default 1, which takes about a million results a
    /// second.
    pub shards: u16,
    /// Connections at a time. Default 16,384.
    pub connections_max: usize,
    /// Where counts are stored.
    pub store: StoreUrl,
    /// Pause between two batches. Default 500 ms; a longer one writes fewer rows
    /// and shows counts later.
    pub flush: Duration,
    /// For how long history is kept.
    pub retention: Retention,
    /// Bounds of what is held in memory.
    pub ledger: LedgerConfig,
    /// How long connections may take to end. Default 2 s.
    pub drain: Duration,
}

impl ReportConfig {
    /// The defaults for an address and a store.
    pub fn new(listen: SocketAddr, store: StoreUrl) -> Self {
        Self {
            listen,
            shards: 1,
            connections_max: 16_384,
            store,
            flush: Duration::from_millis(500),
            retention: Retention::default(),
            ledger: LedgerConfig::default(),
            drain: Duration::from_secs(2),
        }
    }
}

/// What a shard counts of its connections.
#[derive(Debug, Default)]
pub(crate) struct ShardCounters {
    /// Messages of Lars that are of no use here.
    pub(crate) unknown: Counter,
    /// Bodies that are none.
    pub(crate) bad_bodies: Counter,
    /// Frames that ended their connection.
    pub(crate) bad_frames: Counter,
}

/// What a shard's connections share.
pub(crate) struct Desk {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<ShardCounters>,
    /// Of all shards.
    pub(crate) all_counters: Arc<Vec<Arc<ShardCounters>>>,
    reporters: Arc<AtomicU64>,
    /// To read history, one question after the other.
    pub(crate) reader: Arc<Mutex<Box<dyn Store>>>,
}

impl Desk {
    pub(crate) fn next_reporter(&self) -> u64 {
        // From 1 on: 0 is the store.
        self.reporters.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn status(&self) -> Status {
        status(&self.shared, &self.all_counters)
    }
}

/// What a report server says of itself.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    #[serde(flatten)]
    pub(crate) counters: Counters,
    pub(crate) unknown_messages: u64,
    pub(crate) bad_bodies: u64,
    pub(crate) bad_frames: u64,
    pub(crate) store: StoreState,
}

fn status(shared: &Shared, all: &[Arc<ShardCounters>]) -> Status {
    let sum = |of: fn(&ShardCounters) -> &Counter| all.iter().map(|one| of(one).get()).sum();
    Status {
        counters: shared.ledger().counters(),
        unknown_messages: sum(|one| &one.unknown),
        bad_bodies: sum(|one| &one.bad_bodies),
        bad_frames: sum(|one| &one.bad_frames),
        store: shared.state().clone(),
    }
}

/// A running report server. It ends when it is dropped.
pub struct ReportServer {
    server: Option<Server>,
    writer: Option<(SyncSender<()>, JoinHandle<()>)>,
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl ReportServer {
    /// Binds and serves. The store need not be there yet.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(config: &ReportConfig) -> Result<Self, Error> {
        let store = config.store.store()?;
        let reader = config.store.reader()?;
        Self::start_with(config, store, reader)
    }

    /// The same with these stores: one to write to, one to read history from.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start_with(
        config: &ReportConfig,
        store: Box<dyn Store>,
        reader: Box<dyn Store>,
    ) -> Result<Self, Error> {
        let ledger = Ledger::new(config.ledger);
        let shared = Arc::new(Shared::new(ledger, Box::new(machine_clocks)));
        let server = serve(config, &shared, reader)?;
        let address = match server.addresses().first() {
            Some(Address::Tcp(address)) => *address,
            _ => config.listen,
        };
        let (stop, stopped) = sync_channel(1);
        let writer = Writer {
            store,
            shared: Arc::clone(&shared),
            flush: config.flush,
            retention: config.retention,
            stop: stopped,
            owner: random(),
            is_open: false,
            folded: 0,
        };
        let thread = std::thread::Builder::new()
            .name("report store".to_owned())
            .spawn(move || writer.run())
            .map_err(Error::Thread)?;
        Ok(Self {
            server: Some(server),
            writer: Some((stop, thread)),
            shared,
            address,
        })
    }

    /// Where it listens, with the port that was given.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its network side: shards and their counters. `None` once it ended.
    pub const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.shared.ledger().counters()
    }

    /// How the store fares.
    pub fn store_state(&self) -> StoreState {
        self.shared.state().clone()
    }

    /// Ends it: takes what has come, closes, and writes what is left for at most
    /// [`LAST_FLUSH`](crate::limits::LAST_FLUSH) and one step of the store.
    pub fn drain(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
        }
        if let Some((stop, thread)) = self.writer.take() {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the store's thread panicked");
            }
        }
    }
}

impl Drop for ReportServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(
    config: &ReportConfig,
    shared: &Arc<Shared>,
    reader: Box<dyn Store>,
) -> Result<Server, Error> {
    let net = NetConfig {
        shards: config.shards.max(1),
        connections_max: config.connections_max,
        connection: ConnectionLimits {
            idle: IDLE,
            ..ConnectionLimits::default()
        },
        drain: config.drain,
        seed: random(),
        ..NetConfig::default()
    };
    let counters = (0..net.shards).map(|_| Arc::default());
    let all_counters: Arc<Vec<Arc<ShardCounters>>> = Arc::new(counters.collect());
    let reporters = Arc::new(AtomicU64::new(1));
    let reader = Arc::new(Mutex::new(reader));
    let shared = Arc::clone(shared);
    let begin = move |shard: &Shard| {
        let counters = all_counters.get(usize::from(shard.id().0));
        shard.set_extension(Rc::new(Desk {
            shared: Arc::clone(&shared),
            counters: counters.cloned().unwrap_or_default(),
            all_counters: Arc::clone(&all_counters),
            reporters: Arc::clone(&reporters),
            reader: Arc::clone(&reader),
        }));
    };
    let server = Server::builder(net).on_shard(begin);
    let server = server.listen(config.listen.into(), |shard| {
        let desk = shard.extension::<Desk>();
        let desk = desk.expect("it was made when the shard began");
        let mut router = Router::new();
        let handler = CountsHandler {
            desk: Rc::clone(&desk),
            label: Label::of("counts"),
        };
        let routed = router.route(CALL_COUNTS, Rc::new(handler));
        routed.expect("one message has no other beside it");
        router.set_http(Rc::new(Http(Rc::clone(&desk))));
        ReportProtocol {
            native: Rc::new(NativeProtocol::new(Rc::new(router))),
            desk,
        }
    });
    Ok(server.start()?)
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}
