//! New and returned hosts get little at first.

use std::time::Duration;

use waystation_base::Moment;

/// Settings of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUpConfig {
    /// How long a host warms up; zero turns the warm-up off. Default 10 s.
    pub window: Duration,
    /// The share of its calls that it gets at the beginning. Default 0.1.
    pub share_min: f64,
    /// 1 for a share that rises evenly; above 1 it rises faster at first.
    /// Default 1.
    pub aggression: f64,
}

impl Default for WarmUpConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            share_min: 0.1,
            aggression: 1.0,
        }
    }
}

impl WarmUpConfig {
    /// The share of its calls that a host gets which takes calls since `since`:
    /// max(`share_min`, (age / window)^(1 / aggression)), as Envoy's slow start.
    pub fn share(&self, now: Moment, since: Moment) -> f64 {
        let age = now.saturating_since(since);
        if since == Moment::ZERO || age >= self.window {
            return 1.0;
        }
        let part = age.as_secs_f64() / self.window.as_secs_f64();
        part.powf(1.0 / self.aggression.max(f64::EPSILON))
            .clamp(self.share_min.clamp(0.0, 1.0), 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_from_the_least_to_all() {
        let config = WarmUpConfig::default();
        let since = Moment::from_millis(5_000);
        let share = |ms| config.share(since + Duration::from_millis(ms), since);
        assert!((share(0) - 0.1).abs() < 1e-9);
        assert!((share(5_000) - 0.5).abs() < 1e-9);
        assert!((share(10_000) - 1.0).abs() < 1e-9);
        assert!((config.share(Moment::ZERO, since) - 0.1).abs() < 1e-9);
        assert!((config.share(since, Moment::ZERO) - 1.0).abs() < 1e-9);
        let faster = WarmUpConfig {
            aggression: 2.0,
            ..config
        };
        assert!(faster.share(since + Duration::from_secs(1), since) > share(1_000));
        let off = WarmUpConfig {
            window: Duration::ZERO,
            ..config
        };
        assert!((off.share(since, since) - 1.0).abs() < 1e-9);
    }
}
