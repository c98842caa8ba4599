//! The triggers that write changes down.
//!
//! They write down what a table holds when they run, not what the statement said
//! that fired them. Triggers of the application may have changed the row in between:
//! `SQLite` fires the one that was made last first, and temporary ones before all
//! others. Whatever such a trigger does to a row fires ours again, so that the last
//! thing written down of a key is what the table holds in the end.
//!
//! Programs run them with the `SQLite` that they were built with, which may be many
//! years older than ours: the texts keep to what all of them have that know WAL mode.

use rusqlite::{Connection, OptionalExtension};

use super::changes::Shape;
use super::outbox::{DELETE, PUT};
use super::schema::{Table, length, quoted, sum};
use super::state::{GIVEN_UP, RESTORING};
use crate::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};

/// How the triggers of a table were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All of them are there.
    AsMade,
    /// They are there, and are those of another version of this program.
    Older,
    /// One is missing, or stands on another table: writes may have been missed.
    Lost,
}

/// The row as it is now. The table's own name may be `new` or `old`, too.
const ROW: &str = "_waystation_row";

fn names(id: i64) -> [String; 3] {
    ["put", "change", "delete"].map(|kind| format!("_waystation_{kind}_{id}"))
}

/// Gives a table its triggers.
pub(super) fn make(connection: &Connection, id: i64, table: &Table) -> rusqlite::Result<()> {
    for sql in texts(id, table) {
        connection.execute_batch(&sql)?;
    }
    Ok(())
}

/// Takes them away, wherever they are: a table that was renamed has kept them.
pub(super) fn drop(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    for name in names(id) {
        connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {name}"))?;
    }
    Ok(())
}

