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
use super::schema::{self, Object, Table, quoted};
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

const PUT: i64 = 1;
const DELETE: i64 = 2;
const MAKE: i64 = 3;
const DROP: i64 = 4;

/// What becomes of tables, indexes, views and triggers that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemaChange {
    /// They are written down as changes, with the rows of new tables. A table that
    /// was altered stops the capture.
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

/// The last row; rows that are erased leave the last one.
fn last_row(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT max(seq) FROM _waystation_outbox";
    let last: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    Ok(last.unwrap_or_default())
}

/// Makes the outbox and the triggers of all tables, in a transaction. Whatever
/// changed since the last time is taken as [`SchemaChange`] says.
///
/// # Errors
/// [`AdapterError::Unfit`] names what cannot be captured.
pub(super) fn install(
    transaction: &Transaction<'_>,
    skipped: &[String],
    change: SchemaChange,
) -> Result<(), AdapterError> {
    transaction.execute_batch(SCHEMA)?;
    let mut numbered = Numbered::load(transaction)?;
    if numbered.version == schema::version(transaction)? {
        return Ok(());
    }
    let known = known_tables(transaction)?;
    let tables = schema::tables(transaction, skipped)?;
    for (id, shape) in &known {
        if !tables.iter().any(|table| table.shape == *shape) {
            forget(transaction, *id, shape, &tables, change)?;
        }
    }
    let objects = schema::objects(transaction, skipped)?;
    // Tables are made before their rows, what stands on them after.
    let (first, later): (Vec<_>, Vec<_>) =
        objects.iter().partition(|object| object.is_needed_first());
    write_objects(transaction, &first, change)?;
    for table in &tables {
        if !known.iter().any(|(_, shape)| *shape == table.shape) {
            schema::check_keys(transaction, table)?;
            remember(transaction, table, change)?;
        }
    }
    write_objects(transaction, &later, change)?;
    forget_objects(transaction, &objects, change)?;
    // Our own triggers are a change of the schema too.
    numbered.version = schema::version(transaction)?;
    numbered.store(transaction)?;
    Ok(())
}

pub(super) fn known_tables(connection: &Connection) -> Result<Vec<(i64, Shape)>, AdapterError> {
    let sql = "SELECT id, shape FROM _waystation_tables WHERE is_there";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut known = Vec::new();
    while let Some(row) = rows.next()? {
        let shape = row.get_ref(1)?.as_blob().ok().and_then(Shape::decode);
        let shape = shape.ok_or_else(|| damaged("the shape of a table"))?;
        known.push((row.get(0)?, shape));
    }
    Ok(known)
}

fn damaged(what: &str) -> AdapterError {
    AdapterError::Damaged(format!("{what} makes no sense"))
}

/// A table has gone, or has other columns now.
fn forget(
    transaction: &Transaction<'_>,
    id: i64,
    shape: &Shape,
    tables: &[Table],
    change: SchemaChange,
) -> Result<(), AdapterError> {
    let altered = tables.iter().find(|table| table.shape.name == shape.name);
    if let Some(altered) = altered
        && change == SchemaChange::Capture
    {
        return Err(AdapterError::Unfit(format!(
            "table {} was altered ({}), and writes since then may lack columns; \
             alter it at all sites, then join this site again",
            shape.name,
            difference(shape, &altered.shape)
        )));
    }
    drop_triggers(transaction, id)?;
    Ok(())
}

