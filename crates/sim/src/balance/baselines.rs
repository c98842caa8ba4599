//! The rules of others, to compare with: in their published form, without what
//! this project puts around a policy.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use waystation_balance::{
    CallEnd, Candidates, HostName, Hosts, Load, NoPick, Offer, Outcome, Pick, Policy, Reason,
    Table, Trace, fading, nanos, peak,
};
use waystation_base::{Moment, Rng};

/// What nobody knows in reality, or hears of seldom.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Requests on each host or on their way to it.
    pub(crate) outstanding: Vec<u32>,
    /// Processors, speed and whether it answers.
    pub(crate) hosts: Vec<(f64, f64)>,
    /// For weighted round robin: answers per processor second, smoothed.
    pub(crate) weights: Vec<f64>,
}

/// The truth, seen by all callers.
pub(crate) type SharedTruth = Arc<Mutex<Truth>>;

pub(crate) fn look(truth: &SharedTruth) -> MutexGuard<'_, Truth> {
    truth.lock().expect("one thread runs a world")
}

fn lowest(
    offer: &Offer<'_, Table>,
    rng: &mut Rng,
    mut cost: impl FnMut(u32) -> f64,
) -> Result<u32, NoPick> {
    let mut best: Option<(f64, u32)> = None;
    let mut equal = 0;
    for &slot in offer.slots() {
        let one = cost(slot);
        match best {
            Some((least, _)) if one > least => {}
            Some((least, _)) if one < least => (best, equal) = (Some((one, slot)), 1),
            // Of equals each one is as likely.
            Some(_) => {
                equal += 1;
                if rng.below(equal) == 0 {
                    best = Some((one, slot));
                }
            }
            None => (best, equal) = (Some((one, slot)), 1),
        }
    }
    best.map(|(_, slot)| slot).ok_or(NoPick::NoHosts)
}

fn picked(slot: u32) -> Pick {
    Pick {
        slot,
        reason: Reason::Turn,
    }
}

/// Number of the simulated host in `slot`: it stands in the address.
pub(crate) fn host_number(table: &Table, slot: u32) -> usize {
    let entry = table.entry_at(slot).expect("a candidate is in the table");
    match &entry.instance.address {
        waystation_membership::Address::V4(address) => usize::from(address.port()) - 10_000,
        _ => unreachable!("hosts have IPv4 addresses"),
    }
}

macro_rules! common {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn handle_candidates(&mut self, _: Moment, _: &Table, _: &[HostName], _: &Candidates) {}

        fn boxed(&self) -> Box<dyn Policy<Table>> {
            Box::new(self.clone())
        }
    };
}

/// Knows all: the host on which the next request is served fastest.
#[derive(Clone, Debug)]
pub(crate) struct Oracle(pub(crate) SharedTruth);

impl Policy<Table> for Oracle {
    common!("oracle");

    fn choose(
        &mut self,
        offer: &Offer<'_, Table>,
        rng: &mut Rng,
        _: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let truth = look(&self.0);
        let slot = lowest(offer, rng, |slot| {
            let number = host_number(offer.hosts, slot);
            let (processors, speed) = truth.hosts[number];
            let count = f64::from(truth.outstanding[number] + 1);
            let share = (processors / count).min(1.0) * speed;
            if share > 0.0 { 1.0 / share } else { f64::MAX }
        })?;
        Ok(picked(slot))
    }
}

/// Weighted round robin as gRPC's A58: a host's weight is its answers a second
/// against its utilisation, as all callers learn it once a second.
#[derive(Clone, Debug)]
pub(crate) struct WeightedByUse {
    pub(crate) truth: SharedTruth,
    pub(crate) credit: Vec<f64>,
}

impl Policy<Table> for WeightedByUse {
    common!("weighted-rr");

    fn choose(
        &mut self,
        offer: &Offer<'_, Table>,
        rng: &mut Rng,
        _: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let truth = look(&self.truth);
        if self.credit.len() < truth.weights.len() {
            // Spread over a whole cycle, so that callers do not walk in step.
            let cycle: f64 = truth.weights.iter().sum();
            let start = || rng.next_f64() * cycle;
            self.credit.resize_with(truth.weights.len(), start);
        }
        let mut total = 0.0;
        for &slot in offer.slots() {
            let number = host_number(offer.hosts, slot);
            let weight = truth.weights[number];
            self.credit[number] += weight;
            total += weight;
        }
        let credit = &mut self.credit;
        let slot = lowest(offer, rng, |slot| -credit[host_number(offer.hosts, slot)])?;
        credit[host_number(offer.hosts, slot)] -= total;
        Ok(picked(slot))
    }
}

/// The host to which this caller has the fewest calls in flight.
#[derive(Clone, Debug)]
pub(crate) struct LeastLoaded;

impl Policy<Table> for LeastLoaded {
    common!("least-loaded");

    fn choose(
        &mut self,
        offer: &Offer<'_, Table>,
        rng: &mut Rng,
        _: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let slot = lowest(offer, rng, |slot| offer.hosts.host(slot).in_flight.into())?;
        Ok(picked(slot))
    }
}

/// Of two random hosts the one with fewer calls of this caller in flight.
#[derive(Clone, Debug)]
pub(crate) struct PlainP2c;

impl Policy<Table> for PlainP2c {
    common!("p2c");

    fn choose(
        &mut self,
        offer: &Offer<'_, Table>,
        rng: &mut Rng,
        _: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let pair = two(offer, rng)?;
        let [a, b] = pair.map(|slot| offer.hosts.host(slot).in_flight);
        Ok(picked(pair[usize::from(b < a)]))
    }
}

