//! The registry's core: leases, views, subscribers and drains of one registry.

mod drain;
mod message;
mod service;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use waystation_base::{Epoch, FencingToken, Moment, ServiceName};

use crate::ids::{InstanceId, Owner, SubscriberId};
use crate::instance::{Instance, State, Update};
use crate::lease::{Lease, Leases, epoch_of};
use crate::limits::{EPOCH_JUMP_MAX, SERVICES_MAX, SUBSCRIBERS_MAX, WATCHES_MAX};
use crate::view::{Removal, View, ViewAck, ViewVersion};
use drain::Drains;
use service::Service;

pub use drain::DrainStep;
pub use message::{
    Content, DirectoryConfig, Granted, Holding, Output, Refusal, Register, Renewed, SubscribeError,
    Watch,
};

/// One subscriber: what it watches, and until when a lost one is waited for.
#[derive(Debug, Default)]
struct Subscriber {
    watches: BTreeSet<Watch>,
    lost_until: Option<Moment>,
}

/// The core of a registry.
///
/// Calling order: any `handle_*` with the present moment, then
/// [`Directory::poll_output`] until `None`, then sleep until
/// [`Directory::poll_timeout`] at the latest and call
/// [`Directory::handle_timeout`]. Inputs that arrived during a sleep come before
/// the timeout. Store what [`Output::Save`] and [`Output::Erase`] say before the
/// answer of the same call leaves.
///
/// Changes between two polls are one version: a mass expiry is one push a
/// service, not one an instance.
///
/// Bounds are in [`limits`](crate::limits); outputs between two polls are
/// bounded by what one input touches.
#[derive(Debug)]
pub struct Directory {
    config: DirectoryConfig,
    version: ViewVersion,
    leases: Leases,
    service_of: BTreeMap<InstanceId, ServiceName>,
    services: BTreeMap<ServiceName, Service>,
    subscribers: BTreeMap<SubscriberId, Subscriber>,
    /// Subscribers that are waited for, by the end of the wait.
    lost: BTreeSet<(Moment, SubscriberId)>,
    drains: Drains,
    dirty: BTreeSet<ServiceName>,
    outputs: VecDeque<Output>,
    /// When the directory was last called, to see its own stalls.
    called_at: Moment,
}

impl Directory {
    /// A directory without instances. `epoch` must be higher than in each start
    /// before, and be stored before the first call.
    pub fn new(now: Moment, epoch: Epoch, config: DirectoryConfig) -> Self {
        Self {
            config,
            version: ViewVersion { epoch, number: 0 },
            leases: Leases::new(epoch),
            service_of: BTreeMap::new(),
            services: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            lost: BTreeSet::new(),
            drains: Drains::default(),
            dirty: BTreeSet::new(),
            outputs: VecDeque::new(),
            called_at: now,
        }
    }

    /// Puts back an instance that was saved by a start before this one. Its
    /// lease begins anew, with the grace on top, so that a restart however long
    /// drops no node that lives. A drain that was under way begins again.
    pub fn restore(&mut self, now: Moment, instance: Instance, ttl: std::time::Duration) {
        if instance.validate().is_err() || self.service_of.contains_key(&instance.id) {
            return;
        }
        let deadline = now + ttl + self.config.grace;
        let lease = Lease {
            owner: instance.owner,
            token: instance.token,
            ttl,
            deadline,
        };
        self.leases.restore(&instance.id, lease);
        self.raise_epoch(self.leases.epoch());
        if instance.state == State::Draining {
            self.drains
                .begin(&instance.id, now + self.config.drain_ack_max);
        }
        self.put(instance);
    }

    /// Registers an instance or confirms that it is registered. Whatever its
    /// token says is replaced by the one granted; a drain under way goes on.
    ///
    /// # Errors
    /// Says who is in the way, or what is wrong with the instance.
    pub fn handle_register(&mut self, now: Moment, asked: Register) -> Result<Granted, Refusal> {
        self.enter(now);
        let id = asked.instance.id.clone();
        let result = self.register(now, asked);
        if let Err(refusal) = &result {
            let refusal = refusal.clone();
            self.outputs.push_back(Output::Refused { id, refusal });
        }
        result
    }

