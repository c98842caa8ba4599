//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// For how long the end of a call says something of its host. Then nobody is
/// known to have called it.
pub const CALLERS_WINDOW: Duration = Duration::from_secs(10);

/// Failures in a row after which callers are said to fail at a host.
pub const CALLERS_FAILURES: u32 = 3;

/// Most hosts that one segment holds. A service with more is refused when its
/// segment is made, and its callers ask the agent instead.
pub const HOSTS_MAX: u32 = 65_536;

/// Hosts of a tier in the pool that picks compare. The rest of what a policy
/// would compare is left out.
pub const POOL_MAX: usize = if cfg!(loom) { 1 } else { 16 };

/// Hosts of a service at Unix sockets. The rest is left out of the segment and
/// counted: they are all on this one machine.
pub const PATHS_MAX: usize = if cfg!(loom) { 1 } else { 64 };

/// How often a reader that was overtaken by the writer tries again; then it
/// gives up, and its caller falls back.
pub const RETRIES_MAX: u32 = 64;

/// How often a pick is made anew because its host left meanwhile.
pub const PICKS_MAX: u32 = 4;

/// Choices of one pick that may be discarded to spare hosts that warm up; the
/// last one stands.
pub const WARM_UP_TRIES_MAX: u32 = waystation_balance::limits::WARM_UP_TRIES_MAX;

/// Most ledgers of one service's callers. One more is refused, and its caller
/// asks the agent.
pub const LEDGERS_MAX: usize = 256;

/// Most calls of a kind that one ledger may add between two looks at it. More is
/// no count of calls; the rest is dropped and counted.
pub const CALLS_PER_LOOK_MAX: u64 = 1 << 20;

/// Hosts whose word is renewed in a turn although nothing happened there, since
/// costs fade with time.
pub const SWEEP_MAX: u32 = 16;
