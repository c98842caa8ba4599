//! Every bound of this crate, with what happens when it is reached.
//!
//! Bounds on what a registry holds stand in
//! [`waystation_membership::limits`].

use std::time::Duration;

use waystation_base::BackoffConfig;

/// Registrations of one client. One more is refused.
pub const REGISTRATIONS_MAX: usize = 1024;

/// Registrations of one client whose handles are gone, and whose end a registry
/// that is away has not answered. One more is not tried again, which is told: it
/// may be listed for as long as the client lives.
pub const LEAVING_MAX: usize = REGISTRATIONS_MAX;

/// Watches of one client. One more is refused.
pub const WATCHES_MAX: usize = 10_000;

/// Questions of one client that are not answered yet. One more is refused.
pub const QUESTIONS_MAX: usize = 64;

/// Events that wait for a client's driver. Above it the backend drops its
/// connection, since a subscriber must not miss a push.
pub const EVENTS_MAX: usize = 65_536;

/// Events that a driver handles before other tasks of its shard get their turn.
pub const EVENTS_PER_TURN: usize = 256;

/// Orders of handles that a driver handles before other tasks of its shard get
/// their turn.
pub const ORDERS_PER_TURN: usize = 256;

/// Entries of a store that are handled before other tasks of the shard get their
/// turn. What came in one revision, or is shown in one view, is handled at once.
pub const ENTRIES_PER_TURN: usize = 256;

/// How long a question waits for its answer, for a connection included.
pub const QUESTION_WAIT: Duration = Duration::from_secs(5);

/// How long a client that is closed may take to say goodbye.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How long one call to the embedded registry may take. Then it counts as lost;
/// what it was about is asked again.
pub const CALL_WAIT: Duration = Duration::from_secs(2);

/// Calls of one client in flight. Above it they fail at once and are made again
/// by whoever needs them.
pub const CALLS_MAX: u32 = 16_384;

/// A quiet connection is asked for a sign of life this often, by either side.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A connection without a sign of life for this long is closed.
pub const KEEPALIVE_WAIT: Duration = Duration::from_secs(4);

/// Longest pause between attempts to connect.
pub const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Pauses between attempts to connect to a registry, with whom leases are renewed.
pub const REGISTRY_BACKOFF: BackoffConfig = BackoffConfig {
    base: Duration::from_millis(20),
    max: CONNECT_PAUSE_MAX,
    jitter: 0.5,
};

/// Pauses between attempts to connect to a route server, of which there are
/// agents by the thousand: they come back evenly over half a second. Meanwhile they
/// go by what they know.
pub const ROUTE_BACKOFF: BackoffConfig = BackoffConfig {
    base: Duration::from_millis(500),
    max: CONNECT_PAUSE_MAX,
    jitter: 1.0,
};

/// Foreign or malformed entries of a source that are named; the rest is counted.
pub const SKIPPED_NAMED_MAX: usize = 64;

/// Size of a static list. A larger one is not read, and told.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Instances of a service that are remembered as gone without a word. Further
/// ones count as gone for good.
pub const LAPSED_MAX: usize = 64;

/// How often a static list is looked at for changes.
pub const FILE_POLL: Duration = Duration::from_millis(250);

/// Connections that an embedded registry accepts. One more is told so and
/// closed.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Requests of one connection that an embedded registry works on at once. Those that
/// wait for the disk are bounded by [`UNTOLD_BYTES_MAX`].
pub const REQUESTS_PER_CONNECTION: u32 = 256;

/// Changes of a registry's state that wait to be stored. Above it what would
/// change the state further is refused.
pub const UNSTORED_MAX: usize = 65_536;

/// Bytes of a registry's answers that wait until what came before them is
/// stored. Above it requests are refused.
pub const UNTOLD_BYTES_MAX: usize = 64 << 20;

/// Instances in one answer to a listing; a service with more stands alone in
/// its answer.
pub const LISTED_INSTANCES_MAX: usize = 1000;

/// Below this size the journal is not rewritten.
pub const JOURNAL_BYTES_MIN: u64 = 1 << 20;

/// The journal is rewritten when it has so many times the bytes of what it
/// still says.
pub const JOURNAL_FACTOR: u64 = 4;

/// Longest line of a journal or a static list. A longer one is skipped.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Longest prefix of a shared registry's keys, in bytes. A longer one is refused.
pub const PREFIX_BYTES_MAX: usize = 256;

