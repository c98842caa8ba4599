//! Why something is refused.

use std::sync::Arc;

use thiserror::Error;
use waystation_base::{Epoch, FencingToken, Seq};

use crate::ids::{LifeId, Position, SiteName};

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The first site is there already: join under another name, or have the
    /// hub forget the old one.
    #[error("there is a master already, with the copy {life}")]
    SecondMaster {
        /// The life of its copy.
        life: LifeId,
    },
    /// A copy of another history: the log was reset. It must join anew.
    #[error("the log's history is {ours}, the copy's is {theirs}")]
    OtherEpoch {
        /// The log's.
        ours: Epoch,
        /// The copy's.
        theirs: Epoch,
    },
    /// The copy claims entries that the log does not have.
    #[error("the copy stands at {claimed}, past the end of the log at {end}")]
    PastEnd {
        /// The claim.
        claimed: Seq,
        /// The log's durable end.
        end: Seq,
    },
    /// The copy was past the end of the log once: since then the log gave its
    /// numbers to other entries. It must join anew.
    #[error("the copy stands at {claimed}, and was past the end of the log before")]
    WasPastEnd {
        /// Where it stands.
        claimed: Seq,
    },
    /// The copy is an older one of itself, put back from a backup: the log has writes
    /// that were captured there and that it lacks. It must join anew. What is written
    /// to it from now on would get their numbers, and be lost.
    #[error(
        "the copy was put back from before: it stands at {at} with {captured} captured writes, \
         and had acknowledged {acked} and published {published} of them"
    )]
    OlderCopy {
        /// Where it stands.
        at: Seq,
        /// What it had acknowledged.
        acked: Seq,
        /// The last captured write that it knows of.
        captured: u64,
        /// The last one that the log has.
        published: u64,
    },
    /// The entries that the copy needs are gone.
    #[error("must re-seed: the copy stands at {at}, and the log begins after {start}")]
    MustReseed {
        /// The copy's place.
        at: Seq,
        /// The log has what comes after this.
        start: Seq,
    },
    /// The hub does not know the site, which claims to hold something. It must
    /// join anew.
    #[error("no site has the name {name}")]
    UnknownSite {
        /// Its name.
        name: SiteName,
    },
    /// Another copy lives under this name.
    #[error("the site {name} is in use by the copy {life}")]
    OtherLife {
        /// The name.
        name: SiteName,
        /// The life of the copy that has it.
        life: LifeId,
    },
    /// The site connected again; this connection is the old one.
    #[error("a newer connection of the site replaced this one")]
    Superseded,
    /// Nothing was heard of the site for too long.
    #[error("nothing was heard of the site for too long")]
    Silent,
    /// There are [`SITES_MAX`](crate::limits::SITES_MAX) sites.
    #[error("the hub has no room for another site")]
    SitesFull,
    /// The hub cannot write. Try again later.
    #[error("the log takes no writes")]
    LogFailed,
    /// Something was said that the protocol does not allow.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// What breaks the protocol. It ends the connection, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// An acknowledgement of what was not sent.
    #[error("{acked} is acknowledged, but only {sent} was sent")]
    AckPastSent {
        /// What was acknowledged.
        acked: Seq,
        /// What was sent last.
        sent: Seq,
    },
    /// A message about another history.
    #[error("a message about history {theirs} in history {ours}")]
    OtherEpoch {
        /// The log's.
        ours: Epoch,
        /// The message's.
        theirs: Epoch,
    },
    /// Entries are missing in between.
    #[error("entry {found} came where {expected} was expected")]
    Gap {
        /// The next one.
        expected: Seq,
        /// The one that came.
        found: Seq,
    },
    /// More was sent than the window allows.
    #[error("more entries came than the window of {window} allows")]
    WindowExceeded {
        /// The window in entries.
        window: u64,
    },
    /// A message that makes no sense in the present state.
    #[error("{message} came out of turn")]
    OutOfTurn {
        /// Its name.
        message: &'static str,
    },
    /// A chunk with damaged content, or a wrong place.
    #[error("chunk {index} is damaged or out of place")]
    BadChunk {
        /// Its index.
        index: u64,
    },
    /// A snapshot whose position is not where the donor's increments stopped.
    #[error("the snapshot is at {found}, the donor at {expected}")]
    SnapshotPosition {
        /// Where the donor stands.
        expected: Position,
        /// Where it says the snapshot is.
        found: Position,
    },
    /// What the other side said that this side did, in its words.
    #[error("{text}")]
    Told {
        /// Its words.
        text: Arc<str>,
    },
    /// Something is longer than its bound.
    #[error("{what} of {found} bytes are more than {bytes_max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The bound.
        bytes_max: usize,
    },
}

/// Why a join fails.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The named donor is not known.
    #[error("no site has the name {name}")]
    UnknownDonor {
        /// The name.
        name: SiteName,
    },
    /// The named donor is not receiving increments now.
    #[error("the site {name} is not live")]
    DonorNotLive {
        /// The name.
        name: SiteName,
    },
    /// No site can be a donor, and none became one in time.
    #[error("no live site can be the donor")]
    NoDonor,
    /// The donor could not make the copy.
    #[error("the dump failed at the donor: {error}")]
    DumpFailed {
        /// What it said.
        error: Arc<str>,
    },
    /// What the part of the copy needs is gone from the log: begin anew.
    #[error("must re-seed: the copy stands at {at}, and the log begins after {start}")]
    MustReseed {
        /// The copy's place.
        at: Seq,
        /// The log has what comes after this.
        start: Seq,
    },
    /// The hub could not store the joiner's position.
    #[error("the log takes no writes")]
    LogFailed,
}

/// Why a publish is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishRefusal {
    /// The payload is larger than
    /// [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    #[error("{found} bytes are more than {bytes_max}")]
    TooLarge {
        /// Its length.
        found: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The key is longer than
    /// [`CLIENT_KEY_BYTES_MAX`](crate::limits::CLIENT_KEY_BYTES_MAX).
    #[error("a key of {found} bytes is more than {bytes_max}")]
    KeyTooLong {
        /// Its length.
        found: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Too much waits to be durable. Try again.
    #[error("too many publishes wait to be durable")]
    Busy,
    /// The log is full of entries that no site has applied: connect one.
    #[error("the log is full of entries that no site has applied")]
    Full,
    /// Nothing of it was stored.
    #[error("the log refused the write: {error}")]
    NotStored {
        /// What the store said.
        error: Arc<str>,
    },
    /// It is not known whether it was stored. Publish again under the same key
    /// once the hub is back.
    #[error("the log failed, and the entry may be stored: {error}")]
    Unknown {
        /// What the store said.
        error: Arc<str>,
    },
    /// The right to write was taken away, or never given.
    #[error("the token {token} is not the present one")]
    Fenced {
        /// The token that came.
        token: FencingToken,
    },
    /// Changes are missing in between.
    #[error("change {found} came where {expected} was expected")]
    SourceGap {
        /// The next one.
        expected: u64,
        /// The one that came.
        found: u64,
    },
}
