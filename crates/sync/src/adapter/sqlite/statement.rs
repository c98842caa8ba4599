//! Plain statements as entries: allowed, and unsafe.
//!
//! What a statement does depends on the rows it finds, and may differ where copies
//! do. What would differ even on equal copies is refused before it runs, by the
//! database's own parser: settings, other files, transactions of their own, and our
//! own tables; and by the program that it makes of a statement: functions that are
//! random or ask for the time, also where they are a column's default.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Batch, Connection};

use super::ids::{Program, Watch};
use super::schema::OWN;
use crate::statement::skip_comments;

/// Functions whose value is not that of their arguments.
const FUNCTIONS: [&str; 17] = [
    "random",
    "randomblob",
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
    "timediff",
    "current_date",
    "current_time",
    "current_timestamp",
    "last_insert_rowid",
    "changes",
    "total_changes",
    "load_extension",
    "sqlite_source_id",
];

/// Whether a statement of an entry is being prepared, rather than one of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard(Arc<AtomicBool>);

impl Guard {
    /// Watches what a connection prepares.
    pub(super) fn install(connection: &mut Connection) -> rusqlite::Result<Self> {
        let guard = Self::default();
        let is_on = Arc::clone(&guard.0);
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            if is_on.load(Ordering::Relaxed) && is_refused(&context) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))?;
        Ok(guard)
    }

    /// Runs the statements of an entry.
    ///
    /// # Errors
    /// One of them would not do the same everywhere, or the database refuses it.
    pub(super) fn run(&self, connection: &Connection, sql: &str) -> Result<(), RunError> {
        self.0.store(true, Ordering::Relaxed);
        let result = self.run_all(connection, sql);
        self.0.store(false, Ordering::Relaxed);
        result
    }

    fn run_all(&self, connection: &Connection, sql: &str) -> Result<(), RunError> {
        let mut batch = Batch::new(connection, sql);
        while let Some(mut statement) = batch.next()? {
            if statement.is_explain() != 0 {
                continue;
            }
            let mut program = Program::default();
            if let Some(text) = statement.expanded_sql() {
                program = read_program(connection, &text)?;
            }
            let watch = self.pause(|| Watch::begin(connection, &program))?;
            watch.run(&mut statement)?;
            self.pause(|| watch.end(connection))?;
        }
        Ok(())
    }

    /// Does something of ours between statements of an entry.
    fn pause<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.store(false, Ordering::Relaxed);
        let result = run();
        self.0.store(true, Ordering::Relaxed);
        result
    }
}

/// Why statements were not run to their end.
#[derive(Debug)]
pub(super) enum RunError {
    /// The database refuses.
    Database(rusqlite::Error),
    /// It would not do the same everywhere.
    Differs(String),
}

impl From<rusqlite::Error> for RunError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// Reads the program of a statement, and refuses one in which one of [`FUNCTIONS`] is
/// called. The text does not tell: a column that it leaves out may have one as its
/// default. Where a schema needs a function that always has the same value (a check, a
/// computed column, an index) the database sees to that itself, by another operation.
fn read_program(connection: &Connection, sql: &str) -> Result<Program, RunError> {
    let sql = skip_comments(sql);
    let mut explain = connection.prepare(&format!("EXPLAIN {sql}"))?;
    let mut rows = explain.query([])?;
    let mut program = Program::default();
    while let Some(row) = rows.next()? {
        let Ok(operation) = row.get_ref(1)?.as_str() else {
            continue;
        };
        program.take(
            row.get(0)?,
            operation,
            [row.get(2)?, row.get(3)?, row.get(4)?],
        );
        if operation == "Function"
            && let Ok(called) = row.get_ref(5)?.as_str()
        {
            // The name and, in brackets, how many values it takes.
            let name = called.split('(').next().unwrap_or_default();
            if FUNCTIONS.iter().any(|one| one.eq_ignore_ascii_case(name)) {
                return Err(RunError::Differs(format!(
                    "{name}() has another value at each site, in the statement or as a \
                     default of a column"
                )));
            }
        }
    }
    Ok(program)
}

fn is_refused(context: &AuthContext<'_>) -> bool {
    match context.action {
        AuthAction::Pragma { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::Unknown { .. } => true,
        // Where a counter stands; its name is read where a table is dropped or renamed.
        AuthAction::Read {
            table_name: "sqlite_sequence",
            column_name,
        } => column_name != "name",
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Read { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::CreateTable { table_name }
        | AuthAction::AlterTable { table_name, .. } => table_name.starts_with(OWN),
        _ => false,
    }
}
