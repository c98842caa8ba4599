//! What the last start of a file left alone, noted in the file: a table that is left
//! alone no longer is not what the others have, at its writer nor at anyone else.

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::schema::{self, Object};

/// `kind` is what the other sites had under the name when it was left alone first.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS _waystation_skipped (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    kind TEXT NOT NULL
) WITHOUT ROWID;
";

/// Notes what is left alone from now on. What was left alone until now and is not any
/// more, by name and kind, without its text. Cost: O(names).
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn change(
    transaction: &Transaction<'_>,
    skipped: &[String],
) -> rusqlite::Result<Vec<Object>> {
    transaction.execute_batch(SCHEMA)?;
    let mut statement =
        transaction.prepare_cached("SELECT name, kind FROM _waystation_skipped ORDER BY name")?;
    let rows = statement.query_map([], Object::named)?;
    let mut ended = rows.collect::<Result<Vec<_>, _>>()?;
    ended.retain(|one| !schema::is_skipped(skipped, &one.name));
    for one in &ended {
        let sql = "DELETE FROM _waystation_skipped WHERE name = ?1";
        transaction.execute(sql, [&one.name])?;
    }
    for name in skipped {
        let kind = kind_of(transaction, name)?;
        let sql = "INSERT OR IGNORE INTO _waystation_skipped VALUES (?1, ?2)";
        transaction.execute(sql, [name, &kind])?;
    }
    Ok(ended)
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