/// Looks for the triggers of a table. Cost: three rows of the schema.
pub(super) fn look(connection: &Connection, id: i64, table: &Table) -> rusqlite::Result<Found> {
    let sql = "SELECT sql FROM sqlite_master \
        WHERE type = 'trigger' AND name = ?1 AND tbl_name = ?2 COLLATE NOCASE";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = Found::AsMade;
    for (name, text) in names(id).iter().zip(texts(id, table)) {
        let values = [name, &table.shape.name];
        let there: Option<String> = statement.query_row(values, |row| row.get(0)).optional()?;
        match there {
            None => return Ok(Found::Lost),
            Some(there) if there != text => found = Found::Older,
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Whether all triggers of an application on a table run after ours, temporary ones
/// apart: the one that was made last runs first.
pub(super) fn run_first(connection: &Connection, id: i64, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master \
        WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE AND name NOT IN (?2, ?3, ?4) \
        AND rowid > (SELECT min(rowid) FROM sqlite_master \
            WHERE type = 'trigger' AND name IN (?2, ?3, ?4))";
    let [put, change, delete] = names(id);
    let values = [table, &put, &change, &delete];
    Ok(!connection.prepare_cached(sql)?.exists(values)?)
}

/// Makes them anew, behind all others.
pub(super) fn renew(connection: &Connection, id: i64, table: &Table) -> rusqlite::Result<()> {
    drop(connection, id)?;
    make(connection, id, table)
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A column of a row that has a name.
fn of(row: &str, shape: &Shape, index: usize) -> String {
    format!("{row}.{}", quoted(&shape.columns[index]))
}

/// The row with the key that `row` has, as it is now. First as an index of the key
/// finds it, then exactly.
fn now(shape: &Shape, row: &str) -> String {
    let parts = shape.key.iter().map(|index| {
        let (one, other) = (of(ROW, shape, *index), of(row, shape, *index));
        format!("{one} = {other} AND {one} = {other} COLLATE BINARY")
    });
    let parts = parts.collect::<Vec<_>>().join(" AND ");
    format!("FROM {} AS {ROW} WHERE {parts}", quoted(&shape.name))
}

/// The three statements, as the schema has them. A put for the row if it is there
/// after the statement, a delete for a key that is not. An update that changes the
/// key is both, in this order.
fn texts(id: i64, table: &Table) -> [String; 3] {
    let shape = &table.shape;
    let [put, change, delete] = names(id);
    let name = quoted(&shape.name);
    let into = |count: usize| list((0..count).map(|index| format!("c{index}")));
    let (row_into, key_into) = (into(shape.columns.len()), into(shape.key.len()));
    let row = list((0..shape.columns.len()).map(|index| of(ROW, shape, index)));
    let put_row = format!(
        "INSERT INTO _waystation_outbox (tbl, op, {row_into}) SELECT {id}, {PUT}, {row} {};",
        now(shape, "NEW")
    );
    let delete_key = format!(
        "INSERT INTO _waystation_outbox (tbl, op, {key_into}) SELECT {id}, {DELETE}, {} WHERE",
        list(shape.key.iter().map(|index| of("OLD", shape, *index)))
    );
    let is_gone = format!("NOT EXISTS (SELECT 1 {})", now(shape, "OLD"));
    let parts = shape.key.iter().map(|index| {
        let (old, new) = (of("OLD", shape, *index), of("NEW", shape, *index));
        format!("{old} COLLATE BINARY IS NOT {new}")
    });
    let is_other_key = parts.collect::<Vec<_>>().join(" OR ");
    let check = checks(table);
    [
        format!("CREATE TRIGGER {put} AFTER INSERT ON {name} BEGIN {check} {put_row} END"),
        format!(
            "CREATE TRIGGER {change} AFTER UPDATE ON {name} BEGIN {check} \
             {delete_key} ({is_other_key}) AND {is_gone}; {put_row} END"
        ),
        format!(
            "CREATE TRIGGER {delete} AFTER DELETE ON {name} BEGIN {} {delete_key} {is_gone}; END",
            partial(shape)
        ),
    ]
}

fn refuse(shape: &Shape, why: &str, condition: &str) -> String {
    let text = format!("table {} is synced: {why}", shape.name);
    let text = text.replace('\'', "''");
    format!("SELECT RAISE(ABORT, '{text}') WHERE {condition};")
}

/// What refuses each write while a copy is taken: a part that comes later would undo
/// it here, and the other sites would have it.
fn partial(shape: &Shape) -> String {
    let condition = format!(
        "EXISTS (SELECT 1 FROM _waystation_state WHERE kind = {RESTORING} OR kind = {GIVEN_UP})"
    );
    let why = "a copy of it is being taken, and this would be lost";
    refuse(shape, why, &condition)
}

/// What refuses a row that cannot be synced, where it is written.
fn checks(table: &Table) -> String {
    let shape = &table.shape;
    let refuse = |why: &str, condition: String| refuse(shape, why, &condition);
    let bytes = |indexes: &mut dyn Iterator<Item = usize>| {
        let parts = indexes.map(|index| length(&of("NEW", shape, index)));
        sum(&parts.collect::<Vec<_>>())
    };
    let mut all = vec![partial(shape)];
    let nullable = table.nullable.iter();
    let nulls: Vec<_> = nullable
        .map(|index| format!("{} IS NULL", of("NEW", shape, *index)))
        .collect();
    if !nulls.is_empty() {
        all.push(refuse("no NULL in its primary key", nulls.join(" OR ")));
    }
    let row = bytes(&mut (0..shape.columns.len()));
    let why = format!("no row of more than {ROW_BYTES_MAX} bytes");
    all.push(refuse(&why, format!("{row} > {ROW_BYTES_MAX}")));
    if !table.is_numbered {
        let key = bytes(&mut shape.key.iter().copied());
        let why = format!("no key of more than {KEY_BYTES_MAX} bytes");
        all.push(refuse(&why, format!("{key} > {KEY_BYTES_MAX}")));
    }
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs write with a `SQLite` that may be older than ours by many years: these
    /// functions were there when WAL mode came.
    const FUNCTIONS: [&str; 4] = ["COALESCE", "LENGTH", "CAST", "RAISE"];

    /// Words that stand before a bracket which is none of a call.
    const WORDS: [&str; 8] = [
        "EXISTS",
        "WHERE",
        "AND",
        "OR",
        "_WAYSTATION_OUTBOX",
        "SELECT",
        ">",
        "+",
    ];

    #[test]
    fn triggers_call_what_every_version_has() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE a (a, b TEXT, c, PRIMARY KEY (a, b));
                 CREATE TABLE b (a INTEGER PRIMARY KEY, b UNIQUE);
                 CREATE TABLE c (a PRIMARY KEY, b UNIQUE) WITHOUT ROWID",
            )
            .unwrap();
        let mut calls = 0;
        for table in crate::adapter::sqlite::schema::tables(&connection, &[]).unwrap() {
            for text in texts(1, &table) {
                for (at, _) in text.match_indices('(') {
                    let before = text[..at].trim_end_matches(['(', ' ']);
                    let name = before.rsplit([' ', '(']).next().unwrap_or_default();
                    let name = name.to_uppercase();
                    if FUNCTIONS.contains(&&*name) {
                        calls += 1;
                    } else {
                        assert!(WORDS.contains(&&*name), "{name} in {text}");
                    }
                }
            }
        }
        assert!(calls > 20, "{calls}");
    }
}
