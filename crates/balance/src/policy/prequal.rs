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
    /// Reports taken out for each pick while that many probes are answered; as
    /// many for each answer when they are fewer. Default 1.
    pub removals_per_pick: f64,
    /// From which quantile of reported requests in flight a host is hot.
    /// Default 0.84.
    pub hot_quantile: f64,
    /// How much faster the pool is meant to fill than to empty. Default 1.
    pub surplus: f64,
    /// Whether the load in a reply renews the report of a host that is in the
    /// pool, and the end of a call is one less in flight there. Not in the paper.
    /// Default on.
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
            learns_from_replies: true,
        }
    }
}

impl PrequalConfig {
    /// As published: probes alone tell.
    pub fn published() -> Self {
        Self {
            learns_from_replies: false,
            ..Self::default()
        }
    }
}

/// How much the last answer counts in the average of picks between two answers.
const GAP_SHARE: f64 = 1.0 / 64.0;

/// For how many picks answers that came in a clump take reports out.
const CREDIT_PICKS: f64 = 4.0;

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
///
/// The paper's probes are always a multiple of its queries. Here a
/// [`Prober`](crate::Prober) bounds them: what leaves the pool, and how often a
/// report is used, then follows the answers that come, not the picks. (At the rate
/// of picks, 1,000 a second and 500 probes left nine picks of ten to chance.)
///
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
    /// What answers allow picks to take out, and what the picks made of it so far.
    credit: f64,
    removals: f64,
    removes_oldest: bool,
    /// Picks since the last answer, and between two answers on average.
    picks: f64,
    gap: f64,
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
            credit: 0.0,
            removals: 0.0,
            removes_oldest: true,
            picks: 0.0,
            gap: 0.0,
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
        // With fewer answers a pick, as many fewer are taken out.
        let answered = (self.gap * self.config.probes_per_pick).max(1.0);
        let wanted = ((1.0 + self.config.surplus) * answered / gain).max(1.0);
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
        self.gap += (self.picks - self.gap) * GAP_SHARE;
        self.picks = 0.0;
        let per_answer = self.config.removals_per_pick / self.config.probes_per_pick.max(1e-9);
        let most = self.config.removals_per_pick * CREDIT_PICKS;
        self.credit = (self.credit + per_answer).min(most);
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

    /// Takes a reply's load for the report of a host that is in the pool. It does
    /// not count for what is hot: replies come from hosts that were picked.
    fn renew(&mut self, now: Moment, slot: u32, load: Load) {
        let known = self.pool.iter_mut().flatten();
        for entry in known.filter(|one| one.slot == slot) {
            entry.in_flight = load.in_flight;
            entry.latency_us = load.latency_us;
            entry.at = now;
        }
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
        let taken = self.credit.min(self.config.removals_per_pick);
        self.credit -= taken;
        self.removals += taken;
        while self.removals >= 1.0 {
            self.removals -= 1.0;
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
        self.picks += 1.0;
        self.remove_some();
        Ok(pick)
    }

    fn report(&mut self, _: Moment, slot: u32, outcome: &Outcome) {
        if self.config.learns_from_replies && !outcome.load.is_reported() {
            for entry in self.pool.iter_mut().flatten() {
                let ended = u32::from(entry.slot == slot);
                entry.in_flight = entry.in_flight.saturating_sub(ended);
            }
        }
    }

    fn handle_load(&mut self, now: Moment, slot: u32, load: Load, is_probe: bool, rng: &mut Rng) {
        if is_probe {
            self.insert(now, slot, load, rng);
        } else if self.config.learns_from_replies {
            self.renew(now, slot, load);
        }
    }

    fn probes_per_pick(&self) -> f64 {
        self.config.probes_per_pick
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}
