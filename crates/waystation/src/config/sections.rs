//! The sections that belong to the binary itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use waystation_net::{ConnectionLimits, TcpKeepalive};
use waystation_registry::limits::{PLACE_END_WAIT, PLACE_SPARE};
use waystation_registry::{DrainWaits, UrlError};

use super::field::{Kind, OWN_REGISTRY, section};
use super::up_registries::UpRegistries;

/// The levels of `--log`, from silence to everything.
pub(crate) const LOG_LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

section! {
    /// The log that every process writes to its standard error.
    struct Log as "log" {
        /// How much is logged: a level and all that are graver.
        level: String = Text("info"), Kind::Choice(LOG_LEVELS),
            "`debug` writes several lines a request, `trace` several a frame";
    }
}

section! {
    /// `waystation up`: the supervisor and what it starts.
    struct Up as "up" {
        /// Everything that `up` keeps: stores, sockets, the lock.
        dir: PathBuf = Text("./waystation-data"), Kind::Path,
            "none; paths of sockets below it must stay under 108 bytes";
        /// Whether the chat example is started. Without it the registry, the route
        /// server, the agent and the report server run alone.
        demo: bool = Bool(true), Kind::Bool,
            "nine processes: four at each of two sites, and a hub";
        /// Where the chat's Entry listens (WebSocket, HTTP and native).
        entry: SocketAddr = Text("127.0.0.1:7080"), Kind::Address,
            "an address that is not loopback opens the chat to the network";
        /// Sites that keep copies of the chat, each with an Entry, Logics, a Das and
        /// a database of its own, with a hub between them. The Entry of each
        /// further site has the next port after `entry`.
        sites: u16 = Integer(2), Kind::Integer { unit: "sites", min: 1, max: 8 },
            "with more than one, a hub and as many chats: four processes each";
        /// Where the hub of several sites listens.
        hub: SocketAddr = Text("127.0.0.1:7072"), Kind::Address,
            "an address that is not loopback opens the log to the network";
        /// The registry by which the roles find each other: one that `up` runs
        /// itself, on `registry.listen`, or the URL of another. Several with
        /// spaces between them are used as one, to move between them.
        registry: String = Text(OWN_REGISTRY), Kind::RegistryOrOwn,
            "none";
        /// How many Logic processes run.
        logic_processes: u16 = Integer(2), Kind::Integer { unit: "processes", min: 1, max: 64 },
            "one process each, and a connection from Entry";
        /// The first pause before a role that died is started again; it
        /// doubles with each further death.
        restart_delay_min_ms: u64 = Integer(50), Kind::Integer { unit: "ms", min: 1, max: 60_000 },
            "a higher value lengthens the gap after a crash";
        /// The longest pause before a restart.
        restart_delay_max_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 600_000 },
            "a higher value lengthens the gap after repeated crashes";
        /// After so long in health a role's earlier deaths are forgotten.
        restart_reset_ms: u64 = Integer(10_000), Kind::Integer { unit: "ms", min: 1, max: 3_600_000 },
            "a higher value keeps long pauses for longer";
        /// How long all roles together may take until they answer for the
        /// first time; then `up` fails.
        start_timeout_ms: u64 = Integer(30_000), Kind::Integer { unit: "ms", min: 100, max: 600_000 },
            "a higher value delays the report of a start that cannot succeed";
        /// How long a start waits for role processes of a supervisor that was
        /// killed, which are still draining.
        predecessor_timeout_ms: u64 = Integer(15_000), Kind::Integer { unit: "ms", min: 0, max: 600_000 },
            "a higher value delays the report that an old process hangs";
        /// How long each of Entry, Logic, Das and the servers below them may drain before
        /// it is killed; what is registered has 3 s more, to leave.
        drain_timeout_ms: u64 = Integer(10_000), Kind::Integer { unit: "ms", min: 1, max: 600_000 },
            "five times this is the longest time to stop";
        /// How often a role that is in health is asked again.
        health_interval_ms: u64 = Integer(1_000), Kind::Integer { unit: "ms", min: 50, max: 60_000 },
            "a lower value costs a request a role each time";
    }
}

