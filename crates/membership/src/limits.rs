//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Longest instance id, in bytes. A longer one is refused.
pub const INSTANCE_ID_BYTES_MAX: usize = 128;

/// Longest site, zone or software version, in bytes. A longer one is refused.
pub const LABEL_BYTES_MAX: usize = 64;

/// Longest path of a Unix socket, in bytes: what Linux takes without its final
/// zero. A longer one is refused.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Most metadata entries of an instance. More are refused.
pub const METADATA_ENTRIES_MAX: usize = 32;

/// Most bytes of all metadata keys and values of an instance. More are refused.
pub const METADATA_BYTES_MAX: usize = 4096;

/// Highest weight of an instance. A higher one is refused.
pub const WEIGHT_MAX: u32 = 10_000;

/// Shortest lease. A shorter wish is raised to it: sessions under 2 s lose nodes
/// on cuts that heal (measured on `ZooKeeper`).
pub const TTL_MIN: Duration = Duration::from_secs(2);

/// Longest lease. A longer wish is lowered to it, since a dead node stays
/// visible for that long.
pub const TTL_MAX: Duration = Duration::from_mins(5);

/// Most leases, and so instances, of one directory. One more is refused.
pub const LEASES_MAX: usize = 100_000;

/// Most services of one directory, watched ones without instances included. One
/// more is refused.
pub const SERVICES_MAX: usize = 100_000;

/// Most subscribers of one directory. One more is refused. An agent has one for
/// each service that its machine uses.
pub const SUBSCRIBERS_MAX: usize = 200_000;

/// Most watches of one subscriber. One more is refused.
pub const WATCHES_MAX: usize = 256;

/// Most pushes to one subscriber for one service that are not acknowledged. At
/// this bound nothing more is sent, until half of them are acknowledged: that
/// brings the whole view.
pub const PUSHES_UNACKED_MAX: usize = 16;

/// Most remembered ids of drained instances. The oldest is forgotten.
pub const DRAINED_REMEMBERED_MAX: usize = 1024;

/// How far ahead of a directory a peer's claim of an epoch is believed. A claim
/// beyond it is ignored and told.
pub const EPOCH_JUMP_MAX: u64 = 1 << 20;

/// Bits of a fencing token that count within an epoch; the rest is the epoch.
pub const TOKEN_COUNTER_BITS: u32 = 40;

/// Where the numbers of an epoch begin at most. What is left of the counter lasts
/// for 2³⁹ grants.
pub const NUMBERS_BASE_MAX: u64 = 1 << (TOKEN_COUNTER_BITS - 1);

/// Most services that one follower holds. Views of further ones are dropped and
/// told.
pub const FOLLOWED_SERVICES_MAX: usize = 100_000;

/// Most instances in one view. A source that sends more is told to be at fault,
/// and its view is dropped.
pub const VIEW_INSTANCES_MAX: usize = LEASES_MAX;
