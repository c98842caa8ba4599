//! A policy with everything around it.

mod config;
mod shared;
mod words;

use std::time::Duration;

use waystation_base::{Moment, Rng};
use waystation_membership::{InstanceId, Verdict, View};

use crate::ejection::{EjectChange, Ejection};
use crate::explain::{Explanation, NoPick, Pick, Trace};
use crate::host::{CallEnd, HostName, Hosts as _, Load, Outcome};
use crate::limits::{TIERS, WARM_UP_TRIES_MAX};
use crate::policy::{Candidates, Offer, Policy, WindowSeen};
use crate::prober::Prober;
use crate::table::{Merged, Table};
use crate::zones::{TierWeight, shares, tier_at};

pub use config::BalancerConfig;
pub use words::{BalanceCounters, FullExplanation, GoneHost, Picked};

/// How long a report tells a host's work for the spill-over.
const REPORT_RECENT: Duration = Duration::from_secs(1);

/// The hosts of a service, a policy, and what composes around it, in this
/// order: discovery's verdict → ejection with a largest share → panic → zones
/// with spill-over → the policy's choice → warm-up, which discards a choice of a
/// warming host in proportion.
///
/// So a host that is gone is never picked; ejection never takes more than its
/// share of those that serve; panic undoes ejection and suspicion, not what is
/// gone; zones see what is left; and warm-up holds for any policy, since it
/// acts on the choice.
///
/// Calling order: [`Balancer::handle_view`] first; [`Balancer::pick`], and for
/// each pick one [`Balancer::report`]; [`Balancer::poll_probe`] after a pick and
/// at [`Balancer::poll_timeout`], together with [`Balancer::handle_timeout`].
/// Cost of a pick: that of the policy, and about 10 ns; it does not allocate.
///
/// ```
/// use std::time::Duration;
/// use waystation_balance::{Balancer, BalancerConfig, CallEnd, Outcome, P2c};
/// use waystation_base::{Moment, ServiceName};
/// use waystation_membership::{Instance, InstanceId, Owner, View, ViewVersion};
///
/// let service = ServiceName::new("logic").unwrap();
/// let mut view = View::empty(service.clone(), ViewVersion::default());
/// for n in 1..=2 {
///     let id = InstanceId::new(&format!("logic-{n}")).unwrap();
///     let address = format!("10.0.0.{n}:7000").parse().unwrap();
///     let one = Instance::new(id.clone(), service.clone(), address, Owner::default());
///     view.instances.insert(id, one.into());
/// }
/// let now = Moment::from_millis(1);
/// let mut balancer = Balancer::new(BalancerConfig::default(), Box::new(P2c::default()), 7);
/// balancer.handle_view(now, &view);
///
/// let picked = balancer.pick(now, None).unwrap();
/// let outcome = Outcome::new(CallEnd::Ok, Duration::from_millis(3));
/// balancer.report(now + Duration::from_millis(3), picked.name, &outcome).unwrap();
/// assert_eq!(balancer.explain(now, None).choices[0].policy, "p2c");
/// ```
#[derive(Clone, Debug)]
pub struct Balancer {
    config: BalancerConfig,
    table: Table,
    policy: Box<dyn Policy<Table>>,
    ejection: Option<Ejection>,
    prober: Prober,
    /// Who may be picked, and who serves at all, for probes.
    candidates: Candidates,
    serving: [Vec<u32>; TIERS],
    tier_shares: [f64; TIERS],
    unavailable: usize,
    is_panic: bool,
    has_view: bool,
    rng: Rng,
    rebuilds: u64,
    counters: BalanceCounters,
}

impl Balancer {
    /// Without hosts. The same seed and inputs give the same picks.
    pub fn new(config: BalancerConfig, policy: Box<dyn Policy<Table>>, seed: u64) -> Self {
        let prober = Prober::new(config.prober, policy.probes_per_pick());
        Self {
            table: Table::new(config.averages, config.locality.clone()),
            ejection: config.ejection.map(Ejection::new),
            policy,
            prober,
            candidates: Candidates::default(),
            serving: Default::default(),
            tier_shares: [0.0; TIERS],
            unavailable: 0,
            is_panic: false,
            has_view: false,
            rng: Rng::from_seed(seed),
            rebuilds: 0,
            counters: BalanceCounters::default(),
            config,
        }
    }

