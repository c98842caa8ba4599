//! One bit of news from thread to thread: "you have something to do".

use std::fmt;
use std::sync::PoisonError;
use std::task::{Context, Waker};

use crate::sync::{AtomicBool, AtomicU16, Mutex, Ordering};

/// Tells the one who waits at the end of a queue that there is something to do,
/// by way of its thread: many bells that ring in one turn of a loop travel as
/// one batch of a [`mailbox`](crate::mailbox), which wakes the thread once.
///
/// Who has put something into the queue calls [`Doorbell::ring`]. The first one
/// gets the number of the thread where the other waits, and sends it a message,
/// on which that thread calls [`Doorbell::answer`]. Who rings before that has
/// nothing further to do: a bell is under way at most once. Who waits calls
/// [`Doorbell::register`] and then looks at the queue, in this order; so
/// nothing that is put in is missed, not even while the waiting end moves from
/// one thread to another.
pub struct Doorbell {
    home: AtomicU16,
    rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Doorbell {
    /// A bell of an end on the thread with this number.
    pub fn new(home: u16) -> Self {
        Self {
            home: AtomicU16::new(home),
            rung: AtomicBool::new(false),
            waker: Mutex::new(None),
        }
    }

    /// The waiting end has come to another thread. It registers and looks at
    /// its queue after this.
    pub fn settle(&self, home: u16) {
        self.home.store(home, Ordering::Release);
    }

    /// The thread to tell, or `None` when it is being told already.
    ///
    /// Cost: one atomic exchange.
    pub fn ring(&self) -> Option<u16> {
        let rung = self.rung.swap(true, Ordering::AcqRel);
        (!rung).then(|| self.home.load(Ordering::Acquire))
    }

    /// Wakes who waits, if anyone does. What was put in before the bell was
    /// rung is visible to it.
    pub fn answer(&self) {
        // First, so that what is put in from here on rings anew.
        self.rung.swap(false, Ordering::AcqRel);
        let waker = self.waker().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Says who waits. Call it before the look at the queue.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker();
        if waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return;
        }
        let old = waker.replace(cx.waker().clone());
        drop(waker);
        // A waker's drop may run a task's drop, which may come back here.
        drop(old);
    }

    /// Nobody waits any more.
    pub fn unregister(&self) {
        let old = self.waker().take();
        drop(old);
    }

    fn waker(&self) -> crate::sync::MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}
