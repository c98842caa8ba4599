//! What goes into an applier and comes out of it.

use std::sync::Arc;

use thiserror::Error;
use waystation_base::{BackoffConfig, Seq};

use crate::entry::Entry;
use crate::ids::{Ahead, Cursor, Position};

/// What to do with an entry that the database refuses, after some tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Try it again for ever.
    Retry,
    /// Leave it out; the copy differs from then on, until it is repaired.
    Skip,
    /// Put it aside, with all later entries that touch the same keys.
    Park,
    /// Stand until an operator acts.
    #[default]
    Stop,
}

/// How an applier behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ApplierConfig {
    /// Most entries that wait. Default 8192; at least the hub's window. More
    /// than that breaks the protocol.
    pub queue_entries_max: u64,
    /// Most entries of one transaction. Default 512.
    pub batch_entries_max: usize,
    /// Most bytes of one transaction, unless a single entry is larger. Default
    /// 1 MiB.
    pub batch_bytes_max: u64,
    /// What becomes of an entry that fails. Default [`Policy::Stop`].
    pub policy: Policy,
    /// How often an entry fails before the policy counts. Default 3.
    pub tries_max: u32,
    /// How tries are spaced.
    pub backoff: BackoffConfig,
}

impl Default for ApplierConfig {
    fn default() -> Self {
        Self {
            queue_entries_max: 8192,
            batch_entries_max: 512,
            batch_bytes_max: 1 << 20,
            policy: Policy::default(),
            tries_max: 3,
            backoff: BackoffConfig::default(),
        }
    }
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply it.
    Apply,
    /// The copy contains it already: it was captured here, or came with the
    /// snapshot. Only the position moves.
    Contained,
    /// Leave it out, and note that in the audited list.
    Skip,
    /// Put it into the list of parked entries.
    Park,
}

/// Who decides what becomes of an entry that is not applied in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// The site's policy.
    Policy,
    /// An operator.
    Operator,
    /// Nobody: it waits behind an entry that is parked and touches the same.
    Order,
}

/// Why the entry of a batch that failed is left out, or put aside. It is alone in its
/// batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who decided it.
    pub by: Decider,
    /// Why it failed.
    pub error: Arc<str>,
}

/// One transaction of the target: what its entries need, and the position, all
/// of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyBatch {
    /// In order, without a gap.
    pub entries: Vec<(Arc<Entry>, Verdict)>,
    /// Only rows with keys below it: the rest of the copy is not there yet.
    pub below: Option<Cursor>,
    /// The position to store in the same transaction.
    pub position: Position,
    /// What to store beside it: what the copy still contains beyond it.
    pub ahead: Option<Ahead>,
    /// What was decided about its only entry; none if others are put aside, because
    /// they wait behind a parked one.
    pub decision: Option<Decision>,
}

/// Why a transaction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyFault {
    /// The database is locked, full or away: nothing is wrong with the entries.
    Transient,
    /// It refuses this entry.
    Poison(Seq),
    /// An entry cannot be applied to part of a copy: the copy begins anew.
    Unfilterable,
}

/// Why a parked entry is not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplayRefusal {
    /// No such entry is parked.
    #[error("entry {seq} is not parked")]
    NotParked {
        /// The sequence.
        seq: Seq,
    },
    /// An earlier parked entry touches the same keys: replay that one first.
    #[error("entry {seq} waits for entry {by}")]
    HeldBack {
        /// The sequence.
        seq: Seq,
        /// The earlier one.
        by: Seq,
    },
    /// Another one is being replayed.
    #[error("another entry is being replayed")]
    Busy,
}
