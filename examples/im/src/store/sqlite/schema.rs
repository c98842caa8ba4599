//! Opening files: pragmas, the schema and its versions, the checks.

use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::store::error::StoreError;
use crate::store::limits::{
    BUSY_TIMEOUT, CHECKPOINT_PAGES, OPEN_CHECK_BYTES_MAX, STATEMENTS_CACHED, WAL_BYTES_KEPT,
    WAL_SWITCH_ATTEMPTS_MAX, WRITER_CACHE_KIB,
};

/// "WIMS" in the file's header: tells our files from other programs' databases.
const APPLICATION_ID: i64 = 0x5749_4d53;

/// `MIGRATIONS[v]` leads from version v to v + 1; the version is `user_version`.
/// A released entry never changes; a new version is a new entry.
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

/// The indices, and what each is for:
///
/// - `conversation.name` (unique): every operation starts with a name.
/// - `member`, primary key (conversation, uid): the members of a conversation lie
///   together and sorted, as each append returns them.
/// - `member_by_uid` (uid, conversation): a user's conversations in the order of
///   their pages. This is why a member's row repeats the name, which never changes.
/// - `message`, primary key (conversation, seq): a page of history is one run of
///   neighbouring rows, and a number cannot be given twice.
/// - `message_once` (conversation, sender, client id), unique: a message sent again
///   is found at any age, and the file itself refuses a second copy.
///
/// `founding` stands apart from `conversation` so that the row that every append
/// changes stays small. Its members (joined by commas) are those of the creation,
/// so that creating again succeeds although the group has changed since.
const VERSION_1: &str = "
CREATE TABLE conversation (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL
) STRICT;
CREATE TABLE founding (
    conversation_id INTEGER PRIMARY KEY,
    creator TEXT NOT NULL,
    members TEXT NOT NULL
) STRICT;
CREATE TABLE member (
    conversation_id INTEGER NOT NULL,
    uid TEXT NOT NULL,
    joined_seq INTEGER NOT NULL,
    read_seq INTEGER NOT NULL,
    conversation TEXT NOT NULL,
    PRIMARY KEY (conversation_id, uid)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX member_by_uid ON member (uid, conversation);
CREATE TABLE message (
    conversation_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    sender TEXT NOT NULL,
    client_id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX message_once ON message (conversation_id, sender, client_id);
";

/// Several sites keep copies: see `home`. All that is there is of the site with
/// number 0, which is the first one.
const VERSION_2: &str = "
ALTER TABLE conversation ADD COLUMN home INTEGER NOT NULL DEFAULT 0;
CREATE TABLE site (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE birth (
    slot INTEGER PRIMARY KEY,
    home INTEGER NOT NULL
) STRICT;
";

/// Opens the file for writing; makes or upgrades it. Nothing is changed in a file
/// that is not ours, newer, or damaged.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    prepare(&mut connection, path).map_err(|error| located(error, path))?;
    Ok(connection)
}

/// Opens a file that a writer has opened before, for reading only.
pub(in crate::store) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    // Not SQLITE_OPEN_READ_ONLY: a reader may have to recover the write-ahead log
    // of a process that was killed.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    configure(connection)?;
    let found_version = recognise(&connection.transaction()?, path)?;
    switch_to_wal(connection)?;
    // FULL: the log is synced before a commit returns, so what is acknowledged
    // survives a power failure.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    if found_version < MIGRATIONS.len() {
        migrate(connection, path)?;
    }
    check_pages(connection, path)
}

/// What readers and writers have in common.
fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Without this promise of stable plans SQLite prepares a statement again when
    // other values are bound to it: 17 % of the time of an append.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Refuses other programs' databases and newer versions; returns our version, 0 for
/// an empty file. Reading the header also tells whether it is a database at all. All
/// of it is read in one transaction: another process may be making the file.
fn recognise(transaction: &Transaction<'_>, path: &Path) -> Result<usize, StoreError> {
    let application_id = pragma(transaction, "application_id")?;
    let version = pragma(transaction, "user_version")?;
    let objects: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application_id != APPLICATION_ID && (application_id != 0 || version != 0 || objects != 0) {
        return Err(StoreError::NotAChatStore {
            path: path.to_owned(),
        });
    }
    match usize::try_from(version) {
        Ok(known) if known <= MIGRATIONS.len() => Ok(known),
        _ => Err(StoreError::NewerSchema {
            path: path.to_owned(),
            found: version,
            supported: i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX),
        }),
    }
}

/// Turns on write-ahead logging. While another process does the same with a new
/// file `SQLite` answers "busy" at once, without its usual waiting; an exclusive
/// transaction does wait, for as long as the other holds its lock.
fn switch_to_wal(connection: &mut Connection) -> Result<(), StoreError> {
    let mut attempt = 1;
    loop {
        let switched = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match switched {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => return Err(StoreError::storage(WalRefused { mode })),
            Err(error)
                if attempt < WAL_SWITCH_ATTEMPTS_MAX
                    && error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) =>
            {
                attempt += 1;
                connection
                    .transaction_with_behavior(TransactionBehavior::Exclusive)?
                    .rollback()?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// `SQLite` kept another journal, as it does on file systems without shared memory.
#[derive(Debug, thiserror::Error)]
#[error("write-ahead logging is not possible here; journal mode is {mode:?}")]
struct WalRefused {
    mode: String,
}

/// Brings the schema to our version in one transaction, which other processes that
/// open the same new file wait for.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = recognise(&transaction, path)?;
    for migration in &MIGRATIONS[from..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    let version = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()?;
    Ok(())
}

/// Looks for damage page by page, unless the file is so large that it would take
/// long; damage there shows when a page is used.
fn check_pages(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let bytes = pragma(connection, "page_count")? * pragma(connection, "page_size")?;
    if bytes > OPEN_CHECK_BYTES_MAX {
        return Ok(());
    }
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        path: path.to_owned(),
        source: Arc::new(DamageFound { finding }),
    })
}

/// What `SQLite`'s own check reports.
#[derive(Debug, thiserror::Error)]
#[error("{finding}")]
struct DamageFound {
    finding: String,
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
}

/// Names the file when the failure says that the file is the cause.
fn located(error: StoreError, path: &Path) -> StoreError {
    let StoreError::Storage(source) = error else {
        return error;
    };
    let damaged = source
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code)
        .is_some_and(|code| matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
    if damaged {
        let path = path.to_owned();
        return StoreError::Corrupt { path, source };
    }
    StoreError::Storage(source)
}
