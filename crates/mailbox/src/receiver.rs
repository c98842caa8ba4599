//! The consumer's end.

use std::fmt;
use std::mem;
use std::task::{Context, Poll};

use crate::shared::{Counters, Shared};
use crate::sync::Arc;

/// The consumer's end of a [`mailbox`](crate::mailbox).
///
/// All ways to receive take everything that is queued, append it to the vector
/// they are given, and return how many messages that was, or `None` once every
/// sender is gone and the queue is empty. Give the same vector again after
/// draining it: when it is empty it changes places with the queue, and nothing
/// is copied or allocated.
///
/// When it is dropped, the mailbox closes, and what is queued is dropped on the
/// dropping thread, outside the lock.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    pub(crate) const fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    /// Receives a batch, or arranges that `cx`'s task is woken when there is
    /// one: `Ready(Some(n))` with n above zero, `Ready(None)` at the end.
    ///
    /// Only the waker of the latest poll is woken, once for all messages up to
    /// the next poll.
    pub fn poll_recv_batch(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<T>,
    ) -> Poll<Option<usize>> {
        let mut state = self.shared.lock();
        let replaced = match state.take_batch(into) {
            Some(0) => match &state.waker {
                Some(waker) if waker.will_wake(cx.waker()) => None,
                _ => state.waker.replace(cx.waker().clone()),
            },
            end_or_batch => return Poll::Ready(end_or_batch),
        };
        drop(state);
        // Dropping a waker may run a task's destructor, which may send here.
        drop(replaced);
        Poll::Pending
    }

    /// Waits for a batch: [`Receiver::poll_recv_batch`] as a future. Cancel
    /// safe: a batch is either in `into` or still queued.
    pub async fn recv_batch(&mut self, into: &mut Vec<T>) -> Option<usize> {
        std::future::poll_fn(|cx| self.poll_recv_batch(cx, into)).await
    }

    /// Receives what is queued now; `Some(0)` when nothing is.
    pub fn try_recv_batch(&mut self, into: &mut Vec<T>) -> Option<usize> {
        self.shared.lock().take_batch(into)
    }

    /// Blocks the thread for at most `timeout` until a batch is there; `Some(0)`
    /// when none came in time. For consumers that are threads of their own,
    /// never on a shard.
    #[cfg(not(loom))]
    pub fn recv_batch_timeout(
        &mut self,
        into: &mut Vec<T>,
        timeout: std::time::Duration,
    ) -> Option<usize> {
        let state = self.shared.lock();
        let (mut state, _) = self
            .shared
            .filled
            .wait_timeout_while(state, timeout, |state| {
                state.parked = state.queue.is_empty() && state.senders > 0;
                state.parked
            })
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.parked = false;
        state.take_batch(into)
    }

    /// Messages queued now.
    pub fn len(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Whether no message is queued now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What went through the mailbox so far, over all senders.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        let left = (mem::take(&mut state.queue), state.waker.take());
        drop(state);
        // Destructors of messages and tasks may use this very mailbox.
        drop(left);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
