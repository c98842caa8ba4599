//! What a host reports of itself.

use std::time::Duration;

use waystation_base::Moment;

use crate::average::fading;
use crate::host::Load;
use crate::limits::{METER_LEVELS, METER_SAMPLES};

/// Settings of a [`Meter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterConfig {
    /// What an answer that is a failure counts as, as a time; zero counts
    /// failures as answers. Default 30 s.
    pub failure: Duration,
    /// How long failures are remembered. Default 1500 ms.
    pub tau: Duration,
}

impl Default for MeterConfig {
    fn default() -> Self {
        Self {
            failure: Duration::from_secs(30),
            tau: Duration::from_millis(1500),
        }
    }
}

/// Measures a server's load: requests in flight, and the median time of recent
/// answers that began at about that level.
///
/// After Prequal (NSDI 2024, section 4.2). Differences: levels above 15 are
/// grouped, four to a doubling; and the share of failures adds to the latency,
/// so that a host which fails fast does not report that it is fast. That share
/// fades by time, for a host that is avoided has no successes to show.
///
/// Calling order: [`Meter::begin`] when a request starts, [`Meter::end`] when
/// it is over. Cost: O(1); [`Meter::load`] sorts 16 numbers.
#[derive(Clone, Debug)]
pub struct Meter {
    config: MeterConfig,
    in_flight: u32,
    levels: Vec<Level>,
    failure_share: f32,
    failure_at: Moment,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    latencies_us: [u32; METER_SAMPLES],
    samples: usize,
}

/// The level at which a request began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeganAt(u32);

/// How much one answer moves the share of failures.
const FAILURE_STEP: f32 = 0.3;

impl Meter {
    /// Nothing measured yet.
    pub fn new(config: MeterConfig) -> Self {
        Self {
            config,
            in_flight: 0,
            levels: vec![Level::default(); METER_LEVELS],
            failure_share: 0.0,
            failure_at: Moment::ZERO,
        }
    }

    /// A request starts.
    pub const fn begin(&mut self) -> BeganAt {
        let at = BeganAt(self.in_flight);
        self.in_flight = self.in_flight.saturating_add(1);
        at
    }

    /// A request is over after `latency`.
    pub fn end(&mut self, now: Moment, began: BeganAt, latency: Duration, is_failure: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let before = self.failures(now);
        let sample = if is_failure { 1.0 } else { 0.0 };
        self.failure_share = before + (sample - before) * FAILURE_STEP;
        self.failure_at = now;
        // How long a failure took says nothing about answers.
        if is_failure && self.config.failure > Duration::ZERO {
            return;
        }
        let level = &mut self.levels[level_of(began.0)];
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        level.latencies_us[level.samples % METER_SAMPLES] = micros.max(1);
        level.samples += 1;
    }

    /// A request went without an end that says anything: its caller gave up.
    pub const fn abandon(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Requests in flight.
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The load to report: the median at the present level, else at the nearest
    /// level that has samples, the lower one of two; and what failures add.
    /// Zero latency before the first answer.
    pub fn load(&self, now: Moment) -> Load {
        let here = level_of(self.in_flight);
        let median = (0..METER_LEVELS)
            .flat_map(|away| [here.checked_sub(away), here.checked_add(away)])
            .flatten()
            .filter_map(|at| self.levels.get(at))
            .find_map(Level::median_us);
        let added = self.config.failure.mul_f32(self.failures(now));
        let added_us = u32::try_from(added.as_micros()).unwrap_or(u32::MAX);
        Load {
            in_flight: self.in_flight,
            latency_us: median.unwrap_or(0).saturating_add(added_us),
        }
    }

    fn failures(&self, now: Moment) -> f32 {
        self.failure_share * fading(now.saturating_since(self.failure_at), self.config.tau)
    }
}

impl Level {
    fn median_us(&self) -> Option<u32> {
        let known = self.samples.min(METER_SAMPLES);
        if known == 0 {
            return None;
        }
        let mut sorted = self.latencies_us;
        let sorted = &mut sorted[..known];
        sorted.sort_unstable();
        Some(sorted[(known - 1) / 2])
    }
}

/// The level of so many requests in flight: exact below 16, then four for each
/// doubling.
fn level_of(in_flight: u32) -> usize {
    if in_flight < 16 {
        return in_flight as usize;
    }
    let doublings = in_flight.ilog2();
    let quarter = (in_flight >> (doublings - 2)) & 3;
    let level = 16 + (doublings - 4) * 4 + quarter;
    (level as usize).min(METER_LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_millis(1_000);

    fn sample(meter: &mut Meter, ms: u64, is_failure: bool) {
        let began = meter.begin();
        meter.end(NOW, began, Duration::from_millis(ms), is_failure);
    }

    fn load(in_flight: u32, latency_us: u32) -> Load {
        Load {
            in_flight,
            latency_us,
        }
    }

    #[test]
    fn the_median_is_that_of_the_present_level() {
        let mut meter = Meter::new(MeterConfig::default());
        for ms in [10, 30, 20] {
            sample(&mut meter, ms, false);
        }
        let first = meter.begin();
        sample(&mut meter, 99, false);
        assert_eq!(meter.load(NOW), load(1, 99_000));
        meter.end(NOW, first, Duration::from_millis(20), false);
        assert_eq!(meter.load(NOW), load(0, 20_000));
    }

    #[test]
    fn a_level_without_samples_takes_its_neighbours() {
        let mut meter = Meter::new(MeterConfig::default());
        assert_eq!(meter.load(NOW), Load::default());
        sample(&mut meter, 5, false);
        for _ in 0..7 {
            meter.begin();
        }
        assert_eq!(meter.load(NOW), load(7, 5_000));
    }

    /// A server that failed at once reported the lowest latency of all, and the
    /// callers sent it everything.
    #[test]
    fn failing_fast_is_not_reported_as_fast() {
        let mut meter = Meter::new(MeterConfig::default());
        sample(&mut meter, 10, false);
        for _ in 0..20 {
            sample(&mut meter, 1, true);
        }
        assert!(meter.load(NOW).latency_us > 29_000_000);
        // Avoided, it gets no calls with which to show that it is well again.
        let later = NOW + Duration::from_secs(10);
        assert!(meter.load(later).latency_us < 900_000);
    }

    #[test]
    fn levels_rise_and_are_bounded() {
        let levels: Vec<usize> = (0..100_000).map(level_of).collect();
        let is_step = |two: &[usize]| two[0] <= two[1] && two[1] <= two[0] + 1;
        assert!(levels.windows(2).all(is_step));
        assert_eq!(level_of(16), 16);
        assert_eq!(level_of(u32::MAX), METER_LEVELS - 1);
        let mut meter = Meter::new(MeterConfig::default());
        meter.abandon();
        assert_eq!(meter.in_flight(), 0);
    }
}
