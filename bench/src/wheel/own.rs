//! The wheel of `waystation-base`.

use std::time::Duration;

use waystation_base::{DeadlineKey, Moment, Wheel};

use super::{Setting, Timer};
use crate::timing;

pub(super) struct Own {
    origin: Moment,
    wheel: Wheel<u64>,
}

impl Timer for Own {
    type Deadline = Moment;
    type Key = DeadlineKey;

    const NAME: &'static str = "wheel";

    fn new(setting: &Setting) -> Self {
        let origin = setting.origin.moment;
        Self {
            origin,
            wheel: Wheel::new(origin),
        }
    }

    fn deadline(&self, after: Duration) -> Moment {
        self.origin + after
    }

    fn insert(&mut self, at: Moment, value: u64) -> DeadlineKey {
        self.wheel.insert(at, value)
    }

    fn cancel(&mut self, key: DeadlineKey) {
        self.wheel.cancel(key);
    }

    fn expire(&mut self) -> Option<usize> {
        let now = timing::now();
        let mut count = 0;
        while let Some(value) = self.wheel.poll_expired(now) {
            std::hint::black_box(value);
            count += 1;
        }
        Some(count)
    }

    fn pending(&self, _keys: &[DeadlineKey]) -> usize {
        self.wheel.len()
    }
}
