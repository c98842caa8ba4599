//! A server: its shards, its listeners, its drain.

mod accept;
mod shard_loop;
mod start;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use waystation_base::ShardId;

use crate::conn::SlowReader;
use crate::counters::Counters;
use crate::io::{Address, DetachedListener, Io, SystemIo, TcpKeepalive};
use crate::limits;
use crate::protocol::Protocol;
use crate::shard::{Beat, BlockedReports, Mail, Remote, RemoteError, Shard, watch};
use crate::split::MakeHeartbeat;

/// Bounds of each connection. See [`limits`] for what happens at each.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Bytes received ahead of the handler.
    pub input_queue: usize,
    /// Bytes held of what was received, messages that came in part included.
    pub received_max: usize,
    /// Bytes of output above which the connection's own handlers wait.
    pub output_high_water: usize,
    /// Bytes of output at which a connection above that mark counts as
    /// drained; at most half of it.
    pub output_low_water: usize,
    /// Bytes of output above which messages are refused.
    pub output_bytes_max: usize,
    /// What becomes of a connection whose output is full.
    pub slow_reader: SlowReader,
    /// Time without any progress of waiting output.
    pub write_stall: Duration,
    /// Time without any received byte.
    pub idle: Duration,
    /// Time from a frame's first byte to its last.
    pub frame_wait: Duration,
    /// The system's own signs of life on TCP; none leaves them off.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Time from the first byte of a message in several frames to its last.
    pub message_wait: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            input_queue: limits::INPUT_QUEUE_BYTES,
            received_max: limits::RECEIVED_BYTES_MAX,
            output_high_water: limits::OUTPUT_HIGH_WATER_BYTES,
            output_low_water: limits::OUTPUT_LOW_WATER_BYTES,
            output_bytes_max: limits::OUTPUT_BYTES_MAX,
            slow_reader: SlowReader::Close,
            write_stall: limits::WRITE_STALL,
            idle: limits::IDLE,
            frame_wait: limits::FRAME_WAIT,
            tcp_keepalive: Some(TcpKeepalive::default()),
            message_wait: limits::MESSAGE_WAIT,
        }
    }
}

/// Settings of a server.
#[derive(Clone)]
pub struct NetConfig {
    /// Threads with an event loop each that run handlers; at least 1.
    pub shards: u16,
    /// Threads that do nothing but I/O for the others. 0 is *shared*
    /// placement: each shard does its own. From 1 on it is *split* placement:
    /// a handler makes no I/O system call, and heartbeats are answered while
    /// it computes, for a hand-off from thread to thread for each batch of
    /// messages.
    pub io_shards: u16,
    /// Accepted connections open at once, over all shards.
    pub connections_max: usize,
    /// Bounds of each connection.
    pub connection: ConnectionLimits,
    /// Bytes that all connections of a shard hold together, received or to be
    /// written. Above it those that hold most are closed. In split placement
    /// this is about the workers; what waits between them and the sockets has
    /// bounds of its own.
    pub shard_bytes_max: usize,
    /// Whether an HTTP caller that closed its side may still be reading. By
    /// default it is taken to have left: its request is cancelled, and counted
    /// as `callers_left`.
    pub http_half_close: bool,
    /// How long a drain may take.
    pub drain: Duration,
    /// Where randomness starts; the same seed gives the same jitter.
    pub seed: u64,
    /// Where the generations of connection names start, by default 1. Tests
    /// start just before they wrap.
    pub first_generation: u32,
    /// Sockets, or their stand-in of a test.
    pub io: Arc<dyn Io>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            shards: 1,
            io_shards: 0,
            connections_max: limits::CONNECTIONS_MAX,
            connection: ConnectionLimits::default(),
            shard_bytes_max: limits::SHARD_BYTES_MAX,
            http_half_close: false,
            drain: limits::DRAIN,
            seed: 0,
            first_generation: 1,
            io: Arc::new(SystemIo),
        }
    }
}

