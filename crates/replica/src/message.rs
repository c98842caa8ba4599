//! What hub and site say to each other. Bytes are made of it elsewhere.
//!
//! One connection carries one site. No message but [`Hello`] names its sender: it
//! speaks for the site of its connection and for no other.

use std::sync::Arc;

use bytes::Bytes;
use waystation_base::{Epoch, FencingToken, Seq, SiteId};

use crate::entry::{Chunk, Entry, SnapshotSize};
use crate::ids::{Ahead, Cursor, LifeId, Position, SiteName, SnapshotId};

pub use crate::refusal::{JoinError, PublishRefusal, Refusal, Violation};

/// What a site's copy holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holding {
    /// Nothing that the hub knows of. A `master` holds the base data.
    #[default]
    Fresh,
    /// Part of a snapshot.
    Restoring(Restoring),
    /// Everything up to a position.
    At {
        /// The position.
        position: Position,
        /// What it contains beyond the position, until the log has passed it.
        ahead: Option<Ahead>,
    },
}

/// How far a copy is restored: the keys below `cursor` as of `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoring {
    /// The position of what is there.
    pub position: Position,
    /// How many chunks are there.
    pub chunks: u64,
    /// The keys below it are there.
    pub cursor: Cursor,
    /// What it contains beyond the position.
    pub ahead: Option<Ahead>,
}

/// A site's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its name.
    pub name: SiteName,
    /// The life of its copy.
    pub life: LifeId,
    /// What it holds.
    pub holding: Holding,
    /// How far away it is from others, for the choice of donors: sites of equal
    /// zones are near.
    pub zone: Arc<str>,
    /// Whether it has rows: one that has none is no donor for one that has.
    pub has_rows: bool,
    /// The last of its captured changes, if writes to it are captured. Fewer than the
    /// log has of this life: the copy is an older one, put back from a backup.
    pub captured: Option<u64>,
}

/// Who is to be the donor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Donor {
    /// The best one by lag, load and distance.
    Best,
    /// This one; after its death the best one.
    Named(SiteName),
}

/// From a site to the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHub {
    /// The first message of a connection.
    Hello(Hello),
    /// Wants a copy, or the rest of one.
    Join {
        /// From whom.
        donor: Donor,
        /// Whom not to take: it failed.
        except: Option<SiteId>,
        /// What is there already.
        have: Option<Restoring>,
    },
    /// Everything up to this is applied and durable.
    Ack {
        /// The history.
        epoch: Epoch,
        /// The last applied sequence.
        seq: Seq,
    },
    /// Lives, and says how it fares.
    Heartbeat(Vitals),
    /// Ready for a snapshot of this name, as [`ToSite::PrepareSnapshot`] wants it.
    SnapshotPrepared {
        /// Which.
        snapshot: SnapshotId,
        /// Whether all that was written there is in the log, and nobody may write
        /// until the snapshot is open. Then it must wait for what the log has.
        is_held: bool,
    },
    /// The snapshot asked for is open. The position is that of the copy's own
    /// transaction.
    SnapshotOpened {
        /// Which.
        snapshot: SnapshotId,
        /// Its exact position.
        position: Position,
        /// What it contains beyond it.
        ahead: Option<Ahead>,
        /// About how large it is.
        size: SnapshotSize,
    },
    /// There is no snapshot, or no more of it.
    SnapshotFailed {
        /// Which.
        snapshot: SnapshotId,
        /// Why.
        error: Arc<str>,
    },
    /// As joiner: part of the copy is there; send the entries after it, up to the
    /// snapshot's position.
    CatchUp {
        /// What is there.
        after: Seq,
    },
    /// As joiner: send chunks.
    Pull(Pull),
    /// As donor: a chunk for a joiner.
    Chunk {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// For whom.
        joiner: SiteId,
        /// The chunk.
        chunk: Arc<Chunk>,
    },
    /// As joiner: the copy is complete and durable at this position.
    Joined {
        /// The position.
        position: Position,
    },
    /// Captured changes, in their order.
    Publish {
        /// Proves the right to write.
        token: FencingToken,
        /// The number of the first one; the others follow without a gap.
        first: u64,
        /// What to append.
        payloads: Vec<Bytes>,
    },
}

