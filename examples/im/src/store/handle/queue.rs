//! A bounded queue between callers, who never wait for a place, and threads, which
//! wait for work.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::error::StoreError;

/// First in, first out; bounded in items and in the bytes that they weigh together.
pub(super) struct Queue<T> {
    items_max: usize,
    bytes_max: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    open: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(items_max: usize, bytes_max: usize) -> Self {
        Self {
            items_max,
            bytes_max,
            state: Mutex::new(State {
                items: VecDeque::new(),
                bytes: 0,
                open: true,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds an item, or refuses it at once. An item heavier than the whole bound is
    /// taken when nothing else waits, so that no size is refused for ever.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`], [`StoreError::Closed`].
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.open {
            return Err(StoreError::Closed);
        }
        let is_heavy = state.bytes.saturating_add(bytes) > self.bytes_max;
        if state.items.len() >= self.items_max || (is_heavy && !state.items.is_empty()) {
            return Err(StoreError::Overloaded);
        }
        state.bytes += bytes;
        state.items.push_back((item, bytes));
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for items and takes up to `items_max` of them in order; empty only when
    /// the queue is closed and worked off. The wait has no deadline: closing ends it.
    pub(super) fn pop_batch(&self, items_max: usize) -> Vec<T> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.items.is_empty() && state.open)
            .unwrap_or_else(PoisonError::into_inner);
        let count = state.items.len().min(items_max);
        let taken: Vec<(T, usize)> = state.items.drain(..count).collect();
        state.bytes -= taken.iter().map(|(_, bytes)| bytes).sum::<usize>();
        drop(state);
        taken.into_iter().map(|(item, _)| item).collect()
    }

    /// Refuses new items from now on; those inside can still be taken.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Closes, and drops what is inside.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.open = false;
        state.bytes = 0;
        let abandoned = std::mem::take(&mut state.items);
        drop(state);
        self.changed.notify_all();
        drop(abandoned);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// No code under the lock can panic halfway, so a poisoned state is still whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_leave_in_order_and_in_batches() {
        let queue = Queue::new(8, 100);
        for item in 1..=5 {
            queue.push(item, 1).unwrap();
        }
        assert_eq!(queue.pop_batch(3), [1, 2, 3]);
        assert_eq!(queue.len(), 2);
        queue.close();
        assert_eq!(queue.pop_batch(3), [4, 5]);
        assert!(queue.pop_batch(3).is_empty());
    }

    #[test]
    fn both_bounds_refuse_and_free_up_again() {
        let queue = Queue::new(2, 10);
        queue.push('a', 6).unwrap();
        assert!(matches!(queue.push('b', 5), Err(StoreError::Overloaded)));
        queue.push('b', 4).unwrap();
        assert!(matches!(queue.push('c', 0), Err(StoreError::Overloaded)));
        assert_eq!(queue.pop_batch(1), ['a']);
        queue.push('c', 6).unwrap();
        assert_eq!(queue.pop_batch(9), ['b', 'c']);
    }

    #[test]
    fn the_heaviest_item_passes_alone() {
        let queue = Queue::new(2, 10);
        queue.push('a', 11).unwrap();
        assert!(matches!(queue.push('b', 0), Err(StoreError::Overloaded)));
        assert_eq!(queue.pop_batch(1), ['a']);
        queue.push('b', 10).unwrap();
    }

    #[test]
    fn a_closed_queue_refuses_and_an_abandoned_one_is_empty() {
        let queue = Queue::new(2, 10);
        queue.push('a', 1).unwrap();
        queue.close();
        assert!(matches!(queue.push('b', 1), Err(StoreError::Closed)));
        assert_eq!(queue.len(), 1);
        queue.abandon();
        assert!(queue.pop_batch(1).is_empty());
        assert!(!queue.is_open());
    }
}
