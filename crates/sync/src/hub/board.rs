//! How the hub and its sites fare, for whoever may not wait for the desk: metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::operate::StatusReport;

/// How often the desk writes it.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The last status that the desk wrote. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Option<StatusReport>>>);

impl Board {
    /// What stands there: at most a second old while the hub runs; none before its
    /// first second. Cost: O(sites).
    pub fn status(&self) -> Option<StatusReport> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// [`StatusReport::databases`] of it. Cost: O(sites).
    pub(super) fn databases(&self) -> Option<String> {
        let status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.as_ref().and_then(StatusReport::databases)
    }

    pub(super) fn write(&self, status: StatusReport) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}
