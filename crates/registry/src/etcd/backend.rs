//! The backend of `etcd://HOST:PORT,…/PREFIX`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{Mutex, Notify};
use waystation_base::{Moment, ServiceName};
use waystation_membership::{
    Content, Instance, InstanceId, Renewal, SubscriberId, View, ViewVersion, Watch,
};
use waystation_net::{Address, Label, Shard, until};

use super::change::{Changed, change};
use super::entry::{Keys, Place, instance_of, number_of};
use super::register::Registrant;
use super::replica::Replica;
use super::session;
use super::wire::{Fault, Wire};
use crate::backend::{Ask, Backend, Event, Events, Key, Registering, Reply};
use crate::error::AskError;
use crate::mirror::Mirror;
use crate::registry::ListedService;
use crate::store::{Subscribers, draining};

/// A client's side of a registry in etcd.
pub(crate) struct EtcdBackend {
    shared: Rc<Shared>,
}

/// What the backend's tasks share.
pub(super) struct Shared {
    pub(super) shard: Shard,
    pub(super) url: String,
    pub(super) keys: Keys,
    /// At least one.
    pub(super) members: Vec<Address>,
    pub(super) events: Events,
    pub(super) replica: RefCell<Replica>,
    pub(super) mirror: RefCell<Mirror>,
    wire: RefCell<Option<Wire>>,
    wired: Notify,
    doubted: Notify,
    pub(super) subscribers: RefCell<Subscribers>,
    /// Held by who writes them to etcd.
    pub(super) writing: Mutex<()>,
    /// Wakes who writes down what subscribers hold.
    pub(super) urgent: Notify,
    registrants: RefCell<BTreeMap<Key, Rc<Registrant>>>,
    busy: Cell<usize>,
    settled: Notify,
    is_closed: Cell<bool>,
    closing: Notify,
}

impl EtcdBackend {
    /// Starts to connect to one of the members, of which there is at least one.
    pub(crate) fn new(
        shard: &Shard,
        url: String,
        members: Vec<Address>,
        prefix: &str,
        events: Events,
    ) -> Self {
        let keys = Keys::new(prefix);
        let shared = Rc::new(Shared {
            shard: shard.clone(),
            url,
            replica: RefCell::new(Replica::new(keys.clone())),
            keys,
            members,
            events,
            mirror: RefCell::new(Mirror::new()),
            wire: RefCell::default(),
            wired: Notify::new(),
            doubted: Notify::new(),
            subscribers: RefCell::default(),
            writing: Mutex::new(()),
            urgent: Notify::new(),
            registrants: RefCell::default(),
            busy: Cell::new(0),
            settled: Notify::new(),
            is_closed: Cell::new(false),
            closing: Notify::new(),
        });
        shard.spawn(Label::of("etcd session"), session::run(Rc::clone(&shared)));
        Self { shared }
    }
}

impl Drop for EtcdBackend {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Backend for EtcdBackend {
    fn handle(&self, ask: Ask) {
        let shared = &self.shared;
        match ask {
            Ask::Registration {
                key,
                instance,
                what,
            } => shared.registration(key, instance, what),
            Ask::Subscribe {
                subscriber,
                watch,
                have,
            } => shared.subscribe(subscriber, watch, have),
            Ask::Resync {
                subscriber,
                service,
            } => {
                let view = shared.mirror.borrow().view(&service);
                shared.push(subscriber, Content::View(view));
            }
            Ask::Ack(ack) => {
                let mut subscribers = shared.subscribers.borrow_mut();
                if subscribers.acknowledged(ack.subscriber, &ack.service, ack.at) {
                    shared.urgent.notify_one();
                }
            }
            Ask::Unsubscribe(subscriber) => {
                shared.mirror.borrow_mut().unsubscribe(subscriber);
                shared.subscribers.borrow_mut().unsubscribe(subscriber);
                shared.urgent.notify_one();
            }
            Ask::List {
                question,
                watch,
                with_holders,
                deadline,
            } => {
                let shared = Rc::clone(shared);
                let asking = Rc::clone(&shared);
                shared.spawn(async move {
                    let answer = asking.list(&watch, with_holders, deadline).await;
                    let answer = answer.map(Reply::Listed);
                    asking.events.push(Event::Answered(question, answer));
                });
            }
            Ask::Drain {
                question,
                id,
                deadline,
            } => {
                let shared = Rc::clone(shared);
                let asking = Rc::clone(&shared);
                shared.spawn(async move {
                    let answer = asking.drain(&id, deadline).await;
                    let answer = answer.map(Reply::Draining);
                    asking.events.push(Event::Answered(question, answer));
                });
            }
        }
    }

    fn renewal(&self) -> Renewal {
        Renewal::ByCommand
    }

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        let shared = Rc::clone(&self.shared);
        Box::pin(async move {
            while shared.busy.get() > 0 {
                shared.settled.notified().await;
            }
            let lease = shared.subscribers.borrow_mut().lease.take();
            if let (Some(wire), Some(lease)) = (shared.wire(), lease) {
                // Nobody waits for these subscribers any more; else they expire.
                let _ = wire.revoke(lease).await;
            }
            shared.close();
        })
    }
}

