//! Registrations: nodes that live as long as a session.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use waystation_base::FencingToken;
use waystation_membership::limits::{TTL_MAX, TTL_MIN};
use waystation_membership::{
    Attempt, DrainStep, Granted, HolderError, Instance, InstanceId, Owner, Refusal, Register,
    Renewed, State, ViewVersion,
};
use waystation_net::{WaitsFor, waiting};

use super::backend::Shared;
use super::change::{Changed, change, read};
use super::drain::{self, Drain};
use super::entry::data_of;
use super::lease::Lease;
use super::replica::Entry;
use super::wire::{Fault, Wire};
use crate::backend::{Event, Key, Registering};
use crate::limits::{CALL_WAIT, RETRY_PAUSE, ZOOKEEPER_TRIES};
use crate::store::{Again, Claim, Order, Wanted, claim, draining, lost_to, merged};

/// One registration of this client.
pub(super) struct Registrant {
    pub(super) key: Key,
    pub(super) id: InstanceId,
    wanted: RefCell<Wanted>,
    held: Cell<Option<Held>>,
    /// The session that its node lives with.
    lease: RefCell<Option<Rc<Lease>>>,
    drain: Cell<Option<DrainStep>>,
    /// Whether nothing is in flight any more.
    is_idle: Cell<bool>,
    pub(super) is_busy: Cell<bool>,
}

/// What it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    owner: Owner,
    token: FencingToken,
    czxid: i64,
    /// The transaction that made it so: what is told of earlier ones is not
    /// about this.
    since: i64,
}

/// What to do about a node, for a registration.
#[derive(Debug, PartialEq)]
enum Plan {
    Refuse(Refusal),
    /// It stands as it should, in our session.
    Keep(Arc<Instance>),
    Create(Box<Instance>),
    /// Write this over that version of it.
    Change(Box<Instance>, i32),
    /// Put one of our session in place of that version of it.
    Replace(Box<Instance>, i32),
}

impl Registrant {
    pub(super) fn new(key: Key, id: InstanceId) -> Self {
        Self {
            key,
            id,
            wanted: RefCell::default(),
            held: Cell::new(None),
            lease: RefCell::default(),
            drain: Cell::new(None),
            is_idle: Cell::new(false),
            is_busy: Cell::new(false),
        }
    }

    pub(super) fn want(&self, instance: Box<Instance>, what: Registering) {
        self.wanted.borrow_mut().want(instance, what);
    }

    pub(super) fn next(&self) -> Option<Order> {
        let order = self.wanted.borrow_mut().next();
        if matches!(order, Some(Order::Idle)) {
            self.is_idle.set(true);
        }
        order
    }

    /// Nothing is in flight any more.
    pub(super) fn want_idle(&self) {
        self.wanted.borrow_mut().want_again(Again::Idle);
    }

    /// Whether it holds its id under this token, as far as is known.
    pub(super) fn holds(&self, token: FencingToken) -> bool {
        self.held.get().is_some_and(|held| held.token == token)
    }

    pub(super) fn set_drain(&self, step: DrainStep) {
        self.drain.set(Some(step));
    }

    /// Compares what it holds with what is known of its node.
    pub(super) fn check(self: &Rc<Self>, shared: &Rc<Shared>) {
        let Some(held) = self.held.get() else { return };
        let (stand, marks, at) = {
            let replica = shared.replica.borrow();
            (
                replica.entry(&self.id).cloned(),
                replica.marks(),
                replica.at(),
            )
        };
        match &stand {
            None if at.number < marks.number(held.since) => return,
            Some(entry) if entry.mzxid < held.since && entry.czxid <= held.czxid => return,
            _ => {}
        }
        let mzxid = stand.as_ref().map_or(0, |entry| entry.mzxid);
        match stand.and_then(|entry| entry.instance) {
            Some(instance) if instance.token == held.token && instance.owner == held.owner => {
                if instance.state == State::Draining {
                    self.begin_drain(shared, &instance, marks.version(mzxid));
                }
            }
            instance => {
                self.held.set(None);
                let error = lost_to(instance.as_deref());
                shared.events.push(Event::Unheld(self.key, error));
            }
        }
    }

    fn begin_drain(self: &Rc<Self>, shared: &Rc<Shared>, instance: &Instance, at: ViewVersion) {
        if self.drain.get().is_some() {
            return;
        }
        self.drain.set(Some(DrainStep::Waiting));
        let drain = Drain {
            service: instance.service.clone(),
            token: instance.token,
            at,
        };
        let running = drain::run(Rc::clone(shared), Rc::clone(self), drain);
        shared.spawn(running);
    }

