//! What captured writes cost the program that makes them.

use std::path::Path;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};
use waystation_replica::LifeId;
use waystation_sync::adapter::{Adapter as _, SqliteDatabase};

use super::rows::{Row, TABLE};
use crate::stats::number;
use crate::timing::now;

/// Rows of a transaction.
const BATCH: u64 = 100;

/// What writes of a table fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Triggers {
    /// Nothing.
    None,
    /// The triggers of the capture, which read the row that is there then.
    Ours,
    /// Triggers that write down what the statement said, `NEW.*`: where an
    /// application has triggers of its own that is not what is there in the end.
    Said,
}

impl Triggers {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Ours, Self::Said];
}

/// The kinds of writes.
pub(crate) const WRITES: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// The simplest that would do, into a table like the outbox.
const SAID: &str = "
CREATE TABLE said (number INTEGER PRIMARY KEY, op INTEGER, c0, c1, c2, c3);
CREATE TRIGGER said_put AFTER INSERT ON item BEGIN
    INSERT INTO said (op, c0, c1, c2, c3) VALUES (1, NEW.id, NEW.name, NEW.amount, NEW.note);
END;
CREATE TRIGGER said_change AFTER UPDATE ON item BEGIN
    INSERT INTO said (op, c0) SELECT 2, OLD.id WHERE OLD.id IS NOT NEW.id;
    INSERT INTO said (op, c0, c1, c2, c3) VALUES (1, NEW.id, NEW.name, NEW.amount, NEW.note);
END;
CREATE TRIGGER said_delete AFTER DELETE ON item BEGIN
    INSERT INTO said (op, c0) VALUES (2, OLD.id);
END;";

/// Inserts, changes and deletes so many rows: rows a second of each.
///
/// # Errors
/// The file, or not all of it was written down.
pub(crate) fn writes(triggers: Triggers, rows: u64) -> Result<[f64; 3]> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("written.db");
    let mut connection = Connection::open(&file)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    connection.execute_batch(TABLE)?;
    let written = match triggers {
        Triggers::None => None,
        Triggers::Ours => {
            capture(&file)?;
            Some("_waystation_outbox")
        }
        Triggers::Said => {
            connection.execute_batch(SAID)?;
            Some("said")
        }
    };
    let rates = [
        timed(&mut connection, rows, |connection, row| {
            let sql = "INSERT INTO item VALUES (?1, ?2, ?3, ?4)";
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(params![row.id, row.name, row.amount, row.note.as_slice()])
        })?,
        timed(&mut connection, rows, |connection, row| {
            let sql = "UPDATE item SET amount = ?2 WHERE id = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(params![row.id, -row.amount])
        })?,
        timed(&mut connection, rows, |connection, row| {
            let mut statement = connection.prepare_cached("DELETE FROM item WHERE id = ?1")?;
            statement.execute([row.id])
        })?,
    ];
    if let Some(table) = written {
        let sql = format!("SELECT count(*) FROM {table}");
        let count: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        let (count, expected) = (count.cast_unsigned(), 3 * rows);
        ensure!(count == expected, "{count} of {expected} are written down");
    }
    Ok(rates)
}

/// Makes a file one whose writes are captured; no site runs.
fn capture(file: &Path) -> Result<()> {
    let target = SqliteDatabase::new(file).captured();
    drop(target.open(LifeId(1))?);
    Ok(())
}

/// Rows a second.
fn timed(
    connection: &mut Connection,
    rows: u64,
    write: impl Fn(&Connection, &Row) -> rusqlite::Result<usize>,
) -> Result<f64> {
    let began = now();
    let mut id = 0;
    while id < rows {
        let through = (id + BATCH).min(rows);
        let transaction = connection.transaction()?;
        for id in id + 1..=through {
            write(&transaction, &Row::new(id.cast_signed()))?;
        }
        transaction.commit()?;
        id = through;
    }
    Ok(number(rows) / now().saturating_since(began).as_secs_f64())
}