impl Up {
    /// Faults that concern more than one field; each begins with the key that
    /// should change.
    pub(crate) fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.restart_delay_min_ms > self.restart_delay_max_ms {
            faults.push(format!(
                "restart_delay_min_ms: {} is more than restart_delay_max_ms, {}",
                self.restart_delay_min_ms, self.restart_delay_max_ms
            ));
        }
        let ports = u32::from(self.entry.port()) + u32::from(self.sites) - 1;
        if ports > u32::from(u16::MAX) {
            let sites = self.sites;
            faults.push(format!(
                "entry: there are no {sites} ports from {} on",
                self.entry
            ));
        }
        faults
    }

    /// Where the Entry of each site listens: at the port after that of the one
    /// before it, or anywhere if that is port 0.
    pub(crate) fn entries(&self) -> Vec<SocketAddr> {
        let at = |site: u16| {
            let mut at = self.entry;
            if at.port() != 0 {
                at.set_port(at.port().saturating_add(site));
            }
            at
        };
        (0..self.sites).map(at).collect()
    }

    /// Faults of a role's own `drain_ms` beside ours.
    pub(crate) fn check_drain(&self, drain_ms: u64) -> Vec<String> {
        if drain_ms <= self.drain_timeout_ms {
            return Vec::new();
        }
        vec![format!(
            "drain_ms: {drain_ms} is more than up.drain_timeout_ms, {}: it would be killed before",
            self.drain_timeout_ms
        )]
    }

    /// [`Self::drain_timeout_ms`] as a duration, with the time to leave the
    /// registry.
    pub(crate) fn drain_timeout(&self, waits: DrainWaits) -> Duration {
        let leaving = waits.acknowledged + PLACE_SPARE + PLACE_END_WAIT;
        Duration::from_millis(self.drain_timeout_ms) + leaving
    }

    /// The registries by which the roles find each other.
    ///
    /// # Errors
    /// The text makes no sense, which the check of the configuration has told.
    pub(crate) fn registries(&self) -> Result<UpRegistries, UrlError> {
        self.registry.parse()
    }

    /// [`Self::start_timeout_ms`] as a duration.
    pub(crate) fn start_timeout(&self) -> Duration {
        Duration::from_millis(self.start_timeout_ms)
    }

    /// [`Self::predecessor_timeout_ms`] as a duration.
    pub(crate) fn predecessor_timeout(&self) -> Duration {
        Duration::from_millis(self.predecessor_timeout_ms)
    }

    /// [`Self::health_interval_ms`] as a duration.
    pub(crate) fn health_interval(&self) -> Duration {
        Duration::from_millis(self.health_interval_ms)
    }
}

section! {
    /// The console: health, metrics and the status page.
    struct Console as "console" {
        /// Where the console listens.
        listen: SocketAddr = Text("127.0.0.1:7070"), Kind::Address,
            "an address that is not loopback shows the system's state to the network";
        /// Connections at a time; one more is closed at once and counted.
        max_connections: u32 = Integer(256), Kind::Integer { unit: "connections", min: 1, max: 65_536 },
            "`max_header_bytes` and a file descriptor each";
        /// The size of a request's head; a larger one is refused.
        max_header_bytes: usize = Integer(16_384), Kind::Integer { unit: "bytes", min: 8_192, max: 1_048_576 },
            "so much memory for each connection";
        /// How long a peer may take to send a request's head.
        header_timeout_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 600_000 },
            "slow peers hold a connection for longer";
        /// The age at which a connection is closed, idle or not, so that a peer
        /// that never reads cannot keep one.
        connection_timeout_ms: u64 = Integer(60_000), Kind::Integer { unit: "ms", min: 100, max: 3_600_000 },
            "peers that never read hold a connection for longer";
        /// How long a role may take to answer the console.
        scrape_timeout_ms: u64 = Integer(1_000), Kind::Integer { unit: "ms", min: 10, max: 60_000 },
            "a role that hangs delays each page by so much";
    }
}

impl Console {
    /// [`Self::header_timeout_ms`] as a duration.
    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// [`Self::connection_timeout_ms`] as a duration.
    pub(crate) fn connection_timeout(&self) -> Duration {
        Duration::from_millis(self.connection_timeout_ms)
    }

    /// [`Self::scrape_timeout_ms`] as a duration.
    pub(crate) fn scrape_timeout(&self) -> Duration {
        Duration::from_millis(self.scrape_timeout_ms)
    }
}

