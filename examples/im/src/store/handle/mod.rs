//! The asynchronous face of a store: bounded queues in front of threads.
//!
//! Writes of all callers are committed together: while one commit waits for the
//! disk, the next batch gathers in the queue. Nothing is held back to make batches
//! larger, so a lone write waits for one commit only.

mod counters;
mod queue;
mod threads;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::StoreError;
use super::limits::{
    BATCH_OPERATIONS_MAX, READ_QUEUE_MAX, READERS_DEFAULT, READERS_MAX, WRITE_QUEUE_BYTES_MAX,
    WRITE_QUEUE_OPERATIONS_MAX,
};
use super::operation::{
    AddMembers, Addressees, Append, Appended, ChatReader, ChatStore, ConversationState,
    ConversationsQuery, CreateGroup, GroupCreated, HistoryQuery, MarkRead, MemberRemoved,
    MembersAdded, MessagePage, ReadMarked, RemoveMember, WriteOperation, WriteOutcome,
};
use super::sqlite::SqliteStore;
pub use counters::StoreCounters;
use queue::Queue;
use threads::{ReadJob, Shared, WriteRequest, spawn_reader, spawn_writer};

/// How a [`StoreHandle`] works. Zeros count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Writes that may wait; [`WRITE_QUEUE_OPERATIONS_MAX`].
    pub write_queue_operations_max: usize,
    /// Bytes that waiting writes may hold together; [`WRITE_QUEUE_BYTES_MAX`].
    pub write_queue_bytes_max: usize,
    /// Reads that may wait; [`READ_QUEUE_MAX`].
    pub read_queue_max: usize,
    /// Most operations of one commit; [`BATCH_OPERATIONS_MAX`].
    pub batch_operations_max: usize,
    /// Reader threads, up to [`READERS_MAX`]; [`READERS_DEFAULT`]. Each costs a
    /// thread and a connection with about 2 MiB of page cache.
    pub readers: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            write_queue_operations_max: WRITE_QUEUE_OPERATIONS_MAX,
            write_queue_bytes_max: WRITE_QUEUE_BYTES_MAX,
            read_queue_max: READ_QUEUE_MAX,
            batch_operations_max: BATCH_OPERATIONS_MAX,
            readers: READERS_DEFAULT,
        }
    }
}

/// A store that any task on any thread may use; clones share it.
///
/// Futures run on any executor. They have no deadline of their own: the caller
/// brings one. A future that is dropped after its first poll does not take its
/// operation back; sending the same append again is safe.
///
/// When the last handle is dropped, the threads finish what is queued and end. Who
/// leaves the process soon after calls [`close`](Self::close) and waits for them.
#[derive(Clone)]
pub struct StoreHandle {
    owner: Arc<Owner>,
}

