//! Where counts are kept.

mod mysql;
mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::batch::{Batch, Found, HistoryQuery, HistoryRow, Loaded, Retention, Standing};
use crate::key::KeyName;

pub use mysql::MySqlStore;
pub use sqlite::SqliteStore;

/// Why a store did not do what it was asked. Whatever it is, counts wait in
/// memory and the same is tried again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another report server writes to it. There is one for each store.
    #[error("another report server uses {0}")]
    InUse(String),
    /// It is not there, or failed.
    #[error("the store failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer in time.
    #[error("the store did not answer within its time")]
    TimedOut,
    /// It holds something else than this server wrote there.
    #[error("the store is at batch {found}, expected {expected}")]
    Elsewhere {
        /// Where it is.
        found: u64,
        /// Where it should be.
        expected: u64,
    },
}

impl StoreError {
    pub(crate) fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// A store, used by one thread. After an error its connection is gone; the next
/// [`Store::open`] makes another.
pub trait Store: Send {
    /// Connects, makes missing tables and says where the store stands. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    fn open(&mut self) -> Result<Standing, StoreError>;

    /// All that a server goes on from; at most `keys_max` keys. Blocks for about
    /// a second for 100,000 keys.
    ///
    /// # Errors
    /// [`StoreError`].
    fn load(&mut self, keys_max: usize) -> Result<Loaded, StoreError>;

    /// What it knows of these keys, at most
    /// [`ASKED_KEYS_MAX`](crate::limits::ASKED_KEYS_MAX).
    ///
    /// # Errors
    /// [`StoreError`].
    fn find(&mut self, names: &[KeyName]) -> Result<Found, StoreError>;

    /// Writes a batch in one transaction, and nothing if it is there already.
    ///
    /// # Errors
    /// [`StoreError`]; it may have been written nevertheless.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Sums buckets that begin before `before` up in the coarser history, each
    /// once. Nothing may be added to them afterwards.
    ///
    /// # Errors
    /// [`StoreError`].
    fn fold(&mut self, before: u64) -> Result<(), StoreError>;

    /// Sums up all that there is, and lets counts go to buckets from `start` on
    /// again, although there are later ones: the clock was ahead. Of those the finest
    /// history goes; the coarser stays.
    ///
    /// # Errors
    /// [`StoreError`]; then it is to be asked for again.
    fn begin_anew(&mut self, start: u64) -> Result<(), StoreError>;

    /// Deletes some of what is older than it is kept; true when there may be
    /// more.
    ///
    /// # Errors
    /// [`StoreError`].
    fn expire(&mut self, now_s: u64, retention: &Retention) -> Result<bool, StoreError>;

    /// History, the latest first. Any number of stores may read.
    ///
    /// # Errors
    /// [`StoreError`].
    fn history(&mut self, query: &HistoryQuery) -> Result<Vec<HistoryRow>, StoreError>;

    /// Rows that the store's own columns cannot hold, and that were left out.
    fn unstorable(&self) -> u64 {
        0
    }
}

/// Which store: `sqlite://PATH` or `mysql://USER:PASSWORD@HOST:PORT/DATABASE`.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A `SQLite` file; it is made when it is not there.
    Sqlite(PathBuf),
    /// `MySQL` or `MariaDB`: its URL.
    MySql(String),
}

/// Text that names no store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a store: {0}; expected sqlite://PATH or mysql://USER@HOST/DATABASE")]
pub struct UrlError(String);

impl StoreUrl {
    /// A store of this kind. Nothing is opened yet.
    ///
    /// # Errors
    /// [`UrlError`]: the URL makes no sense.
    pub fn store(&self) -> Result<Box<dyn Store>, UrlError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteStore::writer(path.clone())),
            Self::MySql(url) => Box::new(MySqlStore::writer(url)?),
        })
    }

    /// The same, to read from beside the one that writes.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn reader(&self) -> Result<Box<dyn Store>, UrlError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteStore::reader(path.clone())),
            Self::MySql(url) => Box::new(MySqlStore::reader(url)?),
        })
    }
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if let Some(path) = text.strip_prefix("sqlite://")
            && !path.is_empty()
        {
            return Ok(Self::Sqlite(path.into()));
        }
        if text.starts_with("mysql://") {
            // Read here, so that faults come before anything begins.
            MySqlStore::reader(text)?;
            return Ok(Self::MySql(text.to_owned()));
        }
        Err(UrlError(without_password(text)))
    }
}

/// Without the password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::MySql(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((user, rest)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{rest}")
        }
        None => url.to_owned(),
    }
}

/// Later than any bucket of history.
pub(crate) const EVER: u64 = u64::MAX >> 1;

/// A number as a column without a sign holds it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of a column that should have no sign.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_told_without_passwords() {
        let file: StoreUrl = "sqlite:///var/x.db".parse().unwrap();
        assert_eq!(file, StoreUrl::Sqlite("/var/x.db".into()));
        let database: StoreUrl = "mysql://ada:se:cret@h:3306/lars".parse().unwrap();
        assert_eq!(database.to_string(), "mysql://ada@h:3306/lars");
        assert!(!format!("{database:?}").contains("cret"));
        for wrong in [
            "",
            "sqlite://",
            "postgres://a:pw@b/c",
            "mysql://",
            "mysql://h:x/y",
        ] {
            let error = wrong.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }
}
