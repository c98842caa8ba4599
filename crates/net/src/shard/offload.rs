//! Blocking work, off the shard's thread.

use std::cell::Cell;
use std::rc::Rc;

use super::{Label, Shard, WaitsFor, waiting};
use crate::limits::OFFLOAD_QUEUE;

/// Why a job on the offload pool gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// So many jobs wait already; the caller should refuse its own work.
    #[error("{0} jobs wait for the offload pool already")]
    Full(usize),
    /// The job panicked; the message is in the log.
    #[error("the offloaded job `{0}` panicked")]
    Panicked(&'static str),
}

pub(crate) struct Offload {
    pending: Rc<Cell<usize>>,
}

struct Pending(Rc<Cell<usize>>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Offload {
    pub(crate) fn new() -> Self {
        Self {
            pending: Rc::new(Cell::new(0)),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.get()
    }
}

impl Shard {
    /// Runs `job` on the shard's pool of blocking threads and waits for it.
    /// A job that was started runs to its end, even when the waiter goes away.
    /// Cost: about 10 µs and two thread switches.
    ///
    /// # Errors
    /// [`OffloadError::Full`] at once when the queue is full, and
    /// [`OffloadError::Panicked`].
    pub async fn offload<T: Send + 'static>(
        &self,
        name: &'static str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, OffloadError> {
        let pending = &self.offload_pool().pending;
        if pending.get() >= OFFLOAD_QUEUE {
            return Err(OffloadError::Full(OFFLOAD_QUEUE));
        }
        pending.set(pending.get() + 1);
        let _pending = Pending(pending.clone());
        let reason = WaitsFor {
            what: "offload",
            of: Label::of(name),
        };
        let handle = tokio::task::spawn_blocking(job);
        waiting(reason, handle)
            .await
            .map_err(|_| OffloadError::Panicked(name))
    }
}
