//! Plain statements as entries: allowed, and unsafe.
//!
//! What a statement does depends on the rows it finds, and may differ where copies
//! do. What would differ even on equal copies is refused before it runs, by the
//! database's own parser: functions that are random or ask for the time, settings,
//! other files, transactions of their own, and our own tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::schema::OWN;

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
    pub(super) fn run(&self, connection: &Connection, sql: &str) -> rusqlite::Result<()> {
        self.0.store(true, Ordering::Relaxed);
        let result = connection.execute_batch(sql);
        self.0.store(false, Ordering::Relaxed);
        result
    }
}

fn is_refused(context: &AuthContext<'_>) -> bool {
    match context.action {
        AuthAction::Function { function_name } => {
            let is_it = |name: &&str| name.eq_ignore_ascii_case(function_name);
            FUNCTIONS.iter().any(is_it)
        }
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
