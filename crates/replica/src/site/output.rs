//! What goes into a site and comes out of it.

use std::sync::Arc;
use std::time::Duration;

use waystation_base::{BackoffConfig, FencingToken, Seq, SiteId};

use super::applier::{ApplierConfig, ApplyBatch};
use super::joiner::{JoinerConfig, StoreChunk};
use crate::entry::{SnapshotSize, Touches, TouchesOf};
use crate::ids::{Cursor, LifeId, Position, SiteName, SnapshotId};
use crate::message::{ApplyState, Holding, JoinError, PublishRefusal, Refusal, ToHub, Violation};

/// How a site behaves.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// Its name.
    pub name: SiteName,
    /// Its zone: donors of the same zone are near. Default empty.
    pub zone: Arc<str>,
    /// Whether its target has rows, so that it can be a donor for others that have.
    /// Default true.
    pub has_rows: bool,
    /// How it applies.
    pub applier: ApplierConfig,
    /// How it joins.
    pub joiner: JoinerConfig,
    /// What an entry touches, for entries that are parked. Default: anything.
    pub touches: TouchesOf,
    /// Most bytes a second of snapshots for others; none for no bound. Default
    /// none.
    pub donor_bytes_per_second: Option<u64>,
    /// Time between two heartbeats. Default 500 ms.
    pub heartbeat_every: Duration,
    /// A hub that says nothing for so long is lost. Default 5 s.
    pub silence_max: Duration,
    /// How attempts to connect are spaced.
    pub reconnect: BackoffConfig,
}

impl SiteConfig {
    /// The defaults for a site of this name.
    pub fn new(name: SiteName) -> Self {
        Self {
            name,
            zone: "".into(),
            has_rows: true,
            applier: ApplierConfig::default(),
            joiner: JoinerConfig::default(),
            touches: TouchesOf::default(),
            donor_bytes_per_second: None,
            heartbeat_every: Duration::from_millis(500),
            silence_max: Duration::from_secs(5),
            reconnect: BackoffConfig::default(),
        }
    }
}

/// What a copy says of itself when its site starts.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Its life.
    pub life: LifeId,
    /// What it holds.
    pub holding: Holding,
    /// Its parked entries, and what they touch.
    pub parked: Vec<(Seq, Touches)>,
    /// Whether an entry was skipped and not repaired.
    pub is_differing: bool,
    /// Whether writes to it are captured: entries of its own are in it already.
    pub is_captured: bool,
    /// The number of the last captured write that has one; 0 if none has.
    pub captured: u64,
}

/// What a site wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteOutput {
    /// Connect to the hub, then call `handle_connected`, or
    /// `handle_disconnected` if that fails.
    Connect,
    /// Close the connection. Nothing of it may come in any more.
    Disconnect,
    /// Send this, in order.
    Send(ToHub),
    /// Apply this in one transaction with its position; answer with
    /// `handle_applied` or `handle_apply_failed`.
    Apply(ApplyBatch),
    /// Restore this in one transaction with what the copy then holds; answer with
    /// `handle_stored` or `handle_store_failed`.
    Store(StoreChunk),
    /// Keep others from writing until all that they wrote is published, and on until
    /// this snapshot is opened, closed, or not wanted in time; answer with
    /// `handle_snapshot_prepared`, once it is so or cannot be.
    PrepareSnapshot {
        /// Its name.
        snapshot: SnapshotId,
    },
    /// Open a snapshot; answer with `handle_snapshot_opened` or
    /// `handle_snapshot_failed`.
    OpenSnapshot {
        /// Its name.
        snapshot: SnapshotId,
    },
    /// Read a chunk; answer with `handle_chunk_read` or
    /// `handle_snapshot_failed`.
    ReadChunk {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// For whom.
        joiner: SiteId,
        /// Its index.
        index: u64,
        /// Its first key at the earliest.
        from: Cursor,
        /// Most bytes, unless its first row is larger.
        bytes_max: usize,
    },
    /// Close a snapshot. No answer.
    CloseSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Read captured changes after a number; answer with `handle_outbox`, or
    /// `handle_outbox_failed`.
    ReadOutbox {
        /// The number.
        after: u64,
        /// Most changes.
        changes_max: usize,
    },
    /// Captured changes up to a number are durable in the log: erase them.
    EraseOutbox {
        /// The number.
        through: u64,
    },
    /// Apply a parked entry and take it out of the list, in one transaction;
    /// answer with `handle_replayed`.
    Replay {
        /// Its sequence.
        seq: Seq,
    },
    /// Something that operators want to know.
    Event(SiteEvent),
}

/// What operators want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteEvent {
    /// The hub refuses this site.
    Refused(Refusal),
    /// The hub broke the protocol, or a message was lost: connecting again.
    Violation(Violation),
    /// The copy is complete.
    Joined {
        /// Its position.
        position: Position,
    },
    /// There is no copy yet; it is asked for again.
    JoinFailed(JoinError),
    /// An entry failed, and the site stands.
    Stopped {
        /// The error.
        error: Arc<str>,
    },
    /// Captured changes are refused; they wait.
    PublishRefused(PublishRefusal),
    /// So many captured changes wait in the copy's database that it fills: told once
    /// until they are fewer.
    Unpublished {
        /// How many.
        count: u64,
    },
}

/// How a site fares.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may hold with any other"
)]
pub struct SiteView {
    /// Its id, once the hub told it.
    pub site: Option<SiteId>,
    /// Whether the hub has welcomed it.
    pub is_connected: bool,
    /// Whether it waits for an operator: see the last refusal.
    pub is_barred: bool,
    /// What it holds.
    pub holding: Holding,
    /// The end of the log, as last heard.
    pub end: Seq,
    /// What its applier does.
    pub apply: ApplyState,
    /// Why it does not go on, in words: the last error of the applier, of the capture
    /// of writes, or of the copy that is taken, as long as it lasts.
    pub error: Option<Arc<str>>,
    /// Whether the hub calls it the first site of all, which no copy of another site
    /// can replace.
    pub is_first: bool,
    /// Whether an entry was skipped and not repaired.
    pub is_differing: bool,
    /// Entries that are parked.
    pub parked: usize,
    /// Whether it joins.
    pub is_joining: bool,
    /// Chunks stored since the start of the process.
    pub joined_chunks: u64,
    /// Rows stored since the start of the process.
    pub joined_rows: u64,
    /// Bytes stored since the start of the process.
    pub joined_bytes: u64,
    /// About how large the donor's copy is, while it is being taken. Zero where
    /// the donor does not know.
    pub joining_size: Option<SnapshotSize>,
    /// The right to write.
    pub token: Option<FencingToken>,
    /// Captured changes that the log has not yet, once the hub has said what it has.
    pub unpublished: u64,
}
