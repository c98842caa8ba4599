//! What is captured of a file: its tables, and all else that statements made.
//!
//! The file itself says what was known when it was looked at last. Where that is not
//! what is there now, the difference is written down as changes. A table that is not
//! the one that was known, although it has its name, is dropped at the other sites
//! and made there again with all its rows: it was altered; or it was made anew, in
//! the way in which `SQLite`'s manual changes what ALTER cannot; or its triggers are
//! gone. Whatever was done to it, and was not seen, is in these rows. So are the rows that
//! were written while its unique indexes changed: by which of them rows took the place
//! of others is known to nobody.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::changes::Shape;
use super::outbox::{self, DROP, MAKE, Numbered, PUT, SchemaChange};
use super::schema::{self, Object, Table, quoted};
use super::triggers::{self, Found};
use crate::adapter::AdapterError;

/// Makes the outbox and the triggers of all tables, in a transaction. Whatever
/// changed since the last time is taken as [`SchemaChange`] says. Cost: one row,
/// unless the schema changed.
///
/// # Errors
/// [`AdapterError::Unfit`] names what cannot be captured.
pub(super) fn install(
    transaction: &Transaction<'_>,
    skipped: &[String],
    change: SchemaChange,
) -> Result<(), AdapterError> {
    outbox::make(transaction)?;
    let numbered = Numbered::load(transaction)?;
    if numbered.is_of_version(schema::version(transaction)?) {
        return Ok(());
    }
    let tables = schema::tables(transaction, skipped)?;
    let objects = schema::objects(transaction, skipped)?;
    let mut kept = Vec::new();
    for (id, shape) in known_tables(transaction)? {
        match tables.iter().find(|table| table.shape == shape) {
            Some(table) if is_as_it_was(transaction, id, table, &objects, change)? => {
                kept.push(shape);
            }
            _ => forget(transaction, id, &shape, &tables, change)?,
        }
    }
    // Tables are made before their rows, what stands on them after.
    let (first, later): (Vec<_>, Vec<_>) =
        objects.iter().partition(|object| object.is_needed_first());
    write_objects(transaction, &first, change)?;
    for table in &tables {
        if !kept.contains(&table.shape) {
            schema::check_keys(transaction, table)?;
            if change == SchemaChange::Capture {
                schema::check_rows(transaction, table)?;
            }
            remember(transaction, table, change)?;
        }
    }
    write_objects(transaction, &later, change)?;
    forget_objects(transaction, &objects, change)?;
    // Our own triggers are a change of the schema too.
    numbered.store_version(transaction, schema::version(transaction)?)?;
    Ok(())
}

pub(super) fn known_tables(connection: &Connection) -> Result<Vec<(i64, Shape)>, AdapterError> {
    let sql = "SELECT id, shape FROM _waystation_tables WHERE is_there";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut known = Vec::new();
    while let Some(row) = rows.next()? {
        let shape = row.get_ref(1)?.as_blob().ok().and_then(Shape::decode);
        let shape = shape.ok_or_else(|| outbox::damaged("the shape of a table"))?;
        known.push((row.get(0)?, shape));
    }
    Ok(known)
}

/// Whether a table with known columns is the one that was known, with triggers that
/// saw all that was written to it. A program that makes a table anew may make our
/// triggers anew as well, word for word; then the table's own text tells.
fn is_as_it_was(
    transaction: &Transaction<'_>,
    id: i64,
    table: &Table,
    objects: &[Object],
    change: SchemaChange,
) -> rusqlite::Result<bool> {
    let name = &table.shape.name;
    let now = objects.iter().find(|one| one.is_table(name));
    let known = known_object(transaction, name)?;
    if let (Some(now), Some(known)) = (now, known)
        && now.sql != known.sql
    {
        return Ok(false);
    }
    // Ours are made anew behind it, and the one that was made last runs first.
    for silencer in schema::silencers(transaction, name)? {
        if known_object(transaction, &silencer.name)? != Some(silencer) {
            return Ok(false);
        }
    }
    let is_waiting = change == SchemaChange::Capture && outbox::is_waiting(transaction, id)?;
    // A change of an index is written down behind the rows that wait, which were
    // written before or after it.
    if is_waiting && !has_known_uniques(transaction, name, objects)? {
        return Ok(false);
    }
    let is_first =
        !schema::has_unique(transaction, name)? || triggers::run_first(transaction, id, name)?;
    match triggers::look(transaction, id, table)? {
        Found::Lost => Ok(false),
        // A trigger that ran before ours may have changed the value by which its row
        // took the place of another one: nothing that waits tells.
        _ if is_waiting && !is_first => Ok(false),
        Found::AsMade if is_first => Ok(true),
        Found::AsMade | Found::Older => {
            triggers::renew(transaction, id, table)?;
            Ok(true)
        }
    }
}

/// Whether a table's unique indexes are those that were known.
fn has_known_uniques(
    connection: &Connection,
    table: &str,
    objects: &[Object],
) -> rusqlite::Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT name, kind, sql FROM _waystation_objects")?;
    let known = statement
        .query_map([], object)?
        .collect::<Result<Vec<_>, _>>()?;
    let of = |objects: &[Object]| -> BTreeSet<(String, String)> {
        let uniques = objects.iter().filter(|one| one.is_unique_of(table));
        uniques
            .map(|one| (one.name.clone(), one.sql.clone()))
            .collect()
    };
    Ok(of(&known) == of(objects))
}

