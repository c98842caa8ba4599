//! Moving averages over irregular samples.

use std::time::Duration;

/// How much of a value is left after `elapsed`: 1 at once, falling, never 0.
///
/// In place of e^(−x) with x = elapsed / tau stands 1 / (1 + x + x²/2 + x³/6),
/// whose denominator begins e^x's series: within 2 % below x = 1, slower beyond
/// (0.025 for 0.007 at 5), and 3 ns in place of 15. Hosts are compared by it,
/// so that being monotone counts and being exact does not.
#[inline]
pub fn fading(elapsed: Duration, tau: Duration) -> f32 {
    fading_ns(nanos(elapsed), nanos(tau))
}

/// [`fading`] of nanoseconds.
#[inline]
pub(crate) fn fading_ns(elapsed: f32, tau: f32) -> f32 {
    let x = elapsed / tau.max(1.0);
    1.0 / (1.0 + x * (1.0 + x * (0.5 + x * (1.0 / 6.0))))
}

/// The peak moving average: jumps to a worse sample, else approaches it with
/// weight 1 − `fading`. After Finagle's peak EWMA.
#[inline]
pub fn peak(average: f32, sample: f32, kept: f32) -> f32 {
    if sample >= average {
        sample
    } else {
        sample + (average - sample) * kept
    }
}

/// Nanoseconds as the averages keep them.
#[inline]
#[expect(
    clippy::cast_precision_loss,
    reason = "24 bits of a latency are enough"
)]
#[expect(clippy::cast_possible_truncation, reason = "584 years are enough")]
pub const fn nanos(time: Duration) -> f32 {
    // Not from 128 bits, whose conversion is a call of 10 ns.
    time.as_nanos() as u64 as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fading_follows_the_exponential_and_never_rises() {
        let tau = Duration::from_secs(10);
        let mut before = 1.0;
        for ms in (0..100_000).step_by(100) {
            let left = fading(Duration::from_millis(ms), tau);
            assert!(left <= before && left > 0.0, "at {ms} ms");
            let x = f32::from(u16::try_from(ms / 100).unwrap()) / 100.0;
            assert!(x > 1.0 || (left - (-x).exp()).abs() < 0.02, "at {ms} ms");
            before = left;
        }
        assert!((fading(Duration::ZERO, tau) - 1.0).abs() < f32::EPSILON);
        assert!(fading(Duration::from_secs(1), Duration::ZERO) < 1e-6);
    }

    #[test]
    fn a_peak_jumps_up_and_sinks_slowly() {
        let up = peak(10.0, 50.0, 0.9);
        let down = peak(up, 10.0, 0.9);
        assert!((up - 50.0).abs() < 1e-3);
        assert!((down - 46.0).abs() < 1e-3);
    }
}