    /// The service's hosts are these. Those of the first view are warm, for
    /// nobody knows how long they have served. Cost: O(hosts log hosts) and the
    /// policy's.
    pub fn handle_view(&mut self, now: Moment, view: &View) -> Merged {
        let merged = self.table.handle_view(view);
        for &name in &merged.removed {
            if let Some(ejection) = &mut self.ejection {
                ejection.handle_removed(name);
            }
        }
        for &name in &merged.added {
            if let Some(ejection) = &mut self.ejection {
                ejection.handle_added(now, name);
            }
            if self.has_view {
                self.table.set_warm_since(name.slot, now.max(Moment(1)));
            }
        }
        self.has_view |= !view.instances.is_empty();
        self.rebuild(now);
        merged
    }

    /// Discovery's verdict on an instance. Cost: O(hosts) when it changes.
    pub fn handle_verdict(&mut self, now: Moment, id: &InstanceId, verdict: Verdict) {
        if self.table.handle_verdict(id, verdict) {
            self.rebuild(now);
        }
    }

    /// The host for the next call, which counts as sent from here on: report
    /// its end. A call with a key goes where the key belongs if the policy knows
    /// affinity.
    ///
    /// # Errors
    /// [`NoPick`] says why there is none.
    #[inline]
    pub fn pick(&mut self, now: Moment, key: Option<u64>) -> Result<Picked, NoPick> {
        let result = self.choose(now, key, None);
        match result {
            Ok(picked) => {
                self.table.handle_sent(now, picked.name.slot);
                self.prober.handle_picked(now);
                self.counters.picks[picked.reason as usize] += 1;
                self.counters.panic_picks += u64::from(picked.is_panic);
                self.counters.spilled += u64::from(picked.is_spilled);
            }
            Err(_) => self.counters.no_picks += 1,
        }
        result
    }

    /// What [`Balancer::pick`] would return now, and why. Changes nothing; the
    /// next pick at the same moment goes as explained. Cost: a copy of it all.
    pub fn explain(&self, now: Moment, key: Option<u64>) -> FullExplanation {
        let mut copy = self.clone();
        let mut choices = Vec::new();
        let result = copy.choose(now, key, Some(&mut choices));
        FullExplanation {
            choices,
            tier_shares: self.tier_shares,
            serving: self.serving.iter().map(Vec::len).sum(),
            unavailable: self.unavailable,
            result,
        }
    }

    /// A call ended.
    ///
    /// # Errors
    /// [`GoneHost`] when its host is in the view no longer; the result is
    /// dropped and counted.
    pub fn report(
        &mut self,
        now: Moment,
        name: HostName,
        outcome: &Outcome,
    ) -> Result<(), GoneHost> {
        if !self.table.handle_outcome(now, name, outcome) {
            self.counters.stale_results += 1;
            return Err(GoneHost(name));
        }
        self.policy.report(now, name.slot, outcome);
        self.handle_told_load(now, name, outcome.load);
        if let Some(ejection) = &mut self.ejection {
            let change = ejection.handle_end(now, name, outcome.end);
            self.handle_ejection(now, name.slot, change);
        }
        Ok(())
    }

    /// A host to probe now; `None` when none is due. Call until then, and tell
    /// the answer to [`Balancer::handle_probe_answered`].
    pub fn poll_probe(&mut self, now: Moment) -> Option<HostName> {
        let tier = tier_at(&self.tier_shares, self.rng.next_f64())?;
        let slots = &self.serving[usize::from(tier)];
        self.prober
            .poll_probe(now, slots, self.table.names(), &mut self.rng)
    }

    /// A probe was answered with this load.
    pub fn handle_probe_answered(&mut self, now: Moment, name: HostName, load: Load) {
        self.prober.handle_answered(name);
        if !self.table.handle_load(now, name, load, true) {
            return;
        }
        self.policy
            .handle_load(now, name.slot, load, true, &mut self.rng);
        if let Some(ejection) = &mut self.ejection {
            let change = ejection.handle_answered(name);
            self.handle_ejection(now, name.slot, change);
        }
    }

    /// A probe found nobody. One that gets no answer needs no word: its time ends.
    pub fn handle_probe_refused(&mut self, now: Moment, name: HostName) {
        self.prober.handle_answered(name);
        self.count_failed_probe(now, name, true);
    }

