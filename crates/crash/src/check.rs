//! The checker: reads every row of every table itself.

use anyhow::{Context as _, Result, bail};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::load::TALLIES;

/// A table and the columns of its key.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn tables(connection: &Connection, skipped: &[&str]) -> Result<Vec<Table>> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' \
        AND name NOT GLOB '_waystation_*' AND name NOT GLOB 'sqlite_*' ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    let mut tables = Vec::new();
    let names = names.collect::<Result<Vec<String>, _>>()?;
    let is_synced = |name: &String| !skipped.contains(&name.as_str());
    for name in names.into_iter().filter(is_synced) {
        let sql = "SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid";
        let mut statement = connection.prepare(sql)?;
        let columns = statement.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let columns: Vec<(String, i64)> = columns.collect::<Result<_, _>>()?;
        let mut key: Vec<_> = columns.iter().filter(|(_, place)| *place > 0).collect();
        key.sort_by_key(|(_, place)| *place);
        tables.push(Table {
            key: key.into_iter().map(|(name, _)| name.clone()).collect(),
            columns: columns.into_iter().map(|(name, _)| name).collect(),
            name,
        });
    }
    Ok(tables)
}

/// Compares two files: all tables but those in `skipped`, all rows, in the order of
/// keys. Answers how many rows there are. Cost: O(rows).
///
/// # Errors
/// The first difference.
pub fn compare(one: &Connection, other: &Connection, skipped: &[&str]) -> Result<u64> {
    let (ours, theirs) = (tables(one, skipped)?, tables(other, skipped)?);
    if ours != theirs {
        bail!("tables differ: {ours:?} and {theirs:?}");
    }
    let mut count = 0;
    for table in &ours {
        let compared = compare_table(one, other, table);
        count += compared.with_context(|| format!("table {}", table.name))?;
    }
    Ok(count)
}

fn compare_table(one: &Connection, other: &Connection, table: &Table) -> Result<u64> {
    let list = |names: &[String], more: &str| {
        let names = names.iter().map(|name| format!("{}{more}", quoted(name)));
        names.collect::<Vec<_>>().join(", ")
    };
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {}",
        list(&table.columns, ""),
        quoted(&table.name),
        list(&table.key, " COLLATE BINARY")
    );
    let (mut ours, mut theirs) = (one.prepare(&sql)?, other.prepare(&sql)?);
    let (mut ours, mut theirs) = (ours.query([])?, theirs.query([])?);
    let width = table.columns.len();
    let read = |row: Option<&rusqlite::Row<'_>>| -> Result<Option<Vec<Value>>> {
        let Some(row) = row else { return Ok(None) };
        let values = (0..width).map(|index| row.get(index));
        Ok(Some(values.collect::<Result<_, _>>()?))
    };
    let mut count = 0;
    loop {
        let (a, b) = (read(ours.next()?)?, read(theirs.next()?)?);
        if a != b {
            bail!("row {count} differs: {a:?} and {b:?}");
        }
        if a.is_none() {
            return Ok(count);
        }
        count += 1;
    }
}

/// Each acknowledged publish added one to a counter, and so did the last one, if it
/// was under way at the end.
///
/// # Errors
/// One was lost, or applied twice.
pub(crate) fn tallies(connection: &Connection, published: u64) -> Result<()> {
    let sql = "SELECT count FROM tally WHERE id = ?1";
    for id in 0..TALLIES {
        let expected = (1..=published)
            .filter(|round| round % TALLIES == id)
            .count();
        let found: i64 = connection.query_row(sql, [id.cast_signed()], |row| row.get(0))?;
        if found != i64::try_from(expected)? {
            bail!("counter {id} is {found}, and {expected} publishes to it were acknowledged");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::base;

    fn file() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        base(&connection, 100).unwrap();
        connection
    }

    /// A checker that finds nothing would prove nothing.
    #[test]
    fn any_difference_is_found() {
        let one = file();
        assert_eq!(compare(&one, &file(), &[]).unwrap(), 108);
        for (sql, said) in [
            (
                "UPDATE account SET amount = amount + 1 WHERE id = 77",
                "row 76 differs",
            ),
            ("DELETE FROM account WHERE id = 100", "row 99 differs"),
            ("INSERT INTO member VALUES ('a', 1, NULL)", "table member"),
            (
                "UPDATE account SET note = CAST(note AS TEXT) WHERE id = 1",
                "row 0 differs",
            ),
            (
                "CREATE TABLE more (id INTEGER PRIMARY KEY)",
                "tables differ",
            ),
            ("ALTER TABLE tally ADD COLUMN more", "tables differ"),
        ] {
            let other = file();
            other.execute_batch(sql).unwrap();
            let error = compare(&one, &other, &[]).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{sql}: {error:#}");
        }
        tallies(&one, 0).unwrap();
        assert!(tallies(&one, 1).is_err());
        let sql = "UPDATE tally SET count = 1 WHERE id IN (1, 2)";
        one.execute_batch(sql).unwrap();
        tallies(&one, 2).unwrap();
        assert!(tallies(&one, 1).is_err());
    }
}
