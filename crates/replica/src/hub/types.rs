//! What goes into a hub and comes out of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use waystation_base::{ConnName, Epoch, FencingToken, Moment, Seq, SiteId};

use crate::entry::{ClientKey, Entry, Origin};
use crate::ids::{LifeId, SiteName};
use crate::marks::Mark;
use crate::message::{JoinError, PublishRefusal, Refusal, Vitals, Welcome};
use crate::session::{Notice, entry_bytes};

/// How a hub behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// The name of the site that starts with increments, with the base data.
    /// Default `master`.
    pub first: SiteName,
    /// For how long a site that is silent keeps what it needs in the log.
    /// Default 1 h, at least [`LEASE_MIN`](crate::limits::LEASE_MIN). Longer
    /// spares a site that was away a new copy; the log grows for that long. A hub
    /// that starts gives each site it knows a new lease.
    pub lease: Duration,
    /// Most bytes of entries that the log keeps for a slow site. Default 8 GiB.
    /// Beyond it the slowest site is evicted. What no site has applied is never
    /// trimmed: publishes are refused instead.
    pub retain_bytes_max: u64,
    /// For how long entries are kept for a slow site. Default 24 h, counted from
    /// the hub's start for what was in the log before: a hub that starts more often
    /// trims by [`HubConfig::retain_bytes_max`] alone.
    pub retain_age_max: Duration,
    /// For how long entries are kept that all sites have, within the bound of
    /// bytes. Default 10 min. After a restart the keys of clients are known as
    /// far back as the log goes.
    pub retain_age_min: Duration,
    /// For how long a joiner waits until some site can be its donor. Default
    /// 60 s.
    pub join_wait_max: Duration,
    /// How often positions of sites are saved, at most. Default 5 s. They say
    /// after a restart what may be trimmed; each copy knows its own exactly.
    pub save_every: Duration,
    /// After how long records that the log refused are written again. Default
    /// 1 s.
    pub retry_after: Duration,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            first: SiteName::new("master").expect("a valid name"),
            lease: Duration::from_hours(1),
            retain_bytes_max: 8 << 30,
            retain_age_max: Duration::from_hours(24),
            retain_age_min: Duration::from_mins(10),
            join_wait_max: Duration::from_mins(1),
            save_every: Duration::from_secs(5),
            retry_after: Duration::from_secs(1),
        }
    }
}

/// How far a site is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has no copy.
    #[default]
    Fresh,
    /// It has a part of a copy.
    Restoring,
    /// It receives increments.
    Live,
    /// What it needs was trimmed: it must join anew.
    Evicted,
    /// It was past the end of the log: what it holds is not what the log says. It
    /// must join anew.
    Beyond,
}

/// What the log stores of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRecord {
    /// Its id.
    pub site: SiteId,
    /// Its name.
    pub name: SiteName,
    /// The life of its copy.
    pub life: LifeId,
    /// How far it is.
    pub phase: Phase,
    /// What it had applied when this was saved; it may be further.
    pub at: Seq,
    /// The highest token ever granted to it.
    pub token: FencingToken,
    /// Whether that token holds.
    pub may_write: bool,
    /// The last of its captured changes in the log.
    pub source: u64,
    /// Whether it has rows, so that others can take a copy from it.
    pub has_rows: bool,
}

/// A fact that is stored in the log, beside the entries and in one batch with
/// them. The last one of a site counts; a trim keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A site as it is now.
    Site(SiteRecord),
    /// A site that was forgotten.
    Forgotten(SiteId),
}

/// What is made durable together: all of it or, after a crash, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Entries, without a gap to the ones before.
    pub entries: Vec<Arc<Entry>>,
    /// Records.
    pub records: Vec<Record>,
}

/// What a log holds when a hub starts.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Its history.
    pub epoch: Epoch,
    /// The log has what comes after this.
    pub start: Seq,
    /// The last durable entry.
    pub end: Seq,
    /// The last record of each site.
    pub sites: Vec<SiteRecord>,
    /// Keys of the entries that are there, in order.
    pub keys: Vec<(ClientKey, Seq)>,
    /// Bytes of the stretches that are there, in order; their moments as well as
    /// they are known.
    pub marks: Vec<Mark>,
    /// Drawn at random at each start: names of snapshots begin above it, so that
    /// one of an earlier start is never taken for one of this.
    pub snapshot_base: u64,
}

impl Restored {
    /// An empty log with the history `epoch`.
    pub fn empty(epoch: Epoch) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }

    /// Takes in an entry that is in the log, in order; its age is not known.
    pub fn observe(&mut self, now: Moment, entry: &Entry) {
        let seq = entry.position.seq;
        if let Origin::Client { key: Some(key) } = &entry.origin {
            self.keys.push((key.clone(), seq));
        }
        let before = self.marks.last().map_or(0, |mark| mark.bytes);
        self.marks.push(Mark {
            seq,
            bytes: before + entry_bytes(entry),
            at: now,
        });
        self.end = self.end.max(seq);
    }
}