/// An object by its name, kind and text.
fn object(row: &rusqlite::Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object {
        name: row.get(0)?,
        kind: row.get(1)?,
        sql: row.get(2)?,
    })
}

/// A table has gone, or another one has its name now.
fn forget(
    transaction: &Transaction<'_>,
    id: i64,
    shape: &Shape,
    tables: &[Table],
    change: SchemaChange,
) -> Result<(), AdapterError> {
    let is_it = |table: &&Table| table.shape.name.eq_ignore_ascii_case(&shape.name);
    if change == SchemaChange::Capture
        && let Some(table) = tables.iter().find(is_it)
    {
        tracing::warn!(
            table = table.shape.name,
            "was altered or made anew: the other sites get it again, with all its rows"
        );
        let sql = format!("DROP TABLE IF EXISTS {}", quoted(&shape.name));
        write_object(transaction, DROP, &shape.name, &sql)?;
        // What stood on it goes with it there, and is made again behind its rows.
        let sql = "DELETE FROM _waystation_objects WHERE name = ?1 COLLATE NOCASE OR name IN \
            (SELECT name FROM sqlite_master WHERE tbl_name = ?1 COLLATE NOCASE)";
        transaction.prepare_cached(sql)?.execute([&shape.name])?;
    }
    drop_triggers(transaction, id)?;
    Ok(())
}

/// Has the other sites drop what was left alone until now: [`install`] has them make
/// what is there of it, with all its rows. What became of it meanwhile nobody saw.
///
/// # Errors
/// The file cannot be written.
pub(super) fn replace(transaction: &Transaction<'_>, ended: &[Object]) -> rusqlite::Result<()> {
    for one in ended {
        write_object(transaction, DROP, &one.name, &one.drop_sql())?;
    }
    Ok(())
}

/// Whether something was made, altered or dropped since the last [`install`]. Cost: one
/// row, unless the schema changed.
///
/// # Errors
/// The file cannot be read.
pub(super) fn is_changed(
    transaction: &Transaction<'_>,
    skipped: &[String],
) -> rusqlite::Result<bool> {
    if Numbered::load(transaction)?.is_of_version(schema::version(transaction)?) {
        return Ok(false);
    }
    let objects = schema::objects(transaction, skipped)?;
    let sql = "SELECT count(*) FROM _waystation_objects";
    let known: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
    if usize::try_from(known) != Ok(objects.len()) {
        return Ok(true);
    }
    for object in objects {
        if known_object(transaction, &object.name)?.as_ref() != Some(&object) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Has the next [`install`] look at all that is there.
///
/// # Errors
/// The file cannot be written.
pub(super) fn look_again(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    // No schema has this version.
    transaction.execute_batch("UPDATE _waystation_captured SET version = -1")
}

/// Takes a table's triggers away: it is not captured any more.
pub(super) fn drop_triggers(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    triggers::drop(transaction, id)?;
    let sql = "UPDATE _waystation_tables SET is_there = 0 WHERE id = ?1";
    transaction.prepare_cached(sql)?.execute([id])?;
    Ok(())
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
    outbox::widen(transaction, shape.columns.len().max(shape.key.len()))?;
    triggers::make(transaction, id, table)?;
    if change == SchemaChange::Capture {
        let columns: Vec<_> = shape.columns.iter().map(|one| quoted(one)).collect();
        let into: Vec<_> = (0..columns.len())
            .map(|index| format!("c{index}"))
            .collect();
        transaction.execute_batch(&format!(
            "INSERT INTO _waystation_outbox (tbl, op, {}) SELECT {id}, {PUT}, {} FROM {}",
            into.join(", "),
            columns.join(", "),
            quoted(&shape.name)
        ))?;
    }
    Ok(())
}

fn known_object(connection: &Connection, name: &str) -> rusqlite::Result<Option<Object>> {
    let sql = "SELECT name, kind, sql FROM _waystation_objects WHERE name = ?1 COLLATE NOCASE";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([name], object).optional()
}

/// Writes down what was made since the last time. What was made anew under an old
/// name is dropped first, unless both are tables: then [`forget`] has seen to it.
fn write_objects(
    transaction: &Transaction<'_>,
    objects: &[&Object],
    change: SchemaChange,
) -> rusqlite::Result<()> {
    for object in objects {
        let known = known_object(transaction, &object.name)?;
        if known.as_ref() == Some(*object) {
            continue;
        }
        let is_made = match &known {
            None => true,
            Some(known) => known.kind != "table" || object.kind != "table",
        };
        if change == SchemaChange::Capture && is_made {
            if let Some(known) = &known {
                write_object(transaction, DROP, &known.name, &known.drop_sql())?;
            }
            write_object(transaction, MAKE, &object.name, &object.sql)?;
        }
        let sql = "DELETE FROM _waystation_objects WHERE name = ?1 COLLATE NOCASE";
        transaction.prepare_cached(sql)?.execute([&object.name])?;
        let sql = "INSERT INTO _waystation_objects VALUES (?1, ?2, ?3)";
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
    let rows = statement.query_map([], Object::named)?;
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
    outbox::widen(connection, 2)?;
    let insert = "INSERT INTO _waystation_outbox (tbl, op, c0, c1) VALUES (0, ?1, ?2, ?3)";
    connection
        .prepare_cached(insert)?
        .execute(params![op, name, sql])?;
    Ok(())
}
