//! What a file's tables are, and which of them cannot be synced.

use rusqlite::{Connection, OptionalExtension, Row};

use super::changes::Shape;
use super::is_transient;
use super::{plans, tokens};
use crate::adapter::AdapterError;
use crate::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};

/// Names of our own tables, indexes and triggers begin with it.
pub(super) const OWN: &str = "_waystation_";

/// Columns and key columns of one table, at most: they stand beside each other in
/// the outbox, and `SQLite` allows 2,000 columns.
const COLUMNS_MAX: usize = 1900;

/// A table that is synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) shape: Shape,
    /// Key columns in which `SQLite` allows NULL, which is no key: several rows may
    /// have it.
    pub(super) nullable: Vec<usize>,
    /// Its key is the row's number.
    pub(super) is_numbered: bool,
}

/// Something that a statement made: a table, index, view or trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) sql: String,
}

impl Object {
    /// Of a row of `name, kind`, without its text.
    pub(super) fn named(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            kind: row.get(1)?,
            sql: String::new(),
        })
    }

    /// Whether it is the table with this name.
    pub(super) fn is_table(&self, name: &str) -> bool {
        self.kind == "table" && self.name == name
    }

    /// Whether it decides what rows a table takes.
    pub(super) fn is_needed_first(&self) -> bool {
        self.kind == "table" || (self.kind == "index" && is_unique(&self.sql))
    }

    /// Whether it is an index that lets each value of a table be there once.
    pub(super) fn is_unique_of(&self, table: &str) -> bool {
        self.kind == "index"
            && is_unique(&self.sql)
            && tokens::table_of(&self.sql).is_some_and(|name| name.eq_ignore_ascii_case(table))
    }

    pub(super) fn drop_sql(&self) -> String {
        format!("DROP {} IF EXISTS {}", self.kind, quoted(&self.name))
    }
}

fn is_unique(sql: &str) -> bool {
    let mut words = sql.split_whitespace();
    words.next();
    words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("unique"))
}

/// A name as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// All tables that are synced, by name. Those in `skipped` are not.
///
/// # Errors
/// [`AdapterError::Unfit`] names the first table that cannot be synced and says
/// why: it has no primary key, or is virtual.
pub(super) fn tables(
    connection: &Connection,
    skipped: &[String],
) -> Result<Vec<Table>, AdapterError> {
    let sql = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let names = rows.collect::<Result<Vec<(String, String)>, _>>()?;
    let mut tables = Vec::new();
    for (name, kind) in names {
        if is_ours(&name) || is_skipped(skipped, &name) {
            continue;
        }
        match kind.as_str() {
            "table" => tables.push(table(connection, name)?),
            "virtual" => {
                return Err(unfit(&name, "is virtual, and no trigger sees its writes"));
            }
            _ => {}
        }
    }
    // By bytes, as cursors are.
    tables.sort_by(|a, b| a.shape.name.cmp(&b.shape.name));
    Ok(tables)
}

/// Whether a table is left alone, as the database compares names.
pub(super) fn is_skipped(skipped: &[String], table: &str) -> bool {
    skipped.iter().any(|one| one.eq_ignore_ascii_case(table))
}

/// What is left alone of what a statement makes: a table or view by its name, or the
/// table that it stands on.
pub(super) fn made_for_skipped(skipped: &[String], name: &str, sql: &str) -> Option<String> {
    if skipped.is_empty() {
        return None;
    }
    let by_name = is_skipped(skipped, name).then(|| name.to_owned());
    by_name.or_else(|| tokens::table_of(sql).filter(|table| is_skipped(skipped, table)))
}

/// The same of what has a name here, or had it at the site that dropped it.
///
/// # Errors
/// The file cannot be read.
pub(super) fn there_for_skipped(
    connection: &Connection,
    skipped: &[String],
    name: &str,
) -> rusqlite::Result<Option<String>> {
    if skipped.is_empty() {
        return Ok(None);
    }
    if is_skipped(skipped, name) {
        return Ok(Some(name.to_owned()));
    }
    let sql = "SELECT tbl_name FROM sqlite_master WHERE name = ?1 COLLATE NOCASE";
    let mut statement = connection.prepare_cached(sql)?;
    let table: Option<String> = statement.query_row([name], |row| row.get(0)).optional()?;
    Ok(table.filter(|table| is_skipped(skipped, table)))
}

/// Whether a row of a table can take the place of one with another key: something else
/// than the row's number decides which rows are the same.
pub(super) fn has_unique(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM pragma_index_list(?1) WHERE \"unique\"";
    connection.prepare_cached(sql)?.exists([table])
}

/// Ours, or the database's own.
fn is_ours(name: &str) -> bool {
    name.starts_with(OWN) || name.starts_with("sqlite_")
}

fn unfit(table: &str, why: &str) -> AdapterError {
    AdapterError::Unfit(format!("table {table} {why}"))
}

