//! Registrations: leases, and the keys that are attached to them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;
use waystation_base::{Epoch, FencingToken};
use waystation_membership::{
    Attempt, DrainStep, Granted, HolderError, Instance, InstanceId, Refusal, Register, Renewed,
    State, ViewVersion,
};
use waystation_net::{WaitsFor, waiting};

use super::backend::Shared;
use super::change::{Changed, change, compare_lease, delete, entry_of, found_in, put, read, write};
use super::drain::{self, Drain};
use super::entry::{epoch_of, number_of, token_behind, token_of, token_to_come};
use super::proto::TxnRequest;
use super::replica::Entry;
use super::wire::{Fault, Wire};
use crate::backend::{Event, Key, Registering};
use crate::limits::{ETCD_TRIES, RETRY_PAUSE};
use crate::store::{Again, Claim, Order, Wanted, claim, draining, lost_to, merged};

/// One registration of this client.
pub(super) struct Registrant {
    pub(super) key: Key,
    pub(super) id: InstanceId,
    wanted: RefCell<Wanted>,
    held: Cell<Option<Held>>,
    /// The lease granted last, whether something is attached to it or not.
    lease: Cell<Option<i64>>,
    drain: Cell<Option<DrainStep>>,
    /// Whether nothing is in flight any more.
    is_idle: Cell<bool>,
    pub(super) is_busy: Cell<bool>,
}

/// What it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    token: FencingToken,
    lease: i64,
    /// The revision that made it so: what is told of earlier ones is not about
    /// this.
    since: i64,
}

/// What to do about a key, for a registration.
#[derive(Debug, PartialEq)]
enum Plan {
    Refuse(Refusal),
    /// It stands as it should, on our lease.
    Keep(Arc<Instance>),
    /// Write this over what was written at that revision; zero if nothing was.
    Write(Box<Instance>, i64),
}

