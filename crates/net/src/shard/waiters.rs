//! Tasks that wait for the same change, in the order in which they came.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Wakers of tasks that wait for one thing to change. An entry leaves with
/// its [`Until`], so a task that gave up leaves nothing behind, however long
/// the change takes.
///
/// Nothing is held while nobody waits but the number of the next: every
/// connection has one of these.
#[derive(Default)]
pub(crate) struct Waiters {
    #[allow(
        clippy::box_collection,
        reason = "8 bytes of every connection, and not 24"
    )]
    wakers: RefCell<Option<Box<BTreeMap<u64, Waker>>>>,
    next: Cell<u64>,
}

impl Waiters {
    /// Waits until `ready` gives a value. It is asked at once, and again
    /// after each [`Waiters::wake_all`].
    pub(crate) fn until<T, F: FnMut() -> Poll<T>>(&self, ready: F) -> Until<'_, F> {
        Until {
            waiters: self,
            entry: None,
            ready,
        }
    }

    /// Wakes everyone, first come first.
    pub(crate) fn wake_all(&self) {
        // Woken outside the borrow: a waker may drop a task, whose own
        // entries leave then.
        let Some(wakers) = self.wakers.take() else {
            return;
        };
        for waker in wakers.into_values() {
            waker.wake();
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.wakers.borrow().as_ref().map_or(0, |all| all.len())
    }
}

/// The future of [`Waiters::until`].
pub(crate) struct Until<'a, F> {
    waiters: &'a Waiters,
    entry: Option<u64>,
    ready: F,
}

impl<F> Until<'_, F> {
    fn register(&mut self, waker: &Waker) {
        let entry = *self.entry.get_or_insert_with(|| {
            let next = self.waiters.next.get();
            self.waiters.next.set(next + 1);
            next
        });
        let mut all = self.waiters.wakers.borrow_mut();
        let wakers = all.get_or_insert_default();
        if !wakers.get(&entry).is_some_and(|w| w.will_wake(waker)) {
            let old = wakers.insert(entry, waker.clone());
            drop(all);
            drop(old);
        }
    }
}

impl<T, F: FnMut() -> Poll<T> + Unpin> Future for Until<'_, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let poll = (self.ready)();
        if poll.is_pending() {
            self.register(cx.waker());
        }
        poll
    }
}

impl<F> Drop for Until<'_, F> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            let mut all = self.waiters.wakers.borrow_mut();
            let Some(wakers) = &mut *all else {
                return;
            };
            let waker = wakers.remove(&entry);
            if wakers.is_empty() {
                *all = None;
            }
            drop(all);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that waited for a callee that was down for long, and gave up,
    /// left their wakers behind: memory grew with each until the callee came.
    #[test]
    fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut stays = Box::pin(waiters.until(|| Poll::<()>::Pending));
        assert!(stays.as_mut().poll(cx).is_pending());
        for _ in 0..1000 {
            let mut gives_up = Box::pin(waiters.until(|| Poll::<()>::Pending));
            assert!(gives_up.as_mut().poll(cx).is_pending());
            assert!(gives_up.as_mut().poll(cx).is_pending());
        }
        assert_eq!(waiters.len(), 1);
        waiters.wake_all();
        assert_eq!(waiters.len(), 0);
        assert!(stays.as_mut().poll(cx).is_pending());
        assert_eq!(waiters.len(), 1);
        drop(stays);
        assert_eq!(waiters.len(), 0);
    }
}
