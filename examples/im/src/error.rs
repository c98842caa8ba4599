//! Why a role of the chat did not start or did not end well.

use waystation_service::AppError;

use crate::store::StoreError;

/// Why a role or client of the chat failed as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process could not serve: an address, a socket or a thread.
    #[error(transparent)]
    App(#[from] AppError),
    /// The registry cannot be used, or the role cannot be registered as it is.
    #[error(transparent)]
    Registry(#[from] waystation_registry::Error),
    /// The role's name or address makes no instance; the text says why.
    #[error("cannot register: {0}")]
    Instance(String),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Signals could not be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The store could not be opened.
    #[error("cannot open the chat's store")]
    Store(#[from] StoreError),
    /// The site of the chat's database could not be started.
    #[error("cannot keep a copy of the chat")]
    Site(#[from] waystation_sync::site::SiteError),
    /// Operators would have no place to ask the site of the chat's database.
    #[error(transparent)]
    Control(#[from] waystation_sync::control::ControlError),
    /// The client of the hub could not be started.
    #[error("cannot ask the hub")]
    Hub(#[from] waystation_sync::client::ClientError),
    /// A directory could not be made.
    #[error("cannot make {path}")]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A client could not do its work; the text says what and why.
    #[error("{0}")]
    Client(String),
}
