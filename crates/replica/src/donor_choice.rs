//! Who is to be the donor.

use std::time::Duration;

use waystation_base::SiteId;

/// A site that could be a donor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The site.
    pub site: SiteId,
    /// How far it is behind, in time.
    pub lag: Duration,
    /// How far it is behind, in entries.
    pub lag_entries: u64,
    /// How busy it is, in thousandths.
    pub load_permille: u16,
    /// Whether it is in the joiner's zone.
    pub is_near: bool,
    /// How many snapshots it holds open.
    pub snapshots: usize,
}

/// What a distance to another zone costs, in points of load: half a machine.
const FAR_POINTS: u64 = 500;
/// What each open snapshot costs, in points of load.
const SNAPSHOT_POINTS: u64 = 250;
/// What a second behind costs, in points of load.
const LAG_SECOND_POINTS: u64 = 100;

/// The best donor: the one with the fewest points for lag, load and distance; of
/// equals the one with fewer entries to apply, then the lower id. `None` without
/// candidates. Cost: O(candidates).
///
/// ```
/// use std::time::Duration;
/// use waystation_base::SiteId;
/// use waystation_replica::{Candidate, best_donor};
///
/// let site = |site, load_permille| Candidate {
///     site: SiteId(site),
///     lag: Duration::ZERO,
///     lag_entries: 0,
///     load_permille,
///     is_near: true,
///     snapshots: 0,
/// };
/// assert_eq!(best_donor(&[site(1, 900), site(2, 100)]), Some(SiteId(2)));
/// ```
pub fn best_donor(candidates: &[Candidate]) -> Option<SiteId> {
    let key = |one: &&Candidate| (points(one), one.lag_entries, one.site);
    candidates.iter().min_by_key(key).map(|one| one.site)
}

fn points(one: &Candidate) -> u64 {
    let lag_ms = u64::try_from(one.lag.as_millis()).unwrap_or(u64::MAX);
    let lag = lag_ms.saturating_mul(LAG_SECOND_POINTS) / 1000;
    let distance = if one.is_near { 0 } else { FAR_POINTS };
    lag.saturating_add(u64::from(one.load_permille))
        .saturating_add(distance)
        .saturating_add(SNAPSHOT_POINTS * one.snapshots as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(site: u16) -> Candidate {
        Candidate {
            site: SiteId(site),
            lag: Duration::ZERO,
            lag_entries: 0,
            load_permille: 100,
            is_near: true,
            snapshots: 0,
        }
    }

    #[test]
    fn lag_load_and_distance_each_decide() {
        let good = candidate(9);
        let worse = [
            Candidate {
                lag: Duration::from_secs(2),
                ..candidate(1)
            },
            Candidate {
                load_permille: 800,
                ..candidate(2)
            },
            Candidate {
                is_near: false,
                ..candidate(3)
            },
            Candidate {
                snapshots: 1,
                ..candidate(4)
            },
            Candidate {
                lag_entries: 5,
                ..candidate(5)
            },
        ];
        for one in worse {
            assert_eq!(best_donor(&[one, good]), Some(SiteId(9)), "{one:?}");
        }
        assert_eq!(best_donor(&[]), None);
    }

    #[test]
    fn a_far_idle_site_beats_a_near_one_that_is_long_behind() {
        let behind = Candidate {
            lag: Duration::from_mins(1),
            ..candidate(1)
        };
        let far = Candidate {
            is_near: false,
            ..candidate(2)
        };
        assert_eq!(best_donor(&[behind, far]), Some(SiteId(2)));
    }
}
