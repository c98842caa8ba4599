//! The better of two.

use std::time::Duration;

use waystation_base::{Moment, Rng};

use crate::average::{fading, nanos};
use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{Host, HostName, Hosts};
use crate::policy::{Candidates, Offer, Policy, index_below};

/// Settings of [`P2c`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2cConfig {
    /// How long a latency is remembered. Default 10 s.
    pub tau: Duration,
    /// How long a failure is remembered. Default 2 s.
    pub error_tau: Duration,
    /// The latency assumed while no host ever answered. Default 30 ms.
    pub unknown: Duration,
    /// What a failure costs, as a time. Default 5 s.
    pub penalty: Duration,
}

impl Default for P2cConfig {
    fn default() -> Self {
        Self {
            tau: Duration::from_secs(10),
            error_tau: Duration::from_secs(2),
            unknown: Duration::from_millis(30),
            penalty: Duration::from_secs(5),
        }
    }
}

/// The better of two hosts drawn at random: peak average of the latency, times
/// the calls in flight, failures penalised, by weight.
///
/// After Michael Mitzenmacher, "The Power of Two Choices in Randomized Load
/// Balancing", IEEE TPDS 12, 2001, with the cost of Finagle's peak EWMA.
/// Differences: a failure adds its share times the penalty instead of counting
/// as one slow answer, so that a host which fails fast is not fast; and a host
/// that owes answers is at least as slow as it has been silent, so that a
/// stalled one is left before its first timeout. Cost of a pick: O(1).
#[derive(Clone, Debug, Default)]
pub struct P2c {
    config: P2cConfig,
}

impl P2c {
    /// With these settings.
    pub const fn new(config: P2cConfig) -> Self {
        Self { config }
    }

    /// What one more call to `host` costs, in nanoseconds for weight 1; `unknown`
    /// stands in for a latency that is not known.
    fn cost(&self, host: &Host, now: Moment, unknown: f32) -> f32 {
        let config = &self.config;
        let latency = self.latency(host, now).unwrap_or(unknown);
        let expected = latency.max(nanos(host.silence(now)))
            + host.errors_now(now, config.error_tau) * nanos(config.penalty);
        expected * count(host.in_flight.saturating_add(1)) / count(host.weight.max(1))
    }

    /// What a call to `host` costs while no other is on its way, in nanoseconds
    /// for weight 1: the cost is this times the calls in flight with the new one.
    /// `None` when it never answered and nothing speaks against it.
    pub fn unit_cost(&self, host: &Host, now: Moment) -> Option<f32> {
        let known = self.latency(host, now);
        let against = nanos(host.silence(now))
            + host.errors_now(now, self.config.error_tau) * nanos(self.config.penalty);
        if known.is_none() && against <= 0.0 {
            return None;
        }
        let idle = Host {
            in_flight: 0,
            ..*host
        };
        let latency = known.unwrap_or_else(|| nanos(self.config.unknown));
        let waited = nanos(host.silence(now)) - latency;
        let weight = count(host.weight.max(1));
        Some(self.cost(&idle, now, latency) + waited.max(0.0) / weight)
    }

    /// The latency of `host`, fading to nothing, so that a host which was slow
    /// once is tried again; `None` when it never answered.
    fn latency(&self, host: &Host, now: Moment) -> Option<f32> {
        let left = fading(now.saturating_since(host.latency_at), self.config.tau);
        (host.latency_ns > 0.0).then(|| (host.latency_ns * left).max(LATENCY_NS_MIN))
    }

    /// The costs of both. One that never answered counts as fast as the other:
    /// were it slower, it might never be tried, were it faster, it would get all.
    fn costs(&self, hosts: [&Host; 2], now: Moment) -> [f32; 2] {
        let known = hosts.map(|host| self.latency(host, now));
        let any = known[0].or(known[1]);
        let unknown = any.unwrap_or_else(|| nanos(self.config.unknown));
        hosts.map(|host| self.cost(host, now, unknown))
    }
}

/// Below it calls in flight alone decide.
const LATENCY_NS_MIN: f32 = 1000.0;

/// A count as a factor.
#[expect(
    clippy::cast_precision_loss,
    reason = "24 bits of a count are enough to compare costs"
)]
pub(super) const fn count(number: u32) -> f32 {
    number as f32
}

/// Two different places below `len`, which must be over 1.
fn two_of(rng: &mut Rng, len: usize) -> (usize, usize) {
    let first = index_below(rng, len);
    let second = index_below(rng, len - 1);
    (first, second + usize::from(second >= first))
}

impl<H: Hosts + ?Sized> Policy<H> for P2c {
    fn name(&self) -> &'static str {
        "p2c"
    }

    fn handle_candidates(&mut self, _: Moment, _: &H, _: &[HostName], _: &Candidates) {}

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        rng: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let slots = offer.slots();
        match slots {
            [] => Err(NoPick::NoHosts),
            &[slot] => {
                trace.consider(slot, None, "the only one");
                Ok(Pick {
                    slot,
                    reason: Reason::Only,
                })
            }
            _ => {
                let (first, second) = two_of(rng, slots.len());
                let drawn = [slots[first], slots[second]];
                let hosts = drawn.map(|slot| offer.hosts.host(slot));
                let costs = self.costs([&hosts[0], &hosts[1]], offer.now);
                for (slot, cost) in drawn.into_iter().zip(costs) {
                    trace.consider(slot, Some(cost.into()), "drawn");
                }
                Ok(Pick {
                    slot: drawn[usize::from(costs[1] < costs[0])],
                    reason: Reason::LowerOfTwo,
                })
            }
        }
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}
