//! How long a piece of work took: on the wall, and in CPU time of the thread that did it.

use std::ops::AddAssign;

use rustix::time::{ClockId, Timespec, clock_gettime};
use waystation_base::Moment;

use crate::stats;

/// What a piece of work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Took {
    /// Nanoseconds on the wall.
    pub(crate) wall_ns: u64,
    /// Nanoseconds in which this thread had a CPU, in the kernel's work for it too.
    pub(crate) cpu_ns: u64,
}

impl Took {
    /// CPU nanoseconds for each of `count` operations.
    pub(crate) fn cpu_ns_each(self, count: usize) -> f64 {
        stats::number(self.cpu_ns) / stats::number(count as u64)
    }
}

impl AddAssign for Took {
    fn add_assign(&mut self, other: Self) {
        self.wall_ns += other.wall_ns;
        self.cpu_ns += other.cpu_ns;
    }
}

/// Does `work` and says what it took. Cost: four clock reads, about a microsecond.
pub(crate) fn timed<R>(work: impl FnOnce() -> R) -> (R, Took) {
    let (wall, cpu) = (wall_ns(), thread_cpu_ns());
    let result = work();
    let took = Took {
        cpu_ns: thread_cpu_ns() - cpu,
        wall_ns: wall_ns() - wall,
    };
    (result, took)
}

/// The present moment of the machine's monotonic clock.
pub(crate) fn now() -> Moment {
    Moment::from_nanos(wall_ns())
}

/// Seconds since 1970 by the calendar clock.
pub(crate) fn unix_seconds() -> u64 {
    nanos(clock_gettime(ClockId::Realtime)) / 1_000_000_000
}

fn wall_ns() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

fn thread_cpu_ns() -> u64 {
    nanos(clock_gettime(ClockId::ThreadCPUTime))
}

/// Clocks count from their origin, so what is below zero is a clock that was set wrongly.
fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time_and_waiting_does_not() {
        let (sum, work) = timed(|| (0..3_000_000_u64).map(std::hint::black_box).sum::<u64>());
        assert!(sum > 0 && work.cpu_ns > 0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let pause = std::time::Duration::from_millis(20);
        let ((), wait) = timed(|| runtime.block_on(async { tokio::time::sleep(pause).await }));
        // Sleeping is the one thing that is on the wall for certain and on no CPU.
        assert!(wait.wall_ns >= 20_000_000, "{wait:?}");
        assert!(wait.cpu_ns < wait.wall_ns, "{wait:?}");
    }

    #[test]
    fn times_add_up_and_divide() {
        let mut total = Took::default();
        total += Took {
            wall_ns: 30,
            cpu_ns: 20,
        };
        total += Took {
            wall_ns: 10,
            cpu_ns: 20,
        };
        assert_eq!(
            total,
            Took {
                wall_ns: 40,
                cpu_ns: 40
            }
        );
        assert_eq!(total.cpu_ns_each(8).to_bits(), 5.0_f64.to_bits());
    }
}
