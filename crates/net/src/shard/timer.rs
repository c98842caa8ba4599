//! Deadlines of a shard: one wheel, one timer of the event loop.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waystation_base::{Clock, DeadlineKey, Moment, Wheel};

use super::{Shard, alarm};
use crate::clock::MonotonicClock;

/// What happens when a moment comes.
enum Due {
    /// A task goes on.
    Wake(Waker),
    /// A function is called.
    Call(Rc<alarm::Entry>),
}

pub(crate) struct Timers {
    wheel: RefCell<Wheel<Due>>,
    /// When the driver wakes by itself.
    armed: Cell<Moment>,
    driver: RefCell<Option<Waker>>,
}

impl Timers {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            wheel: RefCell::new(Wheel::new(now)),
            armed: Cell::new(Moment::FAR_FUTURE),
            driver: RefCell::new(None),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.wheel.borrow().len()
    }

    pub(super) fn insert_alarm(&self, at: Moment, alarm: Rc<alarm::Entry>) -> DeadlineKey {
        self.insert(at, Due::Call(alarm))
    }

    pub(crate) fn insert_wake(&self, at: Moment, waker: Waker) -> DeadlineKey {
        self.insert(at, Due::Wake(waker))
    }

    fn insert(&self, at: Moment, due: Due) -> DeadlineKey {
        let key = self.wheel.borrow_mut().insert(at, due);
        if at < self.armed.get()
            && let Some(driver) = self.driver.borrow_mut().take()
        {
            driver.wake();
        }
        key
    }

    pub(crate) fn cancel(&self, key: DeadlineKey) {
        let due = self.wheel.borrow_mut().cancel(key);
        // A waker's drop may run a task's drop, which may come back here.
        drop(due);
    }

    /// One after another, each taken off the wheel just before: what runs may
    /// still cancel the next.
    fn fire(&self, shard: &Shard, now: Moment) {
        loop {
            let expired = self.wheel.borrow_mut().poll_expired(now);
            match expired {
                Some(Due::Wake(waker)) => waker.wake(),
                Some(Due::Call(alarm)) => alarm.fire(shard),
                None => return,
            }
        }
    }

    /// Fires what is due, for ever.
    pub(crate) async fn drive(shard: Shard) {
        let timers = shard.timers();
        loop {
            timers.fire(&shard, MonotonicClock.now());
            let next = timers.wheel.borrow().poll_timeout();
            timers.armed.set(next.unwrap_or(Moment::FAR_FUTURE));
            let earlier = std::future::poll_fn(|cx| {
                let timeout = timers.wheel.borrow().poll_timeout();
                if timeout.is_some_and(|at| at < timers.armed.get()) {
                    return Poll::Ready(());
                }
                *timers.driver.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            });
            match next {
                None => earlier.await,
                Some(at) => {
                    let sleep = tokio::time::sleep_until(MonotonicClock::instant(at));
                    tokio::select! { () = sleep => {}, () = earlier => {} }
                }
            }
        }
    }
}

/// Waits until a moment has come. Never early; late by at most the wheel's
/// tick (about 1 ms) and the loop's own delay.
///
/// Cost: nothing before the first pending poll, then one wheel entry.
pub struct Sleep {
    shard: Shard,
    at: Moment,
    entry: Option<(DeadlineKey, Waker)>,
}

impl Sleep {
    pub(crate) fn new(shard: &Shard, at: Moment) -> Self {
        Self {
            shard: shard.clone(),
            at,
            entry: None,
        }
    }

    /// The moment waited for.
    pub fn deadline(&self) -> Moment {
        self.at
    }

    /// Waits for another moment from now on. Cost: one cancel.
    pub fn reset(&mut self, at: Moment) {
        self.disarm();
        self.at = at;
    }

    fn disarm(&mut self) {
        if let Some((key, _)) = self.entry.take() {
            self.shard.timers().cancel(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shard.now() >= self.at {
            self.disarm();
            return Poll::Ready(());
        }
        if let Some((_, waker)) = &self.entry
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        self.disarm();
        let waker = cx.waker().clone();
        let key = self.shard.timers().insert_wake(self.at, waker.clone());
        self.entry = Some((key, waker));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// A deadline passed before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Elapsed;

/// Awaits `future` until `at`, then drops it.
///
/// # Errors
/// [`Elapsed`] when the moment came first.
pub async fn until<F: Future>(shard: &Shard, at: Moment, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut sleep = Sleep::new(shard, at);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
