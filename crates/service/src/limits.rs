//! Every bound of the service framework, with what happens when it is reached.

use std::time::Duration;

/// Requests in progress on a shard. Above it a request is refused at once.
pub const REQUESTS_IN_FLIGHT: usize = 16_384;

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

/// Waiters for one key's lock, beside its holder. Above it a waiter is refused.
pub const LOCK_WAITERS: usize = 4096;

/// Contexts and tasks of one shard that an admin answer lists. How many more
/// there are stands in its header `waystation-left-out`.
pub const LISTED: usize = 10_000;

/// Time that shards have to answer the admin thread. Then it answers without
/// them, and says why.
pub const ADMIN_WAIT: Duration = Duration::from_secs(1);

/// Pauses between retries of a step: the first, and the longest.
pub const RETRY_PAUSE: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(200));
