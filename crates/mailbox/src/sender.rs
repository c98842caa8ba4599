//! The producers' end.

use std::fmt;

use thiserror::Error;

use crate::shared::{Counters, Shared};
use crate::sync::Arc;

/// A producer's end of a [`mailbox`](crate::mailbox). A clone is another
/// producer: each one's messages arrive in the order in which it sent them.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Why a message was not taken in. It is handed back.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub enum TrySendError<T> {
    /// The mailbox is full: the consumer does not keep up. Refuse what led to
    /// the message; sending again at once will not help.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone: nothing sent will ever be received.
    #[error("the mailbox is closed")]
    Closed(T),
}

impl<T> TrySendError<T> {
    /// The message that was not taken in.
    pub fn into_message(self) -> T {
        match self {
            Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

// The message need not be printable for its error to be.
impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> Sender<T> {
    /// The first sender, which [`Shared::new`] has counted already.
    pub(crate) const fn first(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    /// Queues `message` and wakes the receiver if it waits. Never blocks, apart
    /// from the short lock.
    ///
    /// # Errors
    /// Hands the message back when the mailbox is full or the receiver gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Err(TrySendError::Closed(message));
        }
        if state.queue.len() >= state.capacity {
            state.counters.refused += 1;
            return Err(TrySendError::Full(message));
        }
        state.queue.push(message);
        state.counters.sent += 1;
        let waiter = state.take_waiter();
        // The receiver must not wake up only to wait for this lock.
        drop(state);
        self.shared.wake(waiter);
        Ok(())
    }

    /// Queues the messages of `batch` in their order, under one lock and with
    /// at most one wake-up, and answers how many. What does not fit, or comes
    /// when the receiver is gone, stays in `batch` and counts as refused.
    ///
    /// Cost: one lock and a move for each message; one wake-up if the receiver
    /// waits, which is the dear part.
    pub fn try_send_batch(&self, batch: &mut Vec<T>) -> usize {
        let mut state = self.shared.lock();
        let room = if state.receiver_gone {
            0
        } else {
            state.capacity - state.queue.len()
        };
        let count = batch.len().min(room);
        state.counters.refused += (batch.len() - count) as u64;
        state.counters.sent += count as u64;
        if count == 0 {
            return 0;
        }
        state.queue.extend(batch.drain(..count));
        let waiter = state.take_waiter();
        drop(state);
        self.shared.wake(waiter);
        count
    }

    /// Messages queued now.
    pub fn len(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Whether no message is queued now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().receiver_gone
    }

    /// What went through the mailbox so far, over all senders.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if state.senders == 0 {
            // The receiver may wait for a message that nobody can send now.
            let waiter = state.take_waiter();
            drop(state);
            self.shared.wake(waiter);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
