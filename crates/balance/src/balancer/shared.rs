//! For callers that pick elsewhere, in shared memory: what they need to know,
//! and what they did.

use waystation_base::Moment;

use super::Balancer;
use crate::host::{CallEnd, HostName, Hosts as _, Load, Outcome};
use crate::limits::TIERS;
use crate::policy::{Offer, P2c, Standing};

/// Of results that came together so many are told one by one; the rest only
/// ends. More would say no more, and cost a turn of its own.
const TOLD_MAX: u32 = 32;

impl Balancer {
    /// From now on the slot of a host that is gone is nobody's until it is released,
    /// for owners whose callers know hosts by their slots. [`Table::former`](crate::Table::former) tells
    /// whose it was.
    pub fn rest_slots(&mut self) {
        self.table.rest_slots();
    }

    /// A slot that rests may have another host.
    pub fn release(&mut self, slot: u32) {
        self.table.release(slot);
    }

    /// Calls were sent to `name` by somebody who picked on their own. Cost: O(1).
    pub fn handle_sent(&mut self, now: Moment, name: HostName, count: u32) {
        if self.table.entry(name).is_none() {
            self.counters.stale_results += u64::from(count);
            return;
        }
        for _ in 0..count.min(TOLD_MAX) {
            self.prober.handle_picked(now);
        }
        self.table.handle_sent_many(now, name.slot, count);
    }

    /// Calls to `name` ended alike. Cost: O(1).
    pub fn report_many(&mut self, now: Moment, name: HostName, outcome: &Outcome, count: u32) {
        for _ in 0..count.min(TOLD_MAX) {
            if self.report(now, name, outcome).is_err() {
                return;
            }
        }
        self.table
            .handle_ended(name, count.saturating_sub(TOLD_MAX));
    }

    /// Calls to `name` will have no end: who sent them is gone.
    pub fn handle_abandoned(&mut self, now: Moment, name: HostName, count: u32) {
        self.report_many(now, name, &Outcome::of(CallEnd::Cancelled), count);
    }

    /// A reply to somebody who picked on their own carried this load.
    pub fn handle_told_load(&mut self, now: Moment, name: HostName, load: Load) {
        if load.is_reported() && self.table.handle_load(now, name, load, false) {
            self.policy
                .handle_load(now, name.slot, load, false, &mut self.rng);
        }
    }

    /// How the hosts of `tier` stand that the policy would compare now; see
    /// [`Policy::standings`](crate::Policy::standings).
    pub fn standings(&self, now: Moment, tier: u8, out: &mut Vec<Standing>) {
        let offer = Offer {
            now,
            hosts: &self.table,
            candidates: &self.candidates,
            tier,
            key: None,
            discarded: &[],
        };
        self.policy.standings(&offer, out);
    }

    /// What a call to `slot` costs by what callers met, as in
    /// [`P2c::unit_cost`], and the calls in flight.
    pub fn local_standing(&self, now: Moment, slot: u32) -> (Option<f32>, u32) {
        let host = self.table.host(slot);
        (P2c::default().unit_cost(&host, now), host.in_flight)
    }

    /// The share of its calls that `slot` gets while it warms up; 1 for a warm
    /// one.
    pub fn warm_share(&self, now: Moment, slot: u32) -> f64 {
        let since = self.table.host(slot).warm_since;
        let warm_up = self.config.warm_up.as_ref();
        warm_up.map_or(1.0, |warm_up| warm_up.share(now, since))
    }

    /// The share of calls that begins in each tier.
    pub const fn tier_shares(&self) -> [f64; TIERS] {
        self.tier_shares
    }

    /// Requests on `slot` as the spill-over counts them.
    pub fn work(&self, now: Moment, slot: u32) -> u32 {
        self.work_on(now, slot)
    }

    /// From how much work on the near host a farther one is asked, and how many
    /// times as much that has to be; `None` without zones.
    pub fn spill_rule(&self) -> Option<(u32, u32)> {
        let zones = self.config.zones?;
        Some((zones.spill_from, zones.spill_ratio))
    }

    /// The name of the policy.
    pub fn policy_name(&self) -> &'static str {
        self.policy.name()
    }

    /// How often the candidates may have changed: a different number after any
    /// change of who may be picked.
    pub const fn candidates_version(&self) -> u64 {
        self.rebuilds
    }
}
