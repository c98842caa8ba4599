//! What a site asks of the database, or of whatever else holds its copy.
//!
//! An [`Adapter`] names the target. [`Adapter::open`] gives its three lanes, each
//! of which the site's runtime calls from a thread of its own, so that none waits
//! for another: an [`Apply`] lane for transactions, [`Snapshot`]s for joiners and
//! proofs of equality, a [`Capture`] lane for writes that are made here. All calls
//! block; an adapter whose driver is asynchronous keeps a runtime of its own and
//! waits for it. None may block for longer than
//! [`ADAPTER_WAIT_MAX`](crate::limits::ADAPTER_WAIT_MAX).
//!
//! # One transaction
//!
//! What is applied and the position up to which it is applied are committed
//! together, and the stored position decides: an entry at or below it is left
//! alone. So a batch may be tried again when nobody knows whether it was
//! committed (the connection to the database broke in the middle), or when part of
//! it was (a change of a schema commits by itself in some databases: the adapter
//! commits what is before it, makes the change in a way that may be repeated, and
//! stores the position after it). Targets without transactions store the position
//! after the entries: they get each entry at least once, with its sequence as
//! idempotency key.
//!
//! # Captured writes
//!
//! Writes that are made here have numbers that count up by one, from 1 on in each
//! life of a copy. The numbers must come out the same when writes are read again
//! after a crash. A table that triggers fill in the writing transaction numbers
//! its rows. A reader of a database's own log (binlog, logical replication) stores
//! which of its positions belongs to which number when [`Capture::erase`] says
//! that the hub has them, and counts transactions from there on again. Either
//! leaves out what [`Apply`] itself has written: the adapter marks its own
//! transactions, by the row of the position that each of them writes.

mod handler;
mod hash;
mod memory;
mod sqlite;

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use waystation_base::Seq;
use waystation_replica::{
    ApplyBatch, ApplyFault, Chunk, Cursor, Decider, LifeId, Position, SiteRestored, SnapshotSize,
    StoreChunk, TouchesOf,
};

pub use handler::{Delivery, Handler, HandlerError, HandlerTarget, HttpHandler, UrlError};
pub use hash::{RangeHash, RangeHasher, ends_range};
pub use memory::{MemoryChange, MemoryDatabase, MemoryFaults};
pub use sqlite::{SqliteDatabase, Stage};
#[doc(hidden)]
pub use sqlite::{changes_again, key_again};

/// Why a target cannot do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// It is locked, full or away: try again.
    #[error("the target is not available: {0}")]
    Unavailable(String),
    /// It cannot be synced as it is, and what is at fault has a name: a table
    /// without primary key, for instance.
    #[error("the target cannot be synced: {0}")]
    Unfit(String),
    /// What it says of itself makes no sense.
    #[error("the target's own records are damaged: {0}")]
    Damaged(String),
    /// The position that a snapshot would have is not known.
    #[error("the copy has no position yet")]
    NoPosition,
}

/// Why a transaction was not committed, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct ApplyError {
    /// What kind of fault it is.
    pub fault: ApplyFault,
    /// What the target said.
    pub error: String,
}

impl ApplyError {
    /// The target is locked, full or away.
    pub fn transient(error: impl Into<String>) -> Self {
        Self {
            fault: ApplyFault::Transient,
            error: error.into(),
        }
    }

    /// The target refuses the entry with this sequence.
    pub fn poison(seq: Seq, error: impl Into<String>) -> Self {
        Self {
            fault: ApplyFault::Poison(seq),
            error: error.into(),
        }
    }
}

/// What entries of a target are like.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The target's sort, for people: `sqlite`, `mariadb`, `handler`.
    pub name: &'static str,
    /// Whether the position is committed with the entries. Otherwise each entry
    /// is delivered at least once.
    pub is_transactional: bool,
    /// Whether entries can be applied to rows with keys below a cursor only.
    pub can_filter: bool,
    /// Whether it has rows, so that it can be a donor for others that have, and be
    /// compared with them.
    pub has_rows: bool,
    /// What an entry touches.
    pub touches: TouchesOf,
}

/// A target that was opened.
pub struct Opened {
    /// What the copy says of itself.
    pub restored: SiteRestored,
    /// The lane for transactions.
    pub apply: Box<dyn Apply>,
    /// The lane for writes that are made here, if they are captured.
    pub capture: Option<Box<dyn Capture>>,
}

/// A target: a database, a handler, or a table in memory.
pub trait Adapter: Send + Sync + 'static {
    /// What its entries are like.
    fn kind(&self) -> Kind;

    /// Opens the target, making its own tables if need be, and checks that it can
    /// be synced. A copy that has no life yet gets `life`.
    ///
    /// # Errors
    /// [`AdapterError::Unfit`] is final; the others may go away.
    fn open(&self, life: LifeId) -> Result<Opened, AdapterError>;

    /// Opens a consistent snapshot. Transactions go on meanwhile; it does not
    /// change. The position is the one that its own transaction reads.
    ///
    /// # Errors
    /// The copy has no position, or the target is not available.
    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError>;
}

