//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Longest service name, in bytes. A longer one is refused with
/// [`ServiceNameError::TooLong`](crate::ServiceNameError::TooLong).
pub const SERVICE_NAME_BYTES_MAX: usize = 128;

/// Most deadlines pending in one [`Wheel`](crate::Wheel). A shard's wheel is
/// bounded by what the shard admits (connections and requests in flight), which
/// is orders of magnitude lower; reaching this one is our own fault and panics.
pub const WHEEL_PENDING_MAX: usize = (u32::MAX - 1) as usize;

/// Length of one tick of the [`Wheel`](crate::Wheel) as a power of two of
/// nanoseconds: 2^20 ns, about 1.05 ms. An entry is yielded at most one tick
/// after its moment.
pub const WHEEL_TICK_NS_LOG2: u32 = 20;

/// Most doublings of a [`Backoff`](crate::Backoff) delay. More attempts keep
/// the delay where it is; the configured maximum is normally reached earlier.
pub const BACKOFF_DOUBLINGS_MAX: u32 = 32;

/// Lines of one kind that a thread logs in [`LOG_PERIOD`] where others cause
/// them, see [`line_passes!`](crate::line_passes). The next one that is logged
/// says how many were not.
pub const LOG_LINES: u32 = 5;

/// See [`LOG_LINES`]; also the time between two lines of a trouble that goes
/// on, see [`Trouble`](crate::Trouble).
pub const LOG_PERIOD: Duration = Duration::from_secs(10);
