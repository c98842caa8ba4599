//! `SQLite` files as targets.
//!
//! Writes of any program are captured: triggers fill an outbox in the transaction
//! that writes. What no trigger sees is refused by name: virtual tables, tables
//! without a primary key, rows with NULL in one. `INSERT OR REPLACE` deletes rows
//! without firing triggers; a put replaces in the same way at the target, so that
//! the same rows go there.
//!
//! The lane that applies has triggers and foreign keys switched off for its own
//! connection: what they did is captured where they ran. So what is applied is
//! never captured again either.
//!
//! The file is put into WAL mode, and stays in it. An entry whose payload is not one
//! of captured changes is taken for SQL text: see
//! [`Adapter`] for what that costs in safety.

mod apply;
mod capture;
mod changes;
mod keys;
mod outbox;
mod schema;
mod snapshot;
mod state;
mod statement;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, TransactionBehavior};
use waystation_base::Seq;
use waystation_replica::{Entry, LifeId, SiteRestored, Touches};

use self::apply::{Plans, SqliteApply, is_transient};
use self::capture::SqliteCapture;
use self::changes::{Change, Changes, Shape};
use self::outbox::SchemaChange;
use self::snapshot::SqliteSnapshot;
use self::state::State;
use self::statement::Guard;
use super::{Adapter, AdapterError, Capture, Kind, Opened, Snapshot};
use crate::limits::{BUSY_WAIT, STATEMENTS_CACHED};

/// A `SQLite` file as a target.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    path: PathBuf,
    is_captured: bool,
    skipped: Vec<String>,
}

impl SqliteDatabase {
    /// The file with this path; made when it is opened, if it is not there.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_captured: false,
            skipped: Vec::new(),
        }
    }

    /// Captures writes that are made to it.
    #[must_use]
    pub fn captured(mut self) -> Self {
        self.is_captured = true;
        self
    }

    /// Leaves a table alone: its rows are neither captured nor copied nor compared.
    #[must_use]
    pub fn skip(mut self, table: &str) -> Self {
        self.skipped.push(table.to_owned());
        self
    }

    fn connect(&self) -> Result<Connection, AdapterError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        Ok(connection)
    }

    /// A connection that applies: nothing that it writes fires a trigger.
    fn connect_to_apply(&self) -> Result<Connection, AdapterError> {
        let connection = self.connect()?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        Ok(connection)
    }
}

impl Adapter for SqliteDatabase {
    fn kind(&self) -> Kind {
        Kind {
            name: "sqlite",
            is_transactional: true,
            can_filter: true,
            touches: |entry: &Entry| touches(&entry.payload),
        }
    }

    fn open(&self, life: LifeId) -> Result<Opened, AdapterError> {
        let mut connection = self.connect_to_apply()?;
        let guard = Guard::install(&mut connection)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        State::create_tables(&transaction)?;
        let state = if let Some(state) = State::load(&transaction)? {
            state
        } else {
            let state = State::new(life);
            state.store(&transaction)?;
            state
        };
        for table in schema::tables(&transaction, &self.skipped)? {
            schema::check_keys(&transaction, &table)?;
        }
        if self.is_captured {
            let change = if outbox::is_installed(&transaction)? {
                SchemaChange::Capture
            } else {
                SchemaChange::Adopt
            };
            outbox::install(&transaction, &self.skipped, change)?;
        }
        let parked = parked(&transaction)?;
        transaction.commit()?;
        let restored = SiteRestored {
            life: state.life,
            holding: state.holding.clone(),
            parked,
            is_differing: state.is_differing,
            is_captured: self.is_captured,
        };
        let capture = if self.is_captured {
            let capture = SqliteCapture::new(self.connect()?, self.skipped.clone());
            Some(Box::new(capture) as Box<dyn Capture>)
        } else {
            None
        };
        let apply = Box::new(SqliteApply {
            connection,
            guard,
            skipped: self.skipped.clone(),
            is_captured: self.is_captured,
            state,
            plans: Plans::default(),
        });
        Ok(Opened {
            restored,
            apply,
            capture,
        })
    }

    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError> {
        let reader = self.connect()?;
        if !self.is_captured {
            return Ok(Box::new(SqliteSnapshot::begin(reader, &self.skipped)?));
        }
        // While the write lock is held, the reader sees exactly the writes that are
        // numbered under it.
        let mut writer = self.connect()?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let numbered = outbox::number(&transaction, &self.skipped)?;
        let mut snapshot = SqliteSnapshot::begin(reader, &self.skipped)?;
        let returned = State::load(&transaction)?.map_or(0, |state| state.returned);
        transaction.commit()?;
        snapshot.set_captured((numbered.number > returned).then_some(numbered.number));
        Ok(Box::new(snapshot))
    }
}

fn parked(connection: &Connection) -> Result<Vec<(Seq, Touches)>, AdapterError> {
    let sql = "SELECT seq, payload FROM _waystation_parked ORDER BY seq";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut parked = Vec::new();
    while let Some(row) = rows.next()? {
        let seq = Seq(row.get::<_, i64>(0)?.cast_unsigned());
        parked.push((seq, touches(&row.get::<_, Vec<u8>>(1)?)));
    }
    Ok(parked)
}

/// The keys that changes name, hashed; a statement may touch anything.
fn touches(payload: &[u8]) -> Touches {
    let Some(mut changes) = Changes::read(payload) else {
        return Touches::Anything;
    };
    let shapes = changes.shapes.clone();
    let mut keys = Vec::new();
    loop {
        let key = match changes.next() {
            Ok(Some(Change::Put { table, row })) => {
                let shape = &shapes[table];
                keys::encode(&shape.name, shape.key.iter().map(|index| row[*index]))
            }
            Ok(Some(Change::Delete { table, key })) => keys::encode(&shapes[table].name, key),
            Ok(None) => return Touches::Keys(keys),
            Ok(Some(Change::Make { .. } | Change::Drop { .. })) | Err(_) => {
                return Touches::Anything;
            }
        };
        keys.push(waystation_base::hash64(&key));
    }
}

/// A condition on a table's key: `sign` compares, and its values are the
/// parameters after the first `before`.
fn key_bound(shape: &Shape, sign: &str, before: usize) -> String {
    let columns = shape.key.iter();
    let columns: Vec<_> = columns
        .map(|index| format!("{} COLLATE BINARY", schema::quoted(&shape.columns[*index])))
        .collect();
    let marks: Vec<_> = (1..=columns.len())
        .map(|index| format!("?{}", before + index))
        .collect();
    format!("({}) {sign} ({})", columns.join(", "), marks.join(", "))
}

/// A value of a payload as a parameter.
struct OwnedRef<'v>(ValueRef<'v>);

impl ToSql for OwnedRef<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

impl From<rusqlite::Error> for AdapterError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ if is_transient(&error) => Self::Unavailable(error.to_string()),
            _ => Self::Unfit(error.to_string()),
        }
    }
}
