//! Registrations: entries that live no longer than who registered them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use waystation_base::{FencingToken, Moment};
use waystation_membership::{
    DrainStep, Granted, HolderError, Instance, InstanceId, Owner, Refusal, Register, Renewed,
    State, ViewVersion,
};
use waystation_net::{WaitsFor, waiting};

use super::change::{Changed, change};
use super::claim::{draining, lost_to, merged};
use super::drain::{self, Drain};
use super::orders::{Again, Asked, Order, Wanted};
use super::plan::{Plan, plan};
use super::shape::{Bid, Renewing, Store, StoreFault, Written};
use super::shared::Shared;
use crate::backend::{Event, Key, Registering};
use crate::limits::{REFUSED_PAUSE, RETRY_PAUSE, STORE_TRIES};
use crate::registry::DrainWaits;

/// One registration of this client.
pub(crate) struct Registrant<S: Store> {
    key: Key,
    pub(super) id: InstanceId,
    pub(super) drain_waits: DrainWaits,
    wanted: RefCell<Wanted>,
    /// Wakes who waits before it tries something again.
    news: Notify,
    held: Cell<Option<Held<S::Mark>>>,
    /// What its entry lives with.
    keep: S::Keep,
    drain: Cell<Option<DrainStep>>,
    /// Whether nothing is in flight any more.
    is_idle: Cell<bool>,
    /// Whether its end was asked for before: without an answer that may have been
    /// carried out, and what stands since is another's.
    was_given_back: Cell<bool>,
    /// Its place among those whose end had no answer yet, or was refused.
    leaving: RefCell<Option<Rc<()>>>,
    /// The store has refused its end, and so has not carried it out.
    was_refused: Cell<bool>,
    pub(super) is_busy: Cell<bool>,
    pub(super) is_renewing: Cell<bool>,
}

/// What a registration holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Held<M> {
    owner: Owner,
    token: FencingToken,
    /// The token that it was granted, which may have been lower: what is raised is
    /// held on.
    since: FencingToken,
    /// The write that made it so: what is told of earlier ones is not about this.
    pub(crate) mark: M,
}

impl<M: Copy + PartialEq> Held<M> {
    /// Whether it is held on so, under a higher token maybe.
    fn goes_on_as(self, now: Option<Self>) -> bool {
        now.is_some_and(|now| {
            let token = self.token;
            Self { token, ..now } == self
        })
    }
}

impl<S: Store> Registrant<S> {
    pub(super) fn new(key: Key, id: InstanceId, drain_waits: DrainWaits) -> Self {
        Self {
            key,
            id,
            drain_waits,
            wanted: RefCell::default(),
            news: Notify::new(),
            held: Cell::new(None),
            keep: S::Keep::default(),
            drain: Cell::new(None),
            is_idle: Cell::new(false),
            was_given_back: Cell::new(false),
            leaving: RefCell::default(),
            was_refused: Cell::new(false),
            is_busy: Cell::new(false),
            is_renewing: Cell::new(false),
        }
    }

    pub(super) fn want(&self, at: Moment, instance: Box<Instance>, what: Registering) {
        if !matches!(what, Registering::Renew(_)) {
            self.news.notify_one();
        }
        self.wanted.borrow_mut().want(at, instance, what);
    }

    pub(super) fn next_renewal(&self) -> Option<Asked> {
        self.wanted.borrow_mut().next_renewal()
    }

    fn next(&self) -> Option<Order> {
        let order = self.wanted.borrow_mut().next();
        if matches!(order, Some(Order::Idle)) {
            self.is_idle.set(true);
        }
        order
    }

    /// Nothing is in flight any more.
    pub(super) fn want_idle(&self) {
        let _ = self.wanted.borrow_mut().want_again(Again::Idle);
    }

    /// The token under which it holds its id, as far as is known, if it does so since
    /// it was granted this one.
    pub(super) fn token(&self, since: FencingToken) -> Option<FencingToken> {
        let held = self.held.get().filter(|held| held.since == since);
        held.map(|held| held.token)
    }

    /// Whether it holds its id since it was granted this token.
    pub(super) fn holds(&self, since: FencingToken) -> bool {
        self.token(since).is_some()
    }