/// How a site fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// How busy it is, in thousandths.
    pub load_permille: u16,
    /// What its applier does.
    pub apply: ApplyState,
    /// Entries applied a second, over the last seconds.
    pub applied_per_second: u64,
    /// How many entries are parked.
    pub parked: u32,
    /// Whether an entry was skipped and not repaired.
    pub is_differing: bool,
    /// Whether writes that are made there are not captured, or not read, for now.
    pub is_capture_stopped: bool,
    /// Captured changes that the log has not yet.
    pub unpublished: u64,
    /// Why it does not go on: the last error of the applier, of the capture of writes,
    /// or of the copy that is taken, as long as it lasts.
    pub error: Option<Arc<str>>,
}

/// What an applier does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyState {
    /// Applies, or waits for entries.
    #[default]
    Running,
    /// Tries an entry again that failed.
    Retrying,
    /// Stands at an entry that failed, until an operator acts.
    Stopped,
}

/// A joiner's wish for chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// The next chunk's index.
    pub index: u64,
    /// The next chunk's first key at the earliest.
    pub from: Cursor,
    /// Chunks up to this index, exclusive, may be sent.
    pub until: u64,
    /// Whether to begin here. Otherwise chunks are on their way, and only `until`
    /// counts.
    pub is_first: bool,
}

/// From the hub to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSite {
    /// The answer to [`Hello`].
    Welcome(Welcome),
    /// The connection ends.
    Refused(Refusal),
    /// Entries, without a gap.
    Entries {
        /// In order.
        entries: Arc<[Arc<Entry>]>,
        /// Up to where the log is durable.
        end: Seq,
    },
    /// Lives. Everything up to `sent` was sent before this.
    Heartbeat {
        /// The last sequence sent.
        sent: Seq,
        /// Up to where the log is durable.
        end: Seq,
        /// Whether all increments flow.
        is_live: bool,
    },
    /// As donor that may write: a snapshot is wanted soon. Keep others from writing for a
    /// moment, until it is open, so that it contains nothing that the log has not.
    PrepareSnapshot {
        /// Its name.
        snapshot: SnapshotId,
    },
    /// As donor: open a snapshot.
    OpenSnapshot {
        /// Its name.
        snapshot: SnapshotId,
    },
    /// As donor: chunks that a joiner wants.
    Pull {
        /// Who.
        joiner: SiteId,
        /// What.
        pull: Pull,
    },
    /// As donor: nobody needs the snapshot any more.
    CloseSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// As joiner: this snapshot is yours.
    JoinFrom {
        /// Which.
        snapshot: SnapshotId,
        /// Its donor.
        donor: SiteId,
        /// Its exact position.
        position: Position,
        /// What it contains beyond it.
        ahead: Option<Ahead>,
        /// About how large it is.
        size: SnapshotSize,
    },
    /// As joiner: a chunk.
    Chunk {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// The chunk.
        chunk: Arc<Chunk>,
    },
    /// As joiner: the donor is gone; another one is looked for.
    DonorLost {
        /// Whose snapshot.
        snapshot: SnapshotId,
    },
    /// As joiner: there will be no copy unless it is asked for again.
    JoinFailed {
        /// Why.
        error: JoinError,
    },
    /// The right to write, or its end.
    Writer {
        /// The token, if the site may write.
        token: Option<FencingToken>,
        /// The last of its changes that are durable in the log.
        source: u64,
    },
    /// Captured changes are durable.
    Published {
        /// Up to this number.
        through: u64,
    },
    /// Captured changes are refused.
    PublishRefused {
        /// Why.
        refusal: PublishRefusal,
    },
}

/// What a site must know at the start of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Its id.
    pub site: SiteId,
    /// The log's history.
    pub epoch: Epoch,
    /// Up to where the log is durable.
    pub end: Seq,
    /// Where increments begin; `None` when it must join first.
    pub stream_after: Option<Seq>,
    /// The right to write, if it has it.
    pub token: Option<FencingToken>,
    /// The last of its changes that are durable in the log.
    pub source: u64,
    /// Whether this is the first site of all: the hub takes no other copy under its
    /// name.
    pub is_first: bool,
}
