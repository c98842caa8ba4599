//! From running totals to what is new in them.
//!
//! Reporters tell totals, not steps. A total that goes on adds its difference; one
//! that fell has begun anew and adds all of itself. Whose total goes on is known
//! natively by the source, and by Lars' protocol guessed: a reporter that nobody
//! knows goes on with the highest total below its own.

use std::ops::AddAssign;

use crate::limits::REPORTERS_MAX;

/// Calls that went well and calls that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Went well.
    pub ok: u64,
    /// Failed.
    pub failed: u64,
}

impl Totals {
    /// So many of each.
    pub const fn new(ok: u64, failed: u64) -> Self {
        Self { ok, failed }
    }

    /// Whether neither is below the other's.
    const fn goes_on_from(self, before: Self) -> bool {
        self.ok >= before.ok && self.failed >= before.failed
    }

    const fn since(self, before: Self) -> Self {
        Self {
            ok: self.ok.saturating_sub(before.ok),
            failed: self.failed.saturating_sub(before.failed),
        }
    }

    const fn sum(self) -> u64 {
        self.ok.saturating_add(self.failed)
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, more: Self) {
        self.ok = self.ok.saturating_add(more.ok);
        self.failed = self.failed.saturating_add(more.failed);
    }
}

/// What a report adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// So much beyond what was known.
    Known(Totals),
    /// All of it, if nothing in the store says otherwise: nobody told of this
    /// key before.
    First(Totals),
}

#[derive(Clone, Copy, Debug)]
struct Baseline {
    reporter: u64,
    totals: Totals,
}

/// The last totals that each reporter of a key told, the latest last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Baselines(Vec<Baseline>);

/// The reporter of totals that were read from the store.
pub(crate) const FROM_STORE: u64 = 0;

/// A counter of 32 bits that falls by more than half of its range has run over.
const WRAP: u64 = 1 << 31;

impl Baselines {
    /// Totals of 32 bits came over the connection `reporter`.
    pub(crate) fn take_lars(&mut self, reporter: u64, totals: Totals) -> Added {
        if let Some(before) = self.take_out(reporter) {
            self.keep(reporter, totals);
            return Added::Known(lars_step(before, totals));
        }
        // A connection that was made again goes on where the old one was, though
        // the end of that may not be known yet. Where two tell of one key, what
        // one takes from the other here, the other counts when it tells next.
        let fitting = self.0.iter().enumerate();
        let fitting = fitting.filter(|(_, one)| totals.goes_on_from(one.totals));
        let nearest = fitting.max_by_key(|(_, one)| one.totals.sum());
        let added = match nearest.map(|(at, _)| at) {
            Some(at) => Added::Known(totals.since(self.0.remove(at).totals)),
            None => Added::First(totals),
        };
        self.keep(reporter, totals);
        added
    }

    /// Totals of the source `source` came. Totals below known ones are late.
    pub(crate) fn take_named(&mut self, source: u64, totals: Totals) -> Added {
        if let Some(before) = self.take_out(source) {
            let most = Totals::new(totals.ok.max(before.ok), totals.failed.max(before.failed));
            self.keep(source, most);
            return Added::Known(most.since(before));
        }
        self.keep(source, totals);
        Added::First(totals)
    }

    /// What the store knew, before anybody told of the key.
    pub(crate) fn restore(&mut self, reporter: u64, totals: Totals) {
        self.0.insert(0, Baseline { reporter, totals });
        self.0.truncate(REPORTERS_MAX);
    }

    fn take_out(&mut self, reporter: u64) -> Option<Totals> {
        let at = self.0.iter().position(|one| one.reporter == reporter)?;
        Some(self.0.remove(at).totals)
    }

    fn keep(&mut self, reporter: u64, totals: Totals) {
        if self.0.len() >= REPORTERS_MAX {
            self.0.remove(0);
        }
        self.0.push(Baseline { reporter, totals });
    }
}

/// What the totals of one connection add to those before. Lars' counters have 32
/// bits and begin anew together.
fn lars_step(before: Totals, totals: Totals) -> Totals {
    let step = |before: u64, now: u64| {
        let has_run_over = now < before && before - now > WRAP;
        match now.checked_sub(before) {
            Some(step) => Some(step),
            None if has_run_over => Some(now + (1 << 32) - before),
            None => None,
        }
    };
    match (
        step(before.ok, totals.ok),
        step(before.failed, totals.failed),
    ) {
        (Some(ok), Some(failed)) => Totals { ok, failed },
        _ => totals,
    }
}

