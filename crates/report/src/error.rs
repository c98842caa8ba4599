//! Why a report server does not start, or does not answer.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::store::UrlError;

/// Why a report server does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The address or a thread cannot be used.
    #[error(transparent)]
    Start(#[from] waystation_net::StartError),
    /// The store's thread cannot be started.
    #[error("cannot start the store's thread")]
    Thread(#[source] io::Error),
    /// The store's URL makes no sense.
    #[error(transparent)]
    Store(#[from] UrlError),
}

/// Why a report server did not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AskError {
    /// It cannot be reached, or did not answer in time.
    #[error("no answer from the report server at {address}: {source}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It refuses.
    #[error("the report server refuses: {0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("the report server's answer makes no sense")]
    Answer,
}
