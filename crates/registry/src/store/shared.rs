//! What the tasks of a backend share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use waystation_base::{Backoff, BackoffConfig, Moment, ServiceName};
use waystation_membership::{
    Content, Instance, InstanceId, SubscriberId, View, ViewVersion, Watch,
};
use waystation_net::{Label, Shard, until};

use super::change::{Changed, change};
use super::claim::draining;
use super::known::Entries;
use super::register::Registrant;
use super::shape::Store;
use super::skips::Skipped;
use super::subscribers::Subscribers;
use super::turns::Turns;
use crate::backend::{Event, Events, Key, Registering};
use crate::draining::Draining;
use crate::error::AskError;
use crate::limits::{CONNECT_PAUSE_MAX, LEAVING_MAX};
use crate::mirror::{ByService, Changes, Edits, Mirror, Plan, sort_in};
use crate::registry::{DrainWaits, ListedService};

/// What the tasks of a backend share.
pub(crate) struct Shared<S: Store> {
    pub(crate) shard: Shard,
    pub(crate) url: String,
    pub(crate) events: Events,
    pub(crate) store: S,
    pub(super) mirror: RefCell<Mirror>,
    wire: RefCell<Option<S::Wire>>,
    wired: Notify,
    doubted: Notify,
    pub(crate) subscribers: RefCell<Subscribers>,
    /// Held by who writes them to the store.
    pub(super) writing: Mutex<()>,
    /// Wakes who writes down what subscribers hold.
    pub(crate) urgent: Notify,
    registrants: RefCell<BTreeMap<Key, Rc<Registrant<S>>>>,
    /// Whose turn it is, for each id that something is carried out for.
    turns: RefCell<BTreeMap<InstanceId, Weak<Mutex<()>>>>,
    /// Sessions that are open or being opened.
    sessions: Cell<usize>,
    /// Registrations with something to carry out.
    busy: Cell<usize>,
    settled: Notify,
    is_closed: Cell<bool>,
    closing: Notify,
    is_ending: Cell<bool>,
    ending: Notify,
    /// One for each registration whose end had no answer yet.
    leaving: Rc<()>,
}

impl<S: Store> Shared<S> {
    pub(super) fn new(shard: &Shard, url: String, store: S, events: Events) -> Self {
        Self {
            shard: shard.clone(),
            url,
            events,
            store,
            mirror: RefCell::new(Mirror::new()),
            wire: RefCell::default(),
            wired: Notify::new(),
            doubted: Notify::new(),
            subscribers: RefCell::default(),
            writing: Mutex::new(()),
            urgent: Notify::new(),
            registrants: RefCell::default(),
            turns: RefCell::default(),
            sessions: Cell::new(0),
            busy: Cell::new(0),
            settled: Notify::new(),
            is_closed: Cell::new(false),
            closing: Notify::new(),
            is_ending: Cell::new(false),
            ending: Notify::new(),
            leaving: Rc::default(),
        }
    }

    /// Ready when the backend is used no longer.
    pub(crate) async fn closed(&self) {
        let notified = self.closing.notified();
        if !self.is_closed.get() {
            notified.await;
        }
    }

    /// The client is to end: what has no answer is tried no further.
    pub(super) fn end(&self) {
        self.is_ending.set(true);
        self.ending.notify_waiters();
    }