impl NetConfig {
    /// Slots of one shard: all connections may gather on one, and upstreams
    /// and refusals come on top.
    pub(crate) fn slots_per_shard(&self) -> u32 {
        let beside = limits::REFUSALS_MAX + limits::CONNECTIONS_MAX;
        u32::try_from(self.connections_max.saturating_add(beside)).unwrap_or(u32::MAX)
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listener could not be bound. The address is named.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// A thread or its event loop could not be made, or a function that runs
    /// at its start panicked.
    #[error("cannot start shard {0}")]
    Shard(ShardId, #[source] io::Error),
    /// The settings make no server.
    #[error("a server needs at least one shard")]
    NoShards,
}

/// What serves the connections of one listener on one shard.
pub(crate) type Factory = Arc<dyn Fn(&Shard) -> Rc<dyn Protocol> + Send + Sync>;
type Init = Arc<dyn Fn(&Shard) + Send + Sync>;

enum Source {
    Address(Address),
    Bound(Box<dyn DetachedListener>),
}

/// Collects what a server is to do. See [`Server::builder`].
pub struct ServerBuilder {
    config: NetConfig,
    init: Vec<Init>,
    listeners: Vec<(Source, Spoken)>,
}

/// What is spoken on a listener.
struct Spoken {
    factory: Factory,
    heartbeat: MakeHeartbeat,
}

impl ServerBuilder {
    /// Runs on each shard before it serves: the place to build its state.
    #[must_use]
    pub fn on_shard(mut self, init: impl Fn(&Shard) + Send + Sync + 'static) -> Self {
        self.init.push(Arc::new(init));
        self
    }

    /// Listens on `address`; `factory` gives each shard its instance of the
    /// protocol.
    #[must_use]
    pub fn listen<P: Protocol>(
        self,
        address: Address,
        factory: impl Fn(&Shard) -> P + Send + Sync + 'static,
    ) -> Self {
        self.add(Source::Address(address), factory)
    }

    /// Serves a listener that is bound already, such as one handed over by
    /// the process before.
    #[must_use]
    pub fn listen_on<P: Protocol>(
        self,
        listener: Box<dyn DetachedListener>,
        factory: impl Fn(&Shard) -> P + Send + Sync + 'static,
    ) -> Self {
        self.add(Source::Bound(listener), factory)
    }

    fn add<P: Protocol>(
        mut self,
        source: Source,
        factory: impl Fn(&Shard) -> P + Send + Sync + 'static,
    ) -> Self {
        let spoken = Spoken {
            factory: Arc::new(move |shard| Rc::new(factory(shard))),
            heartbeat: P::heartbeat,
        };
        self.listeners.push((source, spoken));
        self
    }

    /// Binds everything, then starts the threads and waits until each has run
    /// its [`ServerBuilder::on_shard`] functions and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(self) -> Result<Server, StartError> {
        start::start(self)
    }
}

fn bind(io: &dyn Io, source: Source) -> Result<Box<dyn DetachedListener>, StartError> {
    match source {
        Source::Bound(listener) => Ok(listener),
        Source::Address(address) => io
            .listen(&address)
            .map_err(|source| StartError::Listen { address, source }),
    }
}

/// A running server. Dropping it without [`Server::drain`] drains it too.
pub struct Server {
    addresses: Vec<Address>,
    remote: Remote,
    /// Reaches the I/O shards of split placement.
    io_remote: Remote,
    drain: Duration,
    counters: Vec<Arc<Counters>>,
    beats: Vec<Arc<Beat>>,
    blocked: BlockedReports,
    threads: Vec<JoinHandle<()>>,
    monitor: Option<JoinHandle<()>>,
    stop_monitor: Arc<AtomicBool>,
}

impl Server {
    /// Begins a server with these settings.
    pub fn builder(config: NetConfig) -> ServerBuilder {
        ServerBuilder {
            config,
            init: Vec::new(),
            listeners: Vec::new(),
        }
    }

    fn new(addresses: Vec<Address>, remote: Remote, io_remote: Remote, drain: Duration) -> Self {
        Self {
            addresses,
            remote,
            io_remote,
            drain,
            counters: Vec::new(),
            beats: Vec::new(),
            blocked: BlockedReports::default(),
            threads: Vec::new(),
            monitor: None,
            stop_monitor: Arc::new(AtomicBool::new(false)),
        }
    }

    fn add_beat(&mut self) -> Arc<Beat> {
        let beat = Arc::new(Beat::default());
        self.beats.push(beat.clone());
        beat
    }

    fn add_counters(&mut self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.push(counters.clone());
        counters
    }

    fn start_monitor(&mut self) -> io::Result<()> {
        let (beats, reports) = (self.beats.clone(), self.blocked.clone());
        let stop = self.stop_monitor.clone();
        let watch = move || watch(&beats, &reports, &stop);
        self.monitor = Some(
            std::thread::Builder::new()
                .name("monitor".into())
                .spawn(watch)?,
        );
        Ok(())
    }

    /// Where it listens, in the order of the calls, with the ports given.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Reaches its shards from any thread.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The counters of each shard, those of I/O shards at the end.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Handlers that were found blocking their shard.
    pub fn blocked(&self) -> &BlockedReports {
        &self.blocked
    }

    /// Drains: stops accepting, runs the drain hooks, tells peers, lets
    /// handlers end, closes, ends the threads. Blocks for at most the
    /// configured drain time and a second, as long as handlers yield: one that
    /// waits is dropped then. One that never yields keeps its thread, and this
    /// call, for as long as it runs: a thread cannot be ended from outside, and
    /// one that was left behind would go on with what its caller thinks is
    /// closed. [`Server::blocked`] names such a handler, and whoever needs a
    /// bound all the same ends the process, as the supervisor of `up` does.
    pub fn drain(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        for remote in [&self.remote, &self.io_remote] {
            for index in 0..remote.shards() {
                let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
                // A full mailbox must not make a shard run for ever; its shard
                // empties it. One that has ended needs no drain.
                while let Err(RemoteError::Full(_)) =
                    remote.post(shard, Mail::Drain { within: self.drain })
                {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
        }
        // The monitor ends first: it may look only at threads that exist. A
        // shard clears its handle before its thread ends, and the thread is
        // joined after the monitor.
        self.stop_monitor.store(true, Ordering::Release);
        if let Some(monitor) = self.monitor.take() {
            monitor.thread().unpark();
            let _ = monitor.join();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard's thread panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