    /// Whether what stands so is what it holds.
    fn is_held(held: &Held<S::Mark>, instance: &Instance, mark: &S::Mark) -> bool {
        let is_raised = || instance.token > held.token && S::is_same(mark, &held.mark);
        instance.token == held.token || is_raised()
    }

    pub(super) fn set_drain(&self, step: DrainStep) {
        self.drain.set(Some(step));
    }

    /// Compares what it holds with what is known of its entry.
    pub(super) fn check(self: &Rc<Self>, shared: &Rc<Shared<S>>) {
        let Some(held) = self.held.get() else { return };
        let stand = shared.store.known(&self.id);
        let mark = stand.as_ref().map(|entry| entry.mark);
        if shared.store.is_before(mark.as_ref(), &held.mark) {
            return;
        }
        let instance = stand.and_then(|entry| entry.instance);
        match (instance, mark) {
            (Some(instance), Some(mark))
                if instance.owner == held.owner && Self::is_held(&held, &instance, &mark) =>
            {
                let token = instance.token;
                if token > held.token {
                    self.held.set(Some(Held { token, ..held }));
                    shared.events.push(Event::Raised(self.key, token));
                }
                if instance.state == State::Draining {
                    let at = shared.store.version(&mark);
                    self.begin_drain(shared, &instance, at);
                }
            }
            (instance, _) => {
                self.held.set(None);
                let error = lost_to(instance.as_deref());
                shared.events.push(Event::Unheld(self.key, error));
            }
        }
    }

    fn begin_drain(self: &Rc<Self>, shared: &Rc<Shared<S>>, instance: &Instance, at: ViewVersion) {
        let Some(held) = self.held.get().filter(|_| self.drain.get().is_none()) else {
            return;
        };
        self.drain.set(Some(DrainStep::Waiting));
        let drain = Drain {
            service: instance.service.clone(),
            since: held.since,
            at,
        };
        let running = drain::run(Rc::clone(shared), Rc::clone(self), drain);
        shared.spawn(running);
    }

    /// Carries out what is wanted; for how long to pause if it is not done then.
    pub(super) async fn carry_out_all(self: &Rc<Self>, shared: &Rc<Shared<S>>) -> Option<Duration> {
        while let Some(order) = self.next() {
            // Who has let go of a registration does not ask again.
            if S::takes_orders(shared) || matches!(order, Order::Deregister) {
                let pause = self.carry_out(shared, order).await;
                if pause.is_some() {
                    return pause;
                }
            }
        }
        None
    }

    /// Carries an order out, and tells what came of it; for how long to pause when
    /// it is to be tried again.
    async fn carry_out(self: &Rc<Self>, shared: &Rc<Shared<S>>, order: Order) -> Option<Duration> {
        let again = order.again();
        let done = match order {
            Order::Register(asked, register) => self.register(shared, asked, &register).await,
            Order::Update(instance) => {
                let is_wanted = |stands: &Instance| merged(&instance, stands);
                self.change(shared, is_wanted).await
            }
            // What follows begins when the watch tells of it.
            Order::Drain => self.change(shared, draining).await,
            Order::Idle => self.idle(shared).await,
            Order::Deregister => self.leave(shared).await.map(|()| None),
        };
        let fault = match done {
            Ok(event) => {
                if let Some(event) = event {
                    shared.events.push(event);
                }
                return None;
            }
            Err(fault) => fault,
        };
        self.tell(shared, &fault);
        let is_due = match again {
            None => false,
            Some(Again::Deregister) => self.is_leaving(shared),
            Some(_) => !shared.is_ending(),
        };
        // The core asks once, and nobody may have answered although the connection
        // stays.
        let is_wanted =
            is_due && again.is_some_and(|again| self.wanted.borrow_mut().want_again(again));
        let pause = if fault.is_refusal() {
            REFUSED_PAUSE
        } else {
            RETRY_PAUSE
        };
        is_wanted.then_some(pause)
    }

