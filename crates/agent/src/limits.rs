//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Connections of callers at a time. One more is closed at once, and its caller
/// falls back to UDP.
pub const CONNECTIONS_MAX: usize = 1024;

/// Longest request of a caller in bytes. A longer one ends its connection.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Services that are kept at a time for callers. One more is refused until one
/// was not used for [`FORGET_AFTER`].
pub const SERVICES_MAX: usize = 4096;

/// After so long without a caller a service is kept no longer.
pub const FORGET_AFTER: Duration = Duration::from_mins(10);

/// How long an answer waits for a caller that does not read. Then its connection
/// is closed.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Between two turns while no calls are made.
pub const IDLE_TURN: Duration = Duration::from_millis(50);

/// For how long after the last call turns stay short.
pub const BUSY_FOR: Duration = Duration::from_secs(1);
