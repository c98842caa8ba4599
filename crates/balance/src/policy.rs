//! The trait of all policies.

mod fresh;
mod lars;
mod maglev;
mod p2c;
mod prequal;
mod round_robin;
mod weighted;

use std::fmt::Debug;
use std::time::Duration;

use waystation_base::{Moment, Rng};

use crate::explain::{Explanation, NoPick, Pick, Trace};
use crate::host::{HostName, Hosts, Load, Outcome};
use crate::limits::TIERS;

pub use fresh::{Fresh, FreshConfig};
pub use lars::{Lars, LarsConfig};
pub use maglev::Maglev;
pub use p2c::{P2c, P2cConfig};
pub use prequal::{Prequal, PrequalConfig};
pub use round_robin::RoundRobin;
pub use weighted::Weighted;

/// No tier: the host is no candidate.
pub const NO_TIER: u8 = u8::MAX;

/// The hosts that may be picked, by tier.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// The slots of each tier, ascending.
    pub tiers: [Vec<u32>; TIERS],
    /// The tier of each slot, [`NO_TIER`] for one that is no candidate.
    pub tier_of: Vec<u8>,
}

impl Candidates {
    /// All of `slots` in the nearest tier.
    pub fn of(slots: impl IntoIterator<Item = u32>) -> Self {
        let mut all = Self::default();
        for slot in slots {
            all.push(slot, 0);
        }
        all
    }

    /// Adds `slot`, which must be above all others of its tier.
    pub fn push(&mut self, slot: u32, tier: u8) {
        let at = slot as usize;
        if self.tier_of.len() <= at {
            self.tier_of.resize(at + 1, NO_TIER);
        }
        self.tier_of[at] = tier;
        self.tiers[usize::from(tier)].push(slot);
    }

    /// Takes all out and keeps the memory.
    pub fn clear(&mut self) {
        self.tiers.iter_mut().for_each(Vec::clear);
        self.tier_of.clear();
    }

    /// The tier of `slot`, [`NO_TIER`] for one that is no candidate.
    #[inline]
    pub fn tier(&self, slot: u32) -> u8 {
        self.tier_of.get(slot as usize).copied().unwrap_or(NO_TIER)
    }
}

/// What a policy chooses from.
#[derive(Debug)]
pub struct Offer<'a, H: ?Sized> {
    /// The present.
    pub now: Moment,
    /// The hosts.
    pub hosts: &'a H,
    /// The candidates.
    pub candidates: &'a Candidates,
    /// The tier to choose in.
    pub tier: u8,
    /// What the call is about, for affinity.
    pub key: Option<u64>,
    /// What was chosen before for the same pick and discarded, because it warms
    /// up. A policy that ranks leaves these out while it has others.
    pub discarded: &'a [u32],
}

impl<H: ?Sized> Offer<'_, H> {
    /// The slots to choose from.
    #[inline]
    pub fn slots(&self) -> &[u32] {
        &self.candidates.tiers[usize::from(self.tier)]
    }

    /// Whether `slot` is one of [`Offer::slots`]. Cost: O(1).
    #[inline]
    pub fn has(&self, slot: u32) -> bool {
        self.candidates.tier(slot) == self.tier
    }
}

/// How a host stands in a comparison: the lowest `unit` × `level`³ is picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The host.
    pub slot: u32,
    /// Its latency with what failures add, by weight.
    pub unit: f32,
    /// Requests on it with the one to be sent.
    pub level: f32,
    /// How much a call that is sent adds to `level`.
    pub step: f32,
}

impl Standing {
    /// What is compared.
    #[inline]
    pub fn cost(&self) -> f32 {
        self.unit * self.level * self.level * self.level
    }
}

/// What a policy counts of a host in the present window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSeen {
    /// Whether it counts as overloaded.
    pub is_overloaded: bool,
    /// Successes.
    pub ok: u32,
    /// Errors.
    pub failed: u32,
    /// Errors since the last success.
    pub failed_in_a_row: u32,
    /// Until the window ends.
    pub left: Duration,
}

/// A way to choose a host.
///
/// Calling order: [`Policy::handle_candidates`] at first and whenever the
/// candidates change, then [`Policy::choose`] and [`Policy::report`] as calls
/// come and go, [`Policy::handle_timeout`] at [`Policy::poll_timeout`] or later.
/// No choice allocates.
pub trait Policy<H: Hosts + ?Sized>: Debug + Send {
    /// Its name in configurations and reports.
    fn name(&self) -> &'static str;

    /// The candidates changed: hosts came or went, or their weights, verdicts or
    /// warmth did. `names` has the present name of each slot. Cost: O(hosts)
    /// and more where the policy says so.
    fn handle_candidates(
        &mut self,
        now: Moment,
        hosts: &H,
        names: &[HostName],
        candidates: &Candidates,
    );

    /// Chooses one of the offered slots and tells `trace` why.
    ///
    /// # Errors
    /// [`NoPick::NoHosts`] when there is none, or as the policy says.
    fn choose(
        &mut self,
        offer: &Offer<'_, H>,
        rng: &mut Rng,
        trace: &mut Trace<'_>,
    ) -> Result<Pick, NoPick>;

    /// A call to `slot` ended.
    fn report(&mut self, _now: Moment, _slot: u32, _outcome: &Outcome) {}

    /// A report of `slot`'s load came, with a reply or to a probe.
    fn handle_load(
        &mut self,
        _now: Moment,
        _slot: u32,
        _load: Load,
        _is_probe: bool,
        _rng: &mut Rng,
    ) {
    }

    /// Time passed.
    fn handle_timeout(&mut self, _now: Moment) {}

    /// When [`Policy::handle_timeout`] is due; `None` when it is not needed.
    fn poll_timeout(&self) -> Option<Moment> {
        None
    }

    /// Whether the policy itself holds the host in `slot` for overloaded. Most
    /// have no such word.
    fn is_overloaded(&self, _slot: u32) -> bool {
        false
    }

    /// What the policy counts of the host in `slot`, if it counts in windows.
    fn window(&self, _now: Moment, _slot: u32) -> Option<WindowSeen> {
        None
    }

    /// How many hosts to probe for each pick, on average.
    fn probes_per_pick(&self) -> f64 {
        0.0
    }

    /// What a caller elsewhere needs to choose as [`Policy::choose`] does for a
    /// while: the hosts that would be compared, as they stand now. Nothing when
    /// the policy has no news, or chooses otherwise. Cost: as a choice.
    fn standings(&self, _offer: &Offer<'_, H>, _out: &mut Vec<Standing>) {}

    /// A copy.
    fn boxed(&self) -> Box<dyn Policy<H>>;

    /// What [`Policy::choose`] would do now with `rng` in this state, and why.
    /// Changes nothing. Cost: a copy of the policy; allocates.
    fn explain(&self, offer: &Offer<'_, H>, rng: &Rng) -> Explanation {
        let mut explanation = Explanation {
            policy: self.name(),
            candidates: offer.slots().len(),
            ..Explanation::default()
        };
        let mut trace = Trace::into(&mut explanation);
        let result = self.boxed().choose(offer, &mut rng.clone(), &mut trace);
        explanation.result = Some(result);
        explanation
    }
}

impl<H: Hosts + ?Sized> Clone for Box<dyn Policy<H>> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

/// An index below `len`, each equally likely.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the result is below a usize"
)]
fn index_below(rng: &mut Rng, len: usize) -> usize {
    rng.below(len as u64) as usize
}
