//! A gate for what may be repeated without end, such as lines of a log.

use std::time::Duration;

use crate::Moment;

/// Lets a number of events through in each period, and counts those that it
/// held back.
///
/// ```
/// use std::time::Duration;
/// use waystation_base::{Gate, Moment};
///
/// let mut gate = Gate::new(1, Duration::from_secs(10));
/// let now = Moment::ZERO;
/// assert_eq!(gate.pass(now), Some(0));
/// assert_eq!(gate.pass(now), None);
/// assert_eq!(gate.pass(now + Duration::from_secs(10)), Some(1));
/// ```
#[derive(Debug, Clone)]
pub struct Gate {
    most: u32,
    period: Duration,
    began: Option<Moment>,
    passed: u32,
    held_back: u64,
}

impl Gate {
    /// A gate for `most` events in a `period`.
    pub const fn new(most: u32, period: Duration) -> Self {
        Self {
            most,
            period,
            began: None,
            passed: 0,
            held_back: 0,
        }
    }

    /// Whether an event may pass now: then, how many were held back since the
    /// last that passed.
    pub fn pass(&mut self, now: Moment) -> Option<u64> {
        let is_over = |began| now.saturating_since(began) >= self.period;
        if self.began.is_none_or(is_over) {
            self.began = Some(now);
            self.passed = 0;
        }
        if self.passed >= self.most {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that was full wrote a line for each request: the log took what
    /// was left of it.
    #[test]
    fn a_flood_passes_in_its_measure_and_is_counted() {
        let mut gate = Gate::new(2, Duration::from_secs(10));
        let mut now = Moment::ZERO;
        let mut told = 0;
        for _ in 0..100 {
            now += Duration::from_millis(500);
            told += gate.pass(now).map_or(0, |held_back| held_back + 1);
        }
        assert_eq!(told, 2 * 5 + 18 * 4);
    }
}
