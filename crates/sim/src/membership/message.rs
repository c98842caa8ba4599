//! What the registry and its peers send each other.

use waystation_base::{FencingToken, ServiceName};
use waystation_membership::{
    Attempt, Content, DrainStep, Granted, HolderError, Refusal, Register, Renewed, State,
    SubscriberId, ViewAck, ViewVersion, Watch,
};

use super::world::NODES;

/// One message, and which node or follower it is of.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Register(usize, Attempt, Register),
    Renew(usize, Attempt, FencingToken),
    Granted(usize, Attempt, Result<Granted, Refusal>),
    Renewed(usize, Attempt, Result<Renewed, HolderError>),
    Drain(usize, FencingToken),
    Idle(usize, FencingToken),
    Drained(usize, FencingToken, DrainStep),
    Subscribe(usize, Watch, Option<ViewVersion>),
    Resync(usize, ServiceName),
    Ack(ViewAck),
    Push(usize, Content),
}

impl Message {
    /// The peer of the registry that sent it or gets it: nodes first.
    pub(super) fn peer(&self) -> usize {
        match self {
            Self::Register(n, ..)
            | Self::Renew(n, ..)
            | Self::Granted(n, ..)
            | Self::Renewed(n, ..)
            | Self::Drain(n, _)
            | Self::Idle(n, _)
            | Self::Drained(n, ..) => *n,
            Self::Subscribe(n, ..) | Self::Resync(n, _) | Self::Push(n, _) => NODES + n,
            Self::Ack(ack) => NODES + index(ack.subscriber),
        }
    }

    pub(super) fn is_to_registry(&self) -> bool {
        !matches!(
            self,
            Self::Granted(..) | Self::Renewed(..) | Self::Drained(..) | Self::Push(..)
        )
    }

    /// The lease of which this tells its holder that it drains.
    pub(super) fn drain_told(&self) -> Option<FencingToken> {
        match self {
            Self::Drained(_, token, _) => Some(*token),
            Self::Granted(_, _, Ok(granted)) => {
                (granted.state == State::Draining).then_some(granted.token)
            }
            _ => None,
        }
    }

    /// Whether this tells its holder that it is out.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Drained(_, _, DrainStep::Ended))
    }

    /// Whether it may be lost alone: it is asked again. A connection that loses
    /// anything else is lost itself.
    pub(super) fn is_asked_again(&self) -> bool {
        let is_lease = matches!(self, Self::Register(..) | Self::Renew(..));
        let is_order = matches!(self, Self::Drain(..) | Self::Idle(..));
        is_lease || is_order || matches!(self, Self::Granted(..) | Self::Renewed(..))
    }
}

/// The number of a follower.
pub(super) fn index(subscriber: SubscriberId) -> usize {
    usize::try_from(subscriber.0).expect("ids are small")
}
