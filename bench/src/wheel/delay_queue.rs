//! `DelayQueue` of `tokio-util`: a wheel with one `Sleep` for the next of its deadlines.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use super::{Setting, Timer};

pub(super) struct Delays {
    origin: Instant,
    runtime: Rc<Runtime>,
    queue: DelayQueue<u64>,
}

impl Timer for Delays {
    type Deadline = Instant;
    type Key = delay_queue::Key;

    const NAME: &'static str = "tokio DelayQueue";

    fn new(setting: &Setting) -> Self {
        Self {
            origin: setting.origin.instant,
            runtime: Rc::clone(&setting.runtime),
            queue: DelayQueue::new(),
        }
    }

    fn deadline(&self, after: Duration) -> Instant {
        self.origin + after
    }

    fn insert(&mut self, at: Instant, value: u64) -> delay_queue::Key {
        self.queue.insert_at(value, at)
    }

    fn cancel(&mut self, key: delay_queue::Key) {
        self.queue.remove(&key);
    }

    fn expire(&mut self) -> Option<usize> {
        // The queue waits by a `Sleep`, which only a turn of the driver ends.
        self.runtime.block_on(tokio::task::yield_now());
        let mut context = Context::from_waker(Waker::noop());
        let mut count = 0;
        while let Poll::Ready(Some(expired)) = self.queue.poll_expired(&mut context) {
            std::hint::black_box(expired.into_inner());
            count += 1;
        }
        Some(count)
    }

    fn pending(&self, _keys: &[delay_queue::Key]) -> usize {
        self.queue.len()
    }
}