    /// Ready when the client is to end.
    pub(super) async fn ending(&self) {
        let notified = self.ending.notified();
        if !self.is_ending.get() {
            notified.await;
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    /// A place for a registration whose end had no answer, if there is one.
    pub(super) fn leave(&self) -> Option<Rc<()>> {
        let has_room = Rc::strong_count(&self.leaving) <= LEAVING_MAX;
        has_room.then(|| Rc::clone(&self.leaving))
    }

    /// Ready when nothing is under way any more.
    pub(super) async fn settled(&self) {
        while self.busy.get() > 0 {
            self.settled.notified().await;
        }
    }

    /// Ready when all sessions are over.
    pub(super) async fn ended(&self) {
        while self.sessions.get() > 0 {
            self.settled.notified().await;
        }
    }

    /// Ready when somebody doubts that the store is what it was.
    pub(crate) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Somebody has seen what this store should not have yet.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    pub(crate) fn connected(&self, wire: &S::Wire) {
        *self.wire.borrow_mut() = Some(wire.clone());
        self.wired.notify_waiters();
        self.events.push(Event::Connected);
    }

    pub(crate) fn lost(&self, fault: String) {
        *self.wire.borrow_mut() = None;
        self.events.push(Event::Disconnected(fault));
    }

    pub(super) fn close(&self) {
        self.end();
        self.is_closed.set(true);
        *self.wire.borrow_mut() = None;
        self.closing.notify_waiters();
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shard.spawn(Label::of("registry call"), task);
    }

    /// Runs a session, which the end of the backend waits for.
    pub(crate) fn spawn_session(self: &Rc<Self>, session: impl Future<Output = ()> + 'static) {
        let counted = self.counted(session);
        self.shard.spawn(Label::of("registry session"), counted);
    }

    /// A session that is run, which the end of the backend waits for.
    pub(super) fn counted(
        self: &Rc<Self>,
        session: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        self.sessions.set(self.sessions.get() + 1);
        let shared = Rc::clone(self);
        async move {
            session.await;
            shared.sessions.set(shared.sessions.get() - 1);
            shared.settled.notify_one();
        }
    }

    /// The connection, if there is one.
    pub(crate) fn wire(&self) -> Option<S::Wire> {
        self.wire.borrow().clone()
    }

    /// The connection, as soon as there is one.
    pub(super) async fn wire_until(&self, deadline: Moment) -> Result<S::Wire, AskError> {
        let wired = async {
            loop {
                let notified = self.wired.notified();
                if let Some(wire) = self.wire() {
                    return wire;
                }
                notified.await;
            }
        };
        let wire = until(&self.shard, deadline, wired).await;
        wire.map_err(|_| self.no_answer(None))
    }

    fn no_answer(&self, fault: Option<&S::Fault>) -> AskError {
        AskError::NoAnswer {
            url: self.url.clone(),
            fault: fault.map(ToString::to_string),
        }
    }

    /// Compares what is registered with what is known, of all or of these.
    fn check_registrants(self: &Rc<Self>, touched: Option<&BTreeSet<InstanceId>>) {
        for registrant in self.registrants.borrow().values() {
            if touched.is_none_or(|touched| touched.contains(&registrant.id)) {
                registrant.check(self);
            }
        }
    }

    /// One task a registration carries its orders out, one after another, and
    /// another one renews: a lease ends while an order waits for its answer.
    pub(super) fn registration(
        self: &Rc<Self>,
        key: Key,
        instance: Box<Instance>,
        drain: DrainWaits,
        what: Registering,
    ) {
        let is_last = matches!(what, Registering::Deregister);
        if is_last {
            self.subscribers.borrow_mut().unset_node(&instance.id);
        } else {
            self.subscribers.borrow_mut().set_node(&instance.id);
        }
        let registrant = {
            let mut all = self.registrants.borrow_mut();
            let new = || Rc::new(Registrant::new(key, instance.id.clone(), drain));
            Rc::clone(all.entry(key).or_insert_with(new))
        };
        let is_renewal = matches!(what, Registering::Renew(_));
        registrant.want(self.shard.now(), instance, what);
        if is_last {
            self.registrants.borrow_mut().remove(&key);
        }
        if is_renewal {
            self.renew(&registrant);
        } else {
            self.work(&registrant);
        }
    }

    /// Renews what a registrant holds, unless that is under way.
    fn renew(self: &Rc<Self>, registrant: &Rc<Registrant<S>>) {
        if registrant.is_renewing.replace(true) {
            return;
        }
        let registrant = Rc::clone(registrant);
        self.spawn_work(async move |shared| {
            while let Some(asked) = registrant.next_renewal() {
                if S::takes_orders(shared) {
                    registrant.renew(shared, asked).await;
                }
            }
            registrant.is_renewing.set(false);
        });
    }

    /// Carries something out that the end of the backend waits for.
    fn spawn_work(self: &Rc<Self>, work: impl AsyncFnOnce(&Rc<Self>) + 'static) {
        self.busy.set(self.busy.get() + 1);
        let shared = Rc::clone(self);
        self.spawn(async move {
            work(&shared).await;
            shared.busy.set(shared.busy.get() - 1);
            shared.settled.notify_one();
        });
    }

    /// Carries out what a registrant wants, unless that is under way.
    pub(super) fn work(self: &Rc<Self>, registrant: &Rc<Registrant<S>>) {
        if registrant.is_busy.replace(true) {
            return;
        }
        let registrant = Rc::clone(registrant);
        let turn = self.turn_of(&registrant.id);
        self.spawn_work(async move |shared| {
            // Kept from order to order: what comes for others of this id comes
            // behind what was wanted here. Its end is not to be overtaken at all: it
            // would take along what another has found there.
            let mut kept = None;
            loop {
                let its_turn = match kept.take() {
                    Some(its_turn) => its_turn,
                    None => turn.lock().await,
                };
                let Some(pause) = registrant.carry_out_all(shared).await else {
                    break;
                };
                kept = registrant.keeps_its_turn().then_some(its_turn);
                registrant.pause(shared, pause).await;
            }
            registrant.is_busy.set(false);
        });
    }

    /// Whether the id of this one, which leaves, is held by another of this client.
    pub(super) fn is_held_instead_of(&self, leaving: &Registrant<S>) -> bool {
        let registrants = self.registrants.borrow();
        let mut others = registrants.values();
        others.any(|other| other.holds_instead_of(leaving))
    }

    /// Registrations of one id that live with one session take turns: what
    /// leaves is gone before another finds it, and takes it for its own.
    fn turn_of(&self, id: &InstanceId) -> Rc<Mutex<()>> {
        let mut turns = self.turns.borrow_mut();
        if let Some(turn) = turns.get(id).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Rc::new(Mutex::new(()));
        turns.insert(id.clone(), Rc::downgrade(&turn));
        turn
    }

    pub(super) fn subscribe(
        &self,
        subscriber: SubscriberId,
        watch: Watch,
        have: Option<ViewVersion>,
    ) {
        if have.is_some_and(|have| self.store.see(have)) {
            self.doubt();
        }
        // What it held on an earlier connection is told anew.
        self.mirror.borrow_mut().unsubscribe(subscriber);
        self.subscribers.borrow_mut().subscribe(subscriber, watch);
        self.urgent.notify_one();
    }

    /// Pushes to a subscriber; false when it cannot keep up.
    pub(super) fn push(&self, subscriber: SubscriberId, content: Content) -> bool {
        let mut subscribers = self.subscribers.borrow_mut();
        if subscribers.sent(subscriber, content.service(), content.at()) {
            self.urgent.notify_one();
        }
        drop(subscribers);
        let event = match &content {
            Content::Delta(delta) => {
                let newer = self.mirror.borrow().view(&delta.service);
                Event::Step(subscriber, Arc::clone(delta), newer)
            }
            Content::View(_) => Event::Push(subscriber, content),
        };
        self.events.push(event)
    }

    /// The store holds just these instances. They are compared with what is shown
    /// bit by bit; then, at once, `take_in` has the store know them, and tell what
    /// was skipped and what it knew before, and they are shown. So whoever gives
    /// this up before has changed nothing. False when the client cannot keep up: it starts over then, so that
    /// nothing is missed in silence.
    pub(crate) async fn show_all<K>(
        self: &Rc<Self>,
        at: ViewVersion,
        instances: Vec<Arc<Instance>>,
        take_in: impl FnOnce() -> (Vec<Skipped>, Entries<K, S::Mark>),
    ) -> bool {
        let mut turns = Turns::new();
        let (mut by_service, mut draining) = (ByService::new(), Draining::default());
        for instance in instances {
            draining.put(&instance);
            sort_in(&mut by_service, instance);
            turns.took(1).await;
        }
        let services = self.mirror.borrow().services_with(&by_service);
        let mut plans = Vec::with_capacity(services.len());
        for service in services {
            let instances = by_service.remove(&service).unwrap_or_default();
            let count = instances.len().max(1);
            plans.push(self.mirror.borrow().plan(service, at, instances));
            turns.took(count).await;
        }
        let (skipped, before) = take_in();
        self.subscribers.borrow_mut().draining = draining;
        let pushes = self.mirror.borrow_mut().carry_out(at, plans);
        let fits = self.tell(skipped, pushes);
        if fits {
            self.check_registrants(None);
        }
        for entry in before {
            drop(entry);
            turns.took(1).await;
        }
        fits
    }

    /// The store has changed, where these were touched. False when the client
    /// cannot keep up.
    pub(crate) fn show(
        self: &Rc<Self>,
        at: ViewVersion,
        changes: Changes,
        touched: &BTreeSet<InstanceId>,
        skipped: Vec<Skipped>,
    ) -> bool {
        let plans = self.mirror.borrow().plan_changes(at, changes);
        self.show_planned(at, plans, touched, skipped)
    }

    /// The store has changed, in many places maybe: what is to be shown is found
    /// out bit by bit. Shows nothing yet.
    pub(crate) async fn plan(&self, changes: Changes, turns: &mut Turns) -> Vec<Plan> {
        let mut edits = Edits::default();
        for (place, why) in changes.gone {
            let count = self.mirror.borrow().edit_out(&mut edits, place, why);
            turns.took(count).await;
        }
        for instance in changes.put.into_values() {
            let count = self.mirror.borrow().edit_in(&mut edits, instance);
            turns.took(count).await;
        }
        let mut planned = Vec::new();
        while let Some((service, edited)) = edits.pop() {
            let count = edited.count();
            let at = changes.at.get(&service).copied().unwrap_or_default();
            let plan = (self.mirror.borrow()).plan_edited(service, at, edited, &edits);
            planned.push(plan);
            turns.took(count).await;
        }
        planned
    }

    /// Shows at once what was planned, where these were touched. False when the
    /// client cannot keep up.
    pub(crate) fn show_planned(
        self: &Rc<Self>,
        at: ViewVersion,
        plans: Vec<Plan>,
        touched: &BTreeSet<InstanceId>,
        skipped: Vec<Skipped>,
    ) -> bool {
        for content in plans.iter().filter_map(Plan::content) {
            self.subscribers.borrow_mut().draining.note(content);
        }
        let pushes = self.mirror.borrow_mut().carry_out(at, plans);
        let fits = self.tell(skipped, pushes);
        if fits {
            self.check_registrants(Some(touched));
        }
        fits
    }

    /// The store was restored from an old state, in which less than this had been
    /// given out.
    pub(crate) fn went_back(&self, floor: ViewVersion) {
        self.events.push(Event::WentBack(floor.to_string()));
    }

    fn tell(&self, skipped: Vec<Skipped>, pushes: Vec<(SubscriberId, Content)>) -> bool {
        let mut fits = true;
        for (place, reason) in skipped {
            fits &= self.events.push(Event::Skipped { place, reason });
        }
        for (subscriber, content) in pushes {
            fits &= self.push(subscriber, content);
        }
        fits
    }

    pub(super) async fn list(
        &self,
        watch: &Watch,
        with_holders: bool,
        deadline: Moment,
    ) -> Result<Vec<ListedService>, AskError> {
        let wire = self.wire_until(deadline).await?;
        let all = self.store.read_all(&wire).await;
        let (at, instances) = all.map_err(|fault| self.no_answer(Some(&fault)))?;
        let (mut by_service, mut turns) = (ByService::new(), Turns::new());
        for instance in instances {
            if watch.covers(&instance.service) {
                sort_in(&mut by_service, Arc::new(instance));
            }
            turns.took(1).await;
        }
        let subscribers = if with_holders {
            let holders = self.holders(&wire).await;
            holders.map_err(|fault| self.no_answer(Some(&fault)))?
        } else {
            Vec::new()
        };
        let mut listed = Vec::with_capacity(by_service.len());
        for (service, instances) in by_service {
            let holders = subscribers.iter().filter_map(|one| one.holder(&service));
            listed.push(ListedService {
                holders: holders.collect(),
                view: Arc::new(View {
                    service,
                    at,
                    instances,
                }),
            });
            turns.took(1 + subscribers.len()).await;
        }
        Ok(listed)
    }

    pub(super) async fn drain(
        &self,
        id: &InstanceId,
        deadline: Moment,
    ) -> Result<ServiceName, AskError> {
        let wire = self.wire_until(deadline).await?;
        let drained = |instance: &Instance, _: &S::Mark| Some(draining(instance));
        let changed = change(&self.store, &wire, id, drained).await;
        match changed.map_err(|fault| self.no_answer(Some(&fault)))? {
            Changed::Done(instance) => Ok(instance.service.clone()),
            Changed::Not(_) => Err(AskError::NoInstance { id: id.clone() }),
        }
    }
}

/// How connections are tried.
pub(crate) fn backoff(shard: &Shard) -> Backoff {
    let config = BackoffConfig {
        base: Duration::from_millis(20),
        max: CONNECT_PAUSE_MAX,
        ..BackoffConfig::default()
    };
    Backoff::new(config, shard.random())
}
