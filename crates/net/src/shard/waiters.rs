//! Tasks that wait for the same change, in the order in which they came.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Wakers of tasks that wait for one thing to change. An entry leaves with
/// its [`Until`], so a task that gave up leaves nothing behind, however long
/// the change takes.
///
/// Nothing is held before the first has waited: every connection has one of
/// these.
#[derive(Default)]
pub(crate) struct Waiters {
    queue: Cell<Option<Box<Queue>>>,
}

/// It stays when all have left: who was woken and goes on waiting keeps its
/// number, which must not be another's by then.
#[derive(Default)]
struct Queue {
    wakers: BTreeMap<u64, Waker>,
    /// The number of the next.
    next: u64,
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
        let Some(mut queue) = self.queue.take() else {
            return;
        };
        let wakers = std::mem::take(&mut queue.wakers);
        self.queue.set(Some(queue));
        // Woken when the queue is back: a waker may drop a task, whose own
        // entries leave then.
        for waker in wakers.into_values() {
            waker.wake();
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let queue = self.queue.take();
        let len = queue.as_ref().map_or(0, |queue| queue.wakers.len());
        self.queue.set(queue);
        len
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
        let mut queue = self.waiters.queue.take().unwrap_or_default();
        let entry = *self.entry.get_or_insert_with(|| {
            queue.next += 1;
            queue.next
        });
        let known = queue.wakers.get(&entry).is_some_and(|w| w.will_wake(waker));
        let old = if known {
            None
        } else {
            queue.wakers.insert(entry, waker.clone())
        };
        self.waiters.queue.set(Some(queue));
        // Its drop may run a task's drop, which may come back here.
        drop(old);
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
        if let Some(entry) = self.entry
            && let Some(mut queue) = self.waiters.queue.take()
        {
            let waker = queue.wakers.remove(&entry);
            self.waiters.queue.set(Some(queue));
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

    /// Who was woken and waits on had the number of the next who came, in
    /// whose place it waited: one of the two was never woken again.
    #[test]
    fn who_waits_on_keeps_its_place() {
        let waiters = Waiters::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut first = Box::pin(waiters.until(|| Poll::<()>::Pending));
        assert!(first.as_mut().poll(cx).is_pending());
        waiters.wake_all();
        let mut second = Box::pin(waiters.until(|| Poll::<()>::Pending));
        assert!(second.as_mut().poll(cx).is_pending());
        assert!(first.as_mut().poll(cx).is_pending());
        assert_eq!(waiters.len(), 2);
        drop(second);
        assert_eq!(waiters.len(), 1);
    }
}