    fn register(&mut self, now: Moment, asked: Register) -> Result<Granted, Refusal> {
        let Register {
            mut instance,
            ttl,
            token_seen,
        } = asked;
        instance.validate().map_err(Refusal::Instance)?;
        if self.drains.is_drained(now, &instance.id, instance.owner) {
            return Err(Refusal::Drained);
        }
        self.believe(epoch_of(token_seen));
        let old = self.find(&instance.id).cloned();
        let is_new_service = !self.services.contains_key(&instance.service);
        if is_new_service && self.services.len() >= SERVICES_MAX {
            return Err(Refusal::ServicesFull);
        }
        let lease = (self.leases)
            .grant(now, &instance.id, instance.owner, ttl)
            .map_err(|error| {
                let holder = old.as_ref().map(|one| one.address.clone());
                Refusal::Lease { error, holder }
            })?;
        instance.token = lease.token;
        if let Some(old) = old {
            if old.token == lease.token && old.state == State::Draining {
                instance.state = State::Draining;
            } else if old.token != lease.token {
                self.drains.end(&old.id);
            }
            if old.service != instance.service {
                self.leave(&old.id, Removal::Deregistered);
            }
        }
        let granted = Granted {
            token: lease.token,
            ttl: lease.ttl,
            state: instance.state,
        };
        if instance.state == State::Draining && !self.drains.contains(&instance.id) {
            self.drains
                .begin(&instance.id, now + self.config.drain_ack_max);
        }
        self.save(instance.clone(), lease.ttl);
        self.put(instance);
        Ok(granted)
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// Nobody holds the id (register again), or another does.
    pub fn handle_renew(
        &mut self,
        now: Moment,
        id: &InstanceId,
        token: FencingToken,
    ) -> Result<Renewed, crate::HolderError> {
        self.enter(now);
        let lease = self.leases.renew(now, id, token)?;
        let state = self.find(id).map_or(State::Serving, |one| one.state);
        Ok(Renewed {
            ttl: lease.ttl,
            state,
            drain: self.drains.step(id),
        })
    }

    /// Changes an instance's weight, metadata, or starting to serving.
    ///
    /// # Errors
    /// The caller does not hold the id, or the outcome is not a valid instance.
    pub fn handle_update(
        &mut self,
        now: Moment,
        id: &InstanceId,
        token: FencingToken,
        update: &Update,
    ) -> Result<(), Refusal> {
        self.enter(now);
        let ttl = self.leases.held(id, token).map_err(Refusal::Holder)?.ttl;
        let mut instance = self.find(id).map(|one| (**one).clone());
        let Some(instance) = &mut instance else {
            return Err(Refusal::Holder(crate::HolderError::Unknown));
        };
        update.apply(instance);
        instance.validate().map_err(Refusal::Instance)?;
        self.save(instance.clone(), ttl);
        self.put(instance.clone());
        Ok(())
    }

    /// Begins to drain an instance, by its owner (with its token) or by an
    /// operator (without). Once more is no fault.
    ///
    /// # Errors
    /// Nobody holds the id, or another does.
    pub fn handle_drain(
        &mut self,
        now: Moment,
        id: &InstanceId,
        token: Option<FencingToken>,
    ) -> Result<(), crate::HolderError> {
        self.enter(now);
        let lease = self.leases.get(id).ok_or(crate::HolderError::Unknown)?;
        let (current, ttl) = (lease.token, lease.ttl);
        if token.is_some_and(|token| token != current) {
            return Err(crate::HolderError::Fenced { current });
        }
        let Some(instance) = self.find(id) else {
            return Err(crate::HolderError::Unknown);
        };
        if self.drains.contains(id) {
            return Ok(());
        }
        let mut instance = (**instance).clone();
        instance.state = State::Draining;
        self.drains.begin(id, now + self.config.drain_ack_max);
        self.save(instance.clone(), ttl);
        self.put(instance);
        Ok(())
    }

    /// The owner's word that no request is in flight any more: ends its drain,
    /// once the subscribers have acknowledged. Before that it changes nothing,
    /// since requests may still come.
    ///
    /// # Errors
    /// The caller does not hold the id.
    pub fn handle_idle(
        &mut self,
        now: Moment,
        id: &InstanceId,
        token: FencingToken,
    ) -> Result<(), crate::HolderError> {
        self.enter(now);
        self.leases.held(id, token)?;
        if self.drains.step(id) == Some(DrainStep::Acknowledged) {
            self.end_drain(now, id);
        }
        Ok(())
    }

    /// Takes an instance out at once.
    ///
    /// # Errors
    /// The caller does not hold the id.
    pub fn handle_deregister(
        &mut self,
        now: Moment,
        id: &InstanceId,
        token: FencingToken,
    ) -> Result<(), crate::HolderError> {
        self.enter(now);
        self.leases.held(id, token)?;
        self.take(id, Removal::Deregistered);
        Ok(())
    }

    /// Watches a service or a prefix, before its first instance if need be. What
    /// is watched is pushed whole at once; `have` is the latest version that the
    /// subscriber holds of anything, by which a directory that was restored from
    /// an old backup notices it.
    ///
    /// # Errors
    /// A bound is reached.
    pub fn handle_subscribe(
        &mut self,
        now: Moment,
        subscriber: SubscriberId,
        watch: &Watch,
        have: Option<ViewVersion>,
    ) -> Result<(), SubscribeError> {
        self.enter(now);
        if let Some(have) = have {
            self.believe_version(have);
        }
        if let Watch::Service(service) = watch
            && !self.services.contains_key(service)
            && self.services.len() >= SERVICES_MAX
        {
            return Err(SubscribeError::ServicesFull);
        }
        let count = self.subscribers.len();
        let known = self.subscribers.get(&subscriber);
        if known.is_none() && count >= SUBSCRIBERS_MAX {
            return Err(SubscribeError::SubscribersFull);
        }
        if known.is_some_and(|one| one.watches.len() >= WATCHES_MAX && !one.watches.contains(watch))
        {
            return Err(SubscribeError::WatchesFull);
        }
        if let Watch::Service(service) = watch {
            self.service_mut(service);
        }
        let entry = self.subscribers.entry(subscriber).or_default();
        if let Some(until) = entry.lost_until.take() {
            self.lost.remove(&(until, subscriber));
        }
        entry.watches.insert(watch.clone());
        for (name, service) in &mut self.services {
            if watch.covers(name) {
                service.watch(subscriber);
                self.dirty.insert(name.clone());
            }
        }
        Ok(())
    }

    /// A subscriber's callers see a view.
    pub fn handle_ack(&mut self, now: Moment, ack: &ViewAck) {
        self.enter(now);
        if let Some(service) = self.services.get_mut(&ack.service) {
            if service.acknowledge(ack) {
                self.dirty.insert(ack.service.clone());
            }
            self.advance_drains(now);
        }
    }

    /// A subscriber asks for the whole view of a service: after a gap, or to
    /// learn what became of one that it holds from before. One that it watches
    /// and that is not there is answered with an empty view.
    pub fn handle_resync(&mut self, now: Moment, subscriber: SubscriberId, name: &ServiceName) {
        self.enter(now);
        let entry = self.subscribers.get(&subscriber);
        let covers = |one: &Subscriber| one.watches.iter().any(|watch| watch.covers(name));
        let has_room = self.services.contains_key(name) || self.services.len() < SERVICES_MAX;
        if has_room && entry.is_some_and(covers) {
            self.service_mut(name).resync(subscriber);
            self.dirty.insert(name.clone());
        }
    }

    /// A subscriber's connection is lost. It is waited for: as long as
    /// [`DirectoryConfig::linger`] it counts as holding what it acknowledged,
    /// since its callers go on with that.
    pub fn handle_lost(&mut self, now: Moment, subscriber: SubscriberId) {
        self.enter(now);
        if let Some(entry) = self.subscribers.get_mut(&subscriber) {
            let until = now + self.config.linger;
            if let Some(before) = entry.lost_until.replace(until) {
                self.lost.remove(&(before, subscriber));
            }
            self.lost.insert((until, subscriber));
            for service in self.services.values_mut() {
                service.resync(subscriber);
            }
        }
    }

    /// A subscriber watches nothing any more.
    pub fn handle_unsubscribe(&mut self, now: Moment, subscriber: SubscriberId) {
        self.enter(now);
        let Some(entry) = self.subscribers.remove(&subscriber) else {
            return;
        };
        if let Some(until) = entry.lost_until {
            self.lost.remove(&(until, subscriber));
        }
        let subscribers = &self.subscribers;
        self.services.retain(|name, service| {
            service.unwatch(subscriber);
            !service.is_settled_empty() || is_named(subscribers, name)
        });
        self.advance_drains(now);
    }

    /// Expires leases, drains and lost subscribers whose moment has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.enter(now);
        while let Some((id, lease)) = self.leases.expire(now) {
            let Some(service) = self.service_of.get(&id).cloned() else {
                continue;
            };
            self.outputs.push_back(Output::Evicted {
                id: id.clone(),
                service,
                owner: lease.owner,
                token: lease.token,
            });
            self.take(&id, Removal::Expired);
        }
        while let Some((until, subscriber)) = self.lost.first().copied() {
            if until > now {
                break;
            }
            self.handle_unsubscribe(now, subscriber);
        }
        self.advance_drains(now);
    }

