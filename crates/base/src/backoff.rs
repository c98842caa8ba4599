//! How long to wait before the next attempt.

use std::time::Duration;

use crate::limits::BACKOFF_DOUBLINGS_MAX;
use crate::rng::Rng;

/// How a [`Backoff`] grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffConfig {
    /// Ceiling of the first delay; each further attempt doubles it. Default
    /// 50 ms. Lower recovers sooner and knocks harder on a peer that is down.
    pub base: Duration,
    /// No delay is longer. Default 5 s. Higher spares a peer that is down for
    /// long, and finds out later that it is back.
    pub max: Duration,
    /// Which part of a delay is random: a delay lies in
    /// `((1 - jitter) * ceiling, ceiling]`. Range 0 to 1 (values outside count
    /// as the nearer end), default 0.5. At 0 callers that failed together come
    /// back together.
    pub jitter: f64,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            max: Duration::from_secs(5),
            jitter: 0.5,
        }
    }
}

/// Exponential back-off with bounded jitter, reset by success.
///
/// Follows Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
/// Blog, 2015; differs in that the random part is configurable, so that a floor
/// under the delay can be kept.
///
/// ```
/// use waystation_base::{Backoff, BackoffConfig};
///
/// let config = BackoffConfig::default();
/// let mut backoff = Backoff::new(config, 42);
/// assert!(backoff.next_delay() <= config.base);
/// assert!(backoff.next_delay() <= config.base * 2);
/// backoff.reset();
/// assert!(backoff.next_delay() <= config.base);
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
    rng: Rng,
}

impl Backoff {
    /// A back-off that has seen no attempt yet. `rng_seed` decides the jitter:
    /// give each peer its own.
    pub fn new(config: BackoffConfig, rng_seed: u64) -> Self {
        Self {
            config,
            attempts: 0,
            rng: Rng::from_seed(rng_seed),
        }
    }

    /// Counts an attempt and returns how long to wait before it. Never longer
    /// than [`BackoffConfig::max`].
    pub fn next_delay(&mut self) -> Duration {
        let doublings = self.attempts.min(BACKOFF_DOUBLINGS_MAX);
        self.attempts = self.attempts.saturating_add(1);
        let ceiling = self
            .config
            .base
            .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(self.config.max);
        let part = 1.0 - self.config.jitter.clamp(0.0, 1.0) * self.rng.next_f64();
        // Fails only for absurd settings (a jitter that is not a number, delays
        // of aeons whose product rounds up past the last duration).
        Duration::try_from_secs_f64(ceiling.as_secs_f64() * part)
            .map_or(ceiling, |delay| delay.min(ceiling))
    }

    /// Starts over: the next delay is a first one again.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Attempts since the start or the last reset.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(jitter: f64) -> BackoffConfig {
        BackoffConfig {
            base: Duration::from_millis(10),
            max: Duration::from_millis(500),
            jitter,
        }
    }

    #[test]
    fn doubles_up_to_the_maximum_without_jitter() {
        let mut backoff = Backoff::new(config(0.0), 1);
        let millis: Vec<u128> = (0..8).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(backoff.attempts(), 8);
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::from_millis(10));
    }

    #[test]
    fn jitter_keeps_the_delay_between_floor_and_ceiling() {
        let mut backoff = Backoff::new(config(0.5), 2);
        let mut ceiling = Duration::from_millis(10);
        for _ in 0..1000 {
            let delay = backoff.next_delay();
            assert!(
                delay >= ceiling / 2 && delay <= ceiling,
                "{delay:?} under {ceiling:?}"
            );
            ceiling = (ceiling * 2).min(Duration::from_millis(500));
        }
    }

    #[test]
    fn absurd_settings_stay_bounded() {
        let absurd = BackoffConfig {
            base: Duration::MAX,
            max: Duration::MAX,
            jitter: 9.0,
        };
        let mut backoff = Backoff::new(absurd, 3);
        // Nothing panics, and the jitter counts as 1.
        assert!((0..100).any(|_| backoff.next_delay() < Duration::MAX / 2));
        let mut nan = Backoff::new(config(f64::NAN), 3);
        assert!((0..100).all(|_| nan.next_delay() <= Duration::from_millis(500)));
    }

    #[test]
    fn peers_with_different_seeds_do_not_come_back_together() {
        let delays = |seed| {
            let mut backoff = Backoff::new(config(1.0), seed);
            (0..4).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
