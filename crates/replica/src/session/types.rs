//! What goes into a session and comes out of it.

use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Seq, SiteId};

use crate::entry::{Entry, SnapshotSize};
use crate::ids::{Ahead, Position, SnapshotId};
use crate::message::{JoinError, Refusal, ToHub, ToSite, Vitals};

/// How sessions behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Most entries that are sent and not acknowledged. Default 4096. More hides
    /// longer round trips and costs the site memory.
    pub window_entries: u64,
    /// Most bytes of such entries, unless a single one is larger. Default 4 MiB.
    pub window_bytes: u64,
    /// Time between two heartbeats. Default 500 ms.
    pub heartbeat_every: Duration,
    /// A site that says nothing for so long is lost. Default 5 s.
    pub silence_max: Duration,
    /// For how long a dump waits for what is in flight to the donor, and for the
    /// donor to be as far as the joiner. Default 30 s.
    pub drain_max: Duration,
    /// For how long a dump waits for a donor that may write to have all that it wrote in
    /// the log, and to keep others from writing; its increments flow meanwhile. After
    /// that it goes on without. Default 5 s.
    pub prepare_max: Duration,
    /// For how long a dump waits for the donor to open a snapshot; its increments
    /// are held meanwhile. Default 10 s.
    pub open_max: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            window_entries: 4096,
            window_bytes: 4 << 20,
            heartbeat_every: Duration::from_millis(500),
            silence_max: Duration::from_secs(5),
            drain_max: Duration::from_secs(30),
            prepare_max: Duration::from_secs(5),
            open_max: Duration::from_secs(10),
        }
    }
}

/// What the hub tells a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The log is durable up to here.
    End(Seq),
    /// Pass this on. Nothing in it concerns the stream of entries.
    Send(ToSite),
    /// Get a snapshot from this site, at this sequence or later.
    OpenSnapshot {
        /// Its name.
        snapshot: SnapshotId,
        /// What it must contain.
        at_least: Seq,
    },
    /// Nobody needs the snapshot, or the dump, any more.
    CloseSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// As joiner: this snapshot is the site's.
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
    /// End the connection.
    Close(Refusal),
}

/// What a session tells the hub, about the site of its own connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It applied everything up to here.
    Acked(Seq),
    /// It lives.
    Alive(Vitals),
    /// It said this; the session has checked what it can.
    Said(ToHub),
    /// Its snapshot is open, exactly here. Its increments flow again.
    SnapshotOpened {
        /// Which.
        snapshot: SnapshotId,
        /// Where.
        position: Position,
        /// What it contains beyond it.
        ahead: Option<Ahead>,
        /// About how large it is.
        size: SnapshotSize,
    },
    /// There is no snapshot. Its increments flow again.
    SnapshotFailed {
        /// Which.
        snapshot: SnapshotId,
        /// Why.
        error: Arc<str>,
    },
    /// As joiner: it needs entries that are gone.
    MustReseed(JoinError),
}

/// What a session wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOutput {
    /// Send this, in order.
    Send(ToSite),
    /// Read durable entries in `(after, through]`: at least one, and no more than
    /// `bytes_max` unless the first is larger. Answer with
    /// [`Session::handle_read`](super::Session::handle_read) or [`Session::handle_unread`](super::Session::handle_unread); one read is asked
    /// for at a time.
    Read {
        /// The sequence before the first one.
        after: Seq,
        /// The last one.
        through: Seq,
        /// Most bytes, by [`entry_bytes`].
        bytes_max: u64,
    },
    /// Tell the hub.
    Report(Report),
    /// Send the refusal, close the connection, and tell the hub that it is lost.
    Close(Refusal),
}

/// Why entries could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// They are trimmed; the log has what comes after `start`.
    Trimmed {
        /// The sequence before the first one that is there.
        start: Seq,
    },
    /// The log could not be read.
    Failed,
}

/// What an entry counts in windows and figures, in bytes: its payload and its
/// header.
pub fn entry_bytes(entry: &Entry) -> u64 {
    entry.payload.len() as u64 + 64
}
