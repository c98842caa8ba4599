//! The registry's core: leases, views, subscribers and drains of one registry.

mod change;
mod drain;
mod message;
mod service;
mod subscribers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use waystation_base::{Epoch, FencingToken, Moment, ServiceName};

use crate::ids::{InstanceId, SubscriberId};
use crate::instance::{Instance, State, Update};
use crate::lease::{Lease, Leases, epoch_of};
use crate::limits::{NUMBERS_BASE_MAX, SERVICES_MAX};
use crate::view::{Removal, View, ViewVersion};
use drain::Drains;
use service::Service;
use subscribers::Subscriber;

pub use drain::DrainStep;
pub use message::{
    Content, DirectoryConfig, Granted, Holding, Output, Refusal, Register, Renewed, SubscribeError,
    Watch,
};

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
    /// Where the versions of each epoch begin.
    base: u64,
    version: ViewVersion,
    leases: Leases,
    service_of: BTreeMap<InstanceId, ServiceName>,
    services: BTreeMap<ServiceName, Service>,
    subscribers: BTreeMap<SubscriberId, Subscriber>,
    /// Those of them that watch a prefix: a new service may be theirs.
    of_prefixes: BTreeSet<SubscriberId>,
    /// Subscribers that are waited for, by the end of the wait.
    lost: BTreeSet<(Moment, SubscriberId)>,
    drains: Drains,
    /// Until then subscribers of the start before this one may come back.
    settles_at: Moment,
    dirty: BTreeSet<ServiceName>,
    outputs: VecDeque<Output>,
    /// When the directory was last called, to see its own stalls.
    called_at: Moment,
    steps: u64,
}

impl Directory {
    /// A directory without instances. `epoch` must be higher than in each start
    /// before, and be stored before the first call.
    pub fn new(now: Moment, epoch: Epoch, config: DirectoryConfig) -> Self {
        Self {
            config,
            base: 0,
            version: ViewVersion { epoch, number: 0 },
            leases: Leases::new(epoch),
            service_of: BTreeMap::new(),
            services: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            of_prefixes: BTreeSet::new(),
            lost: BTreeSet::new(),
            drains: Drains::default(),
            settles_at: Moment::ZERO,
            dirty: BTreeSet::new(),
            outputs: VecDeque::new(),
            called_at: now,
            steps: 0,
        }
    }

    /// Has versions and tokens of each epoch begin above `base`, at most
    /// [`NUMBERS_BASE_MAX`]. Call it first, with a number that is drawn: a start
    /// from an old backup may be in an epoch that was there before, and gives no
    /// number out that others hold from then.
    pub fn begin_at(&mut self, base: u64) {
        self.base = base.min(NUMBERS_BASE_MAX);
        self.version.number = self.base;
        self.leases.begin_at(self.base);
    }

    /// Puts back an instance that was saved by a start before this one. Its
    /// lease begins anew, with the grace on top, so that a restart however long
    /// drops no node that lives. A drain that was under way begins again, and
    /// subscribers of before are waited for as lost ones are: who is not back yet
    /// may show the instance as serving.
    pub fn restore(&mut self, now: Moment, instance: Instance, ttl: std::time::Duration) {
        if instance.validate().is_err() || self.service_of.contains_key(&instance.id) {
            return;
        }
        self.settles_at = self.settles_at.max(now + self.config.linger);
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
            lift,
        } = asked;
        instance.validate().map_err(Refusal::Instance)?;
        if self.drains.is_drained(now, &instance.id, instance.owner) {
            return Err(Refusal::Drained);
        }
        self.believe_token(token_seen);
        if lift > self.leases.highest() && !self.lift(epoch_of(lift)) {
            let why = format!("no token can be above {lift}, which it had");
            return Err(Refusal::Other(why.into()));
        }
        let old = self.find(&instance.id).cloned();
        let is_new_service = !self.services.contains_key(&instance.service);
        if is_new_service && self.services.len() >= SERVICES_MAX {
            return Err(Refusal::ServicesFull);
        }
        let above = token_seen.max(lift);
        (self.leases).revoke_below(&instance.id, instance.owner, above);
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

    /// Shows an instance that has no lease here: who places it says when it is
    /// gone, by [`Directory::handle_displace`]. It is not stored.
    ///
    /// # Errors
    /// The instance is not valid, or there is no room for its service.
    pub fn handle_place(&mut self, now: Moment, instance: Instance) -> Result<(), Refusal> {
        self.enter(now);
        instance.validate().map_err(Refusal::Instance)?;
        let is_new_service = !self.services.contains_key(&instance.service);
        if is_new_service && self.services.len() >= SERVICES_MAX {
            return Err(Refusal::ServicesFull);
        }
        let before = self.service_of.get(&instance.id);
        if before.is_some_and(|before| *before != instance.service) {
            self.unlist(&instance.id, Removal::Deregistered);
        }
        self.put(instance);
        Ok(())
    }

    /// Takes away what [`Directory::handle_place`] showed, for this reason.
    pub fn handle_displace(&mut self, now: Moment, id: &InstanceId, why: Removal) {
        self.enter(now);
        self.unlist(id, why);
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
        let mut instance = (**instance).clone();
        if self.drains.contains(id) {
            // Who asks again may have been told that it could not be stored.
            self.save(instance, ttl);
            return Ok(());
        }
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
        let is_settling = self.settles_at > self.called_at && !self.drains.is_empty();
        let settled = is_settling.then_some(self.settles_at);
        let drains = self.drains.poll_timeout();
        let waits = [self.leases.poll_timeout(), drains, settled, lost];
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

    /// Changes and watchers that it has looked at to publish, since it began: what
    /// that comes to, whatever the machine.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// The version of the latest change.
    pub const fn version(&self) -> ViewVersion {
        self.version
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
