//! What a backend is asked, and what it tells.
//!
//! A backend moves questions and answers between the driver and its source. It
//! decides nothing: what to register and when, whom to believe and what to show
//! is with the cores of crate `membership`, the same for every backend.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use waystation_base::{FencingToken, Moment, ServiceName};
use waystation_membership::{
    Attempt, Content, DrainStep, Granted, HolderError, Instance, InstanceId, Refusal, Register,
    Renewed, SubscriberId, Update, View, ViewAck, ViewDelta, ViewVersion, Watch,
};

use crate::error::AskError;
use crate::limits::EVENTS_MAX;
use crate::registry::{DrainWaits, ListedService};

/// A registration of one client; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) u64);

/// What a registration asks of its backend.
#[derive(Debug)]
pub(crate) enum Registering {
    Register(Attempt, Box<Register>),
    Renew(Attempt),
    Update(Update),
    Drain,
    Idle,
    /// The last word of this key.
    Deregister,
}

/// What a driver asks of its backend. None of it waits.
#[derive(Debug)]
pub(crate) enum Ask {
    Registration {
        key: Key,
        /// The instance as it should stand, with its latest token.
        instance: Box<Instance>,
        /// How long its drain may take, where no server has a word on that.
        drain: DrainWaits,
        what: Registering,
    },
    Subscribe {
        subscriber: SubscriberId,
        watch: Watch,
        have: Option<ViewVersion>,
    },
    Resync {
        subscriber: SubscriberId,
        service: ServiceName,
    },
    Ack(ViewAck),
    Unsubscribe(SubscriberId),
    /// A watch is over, and somebody goes on by what it showed: when the client
    /// closes the registry is to take it for lost, and not for gone.
    Linger(SubscriberId),
    List {
        question: u64,
        watch: Watch,
        with_holders: bool,
        deadline: Moment,
    },
    Drain {
        question: u64,
        id: InstanceId,
        deadline: Moment,
    },
}

/// What an answered question brings.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Listed(Vec<ListedService>),
    /// The service of the instance that drains.
    Draining(ServiceName),
}

/// What a backend tells its driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// It can be talked to.
    Connected,
    /// It cannot, and why.
    Disconnected(String),
    Granted(Key, Attempt, Granted),
    Renewed(Key, Attempt, Renewed),
    Refused(Key, Refusal),
    Unheld(Key, HolderError),
    /// What is held is held on, under a higher token.
    Raised(Key, FencingToken),
    Drained(InstanceId, FencingToken, DrainStep),
    Push(SubscriberId, Content),
    /// A push of a delta, with the view that it leads to.
    Step(SubscriberId, Arc<ViewDelta>, Arc<View>),
    /// All that is there has been pushed, or why nothing will be.
    Subscribed(SubscriberId, Result<(), String>),
    Answered(u64, Result<Reply, AskError>),
    /// Something that is not ours, or malformed, stands at this place.
    Skipped {
        place: String,
        reason: String,
    },
    /// It comes from an old state; what had been given out before.
    WentBack(String),
}

/// A source of views and a keeper of registrations.
pub(crate) trait Backend {
    /// Takes an order; what comes of it is told by events. What cannot be
    /// carried out now is dropped: the cores ask again.
    fn handle(&self, ask: Ask);

    /// What it does by itself for as long as it is used, if it does. It runs in the
    /// task of its driver: what it tells is handled without a wait for other tasks.
    fn source(&self) -> Option<futures_util::future::LocalBoxFuture<'static, ()>> {
        None
    }

    /// Says goodbye; ready when that is on its way.
    fn close(&self) -> futures_util::future::LocalBoxFuture<'static, ()>;
}

/// The events of one backend, in order. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Events {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: RefCell<VecDeque<Event>>,
    waker: RefCell<Option<Waker>>,
}

impl Events {
    /// Adds an event. False when the queue is over its bound: the backend drops
    /// its connection then, and starts over.
    pub(crate) fn push(&self, event: Event) -> bool {
        let mut queue = self.inner.queue.borrow_mut();
        queue.push_back(event);
        let fits = queue.len() <= EVENTS_MAX;
        drop(queue);
        let waker = self.inner.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        fits
    }

    /// Takes the next event, if there is one.
    pub(crate) fn pop(&self) -> Option<Event> {
        self.inner.queue.borrow_mut().pop_front()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.queue.borrow().is_empty()
    }

    /// Ready when there is an event.
    pub(crate) async fn ready(&self) {
        std::future::poll_fn(|cx| {
            if !self.inner.queue.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.inner.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
