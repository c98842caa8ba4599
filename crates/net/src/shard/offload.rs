//! Blocking work, off the shard's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    pending: Arc<AtomicUsize>,
}

/// Counts a job from its call until it has ended or will never start. It goes
/// with the job, not with who waits for it: waiters that gave up would
/// otherwise make room for ever more jobs.
struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a job that has not started out of the queue when nobody waits for it.
struct Waiter<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Offload {
    pub(crate) fn new() -> Self {
        Self {
            pending: Arc::new(AtomicUsize::new(0)),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }
}

impl Shard {
    /// Runs `job` on the shard's pool of blocking threads and waits for it.
    /// A job that was started runs to its end, even when the waiter goes away;
    /// one that was not is dropped then.
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
        if pending.load(Ordering::Relaxed) >= OFFLOAD_QUEUE {
            return Err(OffloadError::Full(OFFLOAD_QUEUE));
        }
        pending.fetch_add(1, Ordering::Relaxed);
        let pending = Pending(pending.clone());
        let reason = WaitsFor {
            what: "offload",
            of: Label::of(name),
        };
        let mut waiter = Waiter(tokio::task::spawn_blocking(move || {
            let _pending = pending;
            job()
        }));
        waiting(reason, &mut waiter.0)
            .await
            .map_err(|_| OffloadError::Panicked(name))
    }
}
