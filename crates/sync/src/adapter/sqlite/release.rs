//! Ends the capture of a file, or of some of its tables: what an earlier start left
//! there would fill the outbox, and nobody would ever empty it.

use rusqlite::Transaction;

use super::outbox::Numbered;
use super::{catalog, schema};
use crate::adapter::AdapterError;

/// Takes all triggers away. Writes are not captured from then on, and a later start
/// that captures does not know of them.
///
/// # Errors
/// [`AdapterError::Unfit`] if captured writes have not come back through the log:
/// without them this copy would differ from the others.
pub(super) fn all(transaction: &Transaction<'_>, returned: u64) -> Result<(), AdapterError> {
    let sql = "SELECT count(*) FROM _waystation_outbox \
        WHERE seq > (SELECT erased FROM _waystation_captured)";
    let waiting: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
    if waiting > 0 || Numbered::load(transaction)?.number > returned {
        return Err(AdapterError::Unfit(format!(
            "{waiting} captured changes of rows wait in it, or have not come back through \
             the log: capture until they have, or have the site join anew"
        )));
    }
    for (id, _) in catalog::known_tables(transaction)? {
        catalog::drop_triggers(transaction, id)?;
    }
    // Version 0 is that of a file that was never captured.
    transaction.execute_batch(
        "DELETE FROM _waystation_objects; UPDATE _waystation_captured SET version = 0",
    )?;
    Ok(())
}

/// Takes the triggers of tables away that are skipped now and were not before, and
/// has the tables that were skipped before looked at. A table that is skipped from
/// now on is not dropped anywhere else for that.
///
/// # Errors
/// The file cannot be written.
pub(super) fn skipped(
    transaction: &Transaction<'_>,
    skipped: &[String],
) -> Result<(), AdapterError> {
    for (id, shape) in catalog::known_tables(transaction)? {
        if schema::is_skipped(skipped, &shape.name) {
            catalog::drop_triggers(transaction, id)?;
        }
    }
    for table in skipped {
        let sql = "DELETE FROM _waystation_objects WHERE name IN \
            (SELECT name FROM sqlite_master WHERE tbl_name = ?1 COLLATE NOCASE)";
        transaction.execute(sql, [table])?;
    }
    Ok(catalog::look_again(transaction)?)
}
