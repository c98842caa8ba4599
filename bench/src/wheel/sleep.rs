//! tokio's own timer: a boxed `Sleep` for each deadline, in a current-thread runtime.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Setting, Timer};

pub(super) struct Sleeps {
    origin: Instant,
    runtime: Rc<Runtime>,
    /// Pending before all others. The runtime knows from its last turn that this one is the next
    /// to wait for, so that no insert has to wake its driver, as in a running program.
    _sentinel: Pin<Box<Sleep>>,
}

/// Lets the driver look at its timers once, without waiting.
fn turn(runtime: &Runtime) {
    runtime.block_on(tokio::task::yield_now());
}

/// The first poll is what puts a `Sleep` into the runtime's wheel.
fn register(mut sleep: Pin<Box<Sleep>>) -> Pin<Box<Sleep>> {
    let poll = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    // One that is due already is found by the count of pending ones.
    let _: Poll<()> = std::hint::black_box(poll);
    sleep
}

impl Timer for Sleeps {
    type Deadline = Pin<Box<Sleep>>;
    type Key = Pin<Box<Sleep>>;

    const NAME: &'static str = "tokio Sleep";

    fn new(setting: &Setting) -> Self {
        let origin = setting.origin.instant;
        let sentinel = register(Box::pin(sleep_until(origin + setting.lead / 2)));
        turn(&setting.runtime);
        Self {
            origin,
            runtime: Rc::clone(&setting.runtime),
            _sentinel: sentinel,
        }
    }

    fn deadline(&self, after: Duration) -> Self::Deadline {
        Box::pin(sleep_until(self.origin + after))
    }

    fn insert(&mut self, at: Self::Deadline, _value: u64) -> Self::Key {
        register(at)
    }

    fn cancel(&mut self, key: Self::Key) {
        drop(key);
    }

    fn expire(&mut self) -> Option<usize> {
        turn(&self.runtime);
        None
    }

    fn pending(&self, keys: &[Self::Key]) -> usize {
        keys.iter().filter(|sleep| !sleep.is_elapsed()).count()
    }
}
