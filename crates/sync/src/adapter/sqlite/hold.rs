//! Keeps other writers out for a moment, with all that they wrote numbered.
//!
//! While a write transaction is open nobody else begins one: programs that write
//! wait, as they do for each other. Numbers must be committed before they are told,
//! so the transaction that numbers ends, and an empty one follows it at once.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::known::{Found, Known};
use super::outbox::Numbered;
use super::snapshot::SqliteSnapshot;
use super::state::State;
use crate::adapter::AdapterError;
use crate::limits::BUSY_WAIT;

/// How often others may be faster between two transactions.
const TRIES_MAX: u32 = 8;

/// Longest wait for the lock, each time: entries that are to be applied wait behind
/// this, and the proof can be begun again.
const LOCK_WAIT: Duration = Duration::from_millis(250);

/// Begins a transaction that keeps others out, when everything is numbered: the last
/// number. It ends with `ROLLBACK`.
///
/// # Errors
/// Somebody else writes, or a table cannot be captured; then there is none.
pub(super) fn begin(
    connection: &mut Connection,
    skipped: &[String],
    known: &Known,
) -> Result<u64, AdapterError> {
    connection.busy_timeout(LOCK_WAIT)?;
    let begun = try_begin(connection, skipped, known);
    if let Err(error) = connection.busy_timeout(BUSY_WAIT) {
        if begun.is_ok() {
            connection.execute_batch("ROLLBACK")?;
        }
        return Err(error.into());
    }
    begun
}

fn try_begin(
    connection: &mut Connection,
    skipped: &[String],
    known: &Known,
) -> Result<u64, AdapterError> {
    for _ in 0..TRIES_MAX {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        match all_numbered(connection, known) {
            Ok(Some(number)) => return Ok(number),
            Ok(None) => connection.execute_batch("ROLLBACK")?,
            Err(error) => {
                connection.execute_batch("ROLLBACK")?;
                return Err(error);
            }
        }
        let behavior = TransactionBehavior::Immediate;
        let transaction = connection.transaction_with_behavior(behavior)?;
        let numbering = known.number(&transaction, skipped)?;
        transaction.commit()?;
        known.numbered(&numbering);
    }
    let busy = "others write to it all the time";
    Err(AdapterError::Unavailable(busy.to_owned()))
}

/// The last number, unless there is something without one.
fn all_numbered(connection: &Connection, known: &Known) -> Result<Option<u64>, AdapterError> {
    let found = known.check(|| Found::load(connection, true))?;
    let is_all = match &found.numbered {
        Some(numbered) => numbered.is_up_to_date(connection)?,
        None => false,
    };
    Ok(is_all.then(|| known.saw(&found)))
}

/// A snapshot by `reader` while `connection` keeps others out.
///
/// # Errors
/// The copy has no position, or the file cannot be read.
pub(super) fn snapshot(
    connection: &Connection,
    reader: Connection,
    skipped: &[String],
    known: &Known,
) -> Result<SqliteSnapshot, AdapterError> {
    let mut snapshot = SqliteSnapshot::begin(reader, skipped, known)?;
    let number = Numbered::load(connection)?.number;
    let returned = State::load(connection)?.map_or(0, |state| state.returned);
    snapshot.set_captured((number > returned).then_some(number));
    Ok(snapshot)
}
