//! The data layer of the chat (the Das role): conversations, members, messages and
//! read marks, durable and numbered without gaps.
//!
//! [`ChatStore`] and [`ChatReader`] are the traits, [`SqliteStore`] implements them
//! over one `SQLite` file, and [`StoreHandle`] puts an asynchronous face and group
//! commit in front of any implementation. The store knows nothing of connections,
//! wire formats or clocks, and decides no business rules beyond "only members act on
//! a conversation".
//!
//! ```
//! use std::time::Duration;
//! use waystation_im::store::{Append, StoreError, StoreHandle, StoreOptions};
//!
//! # let directory = std::env::temp_dir().join(format!("im-store-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&directory).expect("a directory for the example");
//! # let path = directory.join("chat.db");
//! # let example = async {
//! let store = StoreHandle::open(&path, StoreOptions::default())?;
//! let hello = Append {
//!     conversation: "d:alice:bob".to_owned(),
//!     sender: "alice".to_owned(),
//!     client_id: "1".to_owned(),
//!     body: "hello".to_owned(),
//!     at_ms: 1_700_000_000_000,
//! };
//! let first = store.append(hello.clone()).await?;
//! assert_eq!((first.seq, first.duplicate), (1, false));
//! let again = store.append(hello).await?;
//! assert_eq!((again.seq, again.duplicate), (1, true));
//! store.close(Duration::from_secs(10))?;
//! # Ok::<_, StoreError>(())
//! # };
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
//! # let result = runtime.block_on(example);
//! # std::fs::remove_dir_all(&directory).expect("the example's directory goes");
//! # result.expect("the example works");
//! ```
//!
//! # What is promised
//!
//! - Messages of a conversation are numbered 1, 2, 3 … without gaps, also when
//!   several processes write to one file.
//! - What is answered `Ok` is durable: the log was synced to the disk before.
//! - The same (conversation, sender, client message id) is stored once, for ever; a
//!   repeat is answered with the first number and writes nothing.
//! - A member sees messages from the one after their joining on; who was removed
//!   sees nothing, and after joining again only what comes then.
//!
//! # Files
//!
//! `PATH` is the database, `PATH-wal` its write-ahead log and `PATH-shm` the log's
//! index, which processes share. All three belong together: copying `PATH` alone
//! while a process runs, or after one was killed, loses what is still in the log.
//! The last process to close the file folds the log in and removes both.
//! The file must lie on a local disk, since the index is shared memory.
//!
//! | table | row | key |
//! |---|---|---|
//! | `conversation` | id, name, last number, home | id; name unique |
//! | `founding` | creator and first members of a group | conversation |
//! | `member` | first visible number, read mark | conversation, uid; uid + name unique |
//! | `message` | time, sender, client message id, body | conversation, number; conversation + sender + client message id unique |
//!
//! | `site` | number and name of each site that keeps a copy | number; name unique |
//! | `birth` | which site makes conversations whose names hash to a slot | slot |
//!
//! Where several sites keep copies, each conversation is written at its home only,
//! whatever is asked of another site: the operation is refused there, and says where
//! the home is. A store without sites has neither rows in the last two tables nor
//! another home than 0.
//!
//! `application_id` in the header is "WIMS"; `user_version` is the schema's version.
//! Opening brings older versions up to date and refuses newer ones.

mod error;
mod handle;
pub mod limits;
mod name;
mod operation;
mod sqlite;
#[cfg(test)]
mod tests;

pub use error::{SharedError, StoreError};
pub use handle::{StoreCounters, StoreHandle, StoreOptions};
pub use name::{ConversationName, check_uid, direct_conversation, group_conversation};
pub use operation::{
    AddMembers, Addressees, Append, Appended, ChatReader, ChatStore, ConversationState,
    ConversationsQuery, CreateGroup, GroupCreated, HistoryPage, HistoryQuery, MarkRead,
    MemberRemoved, MembersAdded, MessagePage, ReadMarked, RemoveMember, StoredMessage,
    WriteOperation, WriteOutcome,
};
pub use sqlite::{SITES_MAX, SqliteStore, StoreSite};
