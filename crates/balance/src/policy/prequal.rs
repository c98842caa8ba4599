//! The load that servers report, hot and cold.

use std::time::Duration;

use waystation_base::{Moment, Rng};

use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{HostName, Hosts, Load, Outcome};
use crate::limits::{HOT_WINDOW, RECENT_MAX};
use crate::policy::{Candidates, Offer, Policy, index_below};

/// Settings of [`Prequal`]; the defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrequalConfig {
    /// How long a report is used. Default 1 s.
    pub age_max: Duration,
    /// Hosts probed for each pick. Default 3.
    pub probes_per_pick: f64,
    /// Reports taken out for each pick. Default 1.
    pub removals_per_pick: f64,
    /// From which quantile of reported requests in flight a host is hot.
    /// Default 0.84.
    pub hot_quantile: f64,
    /// How much faster the pool is meant to fill than to empty. Default 1.
    pub surplus: f64,
    /// Whether the load in replies enters the pool as an answered probe does.
    /// Not in the paper. Default off.
    pub learns_from_replies: bool,
}

impl Default for PrequalConfig {
    fn default() -> Self {
        Self {
            age_max: Duration::from_secs(1),
            probes_per_pick: 3.0,
            removals_per_pick: 1.0,
            hot_quantile: 0.84,
            surplus: 1.0,
            learns_from_replies: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: u32,
    in_flight: u32,
    latency_us: u32,
    at: Moment,
    uses_left: u32,
}

/// A pool of recent reports; of the cold ones the fastest, else the one with the
/// fewest requests in flight.
///
/// After Bartek Wydrowski, Robert Kleinberg, Stephen Rumble and Aaron Archer,
/// "Load is not what you should balance: Introducing Prequal", NSDI 2024,
/// section 4. Its aversion to sinkholes is left to the ejection around it.
/// Cost of a pick: O(pool); of a report: O(window of hotness).
#[derive(Clone, Debug)]
pub struct Prequal {
    config: PrequalConfig,
    pool: [Option<Entry>; RECENT_MAX],
    /// Requests in flight of the last reports: in order of arrival, and sorted.
    window: [u32; HOT_WINDOW],
    sorted: [u32; HOT_WINDOW],
    reports: usize,
    hosts: usize,
    removal_credit: f64,
    removes_oldest: bool,
}

impl Prequal {
    /// With these settings and an empty pool.
    pub fn new(config: PrequalConfig) -> Self {
        Self {
            config,
            pool: [None; RECENT_MAX],
            window: [0; HOT_WINDOW],
            sorted: [0; HOT_WINDOW],
            reports: 0,
            hosts: 0,
            removal_credit: 0.0,
            removes_oldest: true,
        }
    }

    /// A host is hot with more requests than this.
    fn threshold(&self) -> u32 {
        let known = self.reports.min(HOT_WINDOW);
        if known == 0 {
            return u32::MAX;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a small window; the quantile is within 0 and 1"
        )]
        let at = (self.config.hot_quantile.clamp(0.0, 1.0) * known as f64) as usize;
        self.sorted[at.min(known - 1)]
    }

    fn learn_in_flight(&mut self, in_flight: u32) {
        let known = self.reports.min(HOT_WINDOW);
        let mut sorted_len = known;
        let at = self.reports % HOT_WINDOW;
        if known == HOT_WINDOW {
            let old = self.sorted.partition_point(|&one| one < self.window[at]);
            self.sorted.copy_within(old + 1..known, old);
            sorted_len -= 1;
        }
        let place = self.sorted[..sorted_len].partition_point(|&one| one < in_flight);
        self.sorted.copy_within(place..sorted_len, place + 1);
        self.sorted[place] = in_flight;
        self.window[at] = in_flight;
        self.reports += 1;
    }

    /// How often a report may be used: more often the slower the pool fills.
    fn uses(&self, rng: &mut Rng) -> u32 {
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let share = RECENT_MAX as f64 / (self.hosts.max(1) as f64);
        let gain = (1.0 - share) * self.config.probes_per_pick - self.config.removals_per_pick;
        // Few hosts, or too few probes: a report lives until it is too old.
        if gain <= 0.0 {
            return u32::MAX;
        }
        let wanted = ((1.0 + self.config.surplus) / gain).max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at least 1; a float saturates"
        )]
        let whole = wanted as u32;
        whole.saturating_add(u32::from(rng.chance(wanted.fract())))
    }

    fn insert(&mut self, now: Moment, slot: u32, load: Load, rng: &mut Rng) {
        self.learn_in_flight(load.in_flight);
        let entry = Entry {
            slot,
            in_flight: load.in_flight,
            latency_us: load.latency_us,
            at: now,
            uses_left: self.uses(rng),
        };
        let same = self
            .pool
            .iter()
            .position(|one| one.is_some_and(|one| one.slot == slot));
        let place = same
            .or_else(|| self.pool.iter().position(Option::is_none))
            .unwrap_or_else(|| self.oldest().unwrap_or(0));
        self.pool[place] = Some(entry);
    }

    fn oldest(&self) -> Option<usize> {
        let entries = self.pool.iter().enumerate();
        entries
            .filter_map(|(at, one)| Some((at, one.as_ref()?)))
            .min_by_key(|(_, one)| one.at)
            .map(|(at, _)| at)
    }

    /// The hot one with the most requests, else the slowest.
    fn worst(&self) -> Option<usize> {
        let threshold = self.threshold();
        let entries = self.pool.iter().enumerate();
        entries
            .filter_map(|(at, one)| Some((at, one.as_ref()?)))
            .max_by_key(|(_, one)| {
                let is_hot = one.in_flight > threshold;
                let rank = if is_hot {
                    one.in_flight
                } else {
                    one.latency_us
                };
                (is_hot, rank)
            })
            .map(|(at, _)| at)
    }

    fn remove_some(&mut self) {
        self.removal_credit += self.config.removals_per_pick;
        while self.removal_credit >= 1.0 {
            self.removal_credit -= 1.0;
            let victim = if self.removes_oldest {
                self.oldest()
            } else {
                self.worst()
            };
            self.removes_oldest = !self.removes_oldest;
            if let Some(at) = victim {
                self.pool[at] = None;
            }
        }
    }
}

