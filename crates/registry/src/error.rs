//! What can go wrong for a user of a registry.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use waystation_membership::{InstanceError, InstanceId};

use crate::limits::{COMBINED_SOURCES_MAX, QUESTIONS_MAX, REGISTRATIONS_MAX, WATCHES_MAX};

/// Why a registry cannot be used at all, or takes no more orders. A registry
/// that is merely absent is no error: everything waits for it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry's host has no address: correct the URL, or its name service.
    #[error("cannot find the registry's host {host}")]
    Resolve {
        /// The host and port asked for.
        host: String,
        /// What the system answers.
        source: io::Error,
    },
    /// The file that proves who we are cannot be used: it holds `USER:PASSWORD`.
    #[error("cannot use {}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The thread of the client cannot be started.
    #[error("cannot start the registry's client")]
    Start(#[source] waystation_net::StartError),
    /// The shard that was to run the client has ended.
    #[error("the shard of the registry's client has ended")]
    Shard(#[source] waystation_net::RemoteError),
    /// The instance is not valid: correct it.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// A static list and a route server take no registrations: edit the list, add
    /// a route, or register with a registry.
    #[error("{url} takes no registrations")]
    ReadOnly {
        /// The list or server.
        url: String,
    },
    /// Several registries are to be used as one, and this one stands there twice.
    #[error("{url} is among the registries already")]
    Twice {
        /// The registry.
        url: String,
    },
    /// The registry is none of those that are used as one.
    #[error("{url} is not among the registries")]
    Unknown {
        /// The registry.
        url: String,
    },
    /// One registry is needed at least.
    #[error("there would be no registry")]
    NoSource,
    /// There are [`COMBINED_SOURCES_MAX`] registries.
    #[error("at most {COMBINED_SOURCES_MAX} registries are used as one")]
    SourcesFull,
    /// There are [`REGISTRATIONS_MAX`] registrations.
    #[error("one client has at most {REGISTRATIONS_MAX} registrations")]
    RegistrationsFull,
    /// There are [`WATCHES_MAX`] watches.
    #[error("one client has at most {WATCHES_MAX} watches")]
    WatchesFull,
    /// [`QUESTIONS_MAX`] questions wait for answers: ask later.
    #[error("one client has at most {QUESTIONS_MAX} questions that wait for an answer")]
    QuestionsFull,
    /// The client was closed.
    #[error("the registry's client is closed")]
    Closed,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AskError {
    /// The registry could not be reached in time; `fault` is what was in the
    /// way last.
    #[error("no answer from {url}{}", reason(fault.as_ref()))]
    NoAnswer {
        /// The registry.
        url: String,
        /// Why, as far as is known.
        fault: Option<String>,
    },
    /// No instance has that id.
    #[error("no instance {id} is registered")]
    NoInstance {
        /// The id asked for.
        id: InstanceId,
    },
    /// The registry refuses; the text is its own.
    #[error("the registry refuses: {text}")]
    Refused {
        /// Why.
        text: String,
    },
    /// A static list cannot do that.
    #[error("{url} is a static list: edit it instead")]
    ReadOnly {
        /// The list.
        url: String,
    },
    /// What the registry answered makes no sense: it is of another version.
    #[error("the registry's answer makes no sense: {text}")]
    Nonsense {
        /// What is wrong with it.
        text: String,
    },
    /// The client was closed.
    #[error("the registry's client is closed")]
    Closed,
}

fn reason(fault: Option<&String>) -> String {
    fault.map_or_else(String::new, |fault| format!(": {fault}"))
}

/// Why an embedded registry does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its directory cannot be used.
    #[error("cannot use {}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system answers.
        source: io::Error,
    },
    /// Another registry runs on the directory.
    #[error("another server runs on {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The stored epoch is not a number: put a higher one than ever before, or
    /// start on an empty directory.
    #[error("{}: {text:?} is not an epoch", path.display())]
    Epoch {
        /// The file.
        path: PathBuf,
        /// The first 64 characters in it.
        text: String,
    },
    /// It cannot listen, or its thread cannot be started.
    #[error(transparent)]
    Net(#[from] waystation_net::StartError),
}
