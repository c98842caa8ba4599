//! In turn, by weight.

use waystation_base::{Moment, Rng};

use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{HostName, Hosts};
use crate::limits::TIERS;
use crate::policy::{Candidates, Offer, Policy};

/// Steps of a host's stride, and so of its weight against the heaviest.
const STRIDE: u64 = 1 << 16;

/// Each host as often as its weight says, evenly spread.
///
/// The static stride scheduler of gRPC's proposal A58: a walk over all hosts,
/// round after round; in each round a host passes in proportion to its weight
/// against the heaviest, at points of its own. It needs one counter and no
/// queue. Cost of a pick: O(heaviest / mean weight) on average, at most the
/// number of hosts when all weights but one are tiny.
#[derive(Clone, Debug, Default)]
pub struct Weighted {
    turns: [u64; TIERS],
    heaviest: [u32; TIERS],
    offset: u64,
}

impl Weighted {
    /// Begins at a place of its own for each `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            offset: Rng::from_seed(seed).next_u64() >> 16,
            ..Self::default()
        }
    }
}

impl<H: Hosts + ?Sized> Policy<H> for Weighted {
    fn name(&self) -> &'static str {
        "weighted"
    }

    fn handle_candidates(&mut self, _: Moment, hosts: &H, _: &[HostName], candidates: &Candidates) {
        for (tier, slots) in candidates.tiers.iter().enumerate() {
            let weights = slots.iter().map(|&slot| hosts.host(slot).weight);
            self.heaviest[tier] = weights.max().unwrap_or(0);
        }
    }

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        _: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let slots = offer.slots();
        let tier = usize::from(offer.tier);
        let hosts_count = slots.len() as u64;
        if hosts_count == 0 {
            return Err(NoPick::NoHosts);
        }
        let heaviest = u64::from(self.heaviest[tier].max(1));
        let mut tries = 0;
        loop {
            let turn = self.offset.wrapping_add(self.turns[tier]);
            self.turns[tier] += 1;
            tries += 1;
            #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
            let slot = slots[(turn % hosts_count) as usize];
            let round = turn / hosts_count;
            let weight = u64::from(offer.hosts.host(slot).weight).min(heaviest);
            let passes = does_pass(round, slot, weight * STRIDE / heaviest);
            // The heaviest passes in every round, so that the second round ends
            // the walk at the latest; the bound guards a weight that shrank.
            if passes || tries > 2 * hosts_count {
                trace.consider(slot, None, "its turn by weight");
                return Ok(Pick {
                    slot,
                    reason: Reason::WeightedTurn,
                });
            }
            trace.consider(slot, None, "passed over by weight");
        }
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}

/// Whether a host of this stride is served in this round: `stride` out of
/// [`STRIDE`] rounds are, evenly spread, shifted by slot.
fn does_pass(round: u64, slot: u32, stride: u64) -> bool {
    let shift = (u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 48;
    let position = (round.wrapping_mul(stride).wrapping_add(shift)) % STRIDE;
    position + stride >= STRIDE
}
