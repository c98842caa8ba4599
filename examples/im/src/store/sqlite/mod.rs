//! The store over one `SQLite` file.
//!
//! Numbers and duplicates are decided inside a transaction that holds the file's
//! write lock (`BEGIN IMMEDIATE`), never from memory, so several processes may
//! write to one file.

mod append;
mod group;
mod home;
mod read;
mod rooms;
mod schema;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::StoreError;
use super::name::{ConversationName, check_uid};
use super::operation::{ChatReader, ChatStore, WriteOperation, WriteOutcome};
use home::Writer;
pub use home::{SITES_MAX, StoreSite};
use read::SqliteReader;
use rooms::Rooms;
#[cfg(test)]
pub(super) use schema::open_reader as open_reader_connection;

/// A chat store in one `SQLite` file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Connection,
    site: Option<StoreSite>,
}

/// What one attempt at a batch puts around each operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolation {
    /// Nothing: a failure of the storage ends the attempt. The usual, fast case.
    None,
    /// A savepoint: the failure of one operation is rolled back alone.
    Savepoints,
}

type Results = Vec<Result<WriteOutcome, StoreError>>;

impl SqliteStore {
    /// Opens a file, or makes it in a directory that exists, and checks it: in
    /// whole up to [`OPEN_CHECK_BYTES_MAX`](super::limits::OPEN_CHECK_BYTES_MAX),
    /// else its header and schema.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::NotAChatStore`],
    /// [`StoreError::NewerSchema`]; otherwise [`StoreError::Storage`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = schema::open_writer(path)?;
        home::check_alone(&connection)?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            site: None,
        })
    }

    /// Opens a file as [`SqliteStore::open`] does, for one of several sites that
    /// keep copies of it. The first site founds the store; any other one can do
    /// nothing before its copy has come.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_at(path: &Path, site: StoreSite) -> Result<Self, StoreError> {
        let mut connection = schema::open_writer(path)?;
        home::found(&mut connection, &site)?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            site: Some(site),
        })
    }

    /// One transaction. An error means that nothing of the batch was committed.
    fn attempt(
        &mut self,
        batch: &[WriteOperation],
        isolation: Isolation,
    ) -> Result<Results, StoreError> {
        let mut transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut results = Vec::with_capacity(batch.len());
        let writer = match &self.site {
            None => Writer::ALONE,
            Some(site) => Writer::of(&transaction, site)?,
        };
        let mut rooms = Rooms::new(writer);
        for operation in batch {
            results.push(match isolation {
                Isolation::None => match apply(&transaction, &mut rooms, operation) {
                    Err(failed @ StoreError::Storage(_)) => return Err(failed),
                    result => result,
                },
                Isolation::Savepoints => apply_alone(&mut transaction, writer, operation)?,
            });
        }
        rooms.write_back(&transaction)?;
        transaction.commit()?;
        Ok(results)
    }

    #[cfg(test)]
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl ChatStore for SqliteStore {
    fn write(&mut self, batch: Vec<WriteOperation>) -> Results {
        // Refusals are decided before an operation's first change and so need no
        // rollback. Only when the storage fails is it worth finding out whether one
        // operation is to blame (a damaged conversation, say) or all fail.
        let result = self.attempt(&batch, Isolation::None).or_else(|first| {
            if batch.len() == 1 {
                return Err(first);
            }
            self.attempt(&batch, Isolation::Savepoints)
        });
        match result {
            Ok(results) => results,
            Err(failed) => batch.iter().map(|_| Err(failed.clone())).collect(),
        }
    }

    fn reader(&self) -> Result<Box<dyn ChatReader>, StoreError> {
        let connection = schema::open_reader(&self.path)?;
        Ok(Box::new(SqliteReader::new(connection, self.site.is_some())))
    }
}

/// Performs one operation inside the transaction of its batch. An error other than
/// [`StoreError::Storage`] means that it changed nothing.
fn apply(
    connection: &Connection,
    rooms: &mut Rooms,
    operation: &WriteOperation,
) -> Result<WriteOutcome, StoreError> {
    match operation {
        WriteOperation::Append(operation) => {
            append::append(connection, rooms, operation).map(WriteOutcome::Appended)
        }
        WriteOperation::CreateGroup(operation) => {
            // Needs no write-back: it only adds, or reads members, who are the same
            // in the file.
            group::create(connection, rooms.writer(), operation).map(WriteOutcome::GroupCreated)
        }
        WriteOperation::AddMembers(operation) => {
            rooms.write_back(connection)?;
            group::add_members(connection, rooms.writer(), operation)
                .map(WriteOutcome::MembersAdded)
        }
        WriteOperation::RemoveMember(operation) => {
            rooms.write_back(connection)?;
            group::remove_member(connection, rooms.writer(), operation)
                .map(WriteOutcome::MemberRemoved)
        }
        WriteOperation::MarkRead(operation) => {
            append::mark_read(connection, rooms, operation).map(WriteOutcome::ReadMarked)
        }
    }
}

/// Performs one operation so that its failure leaves the rest of the batch standing;
/// the outer error says that the whole transaction is gone.
fn apply_alone(
    transaction: &mut Transaction<'_>,
    writer: Writer,
    operation: &WriteOperation,
) -> Result<Result<WriteOutcome, StoreError>, StoreError> {
    let savepoint = transaction.savepoint()?;
    let mut rooms = Rooms::new(writer);
    let result = apply(&savepoint, &mut rooms, operation)
        .and_then(|outcome| rooms.write_back(&savepoint).map(|()| outcome));
    if let Err(failed @ StoreError::Storage(_)) = &result {
        // SQLite ends the whole transaction by itself for some failures (a full
        // disk, for one).
        if savepoint.is_autocommit() {
            return Err(failed.clone());
        }
        savepoint.finish()?;
    } else {
        savepoint.commit()?;
    }
    Ok(result)
}

/// Refuses invalid names, and other people's direct conversations whether they exist
/// or not.
fn check_access(conversation: &str, uid: &str) -> Result<(), StoreError> {
    let name = ConversationName::parse(conversation)?;
    check_uid(uid)?;
    if name.excludes(uid) {
        return Err(StoreError::not_member(uid, conversation));
    }
    Ok(())
}

/// A number for `SQLite`, whose integers are signed. Numbers of messages stay far
/// below the border; what a caller asks for may lie beyond it and then means "all".
fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number from `SQLite` that is never negative in a sound file.
fn to_number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let integer: i64 = row.get(column)?;
    u64::try_from(integer).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, integer))
}