/// Transactions of a target, one at a time.
pub trait Apply: Send {
    /// Applies a batch and stores its position, in one transaction. Entries at or
    /// below the position that is stored are left alone; a batch without entries
    /// stores its position, as a copy of the base data does at first.
    ///
    /// For each entry its [`Verdict`](waystation_replica::Verdict) says what
    /// becomes of it: parked ones go into the list of parked entries with what
    /// they touch, skipped ones into the audited list, which also marks the copy
    /// as differing. Rows at or above `below` are not there yet and are left
    /// alone. Entries of this copy's own life ([`Origin::Site`]) tell how far its
    /// captured writes have come back, which is stored as well.
    ///
    /// # Errors
    /// Nothing of the batch is committed, or it is not known, or only what comes
    /// before an entry that cannot be in one transaction with others.
    ///
    /// [`Origin::Site`]: waystation_replica::Origin::Site
    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError>;

    /// Puts a chunk's rows in place of all rows with keys in its range, and stores
    /// what the copy then holds, in one transaction. The chunk with index 0 begins
    /// a copy with the life `life`: all rows, the lists of parked and skipped
    /// entries and captured writes go. May be repeated.
    ///
    /// # Errors
    /// Nothing of it is committed, or it is not known.
    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError>;

    /// Gives the copy up, in one transaction: from now on it holds nothing that the
    /// hub knows of, and has the life `life`. Lists and captured writes go; its rows
    /// stay until the first chunk replaces them. May be repeated.
    ///
    /// # Errors
    /// Nothing of it is committed, or it is not known.
    fn give_up(&mut self, life: LifeId) -> Result<(), ApplyError>;

    /// Applies a parked entry and takes it off the list, in one transaction. One
    /// that is not on it was applied before.
    ///
    /// # Errors
    /// Nothing of it is committed, or it is not known.
    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError>;

    /// The audited list: every entry that was skipped or parked, and what became
    /// of it, in order.
    ///
    /// # Errors
    /// It cannot be read.
    fn audit(&mut self) -> Result<Vec<Audited>, AdapterError>;

    /// The copy was repaired of all that was skipped up to `through`. Whether it
    /// differs no more: not if a later entry was skipped.
    ///
    /// # Errors
    /// It cannot be stored.
    fn set_repaired(&mut self, through: Seq) -> Result<bool, AdapterError>;

    /// Keeps everybody else from writing until [`Apply::release`], for a proof of
    /// equality: the copy then equals others once what was captured has come back
    /// through the log. Other calls of this lane go on. The number of the last
    /// captured write; none if nothing is captured, or nobody can be kept out.
    ///
    /// # Errors
    /// Nobody is kept out.
    fn hold(&mut self) -> Result<Option<u64>, AdapterError> {
        Ok(None)
    }

    /// Lets others write again. Nothing happens unless they were kept out.
    fn release(&mut self) {}

    /// A snapshot, opened while others are kept out; none if they are not.
    ///
    /// # Errors
    /// As [`Adapter::open_snapshot`].
    fn open_held(&mut self) -> Result<Option<Box<dyn Snapshot>>, AdapterError> {
        Ok(None)
    }
}

/// An entry that was not applied when its turn came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Its sequence.
    pub seq: Seq,
    /// What became of it.
    pub fate: Fate,
    /// Who decided that it is not applied in its turn.
    pub by: Decider,
    /// Why it failed; empty where it did not, and waited behind another.
    pub error: String,
    /// When that was, in seconds since 1970 by this machine's clock; 0 if a version
    /// of this program noted it that told no time.
    pub at: u64,
    /// What to apply.
    pub payload: Bytes,
}

/// What became of an entry that was not applied when its turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is parked.
    Parked,
    /// It was parked and applied later.
    Replayed,
    /// It was left out.
    Skipped,
}

/// A copy as it was at one moment.
pub trait Snapshot: Send {
    /// Its exact position.
    fn position(&self) -> Position;

    /// The number of the last captured write that it contains, if any of them has
    /// not come back through the log yet.
    fn captured(&self) -> Option<u64>;

    /// About how large it is, as [`Snapshot::read`] will tell it: joiners see from
    /// it for how long they wait. Zero for what is not known.
    fn size(&self) -> SnapshotSize {
        SnapshotSize::default()
    }

    /// Reads rows with keys from `from` on, at least one if there is any, and at
    /// most about `bytes_max` bytes unless the first row is larger.
    ///
    /// # Errors
    /// It cannot be read any more.
    fn read(&mut self, index: u64, from: &Cursor, bytes_max: usize) -> Result<Chunk, AdapterError>;

    /// Hashes the range of rows that begins with the first key at or above `from`
    /// and ends after the first key that [`ends_range`]: copies that are equal
    /// have equal ranges, wherever their rows lie. From stored rows, in the order
    /// of keys; what the adapter stores for itself does not count. None when there
    /// is no row any more.
    ///
    /// # Errors
    /// It cannot be read any more.
    fn hash(&mut self, from: &Cursor) -> Result<Option<RangeHash>, AdapterError>;
}

/// Writes that are made here.
pub trait Capture: Send {
    /// Waits until there are captured writes after `after`, for `wait` at most,
    /// and answers the number of the last one, or `after`.
    ///
    /// # Errors
    /// The capture has stopped, and why: an event that cannot be decoded is never
    /// skipped.
    fn wait(&mut self, after: u64, wait: Duration) -> Result<u64, AdapterError>;

    /// Captured writes from `after + 1` on, each as the payload of one entry: a
    /// whole transaction. At most `changes_max`, and about `bytes_max` bytes
    /// unless the first one is larger.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(
        &mut self,
        after: u64,
        changes_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, AdapterError>;

    /// Captured writes up to `through` are durable at the hub and may go.
    ///
    /// # Errors
    /// They stay; the next call tries again.
    fn erase(&mut self, through: u64) -> Result<(), AdapterError>;
}
