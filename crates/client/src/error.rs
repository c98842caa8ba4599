//! What goes wrong.

use std::io;

use thiserror::Error;
use waystation_segment::{AttachError, Miss};

use crate::protocol::Code;

/// Why a caller has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The agent cannot be reached, or its connection ended. It is tried again
    /// at the next call, with pauses.
    #[error("agent cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// The agent did not answer in time.
    #[error("agent did not answer within its deadline")]
    TimedOut,
    /// The agent refuses.
    #[error("agent refuses: {text}")]
    Refused {
        /// Why.
        code: Code,
        /// The same for people.
        text: String,
    },
    /// What the agent sent makes no sense here: it is of another version.
    #[error("answer of the agent makes no sense: {0}")]
    BadAnswer(String),
    /// The memory that the agent sent is no segment.
    #[error("memory of the agent cannot be used: {0}")]
    BadSegment(#[from] AttachError),
    /// Shared memory has no host, and nothing else may be asked.
    #[error("no pick from shared memory: {0}")]
    Miss(#[from] Miss),
}

impl Error {
    /// Whether the agent says that it knows nothing of the service yet.
    pub(crate) const fn is_not_yet(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: Code::NotYet,
                ..
            }
        )
    }

    /// Whether the agent refuses for good. One that was started while what tells it
    /// of services is away does not: others may know more.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. }) && !self.is_not_yet()
    }
}
