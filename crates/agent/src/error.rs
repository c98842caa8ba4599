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
    /// A registry's client cannot be started, or a registry is named twice.
    #[error("cannot use the registry: {0}")]
    Registry(#[from] waystation_registry::Error),
    /// A route server stands among several sources. It is asked for what is used
    /// here, and registries tell all they have: name the one or the others.
    #[error("a route server cannot be used beside a registry")]
    RouteAmongOthers,
}
