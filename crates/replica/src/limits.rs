//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Largest payload of an entry, in bytes. A larger one is refused.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Longest key of a client, in bytes. A longer one is refused.
pub const CLIENT_KEY_BYTES_MAX: usize = 64;

/// Longest name of a site, in bytes. A longer one is refused.
pub const SITE_NAME_BYTES_MAX: usize = 64;

/// Most sites that a hub knows. One more is refused until one is forgotten.
pub const SITES_MAX: usize = 256;

/// Most publishes that wait for their entry to be durable. One more is refused
/// at once: the publisher may try again.
pub const PUBLISHES_PENDING_MAX: usize = 65_536;

/// Most bytes of payload that wait to be durable. What exceeds it is refused at
/// once. A single payload of [`PAYLOAD_BYTES_MAX`] always fits.
pub const PUBLISHES_PENDING_BYTES_MAX: usize = 256 << 20;

/// Most entries of one batch that is made durable together. The rest goes into
/// the next.
pub const BATCH_ENTRIES_MAX: usize = 4096;

/// Most bytes of payload in one batch, unless a single entry is larger.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// Most remembered keys of clients. The oldest is forgotten: what is published
/// again under a forgotten key becomes a new entry.
pub const KEYS_REMEMBERED_MAX: usize = 1 << 20;

/// Most marks that tell bytes and age of stretches of the log. At this bound
/// neighbours are merged, and figures get coarser.
pub const MARKS_MAX: usize = 8192;

/// Most joiners that one dump serves. One more waits for the next dump.
pub const JOINERS_OF_A_DUMP_MAX: usize = 16;

/// A dump that is open for longer serves no more joiners than it has: they get a
/// fresh one.
pub const DUMP_SHARED_FOR: Duration = Duration::from_secs(30);

/// Most snapshots that a donor holds open. One more is refused.
pub const SNAPSHOTS_OPEN_MAX: usize = 4;

/// Largest chunk of a snapshot, in bytes, as a donor is asked for; a single row
/// that is larger makes a larger chunk.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Most bytes of one chunk that a joiner accepts. A larger one ends the
/// connection.
pub const CHUNK_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + CHUNK_BYTES;

/// Longest cursor, in bytes. A longer one is refused.
pub const CURSOR_BYTES_MAX: usize = 16 << 10;

/// Most parked entries of a site. One more stops the site instead.
pub const PARKED_MAX: usize = 10_000;

/// How often a donor that may write holds still again for one dump, since a write came
/// in between all the same. Then its snapshot is taken as it is.
pub const DUMP_HOLDS_MAX: u32 = 8;

/// Captured changes that the log has not yet, from which on operators are told: they
/// stay in the copy's own database until the site may publish and the hub is there.
pub const UNPUBLISHED_TOLD: u64 = 10_000;

/// Longest text of an error that travels, in bytes. A longer one is cut.
pub const ERROR_BYTES_MAX: usize = 512;

/// Shortest lease of a site. A shorter wish is raised to it.
pub const LEASE_MIN: Duration = Duration::from_secs(2);
