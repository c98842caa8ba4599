//! The one place that reads the machine's clocks.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use waystation_base::{Clock, Moment};

/// The monotonic clock of this process. Moments count from its first use.
///
/// It follows tokio's clock, so that a paused clock in a test pauses it too.
/// Cost: one clock read, 25 to 40 ns.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

static ORIGIN: OnceLock<tokio::time::Instant> = OnceLock::new();

fn origin() -> tokio::time::Instant {
    *ORIGIN.get_or_init(tokio::time::Instant::now)
}

impl Clock for MonotonicClock {
    fn now(&self) -> Moment {
        let origin = origin();
        let since = tokio::time::Instant::now().saturating_duration_since(origin);
        // The first moment is one second, so that "a second ago" exists.
        Moment::ZERO + Duration::from_secs(1) + since
    }
}

impl MonotonicClock {
    /// The event loop's form of `at`, for its one timer.
    pub(crate) fn instant(at: Moment) -> tokio::time::Instant {
        let first = Moment::ZERO + Duration::from_secs(1);
        origin() + at.saturating_since(first)
    }
}

/// Time since 1970 by the calendar clock, which may jump. For stamps that
/// people read; never for deadlines.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads it"
)]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
