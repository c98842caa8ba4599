//! Ids that a statement leaves to the database.
//!
//! A table with `AUTOINCREMENT` takes its next id from a counter that is each file's
//! own, so that equal copies give different ones. Whether a row gets its id so is known
//! only when the statement runs: the id may be NULL in what it selects. So while a
//! statement runs the counters stand where no real id is, and one that has moved gave
//! one. The authorizer is not asked when the database reads a counter for itself.
//!
//! Any other table gives the id after the largest one, which equal copies agree on,
//! until that is the largest there can be: then ids are random.

use std::collections::BTreeSet;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Statement, params};

use super::schema::quoted;
use super::statement::RunError;

/// Where counters stand meanwhile. Above it there is room for more ids than a statement
/// gives, and nobody's own: of random ones one in eight million is.
const APART: i64 = i64::MAX - (1 << 40);

/// What the program that the database makes of a statement does for ids.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// It may move a counter.
    has_counter: bool,
    /// Where the tables begin to which it may add a row with an id of its own.
    roots: BTreeSet<i64>,
    /// Tables that are open to be written, by cursor, in the program at hand.
    open: Vec<(i64, i64)>,
}

impl Program {
    /// Takes the next operation and its first three values. The programs of triggers
    /// come behind that of the statement, each with cursors of its own.
    pub(super) fn take(&mut self, address: i64, operation: &str, values: [i64; 3]) {
        if address == 0 {
            self.open.clear();
        }
        match operation {
            "OpenWrite" => self.open.push((values[0], values[1])),
            "NewRowid" if values[2] > 0 => self.has_counter = true,
            "NewRowid" => {
                let roots = self.open.iter().filter(|(cursor, _)| *cursor == values[0]);
                self.roots.extend(roots.map(|(_, root)| *root));
            }
            _ => {}
        }
    }
}

/// A counter, as it was.
struct Counter {
    table: String,
    column: String,
    was: Option<i64>,
    /// Where it stands while the statement runs.
    apart: i64,
}

/// The tables of a statement that may give ids, made ready for it.
pub(super) struct Watch {
    counters: Vec<Counter>,
    /// Tables without a counter, and their ids.
    others: Vec<(String, String)>,
}

impl Watch {
    /// Before a statement runs.
    ///
    /// # Errors
    /// It would take a random id, or the database refuses.
    pub(super) fn begin(connection: &Connection, program: &Program) -> Result<Self, RunError> {
        let mut counters = Vec::new();
        if program.has_counter {
            for (table, column) in tables_with_counter(connection)? {
                counters.push(Counter::set_apart(connection, table, column)?);
            }
        }
        let mut others = Vec::new();
        for root in &program.roots {
            others.extend(table_at(connection, *root)?);
        }
        let watch = Self { counters, others };
        watch.check_largest(connection)?;
        Ok(watch)
    }

    /// Runs the statement.
    ///
    /// # Errors
    /// The database refuses it, or the largest id is there.
    pub(super) fn run(&self, statement: &mut Statement<'_>) -> Result<(), RunError> {
        let ran = (statement.query([])).and_then(|mut rows| rows.next().map(|_| ()));
        let Err(error) = ran else { return Ok(()) };
        let is_full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        let last = self.counters.iter().find(|one| one.apart == i64::MAX);
        match last {
            // Said of a counter that cannot move any more, too.
            Some(counter) if is_full => Err(counter.moved()),
            _ => Err(error.into()),
        }
    }

    /// After it ran. The counters are what they were, or as far as the ids that it gave
    /// itself.
    ///
    /// # Errors
    /// It took an id that is another one at each site, or the database refuses. Counters
    /// are left as they are: the transaction must be rolled back.
    pub(super) fn end(&self, connection: &Connection) -> Result<(), RunError> {
        for counter in &self.counters {
            counter.put_back(connection)?;
        }
        self.check_largest(connection)
    }

    fn check_largest(&self, connection: &Connection) -> Result<(), RunError> {
        for (table, column) in &self.others {
            if largest(connection, table, column)? == Some(i64::MAX) {
                return Err(RunError::Differs(format!(
                    "table {table} has the largest id there is, and any further one is random: \
                     another one at each site"
                )));
            }
        }
        Ok(())
    }
}

impl Counter {
    fn set_apart(connection: &Connection, table: String, column: String) -> rusqlite::Result<Self> {
        let was = stand(connection, &table)?;
        let largest = largest(connection, &table, &column)?;
        let apart = APART.max(was.unwrap_or(0)).max(largest.unwrap_or(0));
        let counter = Self {
            table,
            column,
            was,
            apart,
        };
        counter.store(connection, Some(apart))?;
        Ok(counter)
    }

    fn put_back(&self, connection: &Connection) -> Result<(), RunError> {
        if stand(connection, &self.table)? != Some(self.apart) {
            return Err(self.moved());
        }
        let largest = largest(connection, &self.table, &self.column)?;
        // As far as the database itself would have set it: never below 0.
        let largest = largest.map(|largest| largest.max(0));
        Ok(self.store(connection, self.was.max(largest))?)
    }

    fn store(&self, connection: &Connection, seq: Option<i64>) -> rusqlite::Result<()> {
        let sql = match (seq, stand(connection, &self.table)?) {
            (None, _) => "DELETE FROM sqlite_sequence WHERE name = ?1 AND ?2 IS NULL",
            (Some(_), None) => "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)",
            (Some(_), Some(_)) => "UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1",
        };
        let mut statement = connection.prepare_cached(sql)?;
        statement.execute(params![self.table, seq])?;
        Ok(())
    }

    fn moved(&self) -> RunError {
        let Self { table, column, .. } = self;
        RunError::Differs(format!(
            "table {table} counts its ids (AUTOINCREMENT), and counts otherwise at each site: \
             give {column} in the statement, below {APART}"
        ))
    }
}

/// Where a table's counter stands; none if it never gave an id.
fn stand(connection: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT coalesce(CAST(seq AS INTEGER), 0) FROM sqlite_sequence WHERE name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([table], |row| row.get(0)).optional()
}

fn largest(connection: &Connection, table: &str, column: &str) -> rusqlite::Result<Option<i64>> {
    let (table, column) = (quoted(table), quoted(column));
    let sql = format!("SELECT max({column}) FROM {table}");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_row([], |row| row.get(0))
}

/// All tables with a counter, and their ids. Few files have many.
fn tables_with_counter(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let sql = "SELECT made.name, part.name \
        FROM sqlite_master AS made, pragma_table_info(made.name) AS part \
        WHERE made.type = 'table' AND part.pk = 1 AND made.sql LIKE '%autoincrement%'";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut tables = Vec::new();
    for row in rows {
        let (table, column): (String, String) = row?;
        let (.., has_counter) =
            connection.column_metadata(Some("main"), table.as_str(), column.as_str())?;
        if has_counter {
            tables.push((table, column));
        }
    }
    Ok(tables)
}

/// The table that begins at a page, and its id; none if it has no id that is seen.
fn table_at(connection: &Connection, root: i64) -> rusqlite::Result<Option<(String, String)>> {
    let sql = "SELECT made.name, part.name \
        FROM sqlite_master AS made, pragma_table_info(made.name) AS part \
        WHERE made.type = 'table' AND made.rootpage = ?1 AND part.pk = 1 \
        AND part.type = 'INTEGER' COLLATE NOCASE AND NOT EXISTS \
        (SELECT 1 FROM pragma_table_info(made.name) AS other WHERE other.pk > 1)";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([root], |row| Ok((row.get(0)?, row.get(1)?)));
    found.optional()
}