impl Registrant {
    pub(super) fn new(key: Key, id: InstanceId) -> Self {
        Self {
            key,
            id,
            wanted: RefCell::default(),
            held: Cell::new(None),
            lease: Cell::new(None),
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

    /// Compares what it holds with what is known of its key.
    pub(super) fn check(self: &Rc<Self>, shared: &Rc<Shared>) {
        let Some(held) = self.held.get() else { return };
        let (stand, at) = {
            let replica = shared.replica.borrow();
            (replica.entry(&self.id).cloned(), replica.at())
        };
        if stand.is_none() && at.number < number_of(held.since) {
            return;
        }
        let (mod_revision, instance) = match stand {
            Some(entry) if entry.mod_revision < held.since => return,
            Some(entry) => (entry.mod_revision, entry.instance),
            None => (0, None),
        };
        match instance {
            Some(instance) if instance.token == held.token => {
                if instance.state == State::Draining {
                    let number = number_of(mod_revision);
                    let epoch = at.epoch;
                    self.begin_drain(shared, &instance, ViewVersion { epoch, number });
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
    pub(super) async fn carry_out(self: &Rc<Self>, shared: &Rc<Shared>, wire: &Wire, order: Order) {
        let again = order.again();
        let done = match order {
            Order::Register(attempt, register) => {
                self.register(shared, wire, attempt, &register).await
            }
            Order::Renew(attempt) => self.renew(wire, attempt).await,
            Order::Update(instance) => self.update(shared, wire, &instance).await,
            Order::Drain => self.drain(shared, wire).await,
            Order::Idle => self.idle(shared, wire).await,
            Order::Deregister => self.leave(shared, wire).await.map(|()| None),
        };
        match done {
            Ok(None) => {}
            Ok(Some(event)) => {
                shared.events.push(event);
            }
            Err(fault) => {
                self.tell(shared, &fault);
                if !fault.is_refusal()
                    && let Some(again) = again
                {
                    // The core asks once. While an election is on nobody answers,
                    // and the connection stays.
                    self.wanted.borrow_mut().want_again(again);
                    let pause = shared.shard.sleep(RETRY_PAUSE);
                    waiting(WaitsFor::plain("etcd pause"), pause).await;
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

    async fn register(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        wire: &Wire,
        attempt: Attempt,
        register: &Register,
    ) -> Result<Option<Event>, Fault> {
        if shared.replica.borrow_mut().see_token(register.token_seen) {
            shared.doubt();
        }
        let (mut stand, mut epoch) = {
            let replica = shared.replica.borrow();
            let epoch = (replica.at().epoch, replica.epoch_mod());
            (replica.entry(&self.id).cloned(), epoch)
        };
        // What is known here may be old. A write finds that out; before a
        // refusal it is asked.
        let mut is_sure = false;
        for _ in 0..ETCD_TRIES {
            let lease = self.lease.get();
            let plan = plan(register, stand.as_ref(), epoch.0, lease);
            match plan {
                Plan::Refuse(_) if !is_sure => {
                    stand = read(shared, wire, &self.id).await?;
                    is_sure = true;
                }
                Plan::Refuse(refusal) => {
                    self.held.set(None);
                    if let Some(lease) = self.lease.take() {
                        wire.revoke(lease).await?;
                    }
                    return Ok(Some(Event::Refused(self.key, refusal)));
                }
                Plan::Keep(instance) => {
                    let lease = lease.unwrap_or(0);
                    match wire.keep_alive(lease).await? {
                        Some(ttl) => {
                            let since = stand.as_ref().map_or(0, |entry| entry.mod_revision);
                            self.granted(shared, attempt, &instance, (lease, ttl), since);
                            return Ok(None);
                        }
                        None => self.lease.set(None),
                    }
                    stand = read(shared, wire, &self.id).await?;
                    is_sure = true;
                }
                Plan::Write(instance, mod_revision) => {
                    let (lease, ttl) = self.lease(wire, register.ttl).await?;
                    let request = write(shared, &instance, lease, mod_revision, Some(epoch.1));
                    let answer = match wire.txn(request).await {
                        Err(Fault::Status {
                            code: Code::NotFound,
                            ..
                        }) => {
                            self.lease.set(None);
                            continue;
                        }
                        answer => answer?,
                    };
                    let header = answer.header.ok_or(Fault::Nonsense("no header"))?;
                    if answer.succeeded {
                        let mut instance = instance;
                        instance.token = token_of(instance.token, header.revision);
                        let since = header.revision;
                        self.granted(shared, attempt, &instance, (lease, ttl), since);
                        return Ok(None);
                    }
                    let found = found_in(answer);
                    stand = found[0].as_ref().map(|kv| entry_of(&self.id, kv));
                    let of_epoch = found[1].as_ref();
                    epoch = (epoch_of(of_epoch), of_epoch.map_or(0, |kv| kv.mod_revision));
                    is_sure = true;
                }
            }
        }
        Err(Fault::Nonsense("others are always faster"))
    }

    /// It holds its id, on `lease`, since a revision.
    fn granted(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        attempt: Attempt,
        instance: &Instance,
        (lease, ttl): (i64, Duration),
        since: i64,
    ) {
        let (token, state) = (instance.token, instance.state);
        let held = Held {
            token,
            lease,
            since,
        };
        if self.held.replace(Some(held)).map(|held| held.token) != Some(token) {
            self.drain.set(None);
        }
        let granted = Granted { token, ttl, state };
        let event = Event::Granted(self.key, attempt, granted);
        shared.events.push(event);
        if state == State::Draining {
            let epoch = shared.replica.borrow().at().epoch;
            let number = number_of(since);
            self.begin_drain(shared, instance, ViewVersion { epoch, number });
            // The word of it may have been lost with a connection.
            if self.is_idle.get() {
                self.want_idle();
            }
        }
    }

    /// A lease that lives, and for how long.
    async fn lease(&self, wire: &Wire, ttl: Duration) -> Result<(i64, Duration), Fault> {
        if let Some(lease) = self.lease.get() {
            if let Some(ttl) = wire.keep_alive(lease).await? {
                return Ok((lease, ttl));
            }
            self.lease.set(None);
        }
        let ttl = ttl.clamp(
            waystation_membership::limits::TTL_MIN,
            waystation_membership::limits::TTL_MAX,
        );
        let (lease, ttl) = wire.grant(ttl).await?;
        self.lease.set(Some(lease));
        Ok((lease, ttl))
    }

    async fn renew(&self, wire: &Wire, attempt: Attempt) -> Result<Option<Event>, Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let Some(ttl) = wire.keep_alive(held.lease).await? else {
            self.held.set(None);
            self.lease.set(None);
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let drain = self.drain.get();
        let state = drain.map_or(State::Serving, |_| State::Draining);
        let renewed = Renewed { ttl, state, drain };
        Ok(Some(Event::Renewed(self.key, attempt, renewed)))
    }

    async fn update(
        &self,
        shared: &Shared,
        wire: &Wire,
        wanted: &Instance,
    ) -> Result<Option<Event>, Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let changed = change(shared, wire, &self.id, |instance| {
            (instance.token == held.token).then(|| merged(wanted, instance))
        });
        Ok(self.settle(held, changed.await?))
    }

    async fn drain(&self, shared: &Shared, wire: &Wire) -> Result<Option<Event>, Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let changed = change(shared, wire, &self.id, |instance| {
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

    async fn idle(&self, shared: &Shared, wire: &Wire) -> Result<Option<Event>, Fault> {
        let token = self.held.get().map(|held| held.token);
        self.leave(shared, wire).await?;
        Ok(token.map(|token| Event::Drained(self.id.clone(), token, DrainStep::Ended)))
    }

    /// Takes the key out, with the word that this was meant.
    async fn leave(&self, shared: &Shared, wire: &Wire) -> Result<(), Fault> {
        // That the key is gone is no news from here on.
        let (held, lease) = (self.held.take(), self.lease.take());
        let left = self.give_back(shared, wire, held, lease).await;
        if left.is_err() {
            self.held.set(held);
            self.lease.set(lease);
        }
        left
    }

    async fn give_back(
        &self,
        shared: &Shared,
        wire: &Wire,
        held: Option<Held>,
        lease: Option<i64>,
    ) -> Result<(), Fault> {
        let Some(lease) = lease else {
            return Ok(());
        };
        if held.is_some() {
            let key = shared.keys.instance(&self.id);
            let request = TxnRequest {
                compare: vec![compare_lease(&key, lease)],
                // In this order: watchers hear of it in this order.
                success: vec![
                    put(shared.keys.left(&self.id), Vec::new(), lease),
                    delete(key),
                ],
                failure: Vec::new(),
            };
            wire.txn(request).await?;
        }
        match wire.revoke(lease).await {
            Err(Fault::Status {
                code: Code::NotFound,
                ..
            }) => Ok(()),
            revoked => revoked,
        }
    }
}

/// What to do about a key that stands so.
fn plan(register: &Register, stand: Option<&Entry>, epoch: Epoch, lease: Option<i64>) -> Plan {
    let mut wanted = register.instance.clone();
    let Some(entry) = stand else {
        wanted.token = token_to_come(epoch);
        return Plan::Write(Box::new(wanted), 0);
    };
    // Never below what was seen, since that is of this store's past.
    let behind = token_behind(epoch, entry.mod_revision);
    let behind = behind.max(FencingToken(register.token_seen.0.saturating_add(1)));
    let Some(held) = &entry.instance else {
        wanted.token = behind;
        return Plan::Write(Box::new(wanted), entry.mod_revision);
    };
    match claim(register, held) {
        Claim::Refused(refusal) => return Plan::Refuse(refusal),
        Claim::Behind => {
            wanted.token = behind;
            return Plan::Write(Box::new(wanted), entry.mod_revision);
        }
        Claim::Same => {}
    }
    wanted.token = held.token;
    if held.state == State::Draining {
        wanted.state = State::Draining;
    }
    if Some(entry.lease) == lease && wanted == **held {
        return Plan::Keep(Arc::clone(held));
    }
    Plan::Write(Box::new(wanted), entry.mod_revision)
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