    /// Time passed: windows end, ejected hosts return, late probes are over.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.policy.handle_timeout(now);
        while let Some(name) = self.prober.poll_unanswered(now) {
            self.count_failed_probe(now, name, false);
        }
        let Some(ejection) = &mut self.ejection else {
            return;
        };
        let mut changes = Vec::new();
        ejection.handle_timeout(now, |slot, change| changes.push((slot, change)));
        for (slot, change) in changes {
            self.handle_ejection(now, slot, change);
        }
    }

    /// When [`Balancer::handle_timeout`] and [`Balancer::poll_probe`] are due.
    pub fn poll_timeout(&self, now: Moment) -> Option<Moment> {
        let ejection = self.ejection.as_ref().and_then(Ejection::poll_timeout);
        [
            self.policy.poll_timeout(),
            ejection,
            self.prober.poll_timeout(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The hosts and what is known of them.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Who is ejected, if that is configured.
    pub const fn ejection(&self) -> Option<&Ejection> {
        self.ejection.as_ref()
    }

    /// Who may be picked.
    pub const fn candidates(&self) -> &Candidates {
        &self.candidates
    }

    /// Whether the policy holds the host in `slot` for overloaded.
    pub fn is_overloaded(&self, slot: u32) -> bool {
        self.policy.is_overloaded(slot)
    }

    /// What the policy counts of the host in `slot`, if it counts in windows.
    pub fn window(&self, now: Moment, slot: u32) -> Option<WindowSeen> {
        self.policy.window(now, slot)
    }

    /// Whether so few hosts are available that all are used.
    pub const fn is_panic(&self) -> bool {
        self.is_panic
    }

    /// What was counted.
    pub const fn counters(&self) -> &BalanceCounters {
        &self.counters
    }

    fn count_failed_probe(&mut self, now: Moment, name: HostName, is_refused: bool) {
        if !self.table.handle_probe_failed(now, name, is_refused) {
            return;
        }
        if let Some(ejection) = &mut self.ejection {
            let change = ejection.handle_end(now, name, CallEnd::Refused);
            self.handle_ejection(now, name.slot, change);
        }
    }

    fn handle_ejection(&mut self, now: Moment, slot: u32, change: EjectChange) {
        match change {
            EjectChange::None => {}
            EjectChange::NotEnforced(_) => self.counters.not_ejected += 1,
            EjectChange::Ejected(_) => {
                self.counters.ejected += 1;
                self.rebuild(now);
            }
            EjectChange::Returned => {
                self.table.set_warm_since(slot, now.max(Moment(1)));
                self.table.forget_failures(now, slot);
                self.rebuild(now);
            }
        }
    }

    /// Works out anew who may be picked.
    fn rebuild(&mut self, now: Moment) {
        self.rebuilds += 1;
        let is_out = |slot: u32| {
            let ejection = self.ejection.as_ref();
            ejection.is_some_and(|ejection| ejection.is_out(slot).is_some())
        };
        let mut weights = [TierWeight::default(); TIERS];
        self.serving.iter_mut().for_each(Vec::clear);
        let (mut serving, mut available) = (0_usize, 0_usize);
        let mut available_slots = vec![false; self.table.names().len()];
        for entry in self.table.entries().filter(|entry| entry.takes_calls()) {
            let slot = entry.name.slot;
            let tier = if self.config.zones.is_some() {
                usize::from(entry.tier)
            } else {
                0
            };
            self.serving[tier].push(slot);
            serving += 1;
            weights[tier].all += u64::from(entry.instance.weight);
            if entry.verdict == Verdict::Use && !is_out(slot) {
                available += 1;
                available_slots[slot as usize] = true;
                weights[tier].available += u64::from(entry.instance.weight);
            }
        }
        self.unavailable = serving - available;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of counts")]
        let share = available as f64 / serving.max(1) as f64;
        // Without any available host all are used, even when panic is off: a
        // suspect host is better than an error for certain.
        self.is_panic = serving > 0 && (share < self.config.panic_below || available == 0);
        self.candidates.clear();
        for (tier, slots) in (0_u8..).zip(&self.serving) {
            for &slot in slots {
                if self.is_panic || available_slots[slot as usize] {
                    self.candidates.push(slot, tier);
                }
            }
        }
        if self.is_panic {
            for tier in &mut weights {
                tier.available = tier.all;
            }
        }
        let overprovision = self.config.zones.map_or(1.0, |zones| zones.overprovision);
        self.tier_shares = shares(&weights, overprovision);
        self.policy
            .handle_candidates(now, &self.table, self.table.names(), &self.candidates);
    }

    fn choose(
        &mut self,
        now: Moment,
        key: Option<u64>,
        mut choices: Option<&mut Vec<Explanation>>,
    ) -> Result<Picked, NoPick> {
        let tier = self.draw_tier(key).ok_or(NoPick::NoHosts)?;
        let (pick, discarded) = self.choose_warm(now, key, tier, &mut choices)?;
        let mut picked = Picked {
            name: self.table.names()[pick.slot as usize],
            reason: pick.reason,
            tier,
            is_panic: self.is_panic,
            is_spilled: false,
            discarded,
        };
        if key.is_none()
            && let Some((far, far_tier)) = self.spill(now, pick, tier, &mut choices)
        {
            picked.name = self.table.names()[far.slot as usize];
            picked.reason = far.reason;
            picked.tier = far_tier;
            picked.is_spilled = true;
        }
        Ok(picked)
    }

    /// The tier of this call. A key always goes to the same one while the
    /// shares stay.
    fn draw_tier(&mut self, key: Option<u64>) -> Option<u8> {
        if self.tier_shares[0] >= 1.0 {
            return Some(0);
        }
        let at = match key {
            Some(key) => Rng::from_seed(key).next_f64(),
            None => self.rng.next_f64(),
        };
        tier_at(&self.tier_shares, at)
    }

    /// A choice within a tier, with the warm-up around it.
    fn choose_warm(
        &mut self,
        now: Moment,
        key: Option<u64>,
        tier: u8,
        choices: &mut Option<&mut Vec<Explanation>>,
    ) -> Result<(Pick, u8), NoPick> {
        let mut discarded = [0_u32; WARM_UP_TRIES_MAX as usize];
        let mut tries = 0;
        loop {
            let offer = Offer {
                now,
                hosts: &self.table,
                candidates: &self.candidates,
                tier,
                key,
                discarded: &discarded[..usize::from(tries)],
            };
            let pick = match choices {
                None => self
                    .policy
                    .choose(&offer, &mut self.rng, &mut Trace::off())?,
                Some(choices) => {
                    let mut explanation = Explanation {
                        policy: self.policy.name(),
                        candidates: offer.slots().len(),
                        ..Explanation::default()
                    };
                    let mut trace = Trace::into(&mut explanation);
                    let result = self.policy.choose(&offer, &mut self.rng, &mut trace);
                    explanation.result = Some(result);
                    choices.push(explanation);
                    result?
                }
            };
            let Some(warm_up) = &self.config.warm_up else {
                return Ok((pick, 0));
            };
            let since = self.table.host(pick.slot).warm_since;
            if since == Moment::ZERO || u32::from(tries) + 1 >= WARM_UP_TRIES_MAX {
                return Ok((pick, tries));
            }
            if self.rng.chance(warm_up.share(now, since)) {
                return Ok((pick, tries));
            }
            discarded[usize::from(tries)] = pick.slot;
            tries += 1;
        }
    }

    /// A host of the next tier, when the chosen one has far more to do.
    fn spill(
        &mut self,
        now: Moment,
        near: Pick,
        tier: u8,
        choices: &mut Option<&mut Vec<Explanation>>,
    ) -> Option<(Pick, u8)> {
        let zones = self.config.zones?;
        let near_load = self.work_on(now, near.slot);
        if near_load < zones.spill_from {
            return None;
        }
        let tiers = self.candidates.tiers.iter().enumerate();
        let next = tiers
            .skip(usize::from(tier) + 1)
            .find(|(_, slots)| !slots.is_empty());
        let far_tier = u8::try_from(next?.0).ok()?;
        let (far, _) = self.choose_warm(now, None, far_tier, choices).ok()?;
        let far_load = self.work_on(now, far.slot).saturating_add(1);
        (far_load.saturating_mul(zones.spill_ratio) <= near_load).then_some((far, far_tier))
    }

    /// Requests on a host, as far as known here: by its report while that is
    /// recent, and at least what was sent from here.
    fn work_on(&self, now: Moment, slot: u32) -> u32 {
        let host = self.table.host(slot);
        let reported = if host.is_reported(now, REPORT_RECENT) {
            host.in_flight_estimate()
        } else {
            0
        };
        reported.max(host.in_flight)
    }
}
