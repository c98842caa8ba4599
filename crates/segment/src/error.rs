//! What goes wrong.

use thiserror::Error;

/// Why memory is no segment of ours. The caller falls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It begins otherwise.
    #[error("memory holds no segment of this kind")]
    NotOurs,
    /// It was made by another version.
    #[error("segment layout {0} is not known here")]
    OtherVersion(u64),
    /// It states a capacity that none has.
    #[error("segment states a capacity of {0}")]
    BadCapacity(u64),
    /// It is shorter than its capacity asks for.
    #[error("segment has {words} words, needs {needed}")]
    TooShort {
        /// What there is.
        words: usize,
        /// What the capacity asks for.
        needed: usize,
    },
    /// It belongs to another service or agent than the other segment.
    #[error("segment belongs to another service or agent")]
    Mismatch,
    /// An agent that is asked to count a ledger counts it already.
    #[error("ledger is counted here already")]
    Counted,
}

/// Why a pick from shared memory has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Miss {
    /// The agent has been silent for too long. Ask it over its socket, or fall
    /// back to what is known.
    #[error("agent is silent")]
    Stale,
    /// The agent moved the service to another segment. Attach again.
    #[error("segment is no longer in use")]
    Retired,
    /// No host may be picked.
    #[error("no host may be picked")]
    NoHosts,
    /// The policy needs more than shared memory tells. Ask the agent.
    #[error("policy needs the agent")]
    AskAgent,
    /// The memory never came to rest, or makes no sense. Ask the agent.
    #[error("segment cannot be read")]
    Unreadable,
}
