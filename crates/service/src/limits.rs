//! Every bound of the service framework, with what happens when it is reached.

use std::time::Duration;

/// Requests in progress on a shard. Above it a request is refused at once.
pub const REQUESTS_IN_FLIGHT: usize = 16_384;

/// Requests of one caller in progress on a shard, unless its
/// [`Router`](crate::Router::share) says otherwise. Above it a request is
/// refused at once. It is what one connection may have handled at once, so
/// that it bounds only a caller with several.
pub const REQUESTS_PER_CALLER: usize = CONCURRENCY as usize;

/// The deadline of a request that brings none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

/// The longest deadline a request can have; a longer one is cut to it.
pub const DEADLINE_MAX: Duration = Duration::from_mins(5);

/// Time that a state machine has after its deadline to answer the timeout.
/// Then the framework answers.
pub const TIMEOUT_GRACE: Duration = Duration::from_millis(50);

/// Steps of one state machine. Above it the request fails, since it loops.
pub const MACHINE_STEPS: u32 = 1000;

/// Requests of one connection handled at once, where order does not matter.
pub const CONCURRENCY: u32 = 256;

/// Bytes of the reason that an error tells its caller. What is longer is cut.
pub const REASON_BYTES: usize = 1024;

/// Latencies that the median in replies is taken from.
pub const LATENCY_WINDOW: usize = 64;

/// A sensible capacity for [`Sessions`](crate::Sessions). Above its own
/// capacity a table refuses new sessions.
pub const SESSIONS: usize = 1_000_000;

/// The shortest time that a session stays unused, about a tick of the timer.
/// One without any time that is opened again in its end could end and open
/// for ever in one turn.
pub const SESSION_IDLE_MIN: Duration = Duration::from_millis(1);

/// Bytes of answers that wait on one connection until its peer has taken what
/// is before them, unless its [`Router`](crate::Router::answers_waiting) says
/// otherwise. The next answer becomes a refusal, unless it is the only one.
pub const ANSWERS_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Waiters for one key's lock, beside its holder. Above it a waiter is refused.
pub const LOCK_WAITERS: usize = 4096;

/// Contexts and tasks of one shard that an admin answer lists. How many more
/// there are stands in its header `waystation-left-out`.
pub const LISTED: usize = 10_000;

/// Time that shards have to answer the admin thread. Then it answers without
/// them, and says why.
pub const ADMIN_WAIT: Duration = Duration::from_secs(1);

/// Calls of one [`Channel`](crate::Channel) in progress at once: as many as
/// its callee handles of one connection. Above it calls wait for their turn,
/// callers in rotation.
pub const CALLS_AT_ONCE: usize = CONCURRENCY as usize;

/// Waiters of one [`Turns`](crate::Turns). Near it who has many waiters is
/// refused, at it everyone.
pub const TURNS_WAITING: usize = 65_536;

/// Time before its deadline at which a step that is being tried again gives
/// up, so that why it fails still gets to who asked; at most a tenth of the
/// time that it had.
pub const RETRY_MARGIN: Duration = Duration::from_millis(50);

/// Tries of one step, the first included, unless it says otherwise. Then its
/// last failure stands.
pub const RETRY_TRIES: u32 = 10;

/// Retries of a shard in each hundred steps of the last
/// [`RETRY_WINDOW_SECONDS`], beside [`RETRY_PER_SECOND`]. Above it a step that
/// fails is not tried again, and counted. The same share of each caller's own
/// steps is its own; of what others leave it gets no more than is left.
pub const RETRY_SHARE_PERCENT: u64 = 20;

/// Retries of a shard in a second that are allowed whatever its traffic.
pub const RETRY_PER_SECOND: u64 = 10;

/// The window in which steps and their retries are counted, in seconds.
pub const RETRY_WINDOW_SECONDS: u32 = 10;

pub use waystation_base::limits::{LOG_LINES, LOG_PERIOD};

/// Pauses between retries of a step: the first, and the longest.
pub const RETRY_PAUSE: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(200));

/// For how long callers' word on an instance counts. After that it is as if
/// nobody had called, so that one that was left out is tried again.
pub const CALLERS_WINDOW: Duration = Duration::from_secs(10);

/// Calls in a row without an answer after which callers say that an instance
/// fails. One answer, or another connection, ends that.
pub const CALLERS_FAILURES: u32 = 3;

/// Channels that a [`Balanced`](crate::Balanced) without a group keeps. Above it
/// those of instances that may not be picked are closed.
pub const CHANNELS_MAX: usize = 1024;

/// Second calls that may be saved up for a time when many calls take long.
/// Above it a call earns none.
pub const HEDGE_BURST: u32 = 10;

/// Answers of a method before calls of it are sent twice: nobody knows what is
/// long before.
pub const HEDGE_SAMPLES_MIN: usize = 32;

/// Picks until one is of another instance that is not known to be away. Then there
/// is none that is better: the last one is tried, or no second call is sent.
pub const OTHER_PICKS: u32 = 4;

/// How often an instance is probed, unless it is set otherwise.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the answer to a probe may take, unless it is set otherwise.
pub const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Probes in a row without an answer after which an instance has failed, unless
/// it is set otherwise.
pub const PROBE_FAILURES: u32 = 3;

/// Instances of one group that are probed at once. Others wait for their turn.
pub const PROBES_AT_ONCE: usize = 32;

/// Bytes of the answer to a probe. With more, and no end of what counts, it is
/// no answer.
pub const PROBE_ANSWER_BYTES: usize = 4096;
