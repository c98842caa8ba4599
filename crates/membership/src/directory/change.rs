//! What an input changes: views, epochs and drains.

use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Epoch, FencingToken, Moment, ServiceName};

use super::Directory;
use super::drain::DrainStep;
use super::message::Output;
use super::service::Service;
use super::subscribers::is_named;
use crate::ids::{InstanceId, Owner, SubscriberId};
use crate::instance::Instance;
use crate::lease::epoch_of;
use crate::limits::EPOCH_JUMP_MAX;
use crate::view::{Removal, View, ViewVersion};

/// In the order in which they are called.
impl Directory {
    /// Sees whether this process was stalled since it asked to be called: then
    /// renewals may wait unread, and no lease expires before the grace is over.
    pub(super) fn enter(&mut self, now: Moment) {
        let due = self.poll_timeout().unwrap_or(Moment::FAR_FUTURE);
        let late = now.saturating_since(due.max(self.called_at));
        if late >= self.config.stall {
            self.leases.postpone(now + self.config.grace);
            self.outputs.push_back(Output::Stalled { late });
        }
        self.called_at = self.called_at.max(now);
    }

    pub(super) fn find(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let service = self.service_of.get(id)?;
        self.services.get(service)?.instance(id)
    }

    /// A peer has seen a later version than ours, or one of this epoch that this
    /// start has not given out: we come from an old backup. Go on above it, so that
    /// no version and no token goes backwards.
    pub(super) fn believe_version(&mut self, have: ViewVersion) {
        let of_another_start = have.epoch == self.version.epoch && have.number < self.base;
        if have > self.version || of_another_start {
            self.claim(have.epoch);
        }
    }

    /// The same of a token that a peer was granted here.
    pub(super) fn believe_token(&mut self, seen: FencingToken) {
        let first = self.leases.first();
        let of_another_start = epoch_of(seen) == epoch_of(first) && seen < first;
        if seen > self.leases.highest() || of_another_start {
            self.claim(epoch_of(seen));
        }
    }

    /// Another registry has given out tokens of that epoch: those that are given
    /// out here are above them. Nothing went back for it. False when it is too far
    /// above to be believed.
    pub(super) fn lift(&mut self, seen: Epoch) -> bool {
        let is_credible = self.is_credible(seen);
        if is_credible {
            self.raise_epoch(Epoch(seen.0.saturating_add(1)));
        }
        is_credible
    }

    fn is_credible(&self, seen: Epoch) -> bool {
        seen.0.saturating_sub(self.version.epoch.0) <= EPOCH_JUMP_MAX
    }

    pub(super) fn claim(&mut self, seen: Epoch) {
        let ours = self.version.epoch;
        let is_believed = self.is_credible(seen);
        self.outputs.push_back(Output::Behind {
            ours,
            seen,
            is_believed,
        });
        if is_believed {
            self.raise_epoch(Epoch(seen.0.saturating_add(1)));
        }
    }

    pub(super) fn raise_epoch(&mut self, epoch: Epoch) {
        if epoch <= self.version.epoch {
            return;
        }
        let number = self.base;
        self.version = ViewVersion { epoch, number };
        self.leases.raise_epoch(epoch);
        self.outputs.push_back(Output::SaveEpoch { epoch });
        for (name, service) in &mut self.services {
            service.resync_all();
            self.dirty.insert(name.clone());
        }
    }

    pub(super) fn save(&mut self, instance: Instance, ttl: Duration) {
        let instance = Arc::new(instance);
        self.outputs.push_back(Output::Save { instance, ttl });
    }

    /// Puts an instance into its service's next view.
    pub(super) fn put(&mut self, instance: Instance) {
        let name = instance.service.clone();
        self.service_of.insert(instance.id.clone(), name.clone());
        if self.service_mut(&name).put(Arc::new(instance)) {
            self.dirty.insert(name);
        }
    }

    /// The service's record; a new one is watched by whoever watches its prefix.
    pub(super) fn service_mut(&mut self, name: &ServiceName) -> &mut Service {
        let at = self.version;
        // Who watches just this service has made its record.
        let (subscribers, of_prefixes) = (&self.subscribers, &self.of_prefixes);
        self.services.entry(name.clone()).or_insert_with(|| {
            let mut service = Service::new(View::empty(name.clone(), at));
            for id in of_prefixes {
                let one = subscribers.get(id);
                if one.is_some_and(|one| one.watches.iter().any(|watch| watch.covers(name))) {
                    service.watch(*id);
                }
            }
            service
        })
    }

    /// Takes an instance and its lease out.
    pub(super) fn take(&mut self, id: &InstanceId, why: Removal) {
        self.leases.remove(id);
        self.drains.end(id);
        self.leave(id, why);
    }

    /// Takes an instance out of its service's next view, and out of the store.
    pub(super) fn leave(&mut self, id: &InstanceId, why: Removal) {
        if self.unlist(id, why) {
            self.outputs.push_back(Output::Erase { id: id.clone() });
        }
    }

    /// Takes an instance out of its service's next view; false when it is in
    /// none.
    pub(super) fn unlist(&mut self, id: &InstanceId, why: Removal) -> bool {
        let Some(name) = self.service_of.remove(id) else {
            return false;
        };
        if let Some(service) = self.services.get_mut(&name) {
            service.take(id, why);
            self.dirty.insert(name);
        }
        true
    }

    /// Publishes a service's changes, if it has any, to whoever watches it.
    pub(super) fn publish(&mut self, name: &ServiceName) {
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
        self.steps += service.publish(self.version, lost, &mut self.outputs);
        let at = service.view().at;
        self.drains
            .published(at, |id| self.service_of.get(id) == Some(name));
        if !is_named(&self.subscribers, name, service) && service.is_settled_empty() {
            self.services.remove(name);
        }
        self.advance_drains(self.called_at);
    }

    pub(super) fn advance_drains(&mut self, now: Moment) {
        let holders = |id: &InstanceId, at: ViewVersion| -> Vec<SubscriberId> {
            let service = self.service_of.get(id);
            let service = service.and_then(|name| self.services.get(name));
            service.map_or_else(Vec::new, |service| service.behind(at))
        };
        let is_settled = self.settles_at <= now;
        let requests_max = self.config.drain_requests_max;
        let moved = self.drains.advance(now, requests_max, is_settled, holders);
        for (id, step, missing) in moved {
            if step == DrainStep::Ended {
                self.end_drain(now, &id);
            } else {
                self.outputs.push_back(Output::Drain { id, step, missing });
            }
        }
    }

    pub(super) fn end_drain(&mut self, now: Moment, id: &InstanceId) {
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
