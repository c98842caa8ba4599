//! Gates for what may be repeated without end, such as lines of a log that a
//! peer causes.

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

/// Whether the line of a log at this place may be written `now`, a
/// [`Moment`]: then, how many were not since the last. Each thread has a
/// [`Gate`] of its own for each place that names this, with the measure of
/// [`LOG_LINES`](crate::limits::LOG_LINES) in
/// [`LOG_PERIOD`](crate::limits::LOG_PERIOD).
///
/// ```
/// use waystation_base::{Moment, limits::LOG_LINES, line_passes};
///
/// let pass = || line_passes!(Moment::ZERO).is_some();
/// let passed = (0..100).filter(|_| pass()).count();
/// assert_eq!(passed, LOG_LINES as usize);
/// ```
#[macro_export]
macro_rules! line_passes {
    ($now:expr) => {{
        ::std::thread_local! {
            static GATE: ::std::cell::RefCell<$crate::Gate> = const {
                ::std::cell::RefCell::new($crate::Gate::new(
                    $crate::limits::LOG_LINES,
                    $crate::limits::LOG_PERIOD,
                ))
            };
        }
        let now = $now;
        GATE.with_borrow_mut(|gate| gate.pass(now))
    }};
}

/// What is to be told of a trouble that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleNews {
    /// It begins; failures that were not told before, in troubles that were
    /// over at once.
    Begins {
        /// How many.
        unsaid: u64,
    },
    /// It goes on.
    GoesOn {
        /// Failures since the last news.
        failures: u64,
    },
}

/// A trouble that comes, fails one attempt after the other, and goes. It is
/// told when it begins, once a period while it goes on, and when it is over;
/// one that comes and goes without end is told of at most twice a period.
///
/// ```
/// use std::time::Duration;
/// use waystation_base::{Moment, Trouble, TroubleNews};
///
/// let mut trouble = Trouble::new(Duration::from_secs(10));
/// let now = Moment::ZERO;
/// assert_eq!(trouble.failed(now), Some(TroubleNews::Begins { unsaid: 0 }));
/// assert_eq!(trouble.failed(now), None);
/// let later = now + Duration::from_secs(10);
/// assert_eq!(trouble.failed(later), Some(TroubleNews::GoesOn { failures: 2 }));
/// assert_eq!(trouble.succeeded(), Some(3));
/// assert_eq!(trouble.succeeded(), None);
/// ```
#[derive(Debug, Clone)]
pub struct Trouble {
    period: Duration,
    /// When the last news of failures was told.
    told: Option<Moment>,
    /// The last attempt failed.
    lasts: bool,
    /// The end is to be told, because the trouble was.
    is_known: bool,
    /// Failures of this trouble, and of those before that were not told.
    failures: u64,
    /// Those of them that are not told.
    unsaid: u64,
}

impl Trouble {
    /// No trouble, which would be told of once a `period`.
    pub const fn new(period: Duration) -> Self {
        Self {
            period,
            told: None,
            lasts: false,
            is_known: false,
            failures: 0,
            unsaid: 0,
        }
    }

    /// An attempt failed; what is to be told now.
    pub fn failed(&mut self, now: Moment) -> Option<TroubleNews> {
        self.failures += 1;
        self.lasts = true;
        let is_due = |told| now.saturating_since(told) >= self.period;
        if !self.told.is_none_or(is_due) {
            self.unsaid += 1;
            return None;
        }
        self.told = Some(now);
        let unsaid = std::mem::take(&mut self.unsaid);
        if std::mem::replace(&mut self.is_known, true) {
            let failures = unsaid + 1;
            return Some(TroubleNews::GoesOn { failures });
        }
        Some(TroubleNews::Begins { unsaid })
    }

    /// An attempt succeeded. When that is to be told: how many had failed.
    pub fn succeeded(&mut self) -> Option<u64> {
        if !std::mem::replace(&mut self.lasts, false) || !self.is_known {
            return None;
        }
        self.is_known = false;
        self.unsaid = 0;
        Some(std::mem::take(&mut self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While no descriptors were left, accepting wrote twenty lines a second.
    #[test]
    fn a_trouble_is_told_when_it_begins_now_and_then_and_when_it_is_over() {
        let mut trouble = Trouble::new(Duration::from_secs(10));
        assert_eq!(trouble.succeeded(), None);
        let mut now = Moment::ZERO;
        let mut news = Vec::new();
        for _ in 0..=500 {
            news.extend(trouble.failed(now));
            now += Duration::from_millis(50);
        }
        let goes_on = TroubleNews::GoesOn { failures: 200 };
        assert_eq!(news, [TroubleNews::Begins { unsaid: 0 }, goes_on, goes_on]);
        assert_eq!(trouble.succeeded(), Some(501));
        assert_eq!(trouble.succeeded(), None);
    }

    /// A peer that opens a connection and closes it again takes the last
    /// descriptor and gives it back: each time would be a trouble of its own.
    #[test]
    fn a_trouble_that_comes_and_goes_is_told_of_at_most_twice_a_period() {
        let mut trouble = Trouble::new(Duration::from_secs(10));
        let mut now = Moment::ZERO;
        let (mut begins, mut ends, mut told) = (0, 0, 0);
        for _ in 0..1000 {
            match trouble.failed(now) {
                Some(TroubleNews::Begins { unsaid }) => {
                    begins += 1;
                    told += unsaid + 1;
                }
                Some(news) => panic!("{news:?} of a trouble that was over"),
                None => {}
            }
            ends += u64::from(trouble.succeeded().is_some());
            now += Duration::from_millis(100);
        }
        assert_eq!((begins, ends), (10, 10));
        assert_eq!(told, 901, "those since the last news are told next");
    }

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
