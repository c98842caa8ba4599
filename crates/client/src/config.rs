//! Where the agent is, and which ways to it there are.

use std::path::PathBuf;
use std::time::Duration;

use crate::lars::LarsCaller;

/// Where the agent is, and what is asked of it.
#[derive(Clone, Debug)]
pub struct CallerConfig {
    /// The service's name.
    pub service: String,
    /// The agent's Unix socket.
    pub socket: PathBuf,
    /// The service's numbers in the Lars protocol and the agent's UDP ports, as
    /// the last resort; `None` goes without.
    pub lars: Option<LarsCaller>,
    /// How long the agent is waited for, by a pick in all; UDP has its own time.
    /// Default 500 ms.
    pub timeout: Duration,
    /// How long after a failed attempt the agent is left alone; each further one in
    /// a row doubles that, up to 2 s. Default 200 ms.
    pub pause: Duration,
}

impl CallerConfig {
    /// For `service`, asked at the agent's `socket`, with the defaults.
    pub fn new(service: &str, socket: impl Into<PathBuf>) -> Self {
        Self {
            service: service.to_owned(),
            socket: socket.into(),
            lars: None,
            timeout: Duration::from_millis(500),
            pause: Duration::from_millis(200),
        }
    }
}

/// Which way a pick went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Shared memory: no system call.
    Segment,
    /// The agent's Unix socket.
    Socket,
    /// The agent's UDP port, by Lars' protocol.
    Udp,
    /// No answer of an agent: one of the hosts that shared memory has, or had when it
    /// was lost, each in its turn. Nobody says whether it is well. The next agent
    /// counts the call.
    Kept,
}

impl Source {
    /// A short name, for labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Socket => "socket",
            Self::Udp => "udp",
            Self::Kept => "kept",
        }
    }
}
