//! Which host next.
//!
//! A [`Balancer`] holds the hosts of one service as their view has them, a
//! [`Policy`] that chooses, and what composes around any policy: ejection with a
//! largest share, panic, zone preference with spill-over, and warm-up. Every
//! choice can be explained before it is made. Nothing here reads a clock, draws
//! the system's randomness or opens a socket; the same seed and inputs give the
//! same picks.
//!
//! | policy | chooses by | cost of a pick |
//! |---|---|---|
//! | [`Fresh`], the default | the load that hosts reported lately | O(1) |
//! | [`Prequal`] | the same, hot and cold | O(1) |
//! | [`P2c`] | what this caller met: latency, calls in flight, failures | O(1) |
//! | [`Lars`] | idle and overloaded hosts, as the agents of Lars do | O(1) |
//! | [`Weighted`] | turns by weight | O(heaviest / mean weight) |
//! | [`RoundRobin`] | turns | O(1) |
//! | [`Maglev`] | the call's key | O(1) |
//!
//! The default is the one that lost no comparison of `cargo xtask sim balance`;
//! its tables stand in `bench/results/balance-sim.md`.
//!
//! Policies read hosts through [`Hosts`]: a [`Table`] in the process, or records
//! in shared memory, one [`Host`] of 64 bytes each. A [`Meter`] measures the load
//! that a server reports, and a [`Prober`] decides whom to ask for it.
//!
//! What it leaves out: what hosts there are (`waystation-membership`), how
//! probes and calls travel, and retries.
//!
//! ```
//! use waystation_balance::{Balancer, BalancerConfig, PolicyKind};
//!
//! let kind: PolicyKind = "p2c".parse().unwrap();
//! let balancer = Balancer::new(BalancerConfig::default(), kind.build(7), 7);
//! assert!(balancer.table().is_empty());
//! assert_eq!(PolicyKind::default(), PolicyKind::Fresh);
//! ```

pub mod limits;

mod average;
mod balancer;
mod ejection;
mod explain;
mod host;
mod kind;
mod meter;
mod policy;
mod prober;
mod table;
mod warm_up;
mod zones;

pub use average::{fading, nanos, peak};
pub use balancer::{BalanceCounters, Balancer, BalancerConfig, FullExplanation, GoneHost, Picked};
pub use ejection::{EjectChange, EjectReason, Ejection, EjectionConfig};
pub use explain::{Considered, Explanation, NoPick, Pick, Reason, Trace};
pub use host::{CallEnd, Host, HostName, Hosts, Load, Outcome};
pub use kind::{PolicyKind, UnknownPolicy};
pub use meter::{BeganAt, Meter, MeterConfig};
pub use policy::{
    Candidates, Fresh, FreshConfig, Lars, LarsConfig, Maglev, NO_TIER, Offer, P2c, P2cConfig,
    Policy, Prequal, PrequalConfig, RoundRobin, Standing, Weighted, WindowSeen,
};
pub use prober::{Prober, ProberConfig};
pub use table::{AverageConfig, Entry, Locality, Merged, Table};
pub use warm_up::WarmUpConfig;
pub use zones::{TierWeight, ZoneConfig, shares, tier_at};