    /// Whether its end, which had no answer or was refused, is tried again: its entry
    /// may live with what others of this client keep alive, and would stand for as long
    /// as they do. When the client ends there is nobody any more who does.
    fn is_leaving(&self, shared: &Shared<S>) -> bool {
        if shared.is_ending() {
            return false;
        }
        if self.leaving.borrow().is_none() {
            let leaving = shared.leave();
            if leaving.is_none() {
                let (id, registry) = (&self.id, &shared.url);
                tracing::warn!(%id, registry, "too many are on their way out: one may stay listed");
            }
            *self.leaving.borrow_mut() = leaving;
        }
        self.leaving.borrow().is_some()
    }

    /// Whether only its end is left to be done, and may have been carried out without
    /// an answer: what is done for others of its id is done behind that. A store may
    /// refuse it for good, which nobody is to wait for.
    pub(super) fn keeps_its_turn(&self) -> bool {
        self.leaving.borrow().is_some() && !self.was_refused.get()
    }

    /// Whether it is another one than this, of the same id, and has that.
    pub(super) fn holds_instead_of(&self, other: &Self) -> bool {
        self.id == other.id && self.key != other.key && self.held.get().is_some()
    }

    /// Waits before something is tried again, unless something else is wanted.
    pub(super) async fn pause(&self, shared: &Shared<S>, length: Duration) {
        let pause = shared.shard.sleep(length);
        tokio::select! {
            () = waiting(WaitsFor::plain("registry pause"), pause) => {}
            () = self.news.notified() => {}
            () = shared.ending() => {}
        }
    }

    /// A word of the store is told; a silence is not: what was asked is asked
    /// again.
    fn tell(&self, shared: &Shared<S>, fault: &S::Fault) {
        if fault.is_refusal() {
            let refusal = Refusal::Other(fault.to_string().into());
            shared.events.push(Event::Refused(self.key, refusal));
        } else {
            tracing::debug!(id = %self.id, %fault, "a registration has no answer");
        }
    }

    async fn register(
        self: &Rc<Self>,
        shared: &Rc<Shared<S>>,
        asked: Asked,
        register: &Register,
    ) -> Result<Option<Event>, S::Fault> {
        if shared.store.see_token(register.token_seen) {
            shared.doubt();
        }
        let keep = &self.keep;
        let wire = S::open(shared, keep, register.ttl).await?;
        let bid = Bid {
            shared,
            wire: &wire,
            keep,
            register,
        };
        if register.lift > FencingToken(0) && !S::lift(&bid, register.lift).await? {
            let text = format!("no token can be above {}, which it had", register.lift);
            let refusal = Refusal::Other(text.into());
            return Ok(Some(Event::Refused(self.key, refusal)));
        }
        // What is known here may be old. A write finds that out; before anything
        // else is said it is asked.
        let mut stand = shared.store.known(&self.id);
        let mut is_sure = false;
        for _ in 0..STORE_TRIES {
            let is_ours = |entry: &super::Entry<S::Mark>| S::is_kept(&wire, keep, &entry.mark);
            let is_kept = stand.as_ref().is_some_and(is_ours);
            let written = match plan(register, stand.as_ref(), is_kept, S::MOVES) {
                Plan::Refuse(_) | Plan::Keep(_) if !is_sure => Written::Unsure,
                Plan::Refuse(refusal) => {
                    self.held.set(None);
                    S::let_go(&bid).await?;
                    return Ok(Some(Event::Refused(self.key, refusal)));
                }
                Plan::Keep(_) => match (S::prolong(&bid).await?, stand.take()) {
                    (true, Some(entry)) => Written::Done(entry),
                    _ => Written::Unsure,
                },
                Plan::Write(how, instance) => S::write(&bid, how, instance, stand.as_ref()).await?,
            };
            stand = match written {
                Written::Done(entry) => {
                    if let Some(instance) = &entry.instance {
                        let ttl = S::ttl(&wire, keep, asked.at);
                        self.granted(shared, asked, instance, entry.mark, ttl);
                    }
                    return Ok(None);
                }
                Written::Beaten(found) => found,
                Written::Unsure => shared.store.read(&wire, &self.id).await?,
            };
            is_sure = true;
        }
        Err(S::Fault::overtaken())
    }

