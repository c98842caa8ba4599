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
//! For a proof of equality programs that write wait for some milliseconds, until the
//! log has what they wrote before: a moment at which the file says nothing else than
//! the log. One that waits for nothing (`busy_timeout`) is told that it is locked, as
//! by any other writer.
//!
//! The file is put into WAL mode, and stays in it. An entry whose payload is not one
//! of captured changes is taken for SQL text: see
//! [`Adapter`] for what that costs in safety.

mod apply;
mod capture;
mod catalog;
mod changes;
mod hold;
mod ids;
mod keys;
mod known;
pub(super) mod lists;
mod outbox;
mod place;
mod plans;
mod release;
mod schema;
mod skips;
mod snapshot;
pub(super) mod state;
mod statement;
#[cfg(test)]
mod tests;
mod tokens;
mod touches;
mod triggers;

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, Transaction, TransactionBehavior};
use waystation_base::Seq;
use waystation_replica::{Cursor, Holding, LifeId, SiteRestored};

use self::apply::SqliteApply;
use self::capture::SqliteCapture;
use self::changes::Shape;
use self::known::Known;
use self::outbox::{Numbered, SchemaChange};
use self::place::Place;
use self::plans::Heads;
use self::schema::Object;
use self::snapshot::SqliteSnapshot;
use self::state::State;
use self::statement::Guard;
use self::touches::Uniques;
use super::{Adapter, AdapterError, Capture, Kind, Opened, Snapshot};
use crate::limits::{BUSY_WAIT, STATEMENTS_CACHED};

/// What the rows of a file are to its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The hub knows of no copy here yet. A site that founds a stream begins with
    /// these rows; at any other one a copy from there takes their place.
    Own,
    /// A part of the copy is missing, or it was given up and the next one has not
    /// come. What is read means nothing, and what is written is lost.
    Partial,
    /// A copy at a position.
    Whole,
}

/// A `SQLite` file as a target.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    path: PathBuf,
    is_captured: bool,
    skipped: Vec<String>,
    uniques: Uniques,
    known: Known,
}

