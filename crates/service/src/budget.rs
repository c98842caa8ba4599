//! A budget for retries, so that a callee in trouble does not get a multiple
//! of the load that troubles it.
//!
//! Source: the retry budgets of Finagle and linkerd: a share of the steps that
//! were begun in a window of time, and a few beside it for callers with little
//! traffic.

use waystation_base::Moment;

use crate::limits::{RETRY_PER_SECOND, RETRY_SHARE_PERCENT, RETRY_WINDOW_SECONDS};

const BUCKETS: usize = RETRY_WINDOW_SECONDS as usize;

fn window() -> u64 {
    u64::from(RETRY_WINDOW_SECONDS)
}

/// Steps and retries of the last seconds, a bucket a second: those of a shard,
/// or of one caller.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    buckets: [Bucket; BUCKETS],
    /// The second of the newest bucket.
    newest: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    steps: u32,
    retries: u32,
}

impl Budget {
    /// A step is begun.
    pub(crate) fn begin(&mut self, now: Moment) {
        let bucket = self.bucket(now);
        bucket.steps = bucket.steps.saturating_add(1);
    }

    /// A step is tried again.
    pub(crate) fn count_retry(&mut self, now: Moment) {
        let bucket = self.bucket(now);
        bucket.retries = bucket.retries.saturating_add(1);
    }

    /// Retries that are left. Cost: a look at each bucket.
    pub(crate) fn left(&mut self, now: Moment) -> u64 {
        let (earned, retries) = self.sums(now);
        (earned + RETRY_PER_SECOND * window()).saturating_sub(retries)
    }

    /// Retries beyond those that steps have earned; `None` while some of
    /// these are left. Cost: a look at each bucket.
    pub(crate) fn over(&mut self, now: Moment) -> Option<u64> {
        let (earned, retries) = self.sums(now);
        retries.checked_sub(earned)
    }

    /// What steps have earned, and the retries.
    fn sums(&mut self, now: Moment) -> (u64, u64) {
        self.bucket(now);
        let sum = |count: fn(&Bucket) -> u32| -> u64 {
            self.buckets
                .iter()
                .map(|bucket| u64::from(count(bucket)))
                .sum()
        };
        let earned = sum(|bucket| bucket.steps) * RETRY_SHARE_PERCENT / 100;
        (earned, sum(|bucket| bucket.retries))
    }

    /// The bucket of this second; those of seconds that passed begin anew.
    fn bucket(&mut self, now: Moment) -> &mut Bucket {
        let second = now.as_nanos() / 1_000_000_000;
        let passed = second.saturating_sub(self.newest).min(window());
        for back in 0..passed {
            self.buckets[place(second - back)] = Bucket::default();
        }
        self.newest = self.newest.max(second);
        &mut self.buckets[place(self.newest)]
    }
}

fn place(second: u64) -> usize {
    usize::try_from(second % window()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Each layer tried again for as long as the request had time: a callee
    /// that failed under its load got many times that load.
    #[test]
    fn retries_are_a_share_of_steps_and_a_few_beside() {
        let mut budget = Budget::default();
        let mut now = Moment::from_millis(70_000);
        let take = |budget: &mut Budget, now| {
            let fits = budget.left(now) > 0;
            if fits {
                budget.count_retry(now);
            }
            fits
        };
        let taken = |budget: &mut Budget, now| (0..5000).filter(|_| take(budget, now)).count();
        assert_eq!(taken(&mut budget, now), 100, "without any traffic");
        for _ in 0..1000 {
            budget.begin(now);
        }
        assert_eq!(taken(&mut budget, now), 200);
        now += Duration::from_secs(9);
        assert_eq!(taken(&mut budget, now), 0, "the window is ten seconds");
        now += Duration::from_secs(1);
        assert_eq!(taken(&mut budget, now), 100);
        now += Duration::from_hours(1);
        assert_eq!(taken(&mut budget, now), 100);
    }
}