    /// It holds its id, by the write with this mark.
    fn granted(
        self: &Rc<Self>,
        shared: &Rc<Shared<S>>,
        asked: Asked,
        instance: &Arc<Instance>,
        mark: S::Mark,
        ttl: Duration,
    ) {
        let state = instance.state;
        let is_same =
            |held: &Held<S::Mark>| held.token == instance.token || S::is_same(&mark, &held.mark);
        let before = self.held.get().filter(is_same);
        if before.is_none() {
            self.drain.set(None);
        }
        // All tokens may have risen while this one was on its way.
        let token = before.map_or(instance.token, |held| held.token.max(instance.token));
        self.held.set(Some(Held {
            owner: instance.owner,
            token,
            since: before.map_or(token, |held| held.since),
            mark,
        }));
        let granted = Granted { token, ttl, state };
        let event = Event::Granted(self.key, asked.attempt, granted);
        shared.events.push(event);
        if state == State::Draining {
            let at = shared.store.version(&mark);
            self.begin_drain(shared, instance, at);
            // The word of it may have been lost with a connection.
            if self.is_idle.get() {
                self.want_idle();
            }
        }
        // What was told of it meanwhile was not compared.
        self.check(shared);
    }

    /// Renews what it holds, and tells what came of it.
    pub(super) async fn renew(&self, shared: &Shared<S>, asked: Asked) {
        match self.try_renew(shared, asked).await {
            Ok(None) => {}
            Ok(Some(event)) => {
                shared.events.push(event);
            }
            Err(fault) => self.tell(shared, &fault),
        }
    }

    async fn try_renew(&self, shared: &Shared<S>, asked: Asked) -> Result<Option<Event>, S::Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let wire = S::wire_of(shared, &self.keep).await?;
        let renewing = shared
            .store
            .renew(&wire, &self.keep, &self.id, &held, asked.at);
        let renewing = renewing.await?;
        if !held.goes_on_as(self.held.get()) {
            // What it held is no more, by an order that was carried out
            // meanwhile: that has told so.
            return Ok(None);
        }
        match renewing {
            Renewing::Kept(ttl) => {
                let drain = self.drain.get();
                let state = drain.map_or(State::Serving, |_| State::Draining);
                let renewed = Renewed { ttl, state, drain };
                Ok(Some(Event::Renewed(self.key, asked.attempt, renewed)))
            }
            Renewing::Over(instance) => {
                self.held.set(None);
                let error = lost_to(instance.as_deref());
                Ok(Some(Event::Unheld(self.key, error)))
            }
        }
    }

    /// Changes its entry, if it holds that.
    async fn change(
        &self,
        shared: &Shared<S>,
        edit: impl Fn(&Instance) -> Instance,
    ) -> Result<Option<Event>, S::Fault> {
        let Some(held) = self.held.get() else {
            return Ok(Some(Event::Unheld(self.key, HolderError::Unknown)));
        };
        let wire = S::wire_of(shared, &self.keep).await?;
        let changed = change(&shared.store, &wire, &self.id, |instance, mark| {
            Self::is_held(&held, instance, mark).then(|| edit(instance))
        });
        let Changed::Not(entry) = changed.await? else {
            return Ok(None);
        };
        if held.goes_on_as(self.held.get()) {
            self.held.set(None);
        }
        let error = lost_to(entry.and_then(|entry| entry.instance).as_deref());
        Ok(Some(Event::Unheld(self.key, error)))
    }

    async fn idle(&self, shared: &Shared<S>) -> Result<Option<Event>, S::Fault> {
        let token = self.held.get().map(|held| held.token);
        self.leave(shared).await?;
        Ok(token.map(|token| Event::Drained(self.id.clone(), token, DrainStep::Ended)))
    }

    /// Takes the entry out, with the word that this was meant.
    async fn leave(&self, shared: &Shared<S>) -> Result<(), S::Fault> {
        if self.was_refused.get() && shared.is_held_instead_of(self) {
            // Others had their turn meanwhile, and the entry is theirs.
            return Ok(());
        }
        // That the entry is gone is no news from here on.
        let held = self.held.take();
        let was_given_back = self.was_given_back.replace(true);
        let mark = held.filter(|_| !was_given_back).map(|held| held.mark);
        let left = S::give_back(shared, &self.keep, &self.id, mark).await;
        if let Err(fault) = &left {
            self.held.set(held);
            self.was_refused.set(fault.is_refusal());
        }
        left
    }
}