fn two(offer: &Offer<'_, Table>, rng: &mut Rng) -> Result<[u32; 2], NoPick> {
    let a = *rng.pick(offer.slots()).ok_or(NoPick::NoHosts)?;
    let mut b = a;
    while offer.slots().len() > 1 && b == a {
        b = *rng.pick(offer.slots()).expect("it is not empty");
    }
    Ok([a, b])
}

/// Finagle's and linkerd's: of two random hosts the lower peak average times
/// calls in flight; a failure counts as 5 s.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeakEwma {
    averages: Vec<(f32, Moment)>,
}

impl Policy<Table> for PeakEwma {
    common!("peak-ewma");

    fn choose(
        &mut self,
        offer: &Offer<'_, Table>,
        rng: &mut Rng,
        _: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let pair = two(offer, rng)?;
        let [a, b] = pair.map(|slot| {
            let known = self.averages.get(slot as usize).copied();
            let (value, at) = known.unwrap_or((30e6, offer.now));
            let left = fading(offer.now.saturating_since(at), Duration::from_secs(10));
            f64::from(value * left) * f64::from(offer.hosts.host(slot).in_flight + 1)
        });
        Ok(picked(pair[usize::from(b < a)]))
    }

    fn report(&mut self, now: Moment, slot: u32, outcome: &Outcome) {
        let at = slot as usize;
        if self.averages.len() <= at {
            self.averages.resize(at + 1, (30e6, now));
        }
        let (value, then) = self.averages[at];
        let kept = fading(now.saturating_since(then), Duration::from_secs(10));
        let sample = match outcome.end {
            CallEnd::Ok => outcome.latency.map_or(value, nanos),
            _ => 5e9,
        };
        self.averages[at] = (peak(value, sample, kept), now);
    }
}

/// C3's score over all hosts, from what replies report (Suresh et al., NSDI
/// 2015, section 3.1), or over a pool of probes like Prequal's.
#[derive(Clone, Debug, Default)]
pub(crate) struct C3 {
    callers: u32,
    is_probed: bool,
    hosts: Vec<C3Host>,
}

#[derive(Clone, Copy, Debug, Default)]
struct C3Host {
    response_ns: f64,
    service_ns: f64,
    queue: f64,
}

const C3_NEW: f64 = 0.1;

impl C3 {
    pub(crate) fn new(callers: u32, is_probed: bool) -> Self {
        Self {
            callers,
            is_probed,
            hosts: Vec::new(),
        }
    }

    fn host_mut(&mut self, slot: u32) -> &mut C3Host {
        let at = slot as usize;
        if self.hosts.len() <= at {
            self.hosts.resize(at + 1, C3Host::default());
        }
        &mut self.hosts[at]
    }

    fn score(&self, hosts: &Table, slot: u32) -> f64 {
        let host = hosts.host(slot);
        let known = self.hosts.get(slot as usize).copied().unwrap_or_default();
        if self.is_probed {
            let queue =
                1.0 + f64::from(host.in_flight * self.callers) + f64::from(host.load.in_flight);
            let service = f64::from(host.load.latency_us.max(1));
            return service * queue.powi(3);
        }
        let queue = 1.0 + f64::from(host.in_flight * self.callers) + known.queue;
        known.response_ns - known.service_ns + queue.powi(3) * known.service_ns
    }
}

impl Policy<Table> for C3 {
    fn name(&self) -> &'static str {
        if self.is_probed { "c3-probed" } else { "c3" }
    }

    fn handle_candidates(&mut self, _: Moment, _: &Table, _: &[HostName], _: &Candidates) {}

    fn boxed(&self) -> Box<dyn Policy<Table>> {
        Box::new(self.clone())
    }

    fn choose(
        &mut self,
        offer: &Offer<'_, Table>,
        rng: &mut Rng,
        _: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        if !self.is_probed {
            let slot = lowest(offer, rng, |slot| self.score(offer.hosts, slot))?;
            return Ok(picked(slot));
        }
        let fresh = offer.hosts.recent().iter().copied().filter(|&slot| {
            offer.has(slot)
                && offer
                    .hosts
                    .host(slot)
                    .is_reported(offer.now, Duration::from_secs(1))
        });
        let best = fresh
            .map(|slot| (self.score(offer.hosts, slot), slot))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((_, slot)) => Ok(picked(slot)),
            None => Ok(picked(*rng.pick(offer.slots()).ok_or(NoPick::NoHosts)?)),
        }
    }

    fn report(&mut self, _: Moment, slot: u32, outcome: &Outcome) {
        if let Some(latency) = outcome.latency {
            let host = self.host_mut(slot);
            let sample = latency.as_secs_f64() * 1e9;
            host.response_ns += (sample - host.response_ns) * C3_NEW;
        }
    }

    /// Service time: what a request would take alone on the host, by its report.
    fn handle_load(&mut self, _: Moment, slot: u32, load: Load, _: bool, _: &mut Rng) {
        let host = self.host_mut(slot);
        let queue = f64::from(load.in_flight);
        let service = f64::from(load.latency_us) * 1e3 / (queue + 1.0);
        host.queue += (queue - host.queue) * C3_NEW;
        host.service_ns += (service - host.service_ns) * C3_NEW;
    }

    fn probes_per_pick(&self) -> f64 {
        if self.is_probed { 3.0 } else { 0.0 }
    }
}
