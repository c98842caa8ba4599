//! Why a route server does not start.

use std::io;

use thiserror::Error;

/// Why a route server does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The store has not answered, and there is no copy of what it had.
    #[error("no routes from {url}: {fault}")]
    Store {
        /// The store, without a password.
        url: String,
        /// Why not.
        fault: String,
    },
    /// Its directory cannot be used, or another server runs on it.
    #[error(transparent)]
    Home(#[from] waystation_registry::ServeError),
    /// The registry's client cannot be started.
    #[error("cannot use the registry: {0}")]
    Registry(#[from] waystation_registry::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// It cannot listen.
    #[error(transparent)]
    Net(#[from] waystation_net::StartError),
}