/// How long a connection to a registry that is not ours may take to come about.
pub const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// How often etcd is asked for a sign of life, by each client. Shorter notices a
/// dead member sooner, and is a question for the cluster each time: a client that
/// watches has it keep a lease, any other reads a key.
pub const ETCD_PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Keys in one answer to a listing of etcd.
pub const ETCD_PAGE: i64 = 1000;

/// Keys under the prefix of an etcd registry. With more the registry counts as
/// one that cannot be talked to, and the fault says so.
pub const ETCD_KEYS_MAX: usize = 200_000;

/// Largest answer of etcd. A larger one costs the connection, and is told.
pub const ETCD_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How often a change that another client overtook is tried at once, and a
/// store that does not settle is read. After that it counts as unanswered, and
/// is asked for again with a pause.
pub const STORE_TRIES: usize = 8;

/// Foreign entries of a store that a client remembers to have told. Further ones
/// are not told.
pub const STORE_SKIPPED_KNOWN_MAX: usize = 1024;

/// Keys that one transaction writes; etcd takes 128 operations by default.
pub const ETCD_TXN_OPS_MAX: usize = 100;

/// How often what subscribers hold is written to a store, when nobody waits for
/// it. Shorter tells people sooner who holds what; each client that watches
/// something that changes writes this often, so 1,000 of them 100 times a second.
pub const STORE_TEND_INTERVAL: Duration = Duration::from_secs(10);

/// How often who came from another registry looks whether its client knows that
/// tokens are above those of the other.
pub const LIFT_POLL: Duration = Duration::from_millis(10);

/// How often a drain looks whether all subscribers have acknowledged it.
pub const DRAIN_POLL: Duration = Duration::from_millis(50);

/// How long an update, a drain or its end waits before it is tried again, when
/// the registry gave no answer, or refused it for now.
pub const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long an update, a drain or its end waits before it is tried again, when
/// the store refused it: it may be full, and have room later.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// The session of a client that watches `ZooKeeper`, in which its subscribers
/// stand. Shorter notices a dead server sooner, and loses the session on cuts
/// that heal.
pub const ZOOKEEPER_SESSION: Duration = Duration::from_secs(6);

/// Sessions of one client that keep registrations alive; those that ask for the
/// same lease share one. With more, registrations share the next longer one.
pub const ZOOKEEPER_LEASES_MAX: usize = 8;

/// Signs of life that a session of registrations gives in its time, each a
/// question for the server that it is with. Fewer leave less of a lease that is
/// surely known of: see the document on `ZooKeeper`'s nodes.
pub const ZOOKEEPER_SIGNS: u32 = 8;

/// Nodes that are read by one question to `ZooKeeper`.
pub const ZOOKEEPER_READ_TOGETHER: usize = 500;

/// Nodes of a registry in `ZooKeeper`. With more the registry counts as one that
/// cannot be talked to, and the fault says so.
pub const ZOOKEEPER_NODES_MAX: usize = 200_000;

/// Subscribers that are written at once.
pub const ZOOKEEPER_WRITE_TOGETHER: usize = 100;

/// How much longer than its drain may wait for subscribers a
/// [`Place`](crate::Place) waits for the registry's word on that. After that who
/// has not acknowledged may still send something new, and is refused.
pub const PLACE_SPARE: Duration = Duration::from_secs(1);

/// How long a [`Place`](crate::Place) then waits until it is out. After that the
/// registry finds out by its lease.
pub const PLACE_END_WAIT: Duration = Duration::from_secs(1);

/// How often a [`Place`](crate::Place) that leaves looks whether the registry
/// is still there.
pub const LEAVE_LOOK: Duration = Duration::from_millis(100);

/// Changes that a watch remembers for a test that wants to see each of them.
pub const RECORDED_MAX: usize = 10_000;

/// How long an acknowledgement waits for others at most, for an embedded registry
/// and while no drain waits for it. Longer saves messages, and tells people later
/// who holds what.
pub const ACK_PAUSE: Duration = Duration::from_millis(500);

/// Registries that are used as one. One more is refused.
pub const COMBINED_SOURCES_MAX: usize = 4;

/// Instances of a service that a watch of several registries remembers to have
/// seen in each. Above it those that are gone are forgotten: a registry that is
/// lost may then show them again.
pub const COMBINED_KNOWN_MAX: usize = 100_000;

/// Versions of a service of which a watch of several registries knows what they
/// are made of. An acknowledgement of an older one counts for nothing.
pub const COMBINED_ACKS_MAX: usize = 64;
