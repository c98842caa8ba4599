//! A short wait for what is about to come, without sleeping.
//!
//! A thread that sleeps is woken by another one, and an idle processor by both: with one
//! publish after the other that takes as long as the disk. So whoever had little to do looks
//! again for a moment before it sleeps. It lets others on its processor run between two
//! looks, and where nothing came in time it looks less and less often, so that a busy
//! machine and a quiet hub pay next to nothing.

use std::time::Duration;

use waystation_base::Moment;

/// Longest time between two events that is waited without sleeping: a sync of a fast disk,
/// and a publisher on this machine or near it.
const LONGEST: Duration = Duration::from_micros(200);

/// Entries of a batch from which on there is no need: who has as much to do does not sleep
/// for long.
const FEW: usize = 8;

/// After each wait in vain twice as many are left out as after the one before, up to two to
/// the power of this.
const LEFT_OUT_MAX: u32 = 10;

/// Says when to look again. One for each kind of wait.
#[derive(Debug)]
pub(super) struct Vigil {
    /// Whether there is a processor besides the one that looks.
    is_useful: bool,
    since: Option<Moment>,
    /// Waits in vain in a row.
    in_vain: u32,
    /// Waits that are left out.
    left_out: u32,
}

impl Vigil {
    /// One that looks if this process may use more than one processor.
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism();
        Self::with(processors.is_ok_and(|count| count.get() > 1))
    }

    fn with(is_useful: bool) -> Self {
        Self {
            is_useful,
            since: None,
            in_vain: 0,
            left_out: 0,
        }
    }

    /// The wait begins, after a batch of so many entries.
    pub(super) fn begin(&mut self, now: Moment, entries: usize) {
        if !self.is_useful || entries > FEW {
            return;
        }
        if self.left_out > 0 {
            self.left_out -= 1;
            return;
        }
        self.since = Some(now);
    }

    /// What was waited for is here.
    pub(super) fn end(&mut self) {
        if self.since.take().is_some() {
            self.in_vain = 0;
        }
    }

    /// Whether the last wait that ended was not in vain.
    pub(super) fn is_lucky(&self) -> bool {
        self.in_vain == 0
    }

    /// Whether a look is due before sleeping. Costs nothing while there is no vigil.
    pub(super) fn is_on(&mut self, now: impl FnOnce() -> Moment) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        if now().saturating_since(since) < LONGEST {
            return true;
        }
        self.since = None;
        self.in_vain = (self.in_vain + 1).min(LEFT_OUT_MAX);
        self.left_out = 1 << self.in_vain;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Moment {
        Moment::from_nanos(us * 1000)
    }

    #[test]
    fn who_has_just_had_something_to_do_looks_again_for_a_moment() {
        let mut vigil = Vigil::with(true);
        assert!(!vigil.is_on(|| at(0)), "nothing came yet");
        vigil.begin(at(0), 1);
        assert!(vigil.is_on(|| at(199)));
        assert!(!vigil.is_on(|| at(200)));
        assert!(!vigil.is_on(|| at(201)), "and then sleeps");
        assert!(!vigil.is_lucky());
    }

    #[test]
    fn with_large_batches_nobody_looks() {
        let mut vigil = Vigil::with(true);
        vigil.begin(at(0), 9);
        assert!(!vigil.is_on(|| at(1)));
    }

    #[test]
    fn on_a_single_processor_nobody_looks() {
        let mut vigil = Vigil::with(false);
        vigil.begin(at(0), 1);
        assert!(!vigil.is_on(|| at(1)));
    }

    #[test]
    fn where_nothing_comes_in_time_looks_become_rare_and_come_back_with_success() {
        let mut vigil = Vigil::with(true);
        let mut looks = |rounds: std::ops::Range<u64>, comes: bool| {
            let mut looked = 0;
            for n in rounds {
                vigil.begin(at(n * 1000), 1);
                if vigil.is_on(|| at(n * 1000 + 1)) {
                    looked += 1;
                    if comes {
                        vigil.end();
                    } else {
                        assert!(!vigil.is_on(|| at(n * 1000 + 200)));
                    }
                }
            }
            looked
        };
        let in_vain = looks(0..10_000, false);
        assert!((10..30).contains(&in_vain), "{in_vain}");
        // A look that finds something counts for all before it.
        let found = looks(10_000..12_000, true);
        assert!(found > 900, "{found}");
    }
}
