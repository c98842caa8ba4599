//! Near hosts first, as long as they can take it.

use crate::limits::TIERS;

/// Settings of zone preference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneConfig {
    /// How much of a tier's weight may be missing before its calls go further,
    /// as a factor: with 1.4 a tier keeps all its calls down to 71 %. Default
    /// 1.4.
    pub overprovision: f64,
    /// From how many requests in flight on a chosen host the next tier is asked,
    /// too. Default 8.
    pub spill_from: u32,
    /// How many times as many requests the near host has to have for the far one
    /// to be taken. Default 2.
    pub spill_ratio: u32,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self {
            overprovision: 1.4,
            spill_from: 8,
            spill_ratio: 2,
        }
    }
}

/// What is there of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierWeight {
    /// Weight of the hosts that may be picked.
    pub available: u64,
    /// Weight of all that are not gone.
    pub all: u64,
}

/// The share of calls that begins in each tier: a tier keeps what its available
/// weight, times the overprovision, allows, and the rest goes further. What
/// nobody takes is spread over the tiers that have hosts, in proportion, or to
/// the nearest one.
pub fn shares(tiers: &[TierWeight; TIERS], overprovision: f64) -> [f64; TIERS] {
    let mut shares = [0.0; TIERS];
    let mut left = 1.0;
    for (share, tier) in shares.iter_mut().zip(tiers) {
        if tier.available == 0 {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio of weights")]
        let health = tier.available as f64 / tier.all.max(tier.available) as f64;
        *share = left * (health * overprovision).clamp(0.0, 1.0);
        left -= *share;
    }
    let given: f64 = shares.iter().sum();
    if given > 0.0 {
        for share in &mut shares {
            *share /= given;
        }
    } else if let Some(nearest) = tiers.iter().position(|tier| tier.available > 0) {
        shares[nearest] = 1.0;
    }
    shares
}

/// The tier for a number in `[0, 1)`; `None` when no tier has a share.
pub fn tier_at(shares: &[f64; TIERS], mut at: f64) -> Option<u8> {
    let mut last = None;
    for (tier, &share) in (0_u8..).zip(shares) {
        if share > 0.0 {
            if at < share {
                return Some(tier);
            }
            at -= share;
            last = Some(tier);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(available: u64, all: u64) -> TierWeight {
        TierWeight { available, all }
    }

    fn check(tiers: [TierWeight; TIERS], expect: [f64; TIERS]) {
        let found = shares(&tiers, 1.4);
        let is_near = found.iter().zip(&expect).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(is_near, "{found:?} for {expect:?}");
    }

    #[test]
    fn a_tier_keeps_its_calls_until_it_misses_too_much() {
        check([weight(8, 8), weight(8, 8), weight(0, 0)], [1.0, 0.0, 0.0]);
        check([weight(6, 8), weight(8, 8), weight(0, 0)], [1.0, 0.0, 0.0]);
        check([weight(4, 8), weight(8, 8), weight(8, 8)], [0.7, 0.3, 0.0]);
        check([weight(0, 8), weight(0, 0), weight(1, 8)], [0.0, 0.0, 1.0]);
        check([weight(0, 0), weight(0, 0), weight(0, 0)], [0.0, 0.0, 0.0]);
        // Both are weak: nothing is left over.
        check(
            [weight(1, 2), weight(1, 2), weight(0, 9)],
            [0.7 / 0.91, 0.21 / 0.91, 0.0],
        );
    }

    #[test]
    fn a_number_finds_its_tier() {
        let shares = [0.7, 0.0, 0.3];
        assert_eq!(tier_at(&shares, 0.0), Some(0));
        assert_eq!(tier_at(&shares, 0.69), Some(0));
        assert_eq!(tier_at(&shares, 0.71), Some(2));
        // Rounding leaves nobody without a tier.
        assert_eq!(tier_at(&shares, 1.0), Some(2));
        assert_eq!(tier_at(&[0.0; TIERS], 0.5), None);
    }
}
