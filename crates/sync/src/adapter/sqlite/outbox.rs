//! The outbox: what triggers write down in the transaction that writes a row.
//!
//! A trigger on each table puts each change into one table of ours, values as they
//! are. A reader numbers what it finds: one number for one or several whole
//! transactions, which become one entry. Where `SQLite` has no name for a
//! transaction, the state that a read transaction sees is one that lies between
//! transactions; numbers are stored before they are told, so that they come out
//! the same after a crash.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use waystation_replica::limits::PAYLOAD_BYTES_MAX;

use super::changes::{Shape, Writer};
use super::{Stage, catalog, schema, state};
use crate::adapter::AdapterError;
use crate::limits::CAPTURE_GROUP_BYTES;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS _waystation_outbox (
    seq INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    op INTEGER NOT NULL,
    c0
);
CREATE TABLE IF NOT EXISTS _waystation_tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    shape BLOB NOT NULL,
    is_there INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS _waystation_objects (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    sql TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS _waystation_numbers (
    number INTEGER PRIMARY KEY,
    last INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS _waystation_captured (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    number INTEGER NOT NULL,
    last INTEGER NOT NULL,
    version INTEGER NOT NULL,
    erased INTEGER NOT NULL
);
INSERT OR IGNORE INTO _waystation_captured VALUES (0, 0, 0, 0, 0);
";

pub(super) const PUT: i64 = 1;
pub(super) const DELETE: i64 = 2;
pub(super) const MAKE: i64 = 3;
pub(super) const DROP: i64 = 4;

/// Bytes of a value beside those of its text, at most.
const VALUE_BYTES: u64 = 9;

/// What becomes of tables, indexes, views and triggers that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemaChange {
    /// They are written down as changes, with the rows of tables that are new or are
    /// not what they were.
    Capture,
    /// They came through the log, or are what the copy began with.
    Adopt,
}

/// How far the captured writes are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    /// The last number.
    pub(super) number: u64,
    /// The last row of the outbox that has one.
    last: i64,
    version: i64,
}

impl Numbered {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT number, last, version FROM _waystation_captured";
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Self {
                number: row.get::<_, i64>(0)?.cast_unsigned(),
                last: row.get(1)?,
                version: row.get(2)?,
            })
        })
    }

    /// Whether all that was made was looked at when the schema had this version.
    pub(super) fn is_of_version(&self, version: i64) -> bool {
        self.version == version
    }

    /// All was looked at as it is in this version of the schema.
    pub(super) fn store_version(mut self, to: &Connection, version: i64) -> rusqlite::Result<()> {
        self.version = version;
        self.store(to)
    }

    fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE _waystation_captured SET number = ?1, last = ?2, version = ?3";
        let number = self.number.cast_signed();
        let values = params![number, self.last, self.version];
        connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// Whether there is nothing to number.
    pub(super) fn is_up_to_date(&self, connection: &Connection) -> rusqlite::Result<bool> {
        Ok(last_row(connection)? <= self.last && schema::version(connection)? == self.version)
    }
}

/// Makes our tables for captured writes, if they are not there.
pub(super) fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)
}

/// Gives the outbox columns for rows of this many values.
pub(super) fn widen(connection: &Connection, width: usize) -> rusqlite::Result<()> {
    for index in outbox_width(connection)?..width {
        let sql = format!("ALTER TABLE _waystation_outbox ADD COLUMN c{index}");
        connection.execute_batch(&sql)?;
    }
    Ok(())
}

fn outbox_width(connection: &Connection) -> rusqlite::Result<usize> {
    let sql = "SELECT count(*) FROM pragma_table_info('_waystation_outbox')";
    let columns: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(usize::try_from(columns - 3).unwrap_or_default())
}

pub(super) fn damaged(what: &str) -> AdapterError {
    AdapterError::Damaged(format!("{what} makes no sense"))
}

/// The last row; rows that are erased leave the last one.
fn last_row(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT max(seq) FROM _waystation_outbox";
    let last: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    Ok(last.unwrap_or_default())
}

/// Numbers what is not numbered, in a transaction that holds the file's write lock.
/// One number for all that was found, which is whole transactions, unless that is
/// more than [`CAPTURE_GROUP_BYTES`]: then it is cut between two rows. While a copy is
/// being taken nothing is: what a program makes meanwhile is looked at behind it.
///
/// # Errors
/// A table cannot be captured, or the file is not available.
pub(super) fn number(
    transaction: &Transaction<'_>,
    skipped: &[String],
) -> Result<Numbered, AdapterError> {
    if state::stage(transaction)? == Some(Stage::Partial) {
        return Ok(Numbered::load(transaction)?);
    }
    catalog::install(transaction, skipped, SchemaChange::Capture)?;
    let mut numbered = Numbered::load(transaction)?;
    let lengths = (0..outbox_width(transaction)?).map(|index| format!("octet_length(c{index})"));
    let lengths = lengths.collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT seq, {lengths} FROM _waystation_outbox WHERE seq > ?1 ORDER BY seq");
    let mut statement = transaction.prepare_cached(&sql)?;
    let width = statement.column_count();
    let mut rows = statement.query([numbered.last])?;
    let (mut bytes, mut ends, mut last) = (0_u64, Vec::new(), numbered.last);
    while let Some(row) = rows.next()? {
        let mut row_bytes = 16;
        for index in 1..width {
            let value: Option<i64> = row.get(index)?;
            // What `changes` makes of it, or a number that has more digits there.
            row_bytes += value.unwrap_or_default().cast_unsigned() + VALUE_BYTES;
        }
        if bytes > 0 && bytes + row_bytes > CAPTURE_GROUP_BYTES {
            ends.push(last);
            bytes = 0;
        }
        bytes += row_bytes;
        last = row.get(0)?;
    }
    if last > numbered.last {
        ends.push(last);
    }
    let sql = "INSERT INTO _waystation_numbers VALUES (?1, ?2)";
    let mut insert = transaction.prepare_cached(sql)?;
    for end in ends {
        numbered.number += 1;
        numbered.last = end;
        insert.execute(params![numbered.number.cast_signed(), end])?;
    }
    numbered.store(transaction)?;
    Ok(numbered)
}