fn table(connection: &Connection, name: String) -> Result<Table, AdapterError> {
    let sql = "SELECT name, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&name])?;
    let (mut columns, mut key, mut nullable) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let (place, hidden): (i64, i64) = (row.get(2)?, row.get(3)?);
        if hidden != 0 {
            if place > 0 {
                return Err(unfit(&name, "has a computed column in its primary key"));
            }
            continue;
        }
        if place > 0 {
            key.push((place, columns.len()));
            if row.get::<_, i64>(1)? == 0 {
                nullable.push(columns.len());
            }
        }
        columns.push(row.get(0)?);
    }
    if key.is_empty() {
        return Err(unfit(&name, "has no primary key"));
    }
    if columns.len() + key.len() > COLUMNS_MAX {
        return Err(unfit(&name, "has too many columns"));
    }
    key.sort_unstable();
    let key: Vec<usize> = key.into_iter().map(|(_, index)| index).collect();
    // A key that is the row's number needs no index, and is never NULL. `INTEGER
    // PRIMARY KEY` is that, unless `DESC` stands behind it.
    let sql = "SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk'";
    let is_numbered = !connection.prepare_cached(sql)?.exists([&name])?;
    if is_numbered {
        nullable.clear();
    }
    let shape = Shape { name, columns, key };
    Ok(Table {
        shape,
        nullable,
        is_numbered,
    })
}

/// Refuses a table whose rows this program cannot write.
///
/// # Errors
/// [`AdapterError::Unfit`] with its name.
pub(super) fn check_writes(connection: &Connection, table: &Table) -> Result<(), AdapterError> {
    match plans::check(connection, &table.shape) {
        Err(error) if !is_transient(&error) => {
            let why = format!("cannot be written by any but its own program: {error}");
            Err(unfit(&table.shape.name, &why))
        }
        checked => Ok(checked?),
    }
}

/// Refuses a table in which a row has NULL in its key.
///
/// # Errors
/// [`AdapterError::Unfit`] with its name.
pub(super) fn check_keys(connection: &Connection, table: &Table) -> Result<(), AdapterError> {
    let name = &table.shape.name;
    for index in &table.nullable {
        let column = &table.shape.columns[*index];
        let sql = format!(
            "SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1",
            quoted(name),
            quoted(column)
        );
        if connection
            .query_row(&sql, [], |_| Ok(()))
            .optional()?
            .is_some()
        {
            let why = format!("has a row with NULL in column {column} of its primary key");
            return Err(unfit(name, &why));
        }
    }
    Ok(())
}

/// Refuses a new table with a row that no entry can hold, or no cursor can name.
/// Cost: reads all its rows.
///
/// # Errors
/// [`AdapterError::Unfit`] with its name.
pub(super) fn check_rows(connection: &Connection, table: &Table) -> Result<(), AdapterError> {
    let Shape { name, columns, key } = &table.shape;
    let bytes = |indexes: &mut dyn Iterator<Item = usize>| {
        let parts = indexes.map(|index| quoted(&columns[index]));
        sum(&parts.map(|one| length(&one)).collect::<Vec<_>>())
    };
    let row = bytes(&mut (0..columns.len()));
    let key = bytes(&mut key.iter().copied());
    for (what, bytes, bytes_max) in [("row", row, ROW_BYTES_MAX), ("key", key, KEY_BYTES_MAX)] {
        let table = quoted(name);
        let sql = format!("SELECT 1 FROM {table} WHERE {bytes} > {bytes_max} LIMIT 1");
        if connection.prepare(&sql)?.exists([])? {
            return Err(unfit(
                name,
                &format!("has a {what} of more than {bytes_max} bytes"),
            ));
        }
    }
    Ok(())
}

/// An expression for the bytes of a value, of functions that the oldest `SQLite` has
/// that may write to the file: `octet_length` came with 3.43 only.
pub(super) fn length(value: &str) -> String {
    format!("coalesce(length(CAST({value} AS BLOB)), 0)")
}

/// The sum of terms, balanced: the database allows a depth of 1,000 only.
pub(super) fn sum(terms: &[String]) -> String {
    match terms {
        [] => "0".to_owned(),
        [one] => one.clone(),
        _ => {
            let (left, right) = terms.split_at(terms.len() / 2);
            format!("({} + {})", sum(left), sum(right))
        }
    }
}

/// Triggers of a table that can keep ours from running: one that says `RAISE(IGNORE)`
/// after a row was written ends whatever would follow, and the row stays.
pub(super) fn silencers(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Object>> {
    let sql = "SELECT type, name, sql FROM sqlite_master \
        WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([table], |row| {
        Ok(Object {
            kind: row.get(0)?,
            name: row.get(1)?,
            sql: row.get(2)?,
        })
    })?;
    let mut all = rows.collect::<Result<Vec<_>, _>>()?;
    all.retain(|one| !is_ours(&one.name) && tokens::is_silencer(&one.sql));
    Ok(all)
}

/// All that statements made, in an order in which they can be made again.
pub(super) fn objects(
    connection: &Connection,
    skipped: &[String],
) -> rusqlite::Result<Vec<Object>> {
    // What a virtual table keeps its rows in is made with it, and is no table of its own.
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL \
        AND tbl_name NOT IN (SELECT name FROM pragma_table_list \
            WHERE schema = 'main' AND type = 'shadow') \
        ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, \
        rowid";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, table): (String, String) = (row.get(1)?, row.get(2)?);
        if !is_ours(&name) && !is_ours(&table) && !is_skipped(skipped, &table) {
            let (kind, sql) = (row.get(0)?, row.get(3)?);
            all.push(Object { kind, name, sql });
        }
    }
    Ok(all)
}

/// Whether there is a table, index, view or trigger with this name.
pub(super) fn exists(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE name = ?1 COLLATE NOCASE";
    connection.prepare_cached(sql)?.exists([name])
}

/// A number that changes with every change of the schema.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA schema_version", [], |row| row.get(0))
}