    /// When to call [`Directory::handle_timeout`] next. Cost: O(drains).
    pub fn poll_timeout(&self) -> Option<Moment> {
        let lost = self.lost.first().map(|(until, _)| *until);
        let waits = [self.leases.poll_timeout(), self.drains.poll_timeout(), lost];
        waits.into_iter().flatten().min()
    }

    /// What to do next. Call until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        while self.outputs.is_empty() {
            let name = self.dirty.pop_first()?;
            self.publish(&name);
        }
        self.outputs.pop_front()
    }

    /// The view of a service as it was last published.
    pub fn view(&self, service: &str) -> Option<Arc<View>> {
        self.services.get(service).map(Service::view)
    }

    /// The services that have a view, in order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Who watches a service, and which version each was sent and acknowledged.
    pub fn holders(&self, service: &str) -> impl Iterator<Item = Holding> {
        let found = self.services.get(service);
        found.into_iter().flat_map(Service::holders)
    }

    /// The service of an instance.
    pub fn service_of(&self, id: &InstanceId) -> Option<&ServiceName> {
        self.service_of.get(id)
    }

    /// The lease of an id.
    pub fn lease(&self, id: &InstanceId) -> Option<&Lease> {
        self.leases.get(id)
    }

    /// The version of the latest change.
    pub const fn version(&self) -> ViewVersion {
        self.version
    }
}

