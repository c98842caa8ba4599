//! What the last start of a file left alone, noted in the file: a table that is left
//! alone no longer is not what the others have, at its writer nor at anyone else.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::schema::{self, Object};

/// `kind` is what the other sites had under the name when it was left alone first, and
/// `is_own` whether that was what was here, and nothing of it that came from other sites
/// was left out since.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS _waystation_left_alone (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    kind TEXT NOT NULL,
    is_own INTEGER NOT NULL
) WITHOUT ROWID;
";

/// What is left alone no more, by name and kind, without its text.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// What nobody else wrote meanwhile: the others lack what became of it here.
    pub(super) own: Vec<Object>,
    /// What others may have written: what is here may be old, or nothing.
    pub(super) stale: Vec<Object>,
}

/// Notes what is left alone from now on. What was left alone until now and is not any
/// more. `is_own` says that the others had nothing until now that was not here, nor less:
/// this is what a stream begins with, or a whole copy of which the writes were captured.
/// Cost: O(names).
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn change(
    transaction: &Transaction<'_>,
    skipped: &[String],
    is_own: bool,
) -> rusqlite::Result<Ended> {
    transaction.execute_batch(SCHEMA)?;
    let sql = "SELECT name, kind, is_own FROM _waystation_left_alone ORDER BY name";
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut ended = Ended::default();
    while let Some(row) = rows.next()? {
        let one = Object::named(row)?;
        if schema::is_skipped(skipped, &one.name) {
            continue;
        }
        let sql = "DELETE FROM _waystation_left_alone WHERE name = ?1";
        transaction.prepare_cached(sql)?.execute([&one.name])?;
        if row.get(2)? {
            ended.own.push(one);
        } else {
            ended.stale.push(one);
        }
    }
    for name in skipped {
        let kind = kind_of(transaction, name)?;
        let sql = "INSERT OR IGNORE INTO _waystation_left_alone VALUES (?1, ?2, ?3)";
        transaction.execute(sql, params![name, kind, is_own])?;
    }
    Ok(ended)
}

/// Something of a table or view was left out that came from another site.
///
/// # Errors
/// The file cannot be written.
pub(super) fn note_left_out(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE _waystation_left_alone SET is_own = 0 WHERE name = ?1 AND is_own";
    transaction.prepare_cached(sql)?.execute([name])?;
    Ok(())
}

/// What has a name at the other sites, as far as it was captured, or else here.
fn kind_of(connection: &Connection, name: &str) -> rusqlite::Result<String> {
    let mut lists = vec!["SELECT type AS kind, name FROM sqlite_master"];
    if schema::exists(connection, "_waystation_objects")? {
        lists.insert(0, "SELECT kind, name FROM _waystation_objects");
    }
    for list in lists {
        let sql = format!(
            "SELECT kind FROM ({list}) WHERE name = ?1 COLLATE NOCASE AND kind IN ('table', 'view')"
        );
        let mut statement = connection.prepare(&sql)?;
        let kind = statement.query_row([name], |row| row.get(0)).optional()?;
        if let Some(kind) = kind {
            return Ok(kind);
        }
    }
    Ok("table".to_owned())
}