    /// Carries an order out, and tells what came of it.
    pub(super) async fn carry_out(self: &Rc<Self>, shared: &Rc<Shared>, order: Order) {
        let again = order.again();
        let done = match order {
            Order::Register(attempt, register) => self.register(shared, attempt, &register).await,
            Order::Renew(attempt) => self.renew(shared, attempt).await,
            Order::Update(instance) => self.update(shared, &instance).await,
            Order::Drain => self.drain(shared).await,
            Order::Idle => self.idle(shared).await,
            Order::Deregister => self.leave(shared).await.map(|()| None),
        };
        match done {
            Ok(None) => {}
            Ok(Some(event)) => {
                shared.events.push(event);
            }
            Err(fault) => {
                self.tell(shared, &fault);
                if !fault.is_refusal()
                    && !shared.is_closed()
                    && let Some(again) = again
                {
                    // The core asks once, and the connection may be new by then.
                    self.wanted.borrow_mut().want_again(again);
                    let pause = shared.shard.sleep(RETRY_PAUSE);
                    waiting(WaitsFor::plain("zookeeper pause"), pause).await;
                }
            }
        }
    }

    /// A word of the store is told; a silence is not: what was asked is asked
    /// again.
    fn tell(&self, shared: &Shared, fault: &Fault) {
        if fault.is_refusal() {
            let refusal = Refusal::Other(fault.to_string().into());
            shared.events.push(Event::Refused(self.key, refusal));
        } else {
            tracing::debug!(id = %self.id, %fault, "a registration has no answer");
        }
    }

    /// The session that its node lives with, as soon as there is a connection.
    async fn wire(&self, shared: &Shared) -> Result<Wire, Fault> {
        let lease = self.lease.borrow().clone();
        let lease = lease.ok_or(Fault::Expired)?;
        let deadline = shared.shard.now() + CALL_WAIT;
        let wire = lease.wire_until(&shared.shard, deadline).await;
        wire.ok_or(Fault::Late)
    }

    async fn register(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        attempt: Attempt,
        register: &Register,
    ) -> Result<Option<Event>, Fault> {
        if shared.replica.borrow_mut().see_token(register.token_seen) {
            shared.doubt();
        }
        if self.lease.borrow().is_none() {
            let lease = shared.lease(register.ttl.clamp(TTL_MIN, TTL_MAX));
            *self.lease.borrow_mut() = Some(lease);
        }
        let wire = self.wire(shared).await?;
        let (path, id) = (shared.paths.instance(&self.id), &self.id);
        let mut stand = shared.replica.borrow().entry(id).cloned();
        // What is known here may be old. A write finds that out; before anything
        // else is said it is asked.
        let mut is_sure = false;
        for _ in 0..ZOOKEEPER_TRIES {
            let written = match plan(register, stand.as_ref(), wire.session()) {
                Plan::Refuse(_) | Plan::Keep(_) if !is_sure => Err(None),
                Plan::Refuse(refusal) => {
                    self.held.set(None);
                    return Ok(Some(Event::Refused(self.key, refusal)));
                }
                Plan::Keep(instance) => {
                    let stat = stand.as_ref().map(|entry| (entry.czxid, entry.mzxid));
                    self.granted(shared, attempt, &wire, &instance, stat.unwrap_or_default());
                    return Ok(None);
                }
                Plan::Create(instance) => {
                    let made = wire.create(&path, &data_of(&instance)).await;
                    if made.as_ref().is_err_and(Fault::is_no_node) {
                        wire.make_folders(&shared.paths.instances()).await?;
                        is_sure = true;
                        continue;
                    }
                    made.map(|stat| (instance, stat)).map_err(Some)
                }
                Plan::Change(instance, version) => {
                    let written = wire.set(&path, &data_of(&instance), Some(version)).await;
                    written.map(|stat| (instance, stat)).map_err(Some)
                }
                Plan::Replace(instance, version) => {
                    let written = wire.replace(&path, version, &data_of(&instance)).await;
                    written.map(|stat| (instance, stat)).map_err(Some)
                }
            };
            match written {
                Ok((mut instance, stat)) if stat.ephemeral_owner == wire.session() => {
                    instance.token = shared.replica.borrow().marks().token(stat.czxid);
                    let at = (stat.czxid, stat.mzxid);
                    self.granted(shared, attempt, &wire, &instance, at);
                    return Ok(None);
                }
                Err(Some(fault)) if !fault.is_conflict() => return Err(fault),
                Ok(_) | Err(_) => {}
            }
            stand = read(shared, &wire, id).await?;
            is_sure = true;
        }
        Err(Fault::Nonsense("others are always faster"))
    }

    /// It holds its id, in the session of `wire`, by these transactions.
    fn granted(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        attempt: Attempt,
        wire: &Wire,
        instance: &Instance,
        (czxid, since): (i64, i64),
    ) {
        let (token, state) = (instance.token, instance.state);
        let held = Held {
            owner: instance.owner,
            token,
            czxid,
            since,
        };
        if self.held.replace(Some(held)).map(|held| held.token) != Some(token) {
            self.drain.set(None);
        }
        let ttl = wire.length();
        let granted = Granted { token, ttl, state };
        let event = Event::Granted(self.key, attempt, granted);
        shared.events.push(event);
        if state == State::Draining {
            let at = shared.replica.borrow().marks().version(since);
            self.begin_drain(shared, instance, at);
            // The word of it may have been lost with a connection.
            if self.is_idle.get() {
                self.want_idle();
            }
        }
    }

