//! What goes wrong.

use std::time::Duration;

use thiserror::Error;

/// Why a request has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no host to send it to. Nothing was sent.
    #[error("no host of {service}: {source}")]
    NoHost {
        /// The service.
        service: String,
        /// Why.
        source: waystation_client::Error,
    },
    /// Whoever asks the agent is gone, since the runtime ends. Nothing was sent.
    #[error("nobody asks the agent any more")]
    Ended,
    /// No answer came in time. It may have been carried out.
    #[error("no answer of {host} within {time:?}")]
    TimedOut {
        /// The host.
        host: String,
        /// The time that it had.
        time: Duration,
    },
    /// What the client of the host says.
    #[error("{host}: {source}")]
    Host {
        /// The host.
        host: String,
        /// What it says.
        source: tower::BoxError,
    },
}
