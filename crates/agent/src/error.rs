//! Why an agent does not start.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an agent does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The Unix socket cannot be bound: another agent has it, or its directory
    /// is not there.
    #[error("cannot listen at {path}: {source}", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be started or a UDP port cannot be bound.
    #[error("cannot start: {0}")]
    Start(#[from] waystation_net::StartError),
    /// The registry's client cannot be started.
    #[error("cannot use the registry: {0}")]
    Registry(#[from] waystation_registry::Error),
}