section! {
    /// Connections of all roles: their bounds, and when one is given up.
    struct Net as "net" {
        /// Threads of each process that do nothing but I/O. With 0 a thread
        /// does the I/O of its own connections; from 1 on handlers run on
        /// threads without I/O, and heartbeats are answered while they
        /// compute.
        io_shards: u16 = Integer(0), Kind::Integer { unit: "threads", min: 0, max: 64 },
            "a thread each, and a hand-off for each batch of messages";
        /// A connection from which nothing came for so long is closed.
        idle_ms: u64 = Integer(90_000), Kind::Integer { unit: "ms", min: 100, max: 86_400_000 },
            "peers that are gone hold a connection for longer";
        /// A frame must be complete so long after its first byte.
        frame_timeout_ms: u64 = Integer(30_000), Kind::Integer { unit: "ms", min: 100, max: 3_600_000 },
            "slow senders hold memory for longer";
        /// A message that comes in several frames must be complete so long
        /// after its first byte.
        message_timeout_ms: u64 = Integer(60_000), Kind::Integer { unit: "ms", min: 100, max: 3_600_000 },
            "slow senders of large messages hold memory for longer";
        /// A connection whose peer takes nothing of what waits for it for so
        /// long is closed.
        write_stall_ms: u64 = Integer(30_000), Kind::Integer { unit: "ms", min: 100, max: 3_600_000 },
            "peers that do not read hold memory for longer";
        /// Bytes read ahead of a handler that is busy.
        input_queue_bytes: usize = Integer(65_536), Kind::Integer { unit: "bytes", min: 1_024, max: 67_108_864 },
            "so much memory for each connection with a busy handler";
        /// Bytes that a connection may hold of what it received, messages that
        /// came in part included; above it, it is closed. A message cannot be
        /// larger.
        received_bytes_max: usize = Integer(69_206_016), Kind::Integer { unit: "bytes", min: 65_536, max: 1_073_741_824 },
            "so much memory for one connection";
        /// Bytes of output at which the connection's own handlers wait for its
        /// peer.
        output_high_water_bytes: usize = Integer(262_144), Kind::Integer { unit: "bytes", min: 1_024, max: 67_108_864 },
            "so much memory for each peer that reads slowly";
        /// Bytes of output at which a connection counts as drained after that;
        /// at most half of `output_high_water_bytes`.
        output_low_water_bytes: usize = Integer(65_536), Kind::Integer { unit: "bytes", min: 0, max: 33_554_432 },
            "a lower value lets writers rest for longer, a higher one wakes them more often";
        /// Bytes of output above which messages are refused.
        output_bytes_max: usize = Integer(4_194_304), Kind::Integer { unit: "bytes", min: 1_024, max: 1_073_741_824 },
            "so much memory for each peer that does not read";
        /// Bytes that all connections of a thread hold together, received or
        /// to be written. Above it the connections that hold most are closed.
        shard_bytes_max: usize = Integer(268_435_456), Kind::Integer { unit: "bytes", min: 1_048_576, max: 1_099_511_627_776 },
            "so much memory for each thread";
        /// Silence on a TCP connection before the system probes the peer; 0
        /// leaves such probes off.
        tcp_keepalive_s: u32 = Integer(60), Kind::Integer { unit: "s", min: 0, max: 32_767 },
            "machines that are gone are found later";
        /// The pause between two such probes.
        tcp_keepalive_interval_s: u32 = Integer(10), Kind::Integer { unit: "s", min: 1, max: 32_767 },
            "machines that are gone are found later";
        /// Such probes without an answer after which the connection is lost.
        tcp_keepalive_probes: u32 = Integer(3), Kind::Integer { unit: "probes", min: 1, max: 127 },
            "machines that are gone are found later";
        /// Whether an HTTP caller that has closed its side may still be
        /// reading. Otherwise its request is cancelled.
        http_half_close: bool = Bool(false), Kind::Bool,
            "requests of callers that left are handled to their end";
    }
}

impl Net {
    /// Faults that concern more than one field; each begins with the key that
    /// should change. The low water mark that nobody has set follows the high
    /// one.
    pub(crate) fn validate(&self, low_is_set: bool) -> Vec<String> {
        let mut faults = Vec::new();
        let half = self.output_high_water_bytes / 2;
        if low_is_set && self.output_low_water_bytes > half {
            faults.push(format!(
                "output_low_water_bytes: {} is more than half of output_high_water_bytes, {half}",
                self.output_low_water_bytes
            ));
        }
        if self.output_high_water_bytes > self.output_bytes_max {
            faults.push(format!(
                "output_high_water_bytes: {} is more than output_bytes_max, {}",
                self.output_high_water_bytes, self.output_bytes_max
            ));
        }
        if self.input_queue_bytes > self.received_bytes_max {
            faults.push(format!(
                "input_queue_bytes: {} is more than received_bytes_max, {}",
                self.input_queue_bytes, self.received_bytes_max
            ));
        }
        faults
    }

