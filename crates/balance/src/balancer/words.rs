//! What a balancer says.

use thiserror::Error;

use crate::explain::{Explanation, NoPick, Reason};
use crate::host::HostName;
use crate::limits::TIERS;

/// A pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The host.
    pub name: HostName,
    /// What decided.
    pub reason: Reason,
    /// How near it is.
    pub tier: u8,
    /// Whether so few hosts are available that all are used.
    pub is_panic: bool,
    /// Whether a nearer host was passed over for its load.
    pub is_spilled: bool,
    /// Choices that were discarded because the host warms up.
    pub discarded: u8,
}

/// A result for a host that is there no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("host {0} is gone")]
pub struct GoneHost(pub HostName);

/// Why a pick would go as it would, through all layers.
#[derive(Clone, Debug, PartialEq)]
pub struct FullExplanation {
    /// The choices, in order; the last one stands.
    pub choices: Vec<Explanation>,
    /// The share of calls that begins in each tier.
    pub tier_shares: [f64; TIERS],
    /// Hosts that serve, by what discovery and the table know.
    pub serving: usize,
    /// How many of them are suspect or ejected.
    pub unavailable: usize,
    /// What comes out.
    pub result: Result<Picked, NoPick>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalanceCounters {
    /// Picks by reason, in the order of [`Reason::ALL`].
    pub picks: [u64; Reason::ALL.len()],
    /// Picks without a result.
    pub no_picks: u64,
    /// Picks while too few hosts were available.
    pub panic_picks: u64,
    /// Picks of a farther host for the nearer one's load.
    pub spilled: u64,
    /// Hosts ejected.
    pub ejected: u64,
    /// Hosts that would have been, had not too many been out.
    pub not_ejected: u64,
    /// Results for hosts that were gone.
    pub stale_results: u64,
}