/// What first totals of several reporters add beyond what the store had, `stored`
/// with its source. Says, too, whether the store's totals are those of one of
/// them.
pub(crate) fn settle_firsts(
    firsts: &[(u64, Totals)],
    stored: (u64, Totals),
    is_lars: bool,
) -> (Totals, bool) {
    let (source, known) = stored;
    let mut added = Totals::default();
    let mut is_met = false;
    for &(reporter, totals) in firsts {
        let is_same = if is_lars {
            totals.goes_on_from(known)
        } else {
            reporter == source
        };
        if is_same && !is_met {
            is_met = true;
            added += totals.since(known);
        } else {
            added += totals;
        }
    }
    (added, is_met)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lars(baselines: &mut Baselines, reporter: u64, ok: u64, failed: u64) -> u64 {
        match baselines.take_lars(reporter, Totals::new(ok, failed)) {
            Added::Known(totals) | Added::First(totals) => totals.sum(),
        }
    }

    #[test]
    fn a_total_that_fell_has_begun_anew() {
        let mut one = Baselines::default();
        assert_eq!(
            one.take_lars(1, Totals::new(5, 1)),
            Added::First(Totals::new(5, 1))
        );
        assert_eq!(lars(&mut one, 1, 7, 1), 2);
        assert_eq!(lars(&mut one, 1, 7, 1), 0, "the same again");
        assert_eq!(lars(&mut one, 1, 1, 0), 1, "Lars' window ended");
        assert_eq!(lars(&mut one, 1, 1, 3), 3);
    }

    #[test]
    fn a_counter_that_runs_over_takes_the_other_not_with_it() {
        let mut one = Baselines::default();
        lars(&mut one, 1, u64::from(u32::MAX), 40);
        assert_eq!(lars(&mut one, 1, 4, 41), 6);
    }

    /// The agent's connection broke, it came back before the end was noticed,
    /// and its totals were counted twice.
    #[test]
    fn a_connection_made_again_goes_on() {
        let mut one = Baselines::default();
        lars(&mut one, 1, 100, 0);
        assert_eq!(lars(&mut one, 2, 103, 0), 3);
        assert_eq!(lars(&mut one, 3, 2, 0), 2, "one that began anew");
    }

    #[test]
    fn two_that_tell_of_one_key_are_counted_whole_in_the_end() {
        let mut one = Baselines::default();
        let told = [
            (1, 1000),
            (2, 2000),
            (1, 1001),
            (2, 2001),
            (1, 1005),
            (2, 2004),
        ];
        let counted: u64 = told
            .map(|(who, ok)| lars(&mut one, who, ok, 0))
            .iter()
            .sum();
        assert_eq!(counted, 1005 + 2004);
    }

    #[test]
    fn what_is_late_or_doubled_adds_nothing() {
        let mut one = Baselines::default();
        assert_eq!(
            one.take_named(9, Totals::new(5, 5)),
            Added::First(Totals::new(5, 5))
        );
        assert_eq!(
            one.take_named(9, Totals::new(4, 5)),
            Added::Known(Totals::default())
        );
        assert_eq!(
            one.take_named(9, Totals::new(6, 5)),
            Added::Known(Totals::new(1, 0))
        );
        assert_eq!(
            one.take_named(8, Totals::new(2, 0)),
            Added::First(Totals::new(2, 0))
        );
    }

    #[test]
    fn reporters_are_bounded_and_the_silent_one_goes() {
        let mut one = Baselines::default();
        for source in 1..=REPORTERS_MAX as u64 {
            one.take_named(source, Totals::new(10, 0));
        }
        one.take_named(1, Totals::new(11, 0));
        one.take_named(99, Totals::new(1, 0));
        assert_eq!(one.0.len(), REPORTERS_MAX);
        assert_eq!(
            one.take_named(1, Totals::new(12, 0)),
            Added::Known(Totals::new(1, 0))
        );
        assert!(matches!(
            one.take_named(2, Totals::new(10, 0)),
            Added::First(_)
        ));
    }

    #[test]
    fn what_was_told_before_the_store_was_read_is_settled_then() {
        let firsts = [(1, Totals::new(12, 0)), (2, Totals::new(30, 1))];
        let stored = (FROM_STORE, Totals::new(10, 0));
        assert_eq!(
            settle_firsts(&firsts, stored, true),
            (Totals::new(2 + 30, 1), true)
        );
        let stored = (2, Totals::new(29, 1));
        assert_eq!(
            settle_firsts(&firsts, stored, false),
            (Totals::new(12 + 1, 0), true)
        );
        let stored = (3, Totals::new(29, 1));
        assert_eq!(
            settle_firsts(&firsts, stored, false),
            (Totals::new(42, 1), false)
        );
    }
}
