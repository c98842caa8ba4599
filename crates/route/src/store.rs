//! Where routes are kept.

mod mysql;
mod postgres;
mod sqlite;
mod url;

use futures_util::future::LocalBoxFuture;
use thiserror::Error;

use crate::row::{Patch, Route, RouteKey};

pub use mysql::MysqlStore;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use url::{StoreUrl, StoreUrlError};

/// What a store is asked for, and will answer.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, StoreError>>;

/// Keeps routes: a database, or a stand-in of a test.
///
/// It is asked one thing at a time, on a thread of its own, so that it may
/// block. Whoever asks puts a deadline on it, and asks [`RouteStore::open`] again
/// after any error.
pub trait RouteStore {
    /// Connects, and creates what is missing.
    fn open(&mut self) -> Answer<'_, ()>;

    /// Reads all routes, and remembers which state of the store that was.
    fn load(&mut self) -> Answer<'_, Loaded>;

    /// Whether the store is in another state than the one that was read last.
    /// Cheap: it is asked every second.
    fn has_news(&mut self) -> Answer<'_, bool>;

    /// Ready when the store says that it changed. By default it never does.
    fn notified(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Makes one change, all of it or nothing; durable when it is answered.
    fn change<'a>(&'a mut self, change: &'a Change) -> Answer<'a, Outcome>;
}

/// All that a store has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The routes. One key may come twice; the last counts.
    pub routes: Vec<Route>,
    /// Rows that are no routes, and why.
    pub skipped: Skipped,
}

/// Rows that were not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The first of them by name, and why.
    pub named: Vec<(String, String)>,
}

impl Skipped {
    /// One more.
    pub(crate) fn add(&mut self, row: String, why: String) {
        self.count += 1;
        if self.named.len() < crate::limits::SKIPPED_NAMED_MAX {
            self.named.push((row, why));
        }
    }
}

impl Loaded {
    /// Takes a row in.
    pub(crate) fn add(&mut self, row: impl FnOnce() -> String, route: Result<Route, String>) {
        match route {
            Ok(_) if self.routes.len() >= crate::limits::ROUTES_MAX => {
                self.skipped.add(row(), "there are too many".to_owned());
            }
            Ok(route) => self.routes.push(route),
            Err(why) => self.skipped.add(row(), why),
        }
    }
}

/// What is to be different in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new route.
    Add(Route),
    /// Another form of one that is there.
    Edit {
        /// Which.
        key: RouteKey,
        /// What is different.
        patch: Patch,
    },
    /// One less.
    Remove(RouteKey),
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is made, and durable.
    Done {
        /// Routes that are new or different.
        put: Vec<Route>,
        /// Routes that are gone.
        gone: Vec<RouteKey>,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The route is there already: change it.
    #[error("{} has a route to {} already", .0.service, .0.address)]
    Exists(RouteKey),
    /// There is no such route.
    #[error("{} has no route to {}", .0.service, .0.address)]
    Missing(RouteKey),
    /// It would be no route: correct it.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot hold it.
    #[error("{0}")]
    Unable(String),
}

/// Why a store did not answer. It is opened anew after any of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// `SQLite` says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// `MariaDB` or `MySQL`, or the way to it, says so.
    #[error(transparent)]
    Mysql(#[from] mysql_async::Error),
    /// `PostgreSQL`, or the way to it, says so.
    #[error("{}", postgres::told(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// There was no answer in time.
    #[error("no answer in {} s", crate::limits::STORE_WAIT.as_secs())]
    TimedOut,
    /// It was asked before it was opened, or has ended since.
    #[error("the connection has ended")]
    Closed,
    /// Changes of others got in the way each time.
    #[error("changes of others are in the way")]
    Contended,
    /// Something that is needed is missing and cannot be made.
    #[error("{what}: {why}")]
    Schema {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
}
