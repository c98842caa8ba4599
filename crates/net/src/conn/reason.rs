//! Why a connection ended.

use std::fmt;

/// Why a connection ended. Each reason has its own counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed it.
    Peer,
    /// This side closed it, on the application's order.
    Local,
    /// The system reported an error on it.
    Reset,
    /// The peer did not read: its output was full or made no progress.
    SlowReader,
    /// Nothing was received for the idle limit.
    Idle,
    /// A frame was begun and not completed in time.
    FrameTimeout,
    /// The peer broke its protocol; the label says how.
    Protocol(&'static str),
    /// The first byte belongs to no protocol of this port.
    UnknownProtocol,
    /// The connection limit was reached.
    Refused,
    /// This process is going away.
    Draining,
    /// The upstream gave no sign of life.
    Keepalive,
    /// A handler panicked where no answer could be given.
    HandlerPanic,
    /// The bytes that decide the shard did not come in time.
    Home,
    /// The HTTP side ended it.
    Http,
    /// The peer broke the WebSocket protocol.
    WebSocket,
    /// It held more bytes than a connection may, or most of those of a shard
    /// that holds too many.
    Memory,
}

impl CloseReason {
    /// Why a connection ended whose task ended without saying.
    pub(crate) fn of_lost_task() -> Self {
        if std::thread::panicking() {
            Self::HandlerPanic
        } else {
            // The shard ends and drops its tasks.
            Self::Draining
        }
    }

    /// A short stable word for counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Local => "local",
            Self::Reset => "reset",
            Self::SlowReader => "slow_reader",
            Self::Idle => "idle",
            Self::FrameTimeout => "frame_timeout",
            Self::Protocol(label) => label,
            Self::UnknownProtocol => "unknown_protocol",
            Self::Refused => "refused",
            Self::Draining => "draining",
            Self::Keepalive => "keepalive",
            Self::HandlerPanic => "handler_panic",
            Self::Home => "home",
            Self::Http => "http",
            Self::WebSocket => "websocket",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
