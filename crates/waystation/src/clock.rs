//! The monotonic clock of the supervisor.

use waystation_base::{Clock, Moment};

/// Counts from its creation, by tokio's clock, so that a paused clock in a test
/// pauses it too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uptime(tokio::time::Instant);

impl Uptime {
    /// A clock that shows zero now.
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for Uptime {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }
}