impl SqliteDatabase {
    /// The file with this path; made when it is opened, if it is not there.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_captured: false,
            skipped: Vec::new(),
            uniques: Uniques::default(),
            known: Known::default(),
        }
    }

    /// Captures writes that are made to it.
    #[must_use]
    pub fn captured(mut self) -> Self {
        self.is_captured = true;
        self
    }

    /// Leaves a table alone: its rows are neither captured nor copied nor compared, and
    /// what comes for it from other sites is left out. Proofs of equality find sites
    /// equal that leave the same tables alone.
    ///
    /// Once it is left alone no more, a file that is captured has the others make it
    /// anew with its rows, if nothing came for it from them meanwhile. Any other copy
    /// counts as differing until a proof finds it equal, or a new copy takes its place.
    #[must_use]
    pub fn skip(mut self, table: &str) -> Self {
        self.skipped.push(table.to_owned());
        self
    }

    /// What the rows of a file are to its site, in the transaction at hand. A program
    /// that keeps its data there must ask in each transaction in which it writes.
    /// Cost: one row.
    ///
    /// # Errors
    /// The file was never opened as a target, or cannot be read.
    pub fn stage(connection: &Connection) -> rusqlite::Result<Stage> {
        state::stage(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// The tables in which there are rows that the first copy from another site would
    /// take the place of; none once the file is a copy, or was one. Cost: a row of each
    /// table.
    ///
    /// # Errors
    /// The file cannot be read, or a table cannot be synced.
    pub fn own_rows(&self) -> Result<Vec<String>, AdapterError> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let connection = self.connect()?;
        if schema::exists(&connection, "_waystation_state")?
            && state::stage(&connection)?.is_some_and(|stage| stage != Stage::Own)
        {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for table in schema::tables(&connection, &self.skipped)? {
            let name = table.shape.name;
            let sql = format!("SELECT 1 FROM {} LIMIT 1", schema::quoted(&name));
            if connection.prepare(&sql)?.exists([])? {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The rows that an entry's payload puts into a table: for each the values of
    /// `columns`, in their order. Nothing of a payload that is no changes of rows,
    /// or of a table that has not all of these columns. Cost: O(payload).
    pub fn rows_put(payload: &[u8], table: &str, columns: &[&str]) -> Vec<Vec<Value>> {
        changes::rows_put(payload, table, columns)
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
        let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        if encoding != "UTF-8" {
            // Keys are compared as the bytes that are sent, and those are UTF-8.
            let why = format!("the texts of the database are {encoding}, and only UTF-8 is synced");
            return Err(AdapterError::Unfit(why));
        }
        let wal = "PRAGMA journal_mode = WAL";
        let mode: String = connection.query_row(wal, [], |row| row.get(0))?;
        if mode != "wal" {
            // A copy that is read would keep all writers out.
            let why = format!("its journal mode is {mode}, and it cannot be put into WAL mode");
            return Err(AdapterError::Unfit(why));
        }
        connection.execute_batch("PRAGMA foreign_keys = OFF")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        Ok(connection)
    }

    /// Gives all tables that are to be captured their triggers, and takes away
    /// those that are left of another start. The last captured write with a number.
    fn set_up_capture(
        &self,
        transaction: &Transaction<'_>,
        state: &mut State,
    ) -> Result<u64, AdapterError> {
        let was_captured = outbox::is_installed(transaction)?;
        let goes_on = self.is_captured && was_captured && !state.is_partial();
        let is_own = goes_on || state.holding == Holding::Fresh && !state.is_partial();
        let ended = skips::change(transaction, &self.skipped, is_own)?;
        mark_stale(transaction, state, &ended.stale)?;
        if !goes_on {
            mark_stale(transaction, state, &ended.own)?;
        }
        match (self.is_captured, was_captured) {
            (true, true) if goes_on => {
                release::skipped(transaction, &self.skipped)?;
                catalog::replace(transaction, &ended.own)?;
                let stale = ended.stale.iter().map(|one| one.name.clone());
                let but_stale: Vec<_> = self.skipped.iter().cloned().chain(stale).collect();
                catalog::install(transaction, &but_stale, SchemaChange::Capture)?;
                catalog::look_again(transaction)?;
                catalog::install(transaction, &self.skipped, SchemaChange::Adopt)?;
            }
            (true, true) => {
                release::skipped(transaction, &self.skipped)?;
                catalog::install(transaction, &self.skipped, SchemaChange::Adopt)?;
            }
            (true, false) => {
                catalog::install(transaction, &self.skipped, SchemaChange::Adopt)?;
                outbox::go_on_after(transaction, state.returned)?;
            }
            (false, true) => release::all(transaction, state.returned)?,
            (false, false) => {}
        }
        if !self.is_captured {
            return Ok(0);
        }
        Ok(Numbered::load(transaction)?.number)
    }
}

impl Adapter for SqliteDatabase {
    fn kind(&self) -> Kind {
        Kind {
            name: "sqlite",
            is_transactional: true,
            can_filter: true,
            has_rows: true,
            touches: self.uniques.touches_of(),
        }
    }

    fn open(&self, life: LifeId) -> Result<Opened, AdapterError> {
        let mut connection = self.connect_to_apply()?;
        let place = Place::of(&self.path)?;
        let guard = Guard::install(&mut connection)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        State::create_tables(&transaction)?;
        let mut state = if let Some(state) = State::load(&transaction)? {
            state
        } else {
            let state = State::new(life);
            state.store(&transaction)?;
            state
        };
        for table in schema::tables(&transaction, &self.skipped)? {
            schema::check_keys(&transaction, &table)?;
            schema::check_writes(&transaction, &table)?;
        }
        let captured = self.set_up_capture(&transaction, &mut state)?;
        self.uniques.refresh(&transaction)?;
        let parked = lists::parked(&transaction)?.into_iter();
        let touches = |(seq, payload): (Seq, Vec<u8>)| (seq, self.uniques.touches(&payload));
        let parked = parked.map(touches).collect();
        transaction.commit()?;
        self.known.begin(&state, captured);
        let restored = SiteRestored {
            life: state.life,
            holding: state.holding.clone(),
            parked,
            is_differing: state.is_differing,
            is_captured: self.is_captured,
            captured,
        };
        let capture = if self.is_captured {
            let skipped = self.skipped.clone();
            let capture =
                SqliteCapture::new(self.connect()?, place.clone(), self.known.clone(), skipped)?;
            Some(Box::new(capture) as Box<dyn Capture>)
        } else {
            None
        };
        let apply = Box::new(SqliteApply {
            target: self.clone(),
            connection,
            guard,
            place,
            heads: Heads::default(),
            is_held: false,
        });
        Ok(Opened {
            restored,
            apply,
            capture,
        })
    }

    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError> {
        // No empty file is made in the place of one that is gone.
        Place::of(&self.path)?;
        let reader = self.connect()?;
        if !self.is_captured {
            return Ok(Box::new(SqliteSnapshot::begin(
                reader,
                &self.skipped,
                &self.known,
            )?));
        }
        // While the write lock is held, the reader sees exactly the writes that are
        // numbered under it.
        let mut writer = self.connect()?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let numbering = self.known.number(&transaction, &self.skipped)?;
        let mut snapshot = SqliteSnapshot::begin(reader, &self.skipped, &self.known)?;
        let returned = State::load(&transaction)?.map_or(0, |state| state.returned);
        transaction.commit()?;
        let number = self.known.numbered(&numbering);
        snapshot.set_captured((number > returned).then_some(number));
        Ok(Box::new(snapshot))
    }
}

/// A payload of changes as it is written after it was read; none if it is none. For
/// fuzzing.
#[doc(hidden)]
pub fn changes_again(payload: &[u8]) -> Option<Vec<u8>> {
    changes::again(payload)
}

/// A key as it is written after it was read; none if it is none. For fuzzing.
#[doc(hidden)]
pub fn key_again(key: &[u8]) -> Option<Vec<u8>> {
    let place = keys::decode(&Cursor::new(key))?;
    let mut again = keys::encode(&place.table, place.key.iter().map(keys::Part::as_ref));
    again.extend(place.is_after.then_some(0));
    Some(again)
}

/// Entries for tables that were left alone until now were left out: the copy differs
/// until a proof finds it equal, or another one takes its place.
fn mark_stale(
    transaction: &Transaction<'_>,
    state: &mut State,
    ended: &[Object],
) -> Result<(), AdapterError> {
    if state.holding == Holding::Fresh {
        return Ok(());
    }
    for one in ended {
        tracing::warn!(
            table = one.name,
            "was skipped until now, and may lack what others wrote: `sync verify` tells whether"
        );
        state.is_differing = true;
    }
    Ok(state.store(transaction)?)
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

/// Whether the file, not the entry, is at fault.
fn is_transient(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::ReadOnly
                | ErrorCode::OperationInterrupted
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                // Nothing is wrong with the entries; each of them would fail.
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
        )
    )
}
