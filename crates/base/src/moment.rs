//! Points in time, and where they come from.

use std::cell::Cell;
use std::fmt;
use std::ops::{Add, AddAssign};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A point on a monotonic clock, in nanoseconds since that clock's origin.
///
/// Moments of different clocks must not be compared. Arithmetic saturates at
/// both ends, so that a deadline computed from a peer's number never wraps into
/// the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The origin of the clock.
    pub const ZERO: Self = Self(0);

    /// The last moment there is, 584 years after the origin: "never".
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `millis` milliseconds after the origin, saturating.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero when `earlier` is in fact later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment `delay` later, at most [`Moment::FAR_FUTURE`].
    #[must_use]
    pub const fn saturating_add(self, delay: Duration) -> Self {
        let nanos = delay.as_nanos();
        if nanos > u64::MAX as u128 {
            return Self::FAR_FUTURE;
        }
        #[expect(clippy::cast_possible_truncation, reason = "compared just above")]
        Self(self.0.saturating_add(nanos as u64))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// Saturates, as [`Moment::saturating_add`] does.
    fn add(self, delay: Duration) -> Self {
        self.saturating_add(delay)
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, delay: Duration) {
        *self = self.saturating_add(delay);
    }
}

impl fmt::Display for Moment {
    /// Seconds since the origin with milliseconds, rounded down: `12.345s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 / 1_000_000;
        write!(f, "{}.{:03}s", millis / 1000, millis % 1000)
    }
}

/// Where a shell reads the time. Cores take a [`Moment`] instead.
pub trait Clock {
    /// The present moment; never earlier than one returned before.
    fn now(&self) -> Moment;
}

impl<T: Clock + ?Sized> Clock for &T {
    fn now(&self) -> Moment {
        (**self).now()
    }
}

impl<T: Clock + ?Sized> Clock for Rc<T> {
    fn now(&self) -> Moment {
        (**self).now()
    }
}

impl<T: Clock + ?Sized> Clock for Arc<T> {
    fn now(&self) -> Moment {
        (**self).now()
    }
}

/// A clock that stands still until it is moved: for tests and simulation.
///
/// ```
/// use std::time::Duration;
/// use waystation_base::{Clock, ManualClock, Moment};
///
/// let clock = ManualClock::new(Moment::ZERO);
/// clock.advance(Duration::from_millis(1500));
/// assert_eq!(clock.now().to_string(), "1.500s");
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Cell<Moment>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub const fn new(now: Moment) -> Self {
        Self {
            now: Cell::new(now),
        }
    }

    /// Shows `now` from here on. Going backwards is allowed, because tests of
    /// misbehaving clocks need it.
    pub fn set(&self, now: Moment) {
        self.now.set(now);
    }

    /// Moves forward by `step` and returns the new moment.
    pub fn advance(&self, step: Duration) -> Moment {
        let now = self.now.get() + step;
        self.now.set(now);
        now
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        self.now.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Moment::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::from_nanos(5), Moment::FAR_FUTURE);
        assert_eq!(Moment::ZERO + Duration::MAX, Moment::FAR_FUTURE);
        assert_eq!(Moment::ZERO.saturating_since(late), Duration::ZERO);
        assert_eq!(
            late.saturating_since(Moment::ZERO).as_nanos(),
            u128::from(u64::MAX - 1)
        );
        assert_eq!(Moment::from_millis(u64::MAX), Moment::FAR_FUTURE);
    }

    #[test]
    fn displays_seconds_with_milliseconds() {
        assert_eq!(Moment::from_millis(12_345).to_string(), "12.345s");
        assert_eq!(Moment::from_nanos(999_999).to_string(), "0.000s");
    }

    #[test]
    fn a_clock_is_shared_by_reference_and_counter() {
        struct Stopped;
        impl Clock for Stopped {
            fn now(&self) -> Moment {
                Moment::ZERO
            }
        }
        fn read(clock: impl Clock) -> Moment {
            clock.now()
        }
        let clock = Rc::new(ManualClock::new(Moment::from_millis(1)));
        assert_eq!(read(Rc::clone(&clock)), Moment::from_millis(1));
        clock.set(Moment::from_millis(7));
        assert_eq!(read(&*clock), Moment::from_millis(7));
        assert_eq!(read(Arc::new(Stopped)), Moment::ZERO);
    }
}