/// Closes the queues when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl StoreHandle {
    /// Opens a `SQLite` file and starts the threads for it.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`StoreHandle::start`].
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        Self::start(Box::new(SqliteStore::open(path)?), options)
    }

    /// Starts one writer thread and the reader threads for a store.
    ///
    /// # Errors
    /// [`StoreError::Storage`] if a reader or a thread cannot be had; threads
    /// started before that end again.
    pub fn start(store: Box<dyn ChatStore>, options: StoreOptions) -> Result<Self, StoreError> {
        let readers = (0..options.readers.clamp(1, READERS_MAX))
            .map(|_| store.reader())
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared::new(
            Queue::new(
                options.write_queue_operations_max.max(1),
                options.write_queue_bytes_max.max(1),
            ),
            Queue::new(options.read_queue_max.max(1), usize::MAX),
        ));
        let handle = Self {
            owner: Arc::new(Owner {
                shared: Arc::clone(&shared),
            }),
        };
        spawn_writer(&shared, store, options.batch_operations_max.max(1))?;
        for reader in readers {
            spawn_reader(&shared, reader)?;
        }
        Ok(handle)
    }

    /// Performs one write; durable when this returns `Ok`.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] at once when the queue is full,
    /// [`StoreError::Closed`], and what the operation itself is refused for. After
    /// [`StoreError::Storage`] the outcome is unknown.
    pub async fn write(&self, operation: WriteOperation) -> Result<WriteOutcome, StoreError> {
        let shared = &self.owner.shared;
        let (reply, answer) = oneshot::channel();
        let weight_bytes = operation.weight_bytes();
        let request = WriteRequest { operation, reply };
        shared
            .writes
            .push(request, weight_bytes)
            .inspect_err(|refusal| shared.counters.count_refusal(refusal))?;
        shared.counters.count_accepted_write();
        answer.await.unwrap_or_else(|_| Err(thread_lost()))
    }

    /// Stores a message.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`StoreError::InvalidName`],
    /// [`StoreError::TooLarge`], [`StoreError::NotMember`],
    /// [`StoreError::NoSuchConversation`].
    pub async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        match self.write(WriteOperation::Append(append)).await? {
            WriteOutcome::Appended(appended) => Ok(appended),
            other => wrong_answer(&other),
        }
    }

    /// Makes a group.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`StoreError::AlreadyExists`],
    /// [`StoreError::InvalidName`], [`StoreError::TooLarge`].
    pub async fn create_group(&self, create: CreateGroup) -> Result<GroupCreated, StoreError> {
        match self.write(WriteOperation::CreateGroup(create)).await? {
            WriteOutcome::GroupCreated(created) => Ok(created),
            other => wrong_answer(&other),
        }
    }

    /// Lets users into a group.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn add_members(&self, add: AddMembers) -> Result<MembersAdded, StoreError> {
        match self.write(WriteOperation::AddMembers(add)).await? {
            WriteOutcome::MembersAdded(added) => Ok(added),
            other => wrong_answer(&other),
        }
    }

    /// Takes a user out of a group.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn remove_member(&self, remove: RemoveMember) -> Result<MemberRemoved, StoreError> {
        match self.write(WriteOperation::RemoveMember(remove)).await? {
            WriteOutcome::MemberRemoved(removed) => Ok(removed),
            other => wrong_answer(&other),
        }
    }

    /// Notes how far a user has read.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn mark_read(&self, mark: MarkRead) -> Result<ReadMarked, StoreError> {
        match self.write(WriteOperation::MarkRead(mark)).await? {
            WriteOutcome::ReadMarked(marked) => Ok(marked),
            other => wrong_answer(&other),
        }
    }

    /// As [`ChatReader::conversations`], on a reader thread.
    ///
    /// # Errors
    /// Those, and [`StoreError::Overloaded`], [`StoreError::Closed`].
    pub async fn conversations(
        &self,
        query: ConversationsQuery,
    ) -> Result<Vec<ConversationState>, StoreError> {
        self.read(move |reader| reader.conversations(&query)).await
    }

    /// As [`ChatReader::history`], on a reader thread.
    ///
    /// # Errors
    /// Those, and [`StoreError::Overloaded`], [`StoreError::Closed`].
    pub async fn history(&self, query: HistoryQuery) -> Result<MessagePage, StoreError> {
        self.read(move |reader| reader.history(&query)).await
    }

    /// As [`ChatReader::members`], on a reader thread.
    ///
    /// # Errors
    /// Those, and [`StoreError::Overloaded`], [`StoreError::Closed`].
    pub async fn members(&self, conversation: String) -> Result<Vec<String>, StoreError> {
        self.read(move |reader| reader.members(&conversation)).await
    }

    /// As [`ChatReader::home`], on a reader thread.
    ///
    /// # Errors
    /// Those, and [`StoreError::Overloaded`], [`StoreError::Closed`].
    pub async fn home(&self, conversation: String) -> Result<String, StoreError> {
        self.read(move |reader| reader.home(&conversation)).await
    }

    /// As [`ChatReader::addressees`], on a reader thread.
    ///
    /// # Errors
    /// Those, and [`StoreError::Overloaded`], [`StoreError::Closed`].
    pub async fn addressees(&self, id: i64) -> Result<Option<Addressees>, StoreError> {
        self.read(move |reader| reader.addressees(id)).await
    }

    /// The counters now.
    pub fn counters(&self) -> StoreCounters {
        let shared = &self.owner.shared;
        shared
            .counters
            .snapshot(shared.writes.len(), shared.reads.len())
    }

    /// Whether new work is taken. False after [`close`](Self::close), or after a
    /// thread of the store panicked; a service that finds it so ends its process.
    pub fn is_open(&self) -> bool {
        self.owner.shared.writes.is_open()
    }

    /// Refuses new work from every clone, and waits until what is queued is done and
    /// the files are closed. **Blocks the calling thread**, so not on a shard.
    ///
    /// # Errors
    /// [`StoreError::CloseTimedOut`] when that takes longer than `within`.
    pub fn close(&self, within: Duration) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        shared.close();
        if shared.wait_for_threads(within) {
            return Ok(());
        }
        Err(StoreError::CloseTimedOut {
            queued: shared.writes.len() + shared.reads.len(),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn ChatReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = &self.owner.shared;
        let (reply, answer) = oneshot::channel();
        let job: ReadJob = Box::new(move |reader| {
            // A caller who gave up while this waited needs no page from the disk.
            if !reply.is_closed() {
                drop(reply.send(query(reader)));
            }
        });
        shared
            .reads
            .push(job, 0)
            .inspect_err(|refusal| shared.counters.count_refusal(refusal))?;
        shared.counters.count_accepted_read();
        answer.await.unwrap_or_else(|_| Err(thread_lost()))
    }
}

/// The thread that had the request is gone; whether it acted on it is unknown.
#[derive(Debug, thiserror::Error)]
#[error("a thread of the store panicked before it answered")]
struct ThreadLost;

fn thread_lost() -> StoreError {
    StoreError::storage(ThreadLost)
}

fn wrong_answer(outcome: &WriteOutcome) -> ! {
    unreachable!("a store answers an operation by its own kind of outcome, not {outcome:?}")
}
