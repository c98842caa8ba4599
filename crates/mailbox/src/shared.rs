//! What both ends share: the queue and who waits for it, under one lock.

use std::sync::PoisonError;
use std::task::Waker;

use crate::sync::{Mutex, MutexGuard};

/// What went through a mailbox since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages taken in. They were delivered, are queued, or were dropped with
    /// the receiver.
    pub sent: u64,
    /// Messages handed back because the mailbox was full.
    pub refused: u64,
}

pub(crate) struct Shared<T> {
    state: Mutex<State<T>>,
    /// Where a receiver that blocks its thread waits.
    #[cfg(not(loom))]
    pub(crate) filled: crate::sync::Condvar,
}

pub(crate) struct State<T> {
    pub(crate) queue: Vec<T>,
    pub(crate) capacity: usize,
    /// The receiver's waker while it waits: present only when the queue was
    /// empty as it polled, and gone with the first message after that. So a
    /// batch wakes once.
    pub(crate) waker: Option<Waker>,
    /// Whether the receiver blocks its thread on `filled`.
    pub(crate) parked: bool,
    pub(crate) senders: usize,
    pub(crate) receiver_gone: bool,
    pub(crate) counters: Counters,
}

impl<T> Shared<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                queue: Vec::new(),
                capacity,
                waker: None,
                parked: false,
                senders: 1,
                receiver_gone: false,
                counters: Counters::default(),
            }),
            #[cfg(not(loom))]
            filled: crate::sync::Condvar::new(),
        }
    }

    /// Nothing that can panic in the middle of a change runs under the lock
    /// (messages are dropped and wakers woken outside), so a poisoned state is
    /// a whole one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whom [`State::take_waiter`] found. Call it after unlocking.
    #[cfg_attr(
        loom,
        expect(clippy::unused_self, reason = "blocking waits are not modelled")
    )]
    pub(crate) fn wake(&self, waiter: Waiter) {
        if let Some(waker) = waiter.waker {
            waker.wake();
        }
        #[cfg(not(loom))]
        if waiter.parked {
            self.filled.notify_one();
        }
    }
}

impl<T> State<T> {
    /// Whoever waits for the mailbox to change; it is told once.
    #[must_use = "a waiter that is taken and not woken sleeps for ever"]
    pub(crate) fn take_waiter(&mut self) -> Waiter {
        Waiter {
            waker: self.waker.take(),
            parked: std::mem::take(&mut self.parked),
        }
    }

    /// Moves everything queued to `into`. `None` when nothing is there and
    /// nothing can come any more.
    pub(crate) fn take_batch(&mut self, into: &mut Vec<T>) -> Option<usize> {
        let count = self.queue.len();
        if count == 0 {
            return (self.senders > 0).then_some(0);
        }
        if into.is_empty() {
            // The two buffers change places, so neither end allocates once both
            // have grown to the size of a batch.
            std::mem::swap(&mut self.queue, into);
        } else {
            into.append(&mut self.queue);
        }
        Some(count)
    }
}

/// See [`State::take_waiter`].
#[derive(Default)]
pub(crate) struct Waiter {
    waker: Option<Waker>,
    #[cfg_attr(loom, expect(dead_code, reason = "blocking waits are not modelled"))]
    parked: bool,
}