/// The changes of one number, as the payload of an entry; none if they are erased.
///
/// # Errors
/// [`AdapterError::Unfit`] if a row is larger than an entry may be.
pub(super) fn payload(
    connection: &Connection,
    number: u64,
) -> Result<Option<Vec<u8>>, AdapterError> {
    let sql = "SELECT last, coalesce((SELECT max(last) FROM _waystation_numbers WHERE number < ?1), \
        (SELECT erased FROM _waystation_captured)) FROM _waystation_numbers WHERE number = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let bounds = statement.query_row([number.cast_signed()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    let Some((last, before)) = bounds.optional()? else {
        return Ok(None);
    };
    let sql = "SELECT * FROM _waystation_outbox WHERE seq > ?1 AND seq <= ?2 ORDER BY seq";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([before, last])?;
    let (mut writer, mut shape) = (Writer::default(), None::<(i64, Shape)>);
    while let Some(row) = rows.next()? {
        let (table, op): (i64, i64) = (row.get(1)?, row.get(2)?);
        if op == MAKE || op == DROP {
            let (name, sql): (String, String) = (row.get(3)?, row.get(4)?);
            if op == MAKE {
                writer.make(&name, &sql);
            } else {
                writer.drop(&name, &sql);
            }
            continue;
        }
        if shape.as_ref().is_none_or(|(id, _)| *id != table) {
            shape = Some((table, shape_of(connection, table)?));
        }
        let Some((_, shape)) = &shape else { continue };
        let is_put = op == PUT;
        let count = if is_put {
            shape.columns.len()
        } else {
            shape.key.len()
        };
        let values = (0..count).map(|index| row.get_ref(3 + index));
        let values = values.collect::<Result<Vec<ValueRef<'_>>, _>>()?;
        if is_put {
            writer.put(shape, values);
        } else {
            writer.delete(shape, values);
        }
        if writer.len() > PAYLOAD_BYTES_MAX - (1 << 20) {
            return Err(AdapterError::Unfit(format!(
                "a row of table {} is larger than an entry may be",
                shape.name
            )));
        }
    }
    Ok(Some(writer.finish()))
}

fn shape_of(connection: &Connection, id: i64) -> Result<Shape, AdapterError> {
    let sql = "SELECT shape FROM _waystation_tables WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let bytes: Option<Vec<u8>> = statement.query_row([id], |row| row.get(0)).optional()?;
    let shape = bytes.as_deref().and_then(Shape::decode);
    shape.ok_or_else(|| damaged("the table of a captured write"))
}

/// Erases numbers up to one, and rows of the outbox, `rows_max` at most. The last row
/// stays, so that numbers of rows are not used again. True when all are gone.
pub(super) fn erase(
    transaction: &Transaction<'_>,
    through: u64,
    rows_max: i64,
) -> rusqlite::Result<bool> {
    let sql = "SELECT max(last) FROM _waystation_numbers WHERE number <= ?1";
    let through = through.cast_signed();
    let last: Option<i64> = transaction
        .prepare_cached(sql)?
        .query_row([through], |row| row.get(0))?;
    if let Some(last) = last {
        let sql = "UPDATE _waystation_captured SET erased = ?1";
        transaction.prepare_cached(sql)?.execute([last])?;
        let sql = "DELETE FROM _waystation_numbers WHERE number <= ?1";
        transaction.prepare_cached(sql)?.execute([through])?;
    }
    let sql = "DELETE FROM _waystation_outbox WHERE seq IN (SELECT seq FROM _waystation_outbox \
        WHERE seq <= (SELECT erased FROM _waystation_captured) \
        AND seq < (SELECT max(seq) FROM _waystation_outbox) ORDER BY seq LIMIT ?1)";
    let count = transaction.prepare_cached(sql)?.execute([rows_max])?;
    Ok(i64::try_from(count).is_ok_and(|count| count < rows_max))
}

/// Whether changes of a table wait that have no number yet.
pub(super) fn is_waiting(connection: &Connection, table: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM _waystation_outbox \
        WHERE seq > (SELECT last FROM _waystation_captured) AND tbl = ?1 LIMIT 1";
    connection.prepare_cached(sql)?.exists([table])
}

/// Drops all captured writes: the copy begins anew, and so do their numbers.
pub(super) fn clear(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "DELETE FROM _waystation_outbox; DELETE FROM _waystation_numbers; \
         UPDATE _waystation_captured SET number = 0, last = 0, erased = 0",
    )
}

/// Numbers go on after `returned` at least: a file that was put back from a backup has
/// applied writes that were captured there later, while it captured none.
pub(super) fn go_on_after(transaction: &Transaction<'_>, returned: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE _waystation_captured SET number = max(number, ?1)";
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute([returned.cast_signed()])?;
    Ok(())
}

/// Whether writes to this file were ever captured.
pub(super) fn is_installed(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(schema::exists(connection, "_waystation_captured")?
        && Numbered::load(connection)?.version != 0)
}