/// Takes a table's triggers away. One that was renamed has kept them.
pub(super) fn drop_triggers(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    for name in trigger_names(id) {
        transaction.execute_batch(&format!("DROP TRIGGER IF EXISTS {name}"))?;
    }
    let sql = "UPDATE _waystation_tables SET is_there = 0 WHERE id = ?1";
    transaction.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

fn difference(old: &Shape, new: &Shape) -> String {
    let added = new.columns.iter().find(|one| !old.columns.contains(one));
    let dropped = old.columns.iter().find(|one| !new.columns.contains(one));
    match (added, dropped) {
        (Some(added), None) => format!("column {added} was added"),
        (None, Some(dropped)) => format!("column {dropped} was dropped"),
        (Some(added), Some(dropped)) => format!("column {dropped} became {added}"),
        (None, None) => "its columns are in another order or its key is another".to_owned(),
    }
}

fn trigger_names(id: i64) -> [String; 3] {
    ["put", "change", "delete"].map(|kind| format!("_waystation_{kind}_{id}"))
}

/// Gives a table its triggers. Rows that a new table has already are written down.
fn remember(
    transaction: &Transaction<'_>,
    table: &Table,
    change: SchemaChange,
) -> Result<(), AdapterError> {
    let shape = &table.shape;
    let mut bytes = Vec::new();
    shape.encode(&mut bytes);
    let sql = "INSERT INTO _waystation_tables (name, shape, is_there) VALUES (?1, ?2, 1)";
    transaction
        .prepare_cached(sql)?
        .execute(params![shape.name, bytes])?;
    let id = transaction.last_insert_rowid();
    widen(transaction, shape.columns.len().max(shape.key.len()))?;
    transaction.execute_batch(&triggers(id, table))?;
    if change == SchemaChange::Capture {
        let columns = list(shape.columns.iter().map(|column| quoted(column)));
        let name = quoted(&shape.name);
        let into = list((0..shape.columns.len()).map(|index| format!("c{index}")));
        transaction.execute_batch(&format!(
            "INSERT INTO _waystation_outbox (tbl, op, {into}) SELECT {id}, {PUT}, {columns} FROM {name}"
        ))?;
    }
    Ok(())
}

fn widen(connection: &Connection, width: usize) -> rusqlite::Result<()> {
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

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A put for a row that is there after the statement, a delete for a key that is
/// not. An update that changes the key is both, in this order.
fn triggers(id: i64, table: &Table) -> String {
    let shape = &table.shape;
    let [put, change, delete] = trigger_names(id);
    let name = quoted(&shape.name);
    let of = |row: &str, index: usize| format!("{row}.{}", quoted(&shape.columns[index]));
    let all = |row: &str| list((0..shape.columns.len()).map(|index| of(row, index)));
    let key = |row: &str| list(shape.key.iter().map(|index| of(row, *index)));
    let into = |count: usize| list((0..count).map(|index| format!("c{index}")));
    let (row_into, key_into) = (into(shape.columns.len()), into(shape.key.len()));
    let put_row = format!(
        "INSERT INTO _waystation_outbox (tbl, op, {row_into}) VALUES ({id}, {PUT}, {});",
        all("NEW")
    );
    let delete_key = format!(
        "INSERT INTO _waystation_outbox (tbl, op, {key_into}) SELECT {id}, {DELETE}, {}",
        key("OLD")
    );
    let parts = shape.key.iter().map(|index| {
        let (old, new) = (of("OLD", *index), of("NEW", *index));
        format!("{old} COLLATE BINARY IS NOT {new}")
    });
    let is_other_key = parts.collect::<Vec<_>>().join(" OR ");
    let has_no_key = table
        .nullable
        .iter()
        .map(|index| format!("{} IS NULL", of("NEW", *index)));
    let has_no_key = has_no_key.collect::<Vec<_>>().join(" OR ");
    let check = if has_no_key.is_empty() {
        String::new()
    } else {
        let text = format!("table {} is synced: no NULL in its primary key", shape.name);
        let text = text.replace('\'', "''");
        format!("SELECT RAISE(ABORT, '{text}') WHERE {has_no_key};")
    };
    format!(
        "CREATE TRIGGER {put} AFTER INSERT ON {name} BEGIN {check} {put_row} END;\
         CREATE TRIGGER {change} AFTER UPDATE ON {name} BEGIN {check} \
         {delete_key} WHERE {is_other_key}; {put_row} END;\
         CREATE TRIGGER {delete} AFTER DELETE ON {name} BEGIN {delete_key}; END;"
    )
}

/// Writes down what was made since the last time. What was made anew under an old
/// name is dropped first, unless it is a table: that is told by its columns.
fn write_objects(
    transaction: &Transaction<'_>,
    objects: &[&Object],
    change: SchemaChange,
) -> rusqlite::Result<()> {
    for object in objects {
        let sql = "SELECT sql FROM _waystation_objects WHERE name = ?1";
        let mut statement = transaction.prepare_cached(sql)?;
        let known: Option<String> = statement
            .query_row([&object.name], |row| row.get(0))
            .optional()?;
        if known.as_ref() == Some(&object.sql) {
            continue;
        }
        let is_replaced = known.is_some() && object.kind != "table";
        if change == SchemaChange::Capture {
            if is_replaced {
                write_object(transaction, DROP, &object.name, &object.drop_sql())?;
            }
            if known.is_none() || is_replaced {
                write_object(transaction, MAKE, &object.name, &object.sql)?;
            }
        }
        let sql = "INSERT OR REPLACE INTO _waystation_objects VALUES (?1, ?2, ?3)";
        let values = params![object.name, object.kind, object.sql];
        transaction.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

fn forget_objects(
    transaction: &Transaction<'_>,
    objects: &[Object],
    change: SchemaChange,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached("SELECT name, kind FROM _waystation_objects")?;
    let rows = statement.query_map([], |row| {
        Ok(Object {
            name: row.get(0)?,
            kind: row.get(1)?,
            sql: String::new(),
        })
    })?;
    for known in rows.collect::<Result<Vec<_>, _>>()? {
        if objects.iter().any(|object| object.name == known.name) {
            continue;
        }
        if change == SchemaChange::Capture {
            write_object(transaction, DROP, &known.name, &known.drop_sql())?;
        }
        let sql = "DELETE FROM _waystation_objects WHERE name = ?1";
        transaction.prepare_cached(sql)?.execute([&known.name])?;
    }
    Ok(())
}

fn write_object(connection: &Connection, op: i64, name: &str, sql: &str) -> rusqlite::Result<()> {
    widen(connection, 2)?;
    let insert = "INSERT INTO _waystation_outbox (tbl, op, c0, c1) VALUES (0, ?1, ?2, ?3)";
    connection
        .prepare_cached(insert)?
        .execute(params![op, name, sql])?;
    Ok(())
}

/// Numbers what is not numbered, in a transaction that holds the file's write lock.
/// One number for all that was found, unless that is more than
/// [`CAPTURE_GROUP_BYTES`]: what was captured while no site ran may be cut between
/// two rows.
///
/// # Errors
/// A table was altered, or the file is not available.
pub(super) fn number(
    transaction: &Transaction<'_>,
    skipped: &[String],
) -> Result<Numbered, AdapterError> {
    install(transaction, skipped, SchemaChange::Capture)?;
    let mut numbered = Numbered::load(transaction)?;
    let lengths = list((0..outbox_width(transaction)?).map(|i| format!("octet_length(c{i})")));
    let sql = format!("SELECT seq, {lengths} FROM _waystation_outbox WHERE seq > ?1 ORDER BY seq");
    let mut statement = transaction.prepare_cached(&sql)?;
    let width = statement.column_count();
    let mut rows = statement.query([numbered.last])?;
    let (mut bytes, mut ends, mut last) = (0_u64, Vec::new(), numbered.last);
    while let Some(row) = rows.next()? {
        let mut row_bytes = 16;
        for index in 1..width {
            row_bytes += row
                .get::<_, Option<i64>>(index)?
                .unwrap_or_default()
                .cast_unsigned()
                + 5;
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

/// Drops all captured writes: the copy begins anew, and so do their numbers.
pub(super) fn clear(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "DELETE FROM _waystation_outbox; DELETE FROM _waystation_numbers; \
         UPDATE _waystation_captured SET number = 0, last = 0, erased = 0",
    )
}

/// Whether writes to this file were ever captured.
pub(super) fn is_installed(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(schema::exists(connection, "_waystation_captured")?
        && Numbered::load(connection)?.version != 0)
}
