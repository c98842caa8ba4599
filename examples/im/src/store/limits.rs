//! Every bound of the store, with what happens when it is reached.

use std::time::Duration;

/// Longest uid and longest group name, in bytes. Longer ones are refused as
/// [`InvalidName`](super::StoreError::InvalidName).
pub const NAME_BYTES_MAX: usize = 64;

/// Longest client message id, in bytes. Longer ones are refused as
/// [`TooLarge`](super::StoreError::TooLarge). Ids are kept for ever, so this bounds
/// what the duplicate index costs for each message.
pub const CLIENT_ID_BYTES_MAX: usize = 64;

/// Longest message body, in bytes. Longer ones are refused as
/// [`TooLarge`](super::StoreError::TooLarge).
pub const BODY_BYTES_MAX: usize = 32 * 1024;

/// Most members of a group. Creating or growing a group beyond it is refused as
/// [`TooLarge`](super::StoreError::TooLarge). Every append returns all members, so
/// raising this makes appends to large groups slower.
pub const GROUP_MEMBERS_MAX: usize = 1_024;

/// Most conversations of one user. Who would come into one more is refused as
/// [`TooLarge`](super::StoreError::TooLarge), also as the other side of a direct
/// conversation: a connection keeps a cursor for each, a login lists them all, and
/// one that resumes names them all in one message: as JSON with the longest names
/// that is 0.8 of the 1 MiB that a WebSocket message may have.
pub const CONVERSATIONS_MAX: usize = 5_000;

/// Most messages of one page of history. A higher limit is refused as
/// [`TooLarge`](super::StoreError::TooLarge), because a page that is silently
/// shorter looks like the end.
pub const HISTORY_PAGE_MAX: usize = 200;

/// Bytes of text at which a page of history ends, though fewer messages came
/// than were asked for; the page says that there are more. Large pages for many
/// readers at once would fill the connections that all users share.
pub const HISTORY_PAGE_BYTES: usize = 256 * 1024;

/// Most entries of one page of conversations. Refused beyond it, as above.
pub const CONVERSATIONS_PAGE_MAX: usize = 500;

/// Longest part of a refused name that an error repeats, in bytes; the rest is cut.
pub const ERROR_VALUE_BYTES_MAX: usize = 160;

/// Writes that may wait for the writer thread. The next one is refused at once as
/// [`Overloaded`](super::StoreError::Overloaded).
pub const WRITE_QUEUE_OPERATIONS_MAX: usize = 4_096;

/// Bytes that the waiting writes may hold together. The write that would pass it is
/// refused as [`Overloaded`](super::StoreError::Overloaded); without it a queue of
/// the largest bodies would hold 128 MiB.
pub const WRITE_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Reads that may wait for a reader thread. The next one is refused at once as
/// [`Overloaded`](super::StoreError::Overloaded).
pub const READ_QUEUE_MAX: usize = 1_024;

/// Most operations of one commit; the rest of the queue waits for the next one.
pub const BATCH_OPERATIONS_MAX: usize = 256;

/// Reader threads, each with a connection of its own, unless told otherwise.
pub const READERS_DEFAULT: usize = 2;

/// Most reader threads; a higher number is lowered to this.
pub const READERS_MAX: usize = 16;

/// Longest wait for another process that writes to the same file. After it the
/// batch fails as [`Storage`](super::StoreError::Storage).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts to switch a new file to write-ahead logging while other processes open
/// it too; each waits at most [`BUSY_TIMEOUT`]. Then opening fails.
pub const WAL_SWITCH_ATTEMPTS_MAX: u32 = 8;

/// Files up to this size are checked page by page when opened; larger ones only in
/// their header and schema, because the check reads the whole file.
pub const OPEN_CHECK_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// Prepared statements that each connection keeps. All of ours fit; beyond it the
/// least recently used one is prepared anew.
pub const STATEMENTS_CACHED: usize = 48;

/// Page cache of the writing connection, in KiB. Pages beyond it are read again.
pub const WRITER_CACHE_KIB: i64 = 32 * 1024;

/// Pages of write-ahead log after which a commit also moves them to the main file.
/// Raising it makes these moves rarer and longer, and reopening after a crash slower.
pub const CHECKPOINT_PAGES: i64 = 4_000;

/// Size to which the write-ahead log is cut back after it was larger, in bytes.
pub const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;
