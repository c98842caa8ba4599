//! What is measured of a run.

use std::time::Duration;

use waystation_base::Moment;

/// The figures of one run, or of several taken together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Times to the answer; a call that missed its deadline counts with it.
    pub(crate) latencies_us: Vec<u32>,
    pub(crate) calls: u64,
    /// Failed before any retry: found nobody or was cut off.
    pub(crate) refused: u64,
    /// No answer, from a host that answered nothing when it was sent or later.
    pub(crate) black_holed: u64,
    /// No answer in time, from a host that was there.
    pub(crate) timed_out: u64,
    /// Answered with a failure.
    pub(crate) failed: u64,
    /// No host was picked.
    pub(crate) unpicked: u64,
    pub(crate) in_flight_max: u32,
    pub(crate) probes: u64,
    pub(crate) wrong_ejections: u64,
    /// Failed calls that went to the faulty host.
    pub(crate) fault_failures: Vec<u64>,
    /// From the fault until the host got less than 5 % of its share for good.
    pub(crate) drained: Vec<Duration>,
    /// From its end until the host got half of its share within a second.
    pub(crate) recovered: Vec<Option<Duration>>,
}

impl Figures {
    pub(crate) fn errors(&self) -> u64 {
        self.refused + self.black_holed + self.timed_out + self.failed + self.unpicked
    }

    /// The quantile in milliseconds; sorts first.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        if self.latencies_us.is_empty() {
            return f64::NAN;
        }
        let mut sorted = self.latencies_us.clone();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list"
        )]
        let at = ((sorted.len() as f64 * quantile) as usize).min(sorted.len() - 1);
        let (_, value, _) = sorted.select_nth_unstable(at);
        f64::from(*value) / 1000.0
    }

    /// Joins another run of the same workload and policy.
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.calls += other.calls;
        self.refused += other.refused;
        self.black_holed += other.black_holed;
        self.timed_out += other.timed_out;
        self.failed += other.failed;
        self.unpicked += other.unpicked;
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
        self.probes += other.probes;
        self.wrong_ejections += other.wrong_ejections;
        self.fault_failures.extend(other.fault_failures);
        self.drained.extend(other.drained);
        self.recovered.extend(other.recovered);
    }
}

/// From `began` until the last point after which fewer than 5 % of `share` calls
/// a second were sent, given the moments of all sends until `ended`.
pub(crate) fn time_to_drain(sent: &[Moment], began: Moment, ended: Moment, share: f64) -> Duration {
    let during: Vec<Moment> = sent
        .iter()
        .copied()
        .filter(|at| (began..ended).contains(at))
        .collect();
    // From the back: the tail after a send is drained while it is thin.
    let mut drained_from = during.len();
    for at in (0..during.len()).rev() {
        let rest = ended.saturating_since(during[at]).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let count = (during.len() - at) as f64;
        if count <= (0.05 * share * rest).max(1.0) {
            drained_from = at;
        } else {
            break;
        }
    }
    match drained_from.checked_sub(1) {
        Some(last) => during[last].saturating_since(began),
        None => Duration::ZERO,
    }
}

/// From `ended` until the first second in which half of `share` was sent.
pub(crate) fn time_to_recover(sent: &[Moment], ended: Moment, share: f64) -> Option<Duration> {
    let after: Vec<Moment> = sent.iter().copied().filter(|at| *at >= ended).collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    let needed = ((share * 0.5).ceil() as usize).max(1);
    after
        .windows(needed)
        .find(|some| some[needed - 1].saturating_since(some[0]) <= Duration::from_secs(1))
        .map(|some| some[needed - 1].saturating_since(ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(ms: &[u64]) -> Vec<Moment> {
        ms.iter().copied().map(Moment::from_millis).collect()
    }

    #[test]
    fn a_host_is_drained_when_only_stray_calls_come() {
        let (began, ended) = (Moment::from_millis(1000), Moment::from_millis(31_000));
        let drain = |sent: &[u64]| time_to_drain(&moments(sent), began, ended, 10.0);
        assert_eq!(drain(&[]), Duration::ZERO);
        // Stray calls, fewer than one in two seconds.
        assert_eq!(drain(&[1100, 1200, 1300, 15_000]), Duration::ZERO);
        let steady: Vec<u64> = (0..100).map(|n| 1000 + n * 100).collect();
        let drained = drain(&steady);
        assert_eq!(drained, Duration::from_millis(8900));
    }

    #[test]
    fn a_host_is_back_when_it_gets_half_of_its_share() {
        let ended = Moment::from_millis(1000);
        let recover = |sent: &[u64]| time_to_recover(&moments(sent), ended, 4.0);
        assert_eq!(recover(&[500, 900]), None);
        assert_eq!(recover(&[1100, 2900, 3000]), Some(Duration::from_secs(2)));
    }

    #[test]
    fn quantiles_are_of_all_calls() {
        let figures = Figures {
            latencies_us: (1..=1000).rev().map(|ms| ms * 1000).collect(),
            ..Figures::default()
        };
        assert!((figures.quantile_ms(0.99) - 991.0).abs() < 1e-9);
        assert!((figures.quantile_ms(0.0) - 1.0).abs() < 1e-9);
        assert!(Figures::default().quantile_ms(0.5).is_nan());
    }
}