/// A client's wish to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// The same publish sent again carries the same key.
    pub key: Option<ClientKey>,
    /// What to append.
    pub payload: Bytes,
}

/// What a hub wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubOutput {
    /// Make this durable, then call [`Hub::handle_durable`](super::Hub::handle_durable),
    /// or [`Hub::handle_append_failed`](super::Hub::handle_append_failed). One
    /// batch is asked for at a time. What depends on it is told afterwards, so
    /// every other output may be performed at once.
    Append(Batch),
    /// A publish is durable: answer it.
    Published {
        /// The ticket it came with.
        ticket: u64,
        /// Its sequence.
        seq: Seq,
    },
    /// A publish is refused: answer it.
    PublishRefused {
        /// The ticket it came with.
        ticket: u64,
        /// Why.
        refusal: PublishRefusal,
    },
    /// What an operator changed is durable: answer it.
    Changed {
        /// The ticket it came with.
        ticket: u64,
    },
    /// What an operator wanted changed is not done, or nobody knows: answer it.
    ChangeRefused {
        /// The ticket it came with.
        ticket: u64,
        /// Why.
        refusal: ChangeRefusal,
    },
    /// Make a session for the connection.
    Admit {
        /// The connection.
        conn: ConnName,
        /// How its session begins.
        welcome: Welcome,
    },
    /// Answer a hello with this, and close the connection.
    Refuse {
        /// The connection.
        conn: ConnName,
        /// Why.
        refusal: Refusal,
    },
    /// Tell the session of this connection.
    Notify {
        /// The connection.
        conn: ConnName,
        /// What.
        notice: Notice,
    },
    /// The log is durable up to here: tell all sessions ([`Notice::End`]).
    End(Seq),
    /// Entries up to here may go.
    Trim {
        /// The last one.
        through: Seq,
    },
    /// Something that operators want to know.
    Event(HubEvent),
}

/// Why what an operator wants is not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChangeRefusal {
    /// There is no such site, or it was forgotten meanwhile.
    #[error("no such site is known")]
    UnknownSite,
    /// The log failed before: nothing is changed. Try again later.
    #[error("the hub stands until the log is opened anew")]
    LogFailed,
    /// The log failed meanwhile. Look at the status and do it again.
    #[error("it may be done or not: {error}")]
    Unknown {
        /// What the log said.
        error: Arc<str>,
    },
}

/// What operators want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubEvent {
    /// A connection was refused.
    Refused {
        /// The name it came with.
        name: SiteName,
        /// Why.
        refusal: Refusal,
    },
    /// A site was away, or slow, for too long; the log goes on without it.
    Evicted {
        /// The site.
        site: SiteId,
        /// Where it stands.
        at: Seq,
    },
    /// A site that was away came back with less than it had acknowledged.
    Rewound {
        /// The site.
        site: SiteId,
        /// What it had acknowledged.
        acked: Seq,
        /// What it has.
        at: Seq,
    },
    /// A site holds entries that the log does not have: the log lost its end, or
    /// was restored from before. The copy is refused from now on.
    Beyond {
        /// The site.
        site: SiteId,
        /// What it claims.
        claimed: Seq,
        /// The log's end.
        end: Seq,
    },
    /// A dump failed.
    DumpFailed {
        /// The donor.
        donor: SiteId,
        /// What it said.
        error: Arc<str>,
    },
    /// A join failed.
    JoinFailed {
        /// The joiner.
        site: SiteId,
        /// Why.
        error: JoinError,
    },
    /// A site's right to write was taken away, durably.
    Fenced {
        /// The site.
        site: SiteId,
        /// The last of its changes in the log.
        source: u64,
        /// Nothing of it comes after this.
        end: Seq,
    },
    /// The log refused a batch.
    AppendFailed {
        /// What it said.
        error: Arc<str>,
    },
}

/// What became of a batch that was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFault {
    /// Nothing of it is in the log, nor will be: a full disk, for instance.
    NotStored,
    /// It may be in the log or not: a sync failed. The log must be opened anew,
    /// and a new hub restored from it.
    Unknown,
}

/// A site as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteStatus {
    /// Its id.
    pub site: SiteId,
    /// Its name.
    pub name: SiteName,
    /// Whether it has rows, and not only a place in the order.
    pub has_rows: bool,
    /// How far it is.
    pub phase: Phase,
    /// Whether it is connected.
    pub is_connected: bool,
    /// The last sequence it applied, durably.
    pub at: Seq,
    /// Entries that it lacks.
    pub lag_entries: u64,
    /// Bytes that it lacks, at most one batch too many.
    pub lag_bytes: u64,
    /// How old the first entry that it lacks is.
    pub lag: Duration,
    /// When it will have caught up at its present rate, if it applies faster
    /// than nothing.
    pub eta: Option<Duration>,
    /// What it says of itself.
    pub vitals: Vitals,
    /// Whether it may write.
    pub may_write: bool,
    /// How often it was given the right to write.
    pub grants: u64,
}