/// Helpers, in the order in which they are called.
impl Directory {
    /// Sees whether this process was stalled since it asked to be called: then
    /// renewals may wait unread, and no lease expires before the grace is over.
    fn enter(&mut self, now: Moment) {
        let due = self.poll_timeout().unwrap_or(Moment::FAR_FUTURE);
        let late = now.saturating_since(due.max(self.called_at));
        if late >= self.config.stall {
            self.leases.postpone(now + self.config.grace);
            self.outputs.push_back(Output::Stalled { late });
        }
        self.called_at = self.called_at.max(now);
    }

    fn find(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let service = self.service_of.get(id)?;
        self.services.get(service)?.instance(id)
    }

    /// A peer has seen a later epoch than ours: we come from an old backup. Go
    /// on above it, so that no version and no token goes backwards.
    fn believe(&mut self, seen: Epoch) {
        if seen.0 > self.version.epoch.0 {
            self.claim(seen);
        }
    }

    fn believe_version(&mut self, have: ViewVersion) {
        if have > self.version {
            self.claim(have.epoch);
        }
    }

    fn claim(&mut self, seen: Epoch) {
        let ours = self.version.epoch;
        let is_believed = seen.0.saturating_sub(ours.0) <= EPOCH_JUMP_MAX;
        self.outputs.push_back(Output::Behind {
            ours,
            seen,
            is_believed,
        });
        if is_believed {
            self.raise_epoch(Epoch(seen.0.saturating_add(1)));
        }
    }

