//! In turn.

use waystation_base::{Moment, Rng};

use crate::explain::{NoPick, Pick, Reason, Trace};
use crate::host::{HostName, Hosts};
use crate::limits::TIERS;
use crate::policy::{Candidates, Offer, Policy};

/// Each host in turn, whatever its weight or load. Cost of a pick: O(1).
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    /// Picks in each tier so far.
    turns: [u64; TIERS],
    /// Added to the turn, so that callers that start together do not walk in
    /// step.
    offset: u64,
}

impl RoundRobin {
    /// Begins at a place of its own for each `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            turns: [0; TIERS],
            offset: Rng::from_seed(seed).next_u64() >> 1,
        }
    }
}

impl<H: Hosts + ?Sized> Policy<H> for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn handle_candidates(&mut self, _: Moment, _: &H, _: &[HostName], _: &Candidates) {}

    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        _: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick> {
        let slots = offer.slots();
        if slots.is_empty() {
            return Err(NoPick::NoHosts);
        }
        let turn = &mut self.turns[usize::from(offer.tier)];
        #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
        let at = ((self.offset + *turn) % slots.len() as u64) as usize;
        *turn += 1;
        trace.consider(slots[at], None, "next in turn");
        Ok(Pick {
            slot: slots[at],
            reason: Reason::Turn,
        })
    }

    fn boxed(&self) -> Box<dyn Policy<H>> {
        Box::new(self.clone())
    }
}
