//! The time by which counts are dated and history is deleted: the calendar clock's,
//! as far as it agrees with the monotonic one.

use std::time::Duration;

use waystation_base::Moment;

use crate::limits::{CLOCK_WAIT, EXPIRE_WAIT, STEP_MAX};

/// The present, in whole unix seconds. A calendar clock that jumps is not followed
/// until it has stood by its new time for [`CLOCK_WAIT`]. Without I/O.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    /// What was believed last, and when.
    believed: (Duration, Moment),
    /// Another time that the calendar clock told, when that was, and since when it
    /// tells it.
    doubted: Option<(Duration, Moment, Moment)>,
    /// When it began, or was set by a jump last.
    set_at: Moment,
    /// Whether the time that it was set to is known to be right.
    is_sure: bool,
}

impl Timeline {
    /// Begins with what the calendar clock tells: that it is `told`.
    pub(crate) const fn new(told: Duration, now: Moment) -> Self {
        Self {
            believed: (told, now),
            doubted: None,
            set_at: now,
            is_sure: false,
        }
    }

    /// The store was written last at `last_s`, in unix seconds. A time that goes on
    /// from there is right.
    pub(crate) fn handle_last(&mut self, last_s: u64) {
        let last = Duration::from_secs(last_s);
        self.is_sure |= is_near(self.believed.0, last, EXPIRE_WAIT);
    }

    /// The calendar clock tells `told`; returns the unix seconds to believe.
    pub(crate) fn handle(&mut self, told: Duration, now: Moment) -> u64 {
        let expected = self.at(now);
        if is_near(told, expected, STEP_MAX) {
            self.believed = (told, now);
            self.doubted = None;
            return told.as_secs();
        }
        let goes_on = self.doubted.is_some_and(|(other, at, _)| {
            is_near(told, other + now.saturating_since(at), STEP_MAX)
        });
        let since = match self.doubted {
            Some((_, _, since)) if goes_on => since,
            _ => now,
        };
        self.doubted = Some((told, now, since));
        if now.saturating_since(since) < CLOCK_WAIT {
            return expected.as_secs();
        }
        *self = Self::new(told, now);
        told.as_secs()
    }

    /// Whether what is older than it is kept may be deleted: the time was not set
    /// lately, by a jump or by a start long after the store was written last.
    pub(crate) fn may_expire(&self, now: Moment) -> bool {
        self.doubted.is_none() && (self.is_sure || now.saturating_since(self.set_at) >= EXPIRE_WAIT)
    }

    /// For how long it has followed the calendar clock without a jump.
    pub(crate) fn steady_for(&self, now: Moment) -> Duration {
        match self.doubted {
            Some(_) => Duration::ZERO,
            None => now.saturating_since(self.set_at),
        }
    }

    fn at(&self, now: Moment) -> Duration {
        let (believed, at) = self.believed;
        believed + now.saturating_since(at)
    }
}

fn is_near(one: Duration, other: Duration, most: Duration) -> bool {
    one.abs_diff(other) <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const START: Duration = Duration::from_secs(1_700_000_000);

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1_000 * (1 + seconds))
    }

    fn new() -> Timeline {
        Timeline::new(START, at(0))
    }

    fn plus(seconds: u64) -> Duration {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_is_set_a_little_is_followed() {
        let mut timeline = new();
        for (now, told) in [(1, 1), (2, 62), (3, 3), (4, 4)] {
            let believed = timeline.handle(plus(told), at(now));
            assert_eq!(believed, plus(told).as_secs());
        }
    }

    #[test]
    fn a_jump_is_followed_once_it_has_lasted() {
        let mut timeline = new();
        let wait = CLOCK_WAIT.as_secs();
        for now in (10..10 + wait).step_by(20) {
            let believed = timeline.handle(plus(now) + 100 * DAY, at(now));
            assert_eq!(believed, plus(now).as_secs());
            assert!(!timeline.may_expire(at(now)));
        }
        let now = 10 + wait;
        let jumped = plus(now) + 100 * DAY;
        assert_eq!(timeline.handle(jumped, at(now)), jumped.as_secs());
        // Back again, which is a jump as well.
        let now = now + 1;
        let still = plus(now) + 100 * DAY;
        assert_eq!(timeline.handle(plus(now), at(now)), still.as_secs());
    }

    /// Each of them is another fault, and none of them a time to believe.
    #[test]
    fn a_clock_that_jumps_about_is_not_followed() {
        let mut timeline = new();
        for now in 1..10 * CLOCK_WAIT.as_secs() {
            let days = u32::try_from(now % 7 + 1).unwrap();
            let believed = timeline.handle(plus(now) + days * DAY, at(now));
            assert_eq!(believed, plus(now).as_secs());
        }
    }

    #[test]
    fn nothing_is_deleted_by_a_time_that_may_be_wrong() {
        let wait = EXPIRE_WAIT.as_secs();
        let mut timeline = new();
        assert!(!timeline.may_expire(at(wait - 1)) && timeline.may_expire(at(wait)));
        timeline.handle_last(START.as_secs() - 2 * wait);
        assert!(!timeline.may_expire(at(1)));
        timeline.handle_last(START.as_secs() - 60);
        assert!(timeline.may_expire(at(1)));
        timeline.handle(plus(2) + DAY, at(2));
        assert!(!timeline.may_expire(at(2)));
        timeline.handle(plus(3), at(3));
        assert!(timeline.may_expire(at(3)), "it was right all the time");
    }
}