impl Shared {
    /// Ready when the backend is used no longer.
    pub(super) async fn closed(&self) {
        let notified = self.closing.notified();
        if !self.is_closed.get() {
            notified.await;
        }
    }

    /// Ready when somebody doubts that the store is what it was.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Somebody has seen what this store should not have yet.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    pub(super) fn connected(&self, wire: &Wire) {
        *self.wire.borrow_mut() = Some(wire.clone());
        self.wired.notify_waiters();
        self.events.push(Event::Connected);
    }

    pub(super) fn lost(&self, fault: String) {
        *self.wire.borrow_mut() = None;
        self.events.push(Event::Disconnected(fault));
    }

    /// Compares what is registered with what is known, of all or of these.
    pub(super) fn check_registrants(self: &Rc<Self>, touched: Option<&BTreeSet<InstanceId>>) {
        for registrant in self.registrants.borrow().values() {
            if touched.is_none_or(|touched| touched.contains(&registrant.id)) {
                registrant.check(self);
            }
        }
    }

    fn close(&self) {
        self.is_closed.set(true);
        *self.wire.borrow_mut() = None;
        self.closing.notify_waiters();
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shard.spawn(Label::of("registry call"), task);
    }

    fn wire(&self) -> Option<Wire> {
        self.wire.borrow().clone()
    }

    /// One task a registration carries its orders out, one after another.
    fn registration(self: &Rc<Self>, key: Key, instance: Box<Instance>, what: Registering) {
        let is_last = matches!(what, Registering::Deregister);
        if is_last {
            self.subscribers.borrow_mut().unset_node(&instance.id);
        } else {
            self.subscribers.borrow_mut().set_node(&instance.id);
        }
        let registrant = {
            let mut all = self.registrants.borrow_mut();
            let new = || Rc::new(Registrant::new(key, instance.id.clone()));
            Rc::clone(all.entry(key).or_insert_with(new))
        };
        registrant.want(instance, what);
        if is_last {
            self.registrants.borrow_mut().remove(&key);
        }
        self.work(&registrant);
    }

    /// Carries out what a registrant wants, unless that is under way.
    pub(super) fn work(self: &Rc<Self>, registrant: &Rc<Registrant>) {
        if registrant.is_busy.replace(true) {
            return;
        }
        let registrant = Rc::clone(registrant);
        self.busy.set(self.busy.get() + 1);
        let shared = Rc::clone(self);
        self.spawn(async move {
            while let Some(order) = registrant.next() {
                // Without a connection it is dropped: who needs it asks again.
                if let Some(wire) = shared.wire() {
                    registrant.carry_out(&shared, &wire, order).await;
                }
            }
            registrant.is_busy.set(false);
            shared.busy.set(shared.busy.get() - 1);
            shared.settled.notify_one();
        });
    }

    fn subscribe(&self, subscriber: SubscriberId, watch: Watch, have: Option<ViewVersion>) {
        if have.is_some_and(|have| self.replica.borrow_mut().see(have)) {
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
        self.events.push(Event::Push(subscriber, content))
    }

    /// The connection, as soon as there is one.
    pub(super) async fn wire_until(&self, deadline: Moment) -> Result<Wire, AskError> {
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

    fn no_answer(&self, fault: Option<&Fault>) -> AskError {
        AskError::NoAnswer {
            url: self.url.clone(),
            fault: fault.map(ToString::to_string),
        }
    }

    async fn list(
        &self,
        watch: &Watch,
        with_holders: bool,
        deadline: Moment,
    ) -> Result<Vec<ListedService>, AskError> {
        let wire = self.wire_until(deadline).await?;
        let listed = wire.list(self.keys.all()).await;
        let (header, kvs) = listed.map_err(|fault| self.no_answer(Some(&fault)))?;
        let epoch = self.replica.borrow().at().epoch;
        let number = number_of(header.revision);
        let at = ViewVersion { epoch, number };
        let mut views: BTreeMap<ServiceName, View> = BTreeMap::new();
        for kv in &kvs {
            let Ok(Place::Instance(id)) = self.keys.place(&kv.key) else {
                continue;
            };
            let Ok(instance) = instance_of(&id, kv) else {
                continue;
            };
            if watch.covers(&instance.service) {
                let service = instance.service.clone();
                let empty = || View::empty(service.clone(), at);
                let view = views.entry(service.clone()).or_insert_with(empty);
                view.instances.insert(id, Arc::new(instance));
            }
        }
        let subscribers = if with_holders {
            let holders = self.holders(&wire).await;
            holders.map_err(|fault| self.no_answer(Some(&fault)))?
        } else {
            Vec::new()
        };
        let listed = views.into_values().map(|view| ListedService {
            holders: (subscribers.iter())
                .filter_map(|one| one.holder(&view.service))
                .collect(),
            view: Arc::new(view),
        });
        Ok(listed.collect())
    }

    async fn drain(&self, id: &InstanceId, deadline: Moment) -> Result<ServiceName, AskError> {
        let wire = self.wire_until(deadline).await?;
        let changed = change(self, &wire, id, |instance| Some(draining(instance))).await;
        match changed.map_err(|fault| self.no_answer(Some(&fault)))? {
            Changed::Done(instance) => Ok(instance.service.clone()),
            Changed::Not(_) => Err(AskError::NoInstance { id: id.clone() }),
        }
    }
}
