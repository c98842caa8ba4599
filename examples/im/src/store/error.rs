//! What can go wrong in the store, as values.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use super::limits::ERROR_VALUE_BYTES_MAX;

/// A cause that several operations of one failed commit share.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// Why the store refused or failed an operation.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A uid, group, conversation or client message id breaks the naming rules.
    /// Nothing was written; sending the same again cannot succeed.
    #[error("{what} {value:?} is invalid at byte {position}")]
    InvalidName {
        /// What kind of name it is.
        what: &'static str,
        /// The name, cut to [`ERROR_VALUE_BYTES_MAX`] bytes.
        value: String,
        /// Offset of the first offending byte; the length if the name ends too early.
        position: usize,
    },
    /// The acting user is not in the conversation. Nothing was written or shown.
    #[error("{uid} is not a member of {conversation}")]
    NotMember {
        /// Who asked.
        uid: String,
        /// What for.
        conversation: String,
    },
    /// The group was never created, or nobody has written in the direct
    /// conversation yet.
    #[error("there is no conversation {conversation}")]
    NoSuchConversation {
        /// The name that was asked for.
        conversation: String,
    },
    /// Something passes a bound of [`limits`](super::limits). Nothing was written.
    #[error("{what} is {size}, at most {limit} is allowed")]
    TooLarge {
        /// What passes its bound, with the unit.
        what: &'static str,
        /// How much was given.
        size: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The group exists and was created by someone else or with other members.
    #[error("{conversation} exists already, with another creator or other members")]
    AlreadyExists {
        /// The name that is taken.
        conversation: String,
    },
    /// Another site writes this conversation; here is a copy. Nothing was written.
    #[error("the home of {conversation} is site {home}")]
    OtherHome {
        /// Which.
        conversation: String,
        /// The site.
        home: String,
    },
    /// This site's copy has not come yet, or not all of it. Nothing was done.
    #[error("this site's copy of the chat is not whole yet")]
    NotWhole,
    /// Several sites have copies of the store, and it was opened for none of them.
    #[error("the store belongs to site {name}, of several: start it with the sites that it had")]
    OfSites {
        /// The first site.
        name: String,
    },
    /// The storage below failed. Whether the operation took effect is unknown: do it
    /// again with the same client message id, which cannot write it twice.
    #[error("the storage failed")]
    Storage(#[source] SharedError),
    /// The file was written by a newer version of this program: use that one.
    #[error("{} has schema version {found}, this program knows up to {supported}", path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Highest version this program can open.
        supported: i64,
    },
    /// The file is a database of another program; it was left as it is.
    #[error("{} is a database, but not a chat store", path.display())]
    NotAChatStore {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged or no database at all; it was left as it is. Restore it.
    #[error("{} is damaged or not a database", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the check found.
        source: SharedError,
    },
    /// The queue in front of the store is full. Nothing was done: back off, then
    /// try again.
    #[error("the queue of the store is full")]
    Overloaded,
    /// The store was closed before it took the operation. Nothing was done.
    #[error("the store is closed")]
    Closed,
    /// [`close`](super::StoreHandle::close) reached its deadline; the threads go on
    /// working through what is queued.
    #[error("the store had {queued} operations waiting at the deadline for closing it")]
    CloseTimedOut {
        /// Operations still in the queues, without those being worked on.
        queued: usize,
    },
}

impl StoreError {
    /// Wraps a failure of the storage below.
    pub fn storage(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Storage(Arc::new(source))
    }

    /// Describes an offending name; cuts what is repeated of it.
    pub(super) fn invalid_name(what: &'static str, value: &str, position: usize) -> Self {
        let mut end = value.len().min(ERROR_VALUE_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        Self::InvalidName {
            what,
            value: value[..end].to_owned(),
            position,
        }
    }

    pub(super) fn not_member(uid: &str, conversation: &str) -> Self {
        Self::NotMember {
            uid: uid.to_owned(),
            conversation: conversation.to_owned(),
        }
    }

    pub(super) fn no_such_conversation(conversation: &str) -> Self {
        Self::NoSuchConversation {
            conversation: conversation.to_owned(),
        }
    }

    /// Refuses `size` above `limit`; sizes are lengths, so they fit 64 bits.
    pub(super) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), Self> {
        if size <= limit {
            return Ok(());
        }
        Err(Self::TooLarge {
            what,
            size: size as u64,
            limit: limit as u64,
        })
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        Self::storage(source)
    }
}
