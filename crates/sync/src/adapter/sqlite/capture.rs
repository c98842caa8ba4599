//! The lane of captured writes.

use std::thread::park_timeout;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::known::{Found, Known};
use super::outbox;
use super::place::Place;
use crate::adapter::{AdapterError, Capture};
use crate::limits::{CAPTURE_BUSY_WAIT, CAPTURE_POLL, ERASE_ROWS_MAX};

pub(super) struct SqliteCapture {
    connection: Connection,
    place: Place,
    known: Known,
    skipped: Vec<String>,
    /// What other connections had committed when it was last looked at.
    seen: Option<i64>,
    number: u64,
}

impl SqliteCapture {
    /// # Errors
    /// The connection cannot be set up.
    pub(super) fn new(
        connection: Connection,
        place: Place,
        known: Known,
        skipped: Vec<String>,
    ) -> Result<Self, AdapterError> {
        connection.busy_timeout(CAPTURE_BUSY_WAIT)?;
        Ok(Self {
            connection,
            place,
            known,
            skipped,
            seen: None,
            number: 0,
        })
    }

    /// The last number, once all that is there has one; while others write, the last
    /// one there was. The commit is durable, and with it all that others committed
    /// before: nothing is told to the hub that a loss of power could take back here.
    fn number(&mut self) -> Result<u64, AdapterError> {
        let version: i64 =
            (self.connection).query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if self.seen == Some(version) {
            return Ok(self.number);
        }
        let found = self.known.check(|| {
            let transaction = self.connection.transaction()?;
            Found::load(&transaction, true)
        })?;
        let Some(numbered) = found.numbered else {
            return Err(outbox::damaged("what it says of captured writes"));
        };
        self.number = if numbered.is_up_to_date(&self.connection)? {
            self.known.saw(&found)
        } else {
            let behavior = TransactionBehavior::Immediate;
            let begun = self.connection.transaction_with_behavior(behavior);
            let transaction = match begun {
                Ok(transaction) => transaction,
                // The next look comes soon, and reading goes on meanwhile.
                Err(error) if is_busy(&error) => return Ok(self.known.saw(&found)),
                Err(error) => return Err(error.into()),
            };
            let numbering = self.known.number(&transaction, &self.skipped)?;
            transaction.commit()?;
            self.known.numbered(&numbering)
        };
        self.seen = Some(version);
        Ok(self.number)
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

impl Capture for SqliteCapture {
    fn wait(&mut self, after: u64, wait: Duration) -> Result<u64, AdapterError> {
        let mut waited = Duration::ZERO;
        self.place.check()?;
        loop {
            let number = self.number()?;
            if number > after || waited >= wait {
                return Ok(number.max(after));
            }
            park_timeout(CAPTURE_POLL.min(wait.saturating_sub(waited)));
            waited += CAPTURE_POLL;
        }
    }

    fn read(
        &mut self,
        after: u64,
        changes_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, AdapterError> {
        self.known.ensure()?;
        let transaction = self.connection.transaction()?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        for number in (after + 1..).take(changes_max) {
            let Some(payload) = outbox::payload(&transaction, number)? else {
                break;
            };
            bytes += payload.len();
            if bytes > bytes_max && !all.is_empty() {
                break;
            }
            all.push(Bytes::from(payload));
        }
        Ok(all)
    }

    fn erase(&mut self, through: u64) -> Result<(), AdapterError> {
        self.known.ensure()?;
        loop {
            let behavior = TransactionBehavior::Immediate;
            let transaction = self.connection.transaction_with_behavior(behavior)?;
            let is_done = outbox::erase(&transaction, through, ERASE_ROWS_MAX)?;
            transaction.commit()?;
            if is_done {
                return Ok(());
            }
        }
    }
}