    fn raise_epoch(&mut self, epoch: Epoch) {
        if epoch <= self.version.epoch {
            return;
        }
        self.version = ViewVersion { epoch, number: 0 };
        self.leases.raise_epoch(epoch);
        self.outputs.push_back(Output::SaveEpoch { epoch });
        for (name, service) in &mut self.services {
            service.resync_all();
            self.dirty.insert(name.clone());
        }
    }

    fn save(&mut self, instance: Instance, ttl: std::time::Duration) {
        let instance = Arc::new(instance);
        self.outputs.push_back(Output::Save { instance, ttl });
    }

    /// Puts an instance into its service's next view.
    fn put(&mut self, instance: Instance) {
        let name = instance.service.clone();
        self.service_of.insert(instance.id.clone(), name.clone());
        if self.service_mut(&name).put(Arc::new(instance)) {
            self.dirty.insert(name);
        }
    }

    /// The service's record; a new one is watched by whoever watches its prefix.
    fn service_mut(&mut self, name: &ServiceName) -> &mut Service {
        let at = self.version;
        let subscribers = &self.subscribers;
        self.services.entry(name.clone()).or_insert_with(|| {
            let mut service = Service::new(View::empty(name.clone(), at));
            for (id, one) in subscribers {
                if one.watches.iter().any(|watch| watch.covers(name)) {
                    service.watch(*id);
                }
            }
            service
        })
    }

    /// Takes an instance and its lease out.
    fn take(&mut self, id: &InstanceId, why: Removal) {
        self.leases.remove(id);
        self.drains.end(id);
        self.leave(id, why);
    }

    /// Takes an instance out of its service's next view.
    fn leave(&mut self, id: &InstanceId, why: Removal) {
        let Some(name) = self.service_of.remove(id) else {
            return;
        };
        if let Some(service) = self.services.get_mut(&name) {
            service.take(id, why);
            self.dirty.insert(name);
        }
        self.outputs.push_back(Output::Erase { id: id.clone() });
    }

    /// Publishes a service's changes, if it has any, to whoever watches it.
    fn publish(&mut self, name: &ServiceName) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        if service.is_changed() || service.view().at.epoch != self.version.epoch {
            self.version.number += 1;
        }
        let lost = |id: &SubscriberId| {
            let entry = self.subscribers.get(id);
            entry.is_none_or(|one| one.lost_until.is_some())
        };
        service.publish(self.version, lost, &mut self.outputs);
        let at = service.view().at;
        self.drains
            .published(at, |id| self.service_of.get(id) == Some(name));
        if service.is_settled_empty() && !is_named(&self.subscribers, name) {
            self.services.remove(name);
        }
        self.advance_drains(self.called_at);
    }

    fn advance_drains(&mut self, now: Moment) {
        let holders = |id: &InstanceId, at: ViewVersion| -> Vec<SubscriberId> {
            let service = self.service_of.get(id);
            let service = service.and_then(|name| self.services.get(name));
            service.map_or_else(Vec::new, |service| service.behind(at))
        };
        let moved = self
            .drains
            .advance(now, self.config.drain_requests_max, holders);
        for (id, step, missing) in moved {
            if step == DrainStep::Ended {
                self.end_drain(now, &id);
            } else {
                self.outputs.push_back(Output::Drain { id, step, missing });
            }
        }
    }

    fn end_drain(&mut self, now: Moment, id: &InstanceId) {
        let owner = self
            .leases
            .get(id)
            .map_or(Owner::default(), |one| one.owner);
        let until = now + self.config.drained_remembered;
        self.drains.remember(id, owner, until);
        self.take(id, Removal::Deregistered);
        self.outputs.push_back(Output::Drain {
            id: id.clone(),
            step: DrainStep::Ended,
            missing: Vec::new(),
        });
    }
}

/// Whether somebody watches just this service. Cost: O(subscribers).
fn is_named(subscribers: &BTreeMap<SubscriberId, Subscriber>, name: &ServiceName) -> bool {
    let watch = Watch::Service(name.clone());
    subscribers.values().any(|one| one.watches.contains(&watch))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
