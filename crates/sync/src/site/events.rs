//! What a site's task is told.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;
use waystation_base::SiteId;
use waystation_replica::{Chunk, SnapshotId};

use super::lane::Lane;
use super::proof::ProofSnapshot;
use super::task::SiteTask;
use crate::adapter::{AdapterError, Apply, ApplyError, Snapshot};
use crate::codec::FromHub;
use crate::limits::SESSION_INPUTS_MAX;

/// What ended in the lane of transactions.
pub(super) enum Ran {
    /// The transaction that the core asked for.
    Batch(Result<(), ApplyError>),
    /// A part of it, up to where a proof is wanted.
    Prefix(Result<(), ApplyError>),
    /// A chunk; whether it was the first of a copy.
    Chunk(Result<(), ApplyError>, bool),
    /// A parked entry.
    Replay(Result<(), ApplyError>),
    /// The end of a copy that is taken anew.
    GivenUp(Result<(), ApplyError>),
    /// The position of a copy that has applied nothing yet.
    Placed(Result<(), ApplyError>),
}

pub(super) enum Event {
    /// The connection with this number is there.
    Up(u64),
    /// It is gone.
    Down(u64),
    /// The hub said something over it.
    Message(u64, FromHub),
    Ran(Ran),
    SnapshotOpened(SnapshotId, Result<Box<dyn Snapshot>, AdapterError>),
    ChunkRead(SnapshotId, SiteId, Result<Chunk, AdapterError>),
    /// Others are kept from writing, or not.
    Held(Result<Option<u64>, AdapterError>),
    /// A proof's snapshot.
    ProofOpened(Result<ProofSnapshot, AdapterError>),
    Outbox(u64, Result<Vec<Bytes>, AdapterError>),
    Ask(Box<dyn FnOnce(&mut SiteTask)>),
}

/// The way to a site's task. What it is told is bounded by what it has asked for,
/// except for the hub's messages, which have a bound of their own.
pub(super) struct Inbox {
    events: RefCell<VecDeque<Event>>,
    pub(super) woken: Notify,
    apply: RefCell<Option<Rc<Lane<dyn Apply>>>>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            events: RefCell::default(),
            woken: Notify::new(),
            apply: RefCell::default(),
        }
    }

    pub(super) fn push(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.woken.notify_one();
    }

    /// False when so many wait that the connection is to end.
    pub(super) fn push_message(&self, link: u64, message: FromHub) -> bool {
        if self.events.borrow().len() >= SESSION_INPUTS_MAX {
            return false;
        }
        self.push(Event::Message(link, message));
        true
    }

    pub(super) fn pop(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    pub(super) fn set_apply_lane(&self, lane: Rc<Lane<dyn Apply>>) {
        *self.apply.borrow_mut() = Some(lane);
    }

    pub(super) fn apply_lane(&self) -> Option<Rc<Lane<dyn Apply>>> {
        self.apply.borrow().as_ref().map(Rc::clone)
    }
}
