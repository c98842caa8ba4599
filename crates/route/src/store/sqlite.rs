//! Routes in a file of `SQLite`. Its tables stand in
//! `docs/formats/route-store.md`.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{Answer, Change, Loaded, Outcome, Refusal, RouteStore, StoreError};
use crate::limits::ROUTES_MAX;
use crate::row::{RawRow, Route, RouteKey};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS route (
    service TEXT NOT NULL,
    address TEXT NOT NULL,
    modid INTEGER,
    cmdid INTEGER,
    weight INTEGER NOT NULL DEFAULT 100,
    site TEXT,
    zone TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (service, address)
) WITHOUT ROWID;
";

const COLUMNS: &str = "service, address, modid, cmdid, weight, site, zone, metadata";

/// For how long another program's lock is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// A store in a file. Blocks while it is asked.
pub struct SqliteStore {
    path: PathBuf,
    open: Option<Connection>,
    /// `PRAGMA data_version` at the last load: it changes with what others write.
    seen: Option<i64>,
}

impl SqliteStore {
    /// A store in this file, which is made when it is opened.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            seen: None,
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        self.open.as_mut().ok_or(StoreError::Closed)
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        self.open = None;
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| StoreError::Schema {
                what: format!("cannot make {}", folder.display()),
                why: error.to_string(),
            })?;
        }
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        // What is acknowledged is durable.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        self.open = Some(connection);
        Ok(())
    }

    fn read(&mut self) -> Result<Loaded, StoreError> {
        let connection = self.connection()?;
        // Before the rows: what is written meanwhile is news.
        let seen = data_version(connection)?;
        let mut loaded = Loaded::default();
        let text = format!("SELECT {COLUMNS} FROM route LIMIT {}", ROUTES_MAX + 1);
        let mut statement = connection.prepare_cached(&text)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match raw(row) {
                Ok(raw) => loaded.add(|| raw.name(), raw.route()),
                Err((name, why)) => loaded.skipped.add(name, why),
            }
        }
        drop(rows);
        drop(statement);
        self.seen = Some(seen);
        Ok(loaded)
    }

    fn apply(&mut self, change: &Change) -> Result<Outcome, StoreError> {
        let connection = self.connection()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcome = make(&transaction, change)?;
        if matches!(outcome, Outcome::Done { .. }) {
            transaction.commit()?;
        }
        Ok(outcome)
    }
}

impl RouteStore for SqliteStore {
    fn open(&mut self) -> Answer<'_, ()> {
        let result = self.connect();
        Box::pin(std::future::ready(result))
    }

    fn load(&mut self) -> Answer<'_, Loaded> {
        let result = self.read();
        Box::pin(std::future::ready(result))
    }

    fn has_news(&mut self) -> Answer<'_, bool> {
        let seen = self.seen;
        let version = self.connection().and_then(|open| data_version(open));
        Box::pin(std::future::ready(version.map(|now| Some(now) != seen)))
    }

    fn change<'a>(&'a mut self, change: &'a Change) -> Answer<'a, Outcome> {
        let result = self.apply(change);
        Box::pin(std::future::ready(result))
    }
}

fn data_version(connection: &Connection) -> Result<i64, StoreError> {
    let version = connection.query_row("PRAGMA data_version", [], |row| row.get(0));
    Ok(version?)
}

fn make(transaction: &Transaction<'_>, change: &Change) -> Result<Outcome, StoreError> {
    let refused = |refusal| Ok(Outcome::Refused(refusal));
    let route = match change {
        Change::Add(route) => {
            if find(transaction, &route.key())?.is_some() {
                return refused(Refusal::Exists(route.key()));
            }
            route.clone()
        }
        Change::Edit { key, patch } => match find(transaction, key)? {
            None => return refused(Refusal::Missing(key.clone())),
            Some(Err(why)) => return refused(Refusal::Unable(why)),
            Some(Ok(route)) => route.patched(patch),
        },
        Change::Remove(key) => {
            let parts = params![key.service.as_str(), key.address.to_string()];
            let text = "DELETE FROM route WHERE service = ? AND address = ?";
            let deleted = transaction.prepare_cached(text)?.execute(parts)?;
            if deleted == 0 {
                return refused(Refusal::Missing(key.clone()));
            }
            return Ok(Outcome::Done {
                put: Vec::new(),
                gone: vec![key.clone()],
            });
        }
    };
    if let Err(why) = route.validate() {
        return refused(Refusal::Invalid(why));
    }
    let raw = RawRow::of(&route);
    let text = format!("INSERT OR REPLACE INTO route ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    transaction.prepare_cached(&text)?.execute(params![
        raw.service,
        raw.address,
        raw.modid,
        raw.cmdid,
        raw.weight,
        raw.site,
        raw.zone,
        raw.metadata,
    ])?;
    Ok(Outcome::Done {
        put: vec![route],
        gone: Vec::new(),
    })
}

/// The row with this key: the route, or why it is none.
fn find(
    transaction: &Transaction<'_>,
    key: &RouteKey,
) -> Result<Option<Result<Route, String>>, StoreError> {
    let text = format!("SELECT {COLUMNS} FROM route WHERE service = ? AND address = ?");
    let mut statement = transaction.prepare_cached(&text)?;
    let parts = params![key.service.as_str(), key.address.to_string()];
    let row = statement.query_row(parts, |row| Ok(raw(row)));
    let found = row.optional()?;
    Ok(found.map(|raw| raw.map_err(|(_, why)| why).and_then(|raw| raw.route())))
}

/// The columns of a row: `SQLite` lets any value stand in any of them. Else the
/// row's name, and what is wrong.
fn raw(row: &Row<'_>) -> Result<RawRow, (String, String)> {
    let text = |at: usize| match row.get_ref(at) {
        Ok(ValueRef::Text(bytes)) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => None,
    };
    let name = || {
        let part = |at| text(at).unwrap_or_else(|| "?".to_owned());
        format!(
            "{} {}",
            crate::row::shorten(&part(0)),
            crate::row::shorten(&part(1))
        )
    };
    let is_null = |at: usize| matches!(row.get_ref(at), Ok(ValueRef::Null));
    let number = |at: usize| match row.get_ref(at) {
        Ok(ValueRef::Integer(number)) => Some(number),
        _ => None,
    };
    let fault = |what: &str| (name(), format!("{what} is of another type"));
    let maybe_number = |at, what| match number(at) {
        None if !is_null(at) => Err(fault(what)),
        found => Ok(found),
    };
    let maybe_text = |at, what| match text(at) {
        None if !is_null(at) => Err(fault(what)),
        found => Ok(found),
    };
    Ok(RawRow {
        service: text(0).ok_or_else(|| fault("service"))?,
        address: text(1).ok_or_else(|| fault("address"))?,
        modid: maybe_number(2, "modid")?,
        cmdid: maybe_number(3, "cmdid")?,
        weight: number(4).ok_or_else(|| fault("weight"))?,
        site: maybe_text(5, "site")?,
        zone: maybe_text(6, "zone")?,
        metadata: text(7).ok_or_else(|| fault("metadata"))?,
    })
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