    /// Looks whether its node stands, in a session that lives: the question
    /// itself makes the session live on.
    async fn renew(&self, shared: &Shared, attempt: Attempt) -> Result<Option<Event>, Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let wire = self.wire(shared).await?;
        let stand = read(shared, &wire, &self.id).await?;
        let is_ours = |entry: &Entry| entry.czxid == held.czxid && entry.session == wire.session();
        if !stand.as_ref().is_some_and(is_ours) {
            self.held.set(None);
            let instance = stand.and_then(|entry| entry.instance);
            let error = lost_to(instance.as_deref());
            return Ok(Some(Event::Unheld(self.key, error)));
        }
        let drain = self.drain.get();
        let state = drain.map_or(State::Serving, |_| State::Draining);
        let ttl = wire.length();
        let renewed = Renewed { ttl, state, drain };
        Ok(Some(Event::Renewed(self.key, attempt, renewed)))
    }

    async fn update(&self, shared: &Shared, wanted: &Instance) -> Result<Option<Event>, Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let wire = self.wire(shared).await?;
        let changed = change(shared, &wire, &self.id, |instance| {
            (instance.token == held.token).then(|| merged(wanted, instance))
        });
        Ok(self.settle(held, changed.await?))
    }

    async fn drain(&self, shared: &Shared) -> Result<Option<Event>, Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let wire = self.wire(shared).await?;
        let changed = change(shared, &wire, &self.id, |instance| {
            (instance.token == held.token).then(|| draining(instance))
        });
        // What follows begins when the watch tells of it.
        Ok(self.settle(held, changed.await?))
    }

    fn settle(&self, held: Held, changed: Changed) -> Option<Event> {
        let Changed::Not(entry) = changed else {
            return None;
        };
        if self.held.get() == Some(held) {
            self.held.set(None);
        }
        let error = lost_to(entry.and_then(|entry| entry.instance).as_deref());
        Some(Event::Unheld(self.key, error))
    }

    async fn idle(&self, shared: &Shared) -> Result<Option<Event>, Fault> {
        let token = self.held.get().map(|held| held.token);
        self.leave(shared).await?;
        Ok(token.map(|token| Event::Drained(self.id.clone(), token, DrainStep::Ended)))
    }

    /// Takes the node out, with the word that this was meant.
    async fn leave(&self, shared: &Shared) -> Result<(), Fault> {
        // That the node is gone is no news from here on.
        let held = self.held.take();
        let left = self.give_back(shared).await;
        if left.is_err() {
            self.held.set(held);
        } else {
            *self.lease.borrow_mut() = None;
        }
        left
    }

    async fn give_back(&self, shared: &Shared) -> Result<(), Fault> {
        if self.lease.borrow().is_none() {
            return Ok(());
        }
        let wire = self.wire(shared).await?;
        let (path, word) = (shared.paths.instance(&self.id), shared.paths.left(&self.id));
        for _ in 0..ZOOKEEPER_TRIES {
            // Whether or not it was granted: an answer may have been lost.
            let Some(entry) = read(shared, &wire, &self.id).await? else {
                return Ok(());
            };
            if entry.session != wire.session() {
                return Ok(());
            }
            match wire.delete_with_word(&path, entry.version, &word).await {
                Err(fault) if fault.is_conflict() => {}
                left => return left,
            }
        }
        Err(Fault::Nonsense("others are always faster"))
    }
}

/// What to do about a node that stands so, for who has that session.
fn plan(register: &Register, stand: Option<&Entry>, session: i64) -> Plan {
    let mut wanted = register.instance.clone();
    let Some(entry) = stand else {
        return Plan::Create(Box::new(wanted));
    };
    if entry.is_closed {
        let text = zookeeper_client::Error::NoAuth.to_string();
        return Plan::Refuse(Refusal::Other(text.into()));
    }
    let Some(held) = &entry.instance else {
        return Plan::Replace(Box::new(wanted), entry.version);
    };
    match claim(register, held) {
        Claim::Refused(refusal) => return Plan::Refuse(refusal),
        Claim::Behind => return Plan::Replace(Box::new(wanted), entry.version),
        Claim::Same if entry.session != session => {
            // It would go with a session that is not ours any more.
            return Plan::Replace(Box::new(wanted), entry.version);
        }
        Claim::Same => {}
    }
    wanted.token = held.token;
    if held.state == State::Draining {
        wanted.state = State::Draining;
    }
    if wanted == **held {
        return Plan::Keep(Arc::clone(held));
    }
    Plan::Change(Box::new(wanted), entry.version)
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
