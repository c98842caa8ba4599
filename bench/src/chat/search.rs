//! The search for the highest rate that is sustained: which rate comes next, and what a run at a
//! rate says of it.

use std::fmt;
use std::time::Duration;

use waystation_im::load::Report;

use crate::stats::{number, share};

/// Of the messages, so many must be acknowledged.
const ACKNOWLEDGED_MIN: f64 = 0.99;

/// Of the messages, so many may leave the generator late; with more of them its figures speak of
/// the generator.
const LATE_MAX: f64 = 0.05;

/// How often the gap between the highest good and the lowest bad rate is halved.
const HALVINGS: u32 = 2;

/// How often a rate that is not sustained is tried.
pub(super) const TRIES: usize = 2;

/// Above this rate nobody searches.
const RATE_MAX: u32 = 1_000_000;

/// What a run says of its rate, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// The system keeps up.
    Sustained,
    /// Deliveries take too long.
    Slow,
    /// Acknowledgements are missing.
    Behind,
    /// The generator did not send in time: the machine cannot carry both.
    GeneratorLate,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sustained => "sustained",
            Self::Slow => "delivery p99 too long",
            Self::Behind => "acks missing",
            Self::GeneratorLate => "generator late",
        })
    }
}

/// Judges a run whose deliveries may take `p99_max`.
pub(super) fn judge(report: &Report, p99_max: Duration) -> Verdict {
    let of_sent = |count: u64| share(number(count), number(report.sent));
    if of_sent(report.acknowledged) < ACKNOWLEDGED_MIN {
        Verdict::Behind
    } else if Duration::from_micros(report.p99_us) > p99_max {
        Verdict::Slow
    } else if of_sent(report.late_sends) > LATE_MAX {
        Verdict::GeneratorLate
    } else {
        Verdict::Sustained
    }
}

/// What the runs of one rate say of it together; `None` without runs.
pub(super) fn best(verdicts: impl IntoIterator<Item = Verdict>) -> Option<Verdict> {
    verdicts.into_iter().min()
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Run at this rate and tell [`Search::saw`].
    Try(u32),
    /// The answer is as close as it gets.
    Done,
}

/// The search. Calling order: `next`, a run, `saw`, and again.
#[derive(Clone, Debug)]
pub(super) struct Search {
    start: u32,
    /// The highest rate that was sustained, below the lowest that was not.
    good: Option<u32>,
    /// The lowest rate that was not sustained.
    bad: Option<u32>,
    halvings: u32,
}

impl Search {
    /// A search that begins at `start`, unless [`Search::saw`] tells something of it before.
    pub(super) const fn new(start: u32) -> Self {
        Self {
            start,
            good: None,
            bad: None,
            halvings: 0,
        }
    }

    /// Takes what the runs of a rate said.
    pub(super) fn saw(&mut self, rate: u32, verdict: Verdict) {
        if let (Some(good), Some(bad)) = (self.good, self.bad)
            && (good..bad).contains(&rate)
        {
            self.halvings += 1;
        }
        if verdict == Verdict::Sustained {
            self.good = self.good.max(Some(rate));
        } else {
            self.bad = Some(self.bad.map_or(rate, |bad| bad.min(rate)));
        }
        // What is above a rate that failed is no answer.
        if let (Some(good), Some(bad)) = (self.good, self.bad)
            && good >= bad
        {
            self.good = None;
        }
    }

    /// The rate to run next.
    pub(super) const fn next(&self) -> Next {
        match (self.good, self.bad) {
            (None, None) => Next::Try(self.start),
            (Some(good), None) if good < RATE_MAX => Next::Try(good.saturating_mul(2)),
            (None, Some(bad)) if bad > 1 => Next::Try(bad / 2),
            (Some(good), Some(bad)) if self.halvings < HALVINGS && bad - good > 1 => {
                Next::Try(u32::midpoint(good, bad))
            }
            _ => Next::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a system that sustains `limit`; returns the tried rates.
    fn tried(start: u32, limit: u32) -> Vec<u32> {
        let mut search = Search::new(start);
        let mut rates = Vec::new();
        while let Next::Try(rate) = search.next() {
            let verdict = if rate <= limit {
                Verdict::Sustained
            } else {
                Verdict::Slow
            };
            search.saw(rate, verdict);
            rates.push(rate);
        }
        rates
    }

    #[test]
    fn it_doubles_until_it_fails_and_then_halves_the_gap_twice() {
        assert_eq!(
            tried(5_000, 13_000),
            [5_000, 10_000, 20_000, 15_000, 12_500]
        );
    }

    #[test]
    fn it_goes_down_when_the_first_rate_is_too_high() {
        assert_eq!(tried(5_000, 1_300), [5_000, 2_500, 1_250, 1_875, 1_562]);
        // Nothing is sustained: it ends all the same.
        assert_eq!(tried(4, 0), [4, 2, 1]);
    }

    #[test]
    fn it_ends_where_nothing_fails() {
        assert_eq!(tried(600_000, u32::MAX), [600_000, 1_200_000]);
    }

    #[test]
    fn it_begins_with_what_is_known() {
        let mut search = Search::new(5_000);
        search.saw(2_000, Verdict::Sustained);
        search.saw(5_000, Verdict::Sustained);
        assert_eq!(search.next(), Next::Try(10_000));
        let mut search = Search::new(5_000);
        search.saw(2_000, Verdict::Sustained);
        search.saw(5_000, Verdict::Behind);
        assert_eq!(search.next(), Next::Try(3_500));
    }

    #[test]
    fn one_good_run_of_a_rate_is_enough() {
        let runs = [Verdict::Behind, Verdict::Sustained, Verdict::Slow];
        assert_eq!(best(runs), Some(Verdict::Sustained));
        assert_eq!(best([Verdict::Slow]), Some(Verdict::Slow));
        assert_eq!(best([]), None);
    }

    #[test]
    fn a_run_is_judged_by_its_acks_its_tail_and_its_generator() {
        let p99_max = Duration::from_millis(100);
        let mut report = Report::default();
        assert_eq!(judge(&report, p99_max), Verdict::Behind);
        (report.sent, report.acknowledged) = (1_000, 990);
        (report.p99_us, report.late_sends) = (100_000, 50);
        assert_eq!(judge(&report, p99_max), Verdict::Sustained);
        report.late_sends = 51;
        assert_eq!(judge(&report, p99_max), Verdict::GeneratorLate);
        report.p99_us = 100_001;
        assert_eq!(judge(&report, p99_max), Verdict::Slow);
        report.acknowledged = 989;
        assert_eq!(judge(&report, p99_max), Verdict::Behind);
    }
}
