//! Who watches what, who has acknowledged what, and who is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use waystation_base::{Moment, ServiceName};

use super::Directory;
use super::message::{SubscribeError, Watch};
use super::service::Service;
use crate::ids::SubscriberId;
use crate::limits::{SERVICES_MAX, SUBSCRIBERS_MAX, WATCHES_MAX};
use crate::view::{ViewAck, ViewVersion};

/// One subscriber: what it watches, and until when a lost one is waited for.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    pub(super) watches: BTreeSet<Watch>,
    pub(super) lost_until: Option<Moment>,
}

impl Directory {
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
        if matches!(watch, Watch::Prefix(_)) {
            self.of_prefixes.insert(subscriber);
        }
        for_each_watched(&mut self.services, watch, |name, service| {
            service.watch(subscriber);
            self.dirty.insert(name.clone());
        });
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
    /// [`linger`](crate::DirectoryConfig::linger) it counts as holding what it acknowledged,
    /// since its callers go on with that.
    pub fn handle_lost(&mut self, now: Moment, subscriber: SubscriberId) {
        self.enter(now);
        if let Some(entry) = self.subscribers.get_mut(&subscriber) {
            let until = now + self.config.linger;
            if let Some(before) = entry.lost_until.replace(until) {
                self.lost.remove(&(before, subscriber));
            }
            self.lost.insert((until, subscriber));
            for watch in &entry.watches {
                for_each_watched(&mut self.services, watch, |_, service| {
                    service.lose(subscriber);
                });
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
        self.of_prefixes.remove(&subscriber);
        let mut unwanted = Vec::new();
        for watch in &entry.watches {
            for_each_watched(&mut self.services, watch, |name, service| {
                service.unwatch(subscriber);
                if service.is_settled_empty() && !is_named(&self.subscribers, name, service) {
                    unwanted.push(name.clone());
                }
            });
        }
        for name in unwanted {
            self.services.remove(&name);
        }
        self.advance_drains(now);
    }
}

/// Whether somebody watches just this service. Cost: O(its watchers).
pub(super) fn is_named(
    subscribers: &BTreeMap<SubscriberId, Subscriber>,
    name: &ServiceName,
    service: &Service,
) -> bool {
    let watch = Watch::Service(name.clone());
    let mut watchers = service.watchers().filter_map(|id| subscribers.get(id));
    watchers.any(|one| one.watches.contains(&watch))
}

/// Calls `each` with what a watch covers. Cost: O(that · log services).
fn for_each_watched(
    services: &mut BTreeMap<ServiceName, Service>,
    watch: &Watch,
    mut each: impl FnMut(&ServiceName, &mut Service),
) {
    match watch {
        Watch::Service(name) => {
            if let Some(service) = services.get_mut(name) {
                each(name, service);
            }
        }
        Watch::Prefix(prefix) => {
            let from = (Bound::Included(&**prefix), Bound::Unbounded);
            for (name, service) in services.range_mut::<str, _>(from) {
                if !name.as_str().starts_with(&**prefix) {
                    break;
                }
                each(name, service);
            }
        }
    }
}
