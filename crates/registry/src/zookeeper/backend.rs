//! The backend of `zookeeper://HOST:PORT,…/ROOT`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{Mutex, Notify};
use waystation_base::{Moment, ServiceName};
use waystation_membership::{
    Content, Instance, InstanceId, Renewal, SubscriberId, View, ViewVersion, Watch,
};
use waystation_net::{Label, Shard, until};

use super::change::{Changed, change};
use super::entry::{Marks, Paths, instance_of};
use super::lease::{Lease, Leases};
use super::register::Registrant;
use super::replica::Replica;
use super::session;
use super::wire::{Fault, Place, Read, Wire};
use crate::backend::{Ask, Backend, Event, Events, Key, Registering, Reply};
use crate::error::AskError;
use crate::limits::ZOOKEEPER_NODES_MAX;
use crate::mirror::Mirror;
use crate::registry::ListedService;
use crate::store::{Subscribers, draining};

/// A client's side of a registry in `ZooKeeper`.
pub(crate) struct ZooKeeperBackend {
    shared: Rc<Shared>,
}

/// What the backend's tasks share.
pub(super) struct Shared {
    pub(super) shard: Shard,
    pub(super) url: String,
    pub(super) place: Place,
    pub(super) paths: Paths,
    pub(super) events: Events,
    pub(super) replica: RefCell<Replica>,
    pub(super) mirror: RefCell<Mirror>,
    wire: RefCell<Option<Wire>>,
    wired: Notify,
    doubted: Notify,
    pub(super) subscribers: RefCell<Subscribers>,
    /// Held by who writes them to the store.
    pub(super) writing: Mutex<()>,
    /// Wakes who writes down what subscribers hold.
    pub(super) urgent: Notify,
    registrants: RefCell<BTreeMap<Key, Rc<Registrant>>>,
    leases: RefCell<Leases>,
    /// Sessions that are open or being opened.
    sessions: Cell<usize>,
    /// Registrations with something to carry out.
    busy: Cell<usize>,
    settled: Notify,
    is_closed: Cell<bool>,
    closing: Notify,
}

impl ZooKeeperBackend {
    /// Starts to connect to one of the servers.
    pub(crate) fn new(shard: &Shard, url: String, place: Place, events: Events) -> Self {
        let shared = Rc::new(Shared {
            shard: shard.clone(),
            url,
            replica: RefCell::default(),
            paths: Paths::new(&place.root),
            place,
            events,
            mirror: RefCell::new(Mirror::new()),
            wire: RefCell::default(),
            wired: Notify::new(),
            doubted: Notify::new(),
            subscribers: RefCell::default(),
            writing: Mutex::new(()),
            urgent: Notify::new(),
            registrants: RefCell::default(),
            leases: RefCell::default(),
            sessions: Cell::new(0),
            busy: Cell::new(0),
            settled: Notify::new(),
            is_closed: Cell::new(false),
            closing: Notify::new(),
        });
        shared.spawn_session(session::run(Rc::clone(&shared)));
        Self { shared }
    }
}

impl Drop for ZooKeeperBackend {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Backend for ZooKeeperBackend {
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
            // With their sessions go the nodes that tell of subscribers.
            shared.close();
            while shared.sessions.get() > 0 {
                shared.settled.notified().await;
            }
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

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
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

    /// Runs a session, which the end of the backend waits for.
    pub(super) fn spawn_session(self: &Rc<Self>, session: impl Future<Output = ()> + 'static) {
        self.sessions.set(self.sessions.get() + 1);
        let shared = Rc::clone(self);
        let counted = async move {
            session.await;
            shared.sessions.set(shared.sessions.get() - 1);
            shared.settled.notify_one();
        };
        self.shard.spawn(Label::of("zookeeper session"), counted);
    }

    /// The session of registrations that ask for a lease of this length.
    pub(super) fn lease(self: &Rc<Self>, length: Duration) -> Rc<Lease> {
        self.leases.borrow_mut().of(self, length)
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
                registrant.carry_out(&shared, order).await;
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
        let all = self.read_all(&wire).await;
        let (at, instances) = all.map_err(|fault| self.no_answer(Some(&fault)))?;
        let mut views: BTreeMap<ServiceName, View> = BTreeMap::new();
        for instance in instances {
            if watch.covers(&instance.service) {
                let service = instance.service.clone();
                let empty = || View::empty(service.clone(), at);
                let view = views.entry(service.clone()).or_insert_with(empty);
                view.instances
                    .insert(instance.id.clone(), Arc::new(instance));
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

    /// All instances as they stand now, and the version that they are of at
    /// least.
    async fn read_all(&self, wire: &Wire) -> Result<(ViewVersion, Vec<Instance>), Fault> {
        wire.sync().await?;
        let folder = self.paths.instances();
        let Some((data, stat)) = wire.get(&folder).await? else {
            return Ok((self.replica.borrow().at(), Vec::new()));
        };
        let marks = Marks::read(&data);
        let names = wire.children(&folder).await?;
        if names.len() > ZOOKEEPER_NODES_MAX {
            return Err(Fault::TooMany(names.len()));
        }
        let paths: Vec<String> = names.iter().map(|name| self.paths.name(name)).collect();
        let mut zxid = stat.pzxid.max(stat.mzxid);
        let mut instances = Vec::new();
        for (name, found) in names.iter().zip(wire.get_all(&paths).await?) {
            // What is gone by now, foreign or malformed is left out.
            let Read::Node((data, stat)) = found else {
                continue;
            };
            zxid = zxid.max(stat.mzxid);
            instances.extend(instance_of(name, &data, &stat, &marks).ok());
        }
        Ok((marks.version(zxid), instances))
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
