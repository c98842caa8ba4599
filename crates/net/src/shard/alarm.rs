//! Functions that a shard calls when their time has come.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use waystation_base::{DeadlineKey, Moment, line_passes};

use super::{Label, Shard, ShardTurn};
use crate::limits::ALARM_PERIOD_MIN;

/// What runs at the moment; it answers when it is to run again.
type Job = Box<dyn FnMut(&Shard) -> Next>;

enum Next {
    /// Never again.
    Done,
    /// Once a period, counted from the first time.
    Period(Duration),
}

/// One timer of a shard, shared by its [`Alarm`] and the wheel.
pub(crate) struct Entry {
    label: Label,
    at: Cell<Moment>,
    /// Its place in the wheel; none while it runs and after its end.
    key: Cell<Option<DeadlineKey>>,
    cancelled: Cell<bool>,
    /// Taken while it runs, so that it may cancel itself.
    job: RefCell<Option<Job>>,
}

impl Entry {
    /// Runs the job in a turn of its own. A panic ends this timer only.
    pub(crate) fn fire(self: &Rc<Self>, shard: &Shard) {
        self.key.set(None);
        let Some(mut job) = self.job.borrow_mut().take() else {
            return;
        };
        let _turn = ShardTurn::begin(shard, self.label, None);
        shard.counters().alarms.add(1);
        let ran = catch_unwind(AssertUnwindSafe(|| job(shard)));
        match ran {
            Ok(Next::Period(period)) if !self.cancelled.get() => {
                *self.job.borrow_mut() = Some(job);
                self.at.set(following(self.at.get(), period, shard.now()));
                self.arm(shard);
            }
            Ok(_) => {}
            Err(_) => {
                shard.counters().panics.add(1);
                if let Some(unsaid) = line_passes!(shard.now()) {
                    tracing::error!(timer = self.label.name(), unsaid, "a timer panicked");
                }
            }
        }
    }

    fn arm(self: &Rc<Self>, shard: &Shard) {
        let key = shard.timers().insert_alarm(self.at.get(), self.clone());
        self.key.set(Some(key));
    }
}

/// The first multiple of `period` behind `last` that lies ahead: periods that
/// were missed are left out, so that a shard that was busy is not made to run
/// all of them at once.
fn following(last: Moment, period: Duration, now: Moment) -> Moment {
    let next = last + period;
    if next > now {
        return next;
    }
    let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    let late_ns = now.as_nanos() - last.as_nanos();
    let whole = late_ns / period_ns + 1;
    last + Duration::from_nanos(period_ns.saturating_mul(whole))
}

/// Owns a timer of a shard, made by [`Shard::after`] or [`Shard::every`].
/// Dropping it cancels the timer, so keep it beside what the timer works on;
/// [`Alarm::detach`] lets the timer go on by itself.
#[must_use = "dropping it cancels the timer"]
pub struct Alarm {
    shard: Shard,
    entry: Rc<Entry>,
    detached: bool,
}

impl Alarm {
    fn start(shard: &Shard, label: Label, at: Moment, job: Job) -> Self {
        let entry = Rc::new(Entry {
            label,
            at: Cell::new(at),
            key: Cell::new(None),
            cancelled: Cell::new(false),
            job: RefCell::new(Some(job)),
        });
        entry.arm(shard);
        Self {
            shard: shard.clone(),
            entry,
            detached: false,
        }
    }

    /// Whether it will run (again).
    pub fn is_pending(&self) -> bool {
        self.entry.key.get().is_some()
    }

    /// When it runs next, or ran last.
    pub fn at(&self) -> Moment {
        self.entry.at.get()
    }

    /// It does not run any more: once this returns, never, even when its
    /// moment has come already. Called by its own function, that is its last
    /// run.
    pub fn cancel(&self) {
        self.entry.cancelled.set(true);
        if let Some(key) = self.entry.key.take() {
            self.shard.timers().cancel(key);
        }
        // Its drop may come back here.
        let job = self.entry.job.borrow_mut().take();
        drop(job);
    }

    /// Lets it run without an owner, until its shard ends.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.detached {
            self.cancel();
        }
    }
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Alarm({})", self.entry.label)
    }
}

impl Shard {
    /// Calls `job` once, `delay` from now: never early, late by at most the
    /// wheel's tick (about 1 ms) and the loop's own delay. It must not block.
    /// A panic in it is logged and counted.
    ///
    /// Cost: two allocations and a wheel entry; no task.
    pub fn after(&self, label: Label, delay: Duration, job: impl FnOnce(&Self) + 'static) -> Alarm {
        let mut job = Some(job);
        let once = move |shard: &Self| {
            if let Some(job) = job.take() {
                job(shard);
            }
            Next::Done
        };
        Alarm::start(self, label, self.now() + delay, Box::new(once))
    }

    /// Calls `job` every `period` from now on, at least
    /// [`ALARM_PERIOD_MIN`]: the n-th time n periods from now. Periods that
    /// the shard missed are left out, not made up for.
    ///
    /// Cost: two allocations; a wheel entry each time.
    pub fn every(
        &self,
        label: Label,
        period: Duration,
        mut job: impl FnMut(&Self) + 'static,
    ) -> Alarm {
        let period = period.max(ALARM_PERIOD_MIN);
        let again = move |shard: &Self| {
            job(shard);
            Next::Period(period)
        };
        Alarm::start(self, label, self.now() + period, Box::new(again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_periods_are_left_out() {
        let start = Moment::ZERO + Duration::from_secs(1);
        let period = Duration::from_secs(10);
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        assert_eq!(following(start, period, at(2)), at(11));
        assert_eq!(following(start, period, at(11)), at(21));
        assert_eq!(following(start, period, at(47)), at(51));
        let huge = Duration::MAX;
        assert_eq!(following(start, huge, at(2)), Moment::FAR_FUTURE);
    }
}
