//! What goes into the store, and what comes out of it.

use serde::{Deserialize, Serialize};

use crate::key::{KeyName, LarsKey};
use crate::limits::KEYS_KEPT;
use crate::totals::Totals;

/// Seconds of a bucket of the finest history. The others are multiples.
pub const BUCKET_S: u64 = 10;

/// How fine history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Span {
    /// 10 s.
    #[serde(rename = "10s")]
    TenSeconds,
    /// 1 min.
    #[serde(rename = "1m")]
    Minute,
    /// 1 h.
    #[serde(rename = "1h")]
    Hour,
}

impl Span {
    /// All of them, the finest first.
    pub const ALL: [Self; 3] = [Self::TenSeconds, Self::Minute, Self::Hour];

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::TenSeconds => BUCKET_S,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    /// Its name: `10s`, `1m` or `1h`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TenSeconds => "10s",
            Self::Minute => "1m",
            Self::Hour => "1h",
        }
    }

    /// The span of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|span| span.name() == name)
    }

    /// The table of its rows.
    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::TenSeconds => "waystation_calls_10s",
            Self::Minute => "waystation_calls_1m",
            Self::Hour => "waystation_calls_1h",
        }
    }
}

/// For how long history is kept, by its fineness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Seconds for which buckets of 10 s are kept. Default 2 h.
    pub ten_seconds_s: u64,
    /// Seconds for which those of 1 min are kept. Default 2 days.
    pub minutes_s: u64,
    /// Seconds for which those of 1 h are kept. Default 90 days.
    pub hours_s: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            ten_seconds_s: 2 * 3600,
            minutes_s: 2 * 86_400,
            hours_s: 90 * 86_400,
        }
    }
}

impl Retention {
    pub(crate) const fn of(&self, span: Span) -> u64 {
        match span {
            Span::TenSeconds => self.ten_seconds_s,
            Span::Minute => self.minutes_s,
            Span::Hour => self.hours_s,
        }
    }

    /// Seconds for which the row of a key is kept after it was told last.
    pub(crate) fn of_keys(&self) -> u64 {
        self.hours_s.max(KEYS_KEPT.as_secs())
    }
}

/// The latest that was told of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Running totals, as told.
    pub totals: Totals,
    /// Who counts them natively; 0 for Lars.
    pub source: u64,
    /// When, in unix seconds: by the reporter's clock for Lars, by ours natively.
    pub ts: u64,
    /// Whether the host is overloaded or left out.
    pub is_out: bool,
}

/// A key's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its number in the store.
    pub id: u32,
    /// The key.
    pub name: KeyName,
    /// What it was told last. Of Lars' keys the store keeps it in Lars' own table.
    pub told: Told,
}

/// A row of Lars' own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LarsRow {
    /// The key.
    pub key: LarsKey,
    /// What was told.
    pub told: Told,
}

/// What is new in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountRow {
    /// The key's number in the store.
    pub key: u32,
    /// How much to add.
    pub added: Totals,
}

/// What is written in one transaction. A batch that may have been written
/// already is told by its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Its number: one more than that of the batch before.
    pub seq: u64,
    /// Who writes it: a random number that a server draws at its start.
    pub owner: u64,
    /// The bucket's beginning in unix seconds, a multiple of [`BUCKET_S`].
    pub start: u64,
    /// When it is written, in unix seconds.
    pub now: u64,
    /// Keys that are new, told natively, or not written for an hour.
    pub keys: Vec<KeyRow>,
    /// What Lars' readers see.
    pub lars: Vec<LarsRow>,
    /// What is new.
    pub counts: Vec<CountRow>,
}

impl Batch {
    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.keys.len() + self.lars.len() + self.counts.len()
    }
}

/// Where a store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last batch that was written.
    pub seq: u64,
    /// Who wrote it.
    pub owner: u64,
    /// Buckets that begin before this, in unix seconds, are summed up in the
    /// coarser history; nothing is added to them any more.
    pub folded: u64,
}

/// What a store holds that a server goes on from.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Where it stands.
    pub standing: Standing,
    /// Its keys.
    pub keys: Vec<KeyRow>,
    /// Lars' own table.
    pub lars: Vec<LarsRow>,
    /// The highest number of a key.
    pub last_id: u32,
    /// Rows that make no sense. They are left alone.
    pub skipped: u64,
    /// Whether it may hold more keys than were asked for.
    pub is_cut: bool,
}

/// What a store holds of some keys.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Those that have a number.
    pub keys: Vec<KeyRow>,
    /// Those in Lars' own table.
    pub lars: Vec<LarsRow>,
}

/// Which history is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// How fine.
    pub span: Span,
    /// Of this service only.
    pub service: Option<String>,
    /// From this bucket on, in unix seconds.
    pub since: u64,
    /// Up to before this one.
    pub until: u64,
    /// At most so many rows, the latest buckets.
    pub limit: usize,
}

/// A bucket of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Its beginning in unix seconds.
    pub start: u64,
    /// The service, `MODID/CMDID` for Lars.
    pub service: String,
    /// The host.
    pub host: String,
    /// Who called.
    pub caller: String,
    /// Calls that went well.
    pub ok: u64,
    /// Calls that failed.
    pub failed: u64,
}
