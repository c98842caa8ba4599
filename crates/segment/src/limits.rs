//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// For how long the end of a call says something of its host. Then nobody is
/// known to have called it.
pub const CALLERS_WINDOW: Duration = Duration::from_secs(10);

/// Failures in a row after which callers are said to fail at a host.
pub const CALLERS_FAILURES: u32 = 3;

/// Most hosts that one segment holds. Of a service with more the rest is left out
/// and counted. Slots of hosts that left and rest count as well while there is
/// room; then the oldest of these are used again.
pub const HOSTS_MAX: u32 = 65_536;

/// For how long the slot of a host that left is nobody's, at least; and how long it
/// is until it is looked at again while calls are in flight to that host.
pub const SLOT_REST: Duration = crate::picker::STALE_AFTER;

/// After so long a slot is used again although calls to its last host are in
/// flight. Their ends count as given up.
pub const SLOT_REST_MAX: Duration = Duration::from_mins(10);

/// Records that are looked at in one turn to find slots that may be used again. The
/// rest waits for the next one.
pub const REST_LOOKS_MAX: usize = 256;

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

/// Most calls of a kind that one ledger may add between two looks at a host. Half of
/// what the narrowest counter holds: more is no count of calls, and the rest is
/// dropped and counted.
pub const CALLS_PER_LOOK_MAX: u64 = 1 << 23;

/// Hosts whose word is renewed in a turn although nothing happened there, since
/// costs fade with time.
pub const SWEEP_MAX: u32 = 16;
