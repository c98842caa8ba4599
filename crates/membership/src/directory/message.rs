//! What goes into a directory and comes out of it.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use waystation_base::{Epoch, FencingToken, ServiceName};

use super::DrainStep;
use crate::address::Address;
use crate::ids::{InstanceId, Owner, SubscriberId};
use crate::instance::{Instance, InstanceError, State};
use crate::lease::{GrantError, HolderError};
use crate::view::{View, ViewDelta, ViewVersion};

/// How a directory behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// How much longer leases hold after a restart or a stall. Default 5 s.
    /// Longer spares nodes that are slow to come back, and keeps dead ones.
    pub grace: Duration,
    /// From which lateness on the directory takes itself for stalled. Default
    /// 1 s. Shorter puts off evictions on a busy machine.
    pub stall: Duration,
    /// For how long a lost subscriber is waited for. Default 10 s. Longer makes
    /// drains wait for subscribers that died.
    pub linger: Duration,
    /// For how long a drain waits for acknowledgements. Default 10 s.
    pub drain_ack_max: Duration,
    /// For how long a drain then waits for requests in flight. Default 30 s.
    pub drain_requests_max: Duration,
    /// For how long a drained instance may not register again as the same
    /// incarnation. Default 10 min.
    pub drained_remembered: Duration,
}

impl Default for DirectoryConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            stall: Duration::from_secs(1),
            linger: Duration::from_secs(10),
            drain_ack_max: Duration::from_secs(10),
            drain_requests_max: Duration::from_secs(30),
            drained_remembered: Duration::from_mins(10),
        }
    }
}

/// What a subscriber watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watch {
    /// One service, whether it has instances yet or not.
    Service(ServiceName),
    /// Every service whose name begins so; the empty text watches all.
    Prefix(Arc<str>),
}

impl Watch {
    /// Whether the watch is about `service`.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::Service(name) => name == service,
            Self::Prefix(prefix) => service.as_str().starts_with(&**prefix),
        }
    }
}

/// A wish to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The instance.
    pub instance: Instance,
    /// For how long a renewal should hold; brought into bounds.
    pub ttl: Duration,
    /// The highest token that its owner was granted here; zero if none. A registry
    /// that has not given it out yet was restored from an old state.
    pub token_seen: FencingToken,
    /// A token that its owner was granted by another registry; zero if none. What
    /// is granted here is above it, and it proves nothing about this one.
    pub lift: FencingToken,
}

/// The answer to [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease's fencing token.
    pub token: FencingToken,
    /// For how long a renewal holds.
    pub ttl: Duration,
    /// The state in which others see the instance: draining, if a drain is
    /// under way.
    pub state: State,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// For how long it holds.
    pub ttl: Duration,
    /// The state in which others see the instance.
    pub state: State,
    /// How far its drain is, if it is draining.
    pub drain: Option<DrainStep>,
}

/// Why a registration or an update is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The instance is not valid: correct it.
    #[error(transparent)]
    Instance(InstanceError),
    /// The lease is not granted; `holder` is the address of who has the id.
    #[error("{error}{}", at(holder.as_ref()))]
    Lease {
        /// Why.
        error: GrantError,
        /// Where the holder is reached.
        holder: Option<Address>,
    },
    /// The caller does not hold the id.
    #[error(transparent)]
    Holder(HolderError),
    /// This incarnation was drained, and stays out.
    #[error("the instance was drained")]
    Drained,
    /// There are [`SERVICES_MAX`](crate::limits::SERVICES_MAX) services.
    #[error("the registry has no room for another service")]
    ServicesFull,
    /// The registry gave a reason that this version does not know.
    #[error("{0}")]
    Other(Arc<str>),
}

fn at(holder: Option<&Address>) -> String {
    holder.map_or_else(String::new, |address| format!(" at {address}"))
}

/// Why a watch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// There are [`SUBSCRIBERS_MAX`](crate::limits::SUBSCRIBERS_MAX).
    #[error("the registry has no room for another subscriber")]
    SubscribersFull,
    /// The subscriber has [`WATCHES_MAX`](crate::limits::WATCHES_MAX): watch a
    /// prefix instead.
    #[error("the subscriber has no room for another watch")]
    WatchesFull,
    /// There are [`SERVICES_MAX`](crate::limits::SERVICES_MAX) services.
    #[error("the registry has no room for another service")]
    ServicesFull,
}

/// What a push carries. Shared by all who get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The whole view.
    View(Arc<View>),
    /// What changed since the last push.
    Delta(Arc<ViewDelta>),
}

impl Content {
    /// The service it is about.
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::View(view) => &view.service,
            Self::Delta(delta) => &delta.service,
        }
    }

    /// The version that it leads to.
    pub fn at(&self) -> ViewVersion {
        match self {
            Self::View(view) => view.at,
            Self::Delta(delta) => delta.to,
        }
    }
}

/// What a directory wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to a subscriber, in order.
    Push {
        /// To whom.
        subscriber: SubscriberId,
        /// What.
        content: Content,
    },
    /// Store the instance, so that a restart can put it back.
    Save {
        /// The instance, with its token.
        instance: Arc<Instance>,
        /// Its lease's length.
        ttl: Duration,
    },
    /// Forget a stored instance.
    Erase {
        /// Its id.
        id: InstanceId,
    },
    /// Store the epoch, before anything else that is told in it.
    SaveEpoch {
        /// The present epoch.
        epoch: Epoch,
    },
    /// A lease was not renewed; its instance is out.
    Evicted {
        /// The instance.
        id: InstanceId,
        /// Its service.
        service: ServiceName,
        /// Who had the lease.
        owner: Owner,
        /// Under which token.
        token: FencingToken,
    },
    /// A registration was refused.
    Refused {
        /// The instance.
        id: InstanceId,
        /// Why.
        refusal: Refusal,
    },
    /// A drain went on. Tell the instance's owner.
    Drain {
        /// The instance.
        id: InstanceId,
        /// How far it is.
        step: DrainStep,
        /// Who had not acknowledged when the deadline passed.
        missing: Vec<SubscriberId>,
    },
    /// The directory was not called when it asked to be; leases are prolonged.
    Stalled {
        /// By how much it was late.
        late: Duration,
    },
    /// A peer has seen a later epoch: this directory comes from an old backup,
    /// or the peer is wrong.
    Behind {
        /// The directory's epoch.
        ours: Epoch,
        /// The peer's.
        seen: Epoch,
        /// Whether the directory goes on above it; not if the peer's is absurd.
        is_believed: bool,
    },
}

/// What a subscriber holds of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub subscriber: SubscriberId,
    /// The version last sent to it.
    pub sent: Option<ViewVersion>,
    /// The version that its callers see, as far as it said.
    pub acked: Option<ViewVersion>,
}