    /// The bounds of each connection.
    pub(crate) fn connection(&self) -> ConnectionLimits {
        let probes = |probes| TcpKeepalive {
            idle: Duration::from_secs(self.tcp_keepalive_s.into()),
            interval: Duration::from_secs(self.tcp_keepalive_interval_s.into()),
            probes,
        };
        ConnectionLimits {
            input_queue: self.input_queue_bytes,
            received_max: self.received_bytes_max,
            output_high_water: self.output_high_water_bytes,
            output_low_water: self.output_low_water_bytes,
            output_bytes_max: self.output_bytes_max,
            write_stall: Duration::from_millis(self.write_stall_ms),
            idle: Duration::from_millis(self.idle_ms),
            frame_wait: Duration::from_millis(self.frame_timeout_ms),
            message_wait: Duration::from_millis(self.message_timeout_ms),
            tcp_keepalive: (self.tcp_keepalive_s > 0).then(|| probes(self.tcp_keepalive_probes)),
            ..ConnectionLimits::default()
        }
    }
}

section! {
    /// The chat's Entry: it holds the users' connections.
    struct Entry as "entry" {
        /// Threads that serve users, each with connections of its own to every
        /// Logic.
        shards: u16 = Integer(1), Kind::Integer { unit: "threads", min: 1, max: 256 },
            "a thread, and a connection to each Logic";
        /// Users' connections at a time; one more is told so and closed.
        connections_max: usize = Integer(16_384), Kind::Integer { unit: "connections", min: 1, max: 1_000_000 },
            "a file descriptor and some KiB each";
        /// Which pages may open a WebSocket: those of the same host and port
        /// (`same`), all (`any`), or also these, with commas between them.
        /// Programs that are no browsers always may.
        websocket_origins: String = Text("same"), Kind::Origins,
            "a page that may can speak for whoever visits it";
        /// Requests in progress on a thread; one more is refused at once.
        requests_max: usize = Integer(16_384), Kind::Integer { unit: "requests", min: 1, max: 1_000_000 },
            "memory for each, and longer waits before a refusal";
        /// The deadline of a request that brings none.
        deadline_default_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 300_000 },
            "a higher value keeps hopeless requests for longer";
        /// How long a drain may take until what is left is closed.
        drain_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 300_000 },
            "a higher value lengthens a stop; keep it under up.drain_timeout_ms";
    }
}

section! {
    /// The chat's Logic: it holds the rules.
    struct Logic as "logic" {
        /// Threads that serve. Each conversation belongs to one of them, and all
        /// of them know who is where.
        shards: u16 = Integer(1), Kind::Integer { unit: "threads", min: 1, max: 256 },
            "a thread, connections of its own to Das, and a hand-off for each message that comes by another thread";
        /// Requests in progress on a thread; one more is refused at once.
        requests_max: usize = Integer(16_384), Kind::Integer { unit: "requests", min: 1, max: 1_000_000 },
            "memory for each, and longer waits before a refusal";
        /// The deadline of a request that brings none.
        deadline_default_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 300_000 },
            "a higher value keeps hopeless requests for longer";
        /// How long a drain may take until what is left is closed.
        drain_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 300_000 },
            "a higher value lengthens a stop; keep it under up.drain_timeout_ms";
    }
}

section! {
    /// The chat's Das: it holds the data.
    struct Das as "das" {
        /// Threads that serve Logics.
        shards: u16 = Integer(1), Kind::Integer { unit: "threads", min: 1, max: 256 },
            "a thread";
        /// Requests in progress on a thread; one more is refused at once.
        requests_max: usize = Integer(16_384), Kind::Integer { unit: "requests", min: 1, max: 1_000_000 },
            "memory for each, and longer waits before a refusal";
        /// The deadline of a request that brings none.
        deadline_default_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 300_000 },
            "a higher value keeps hopeless requests for longer";
        /// How long a drain may take until what is left is closed.
        drain_ms: u64 = Integer(5_000), Kind::Integer { unit: "ms", min: 1, max: 300_000 },
            "a higher value lengthens a stop; keep it under up.drain_timeout_ms";
        /// Writes that share one durable commit at most.
        batch_operations_max: usize = Integer(256), Kind::Integer { unit: "writes", min: 1, max: 4_096 },
            "longer transactions, so longer waits for those at their end";
        /// Threads that read.
        readers: usize = Integer(2), Kind::Integer { unit: "threads", min: 1, max: 16 },
            "a thread and a database connection each";
    }
}