impl Default for Prequal {
    fn default() -> Self {
        Self::new(PrequalConfig::default())
    }
}

impl<H: Hosts + ?Sized> Policy<H> for Prequal {
    fn name(&self) -> &'static str {
        "prequal"
    }

    fn handle_candidates(&mut self, _: Moment, _: &H, _: &[HostName], candidates: &Candidates) {
        self.hosts = candidates.tiers.iter().map(Vec::len).sum();
        for entry in &mut self.pool {
            *entry = entry.filter(|one| candidates.tier(one.slot) != super::NO_TIER);
        }
    }

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        rng: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let slots = offer.slots();
        if slots.is_empty() {
            return Err(NoPick::NoHosts);
        }
        let oldest = self.config.age_max;
        for entry in &mut self.pool {
            *entry = entry.filter(|one| offer.now.saturating_since(one.at) <= oldest);
        }
        let threshold = self.threshold();
        let mut usable = 0;
        let mut best: Option<((bool, u32), usize)> = None;
        for (at, entry) in self.pool.iter().enumerate() {
            let Some(entry) = entry else { continue };
            if !offer.has(entry.slot) || offer.discarded.contains(&entry.slot) {
                continue;
            }
            usable += 1;
            let is_hot = entry.in_flight > threshold;
            let rank = if is_hot {
                entry.in_flight
            } else {
                entry.latency_us
            };
            trace.consider(
                entry.slot,
                Some(rank.into()),
                if is_hot { "hot" } else { "cold" },
            );
            if best.is_none_or(|(lowest, _)| (is_hot, rank) < lowest) {
                best = Some(((is_hot, rank), at));
            }
        }
        let pick = match best {
            Some(((is_hot, _), at)) if usable >= 2 || slots.len() == 1 => {
                let entry = self.pool[at].as_mut().expect("it was read just now");
                let slot = entry.slot;
                entry.in_flight = entry.in_flight.saturating_add(1);
                entry.uses_left = entry.uses_left.saturating_sub(1);
                if entry.uses_left == 0 {
                    self.pool[at] = None;
                }
                let reason = if is_hot { Reason::AllHot } else { Reason::Cold };
                Pick { slot, reason }
            }
            _ => {
                let slot = slots[index_below(rng, slots.len())];
                trace.consider(slot, None, "drawn, for want of reports");
                Pick {
                    slot,
                    reason: Reason::Random,
                }
            }
        };
        self.remove_some();
        Ok(pick)
    }

    fn report(&mut self, _: Moment, _: u32, _: &Outcome) {}

    fn handle_load(&mut self, now: Moment, slot: u32, load: Load, is_probe: bool, rng: &mut Rng) {
        if is_probe || self.config.learns_from_replies {
            self.insert(now, slot, load, rng);
        }
    }

    fn probes_per_pick(&self) -> f64 {
        self.config.probes_per_pick
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}
