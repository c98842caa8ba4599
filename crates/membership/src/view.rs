//! Views: all instances of a service at one version, and how they change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use waystation_base::{Epoch, ServiceName};

use crate::ids::{InstanceId, SubscriberId};
use crate::instance::Instance;

/// When a view was true: the registry's epoch, and a number that rises within
/// it with every change. Ordered by epoch first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewVersion {
    /// The registry's epoch: rises with each of its starts.
    pub epoch: Epoch,
    /// The change. Numbers count over all services of a registry, so a
    /// service's versions rise but leave numbers out.
    pub number: u64,
}

impl fmt::Display for ViewVersion {
    /// `epoch.number`, as in `3.172`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// All instances of a service at a version. Whoever holds the same version of a
/// registry's view holds the same instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The service.
    pub service: ServiceName,
    /// The version.
    pub at: ViewVersion,
    /// Its instances by id.
    pub instances: BTreeMap<InstanceId, Arc<Instance>>,
}

/// Why an instance is in a view no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Removal {
    /// Its owner or an operator took it out: it is gone for certain.
    Deregistered,
    /// Its lease was not renewed: it, or the way to it, may be dead.
    Expired,
    /// The source does not say.
    Unknown,
}

/// What turns one view of a service into a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewDelta {
    /// The service.
    pub service: ServiceName,
    /// The version it starts from.
    pub from: ViewVersion,
    /// The version it leads to.
    pub to: ViewVersion,
    /// Instances that are new.
    pub added: Vec<Arc<Instance>>,
    /// Instances that were there and are different.
    pub changed: Vec<Arc<Instance>>,
    /// Instances that are gone, and why.
    pub removed: Vec<(InstanceId, Removal)>,
}

/// A subscriber's word that its callers see a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewAck {
    /// Who says so.
    pub subscriber: SubscriberId,
    /// Of which service.
    pub service: ServiceName,
    /// At which version.
    pub at: ViewVersion,
}

/// Why a delta does not fit a view. Whatever the reason, the view is unchanged;
/// after all but [`ApplyError::Old`] a whole view is needed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The delta is another service's.
    #[error("a delta of {delta} does not fit a view of {view}")]
    Service {
        /// The view's service.
        view: ServiceName,
        /// The delta's.
        delta: ServiceName,
    },
    /// The view holds what the delta leads to, or something later: nothing to
    /// do.
    #[error("{service} is at {have}, the delta leads to {to}")]
    Old {
        /// The service.
        service: ServiceName,
        /// The view's version.
        have: ViewVersion,
        /// Where the delta leads.
        to: ViewVersion,
    },
    /// A delta between is missing, or the epoch changed.
    #[error("{service} is at {have}, the delta starts from {from}")]
    Gap {
        /// The service.
        service: ServiceName,
        /// The view's version.
        have: ViewVersion,
        /// Where the delta starts.
        from: ViewVersion,
    },
    /// The delta starts at the view's version but does not fit its instances,
    /// or leads to an earlier version: its source is broken.
    #[error("{service} at {at}: the delta does not fit its instances")]
    Contents {
        /// The service.
        service: ServiceName,
        /// The view's version.
        at: ViewVersion,
    },
}

impl View {
    /// A view without instances.
    pub fn empty(service: ServiceName, at: ViewVersion) -> Self {
        Self {
            service,
            at,
            instances: BTreeMap::new(),
        }
    }

    /// What turns this view into `newer`; the reason of each removal is unknown.
    /// Cost: O(instances).
    ///
    /// # Panics
    /// When `newer` is of another service.
    pub fn delta_to(&self, newer: &Self) -> ViewDelta {
        assert_eq!(self.service, newer.service, "a delta is of one service");
        let mut delta = ViewDelta {
            service: self.service.clone(),
            from: self.at,
            to: newer.at,
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
        };
        for (id, instance) in &newer.instances {
            match self.instances.get(id) {
                None => delta.added.push(Arc::clone(instance)),
                Some(old) if old != instance => delta.changed.push(Arc::clone(instance)),
                Some(_) => {}
            }
        }
        let is_gone = |id: &&InstanceId| !newer.instances.contains_key(*id);
        delta.removed = (self.instances.keys().filter(is_gone))
            .map(|id| (id.clone(), Removal::Unknown))
            .collect();
        delta
    }

    /// As [`View::delta_to`], where nothing but these may differ, each named once.
    /// Cost: O(these · log instances).
    ///
    /// # Panics
    /// When `newer` is of another service.
    pub fn delta_among<'a>(
        &self,
        newer: &Self,
        these: impl IntoIterator<Item = &'a InstanceId>,
    ) -> ViewDelta {
        assert_eq!(self.service, newer.service, "a delta is of one service");
        let mut delta = ViewDelta {
            service: self.service.clone(),
            from: self.at,
            to: newer.at,
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
        };
        for id in these {
            match (self.instances.get(id), newer.instances.get(id)) {
                (None, Some(new)) => delta.added.push(Arc::clone(new)),
                (Some(old), Some(new)) if old != new => delta.changed.push(Arc::clone(new)),
                (Some(_), None) => delta.removed.push((id.clone(), Removal::Unknown)),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        delta
    }

    /// Applies `delta`, all of it or nothing. Cost: O(delta · log instances).
    ///
    /// # Errors
    /// Says why the delta does not fit; see [`ApplyError`].
    pub fn apply(&mut self, delta: &ViewDelta) -> Result<(), ApplyError> {
        self.check(delta)?;
        for (id, _) in &delta.removed {
            self.instances.remove(id);
        }
        for instance in delta.added.iter().chain(&delta.changed) {
            self.instances
                .insert(instance.id.clone(), Arc::clone(instance));
        }
        self.at = delta.to;
        Ok(())
    }

    pub(crate) fn check(&self, delta: &ViewDelta) -> Result<(), ApplyError> {
        if delta.service != self.service {
            return Err(ApplyError::Service {
                view: self.service.clone(),
                delta: delta.service.clone(),
            });
        }
        let service = || self.service.clone();
        if delta.from != self.at {
            if delta.to.epoch == self.at.epoch && delta.to <= self.at {
                return Err(ApplyError::Old {
                    service: service(),
                    have: self.at,
                    to: delta.to,
                });
            }
            return Err(ApplyError::Gap {
                service: service(),
                have: self.at,
                from: delta.from,
            });
        }
        let holds = |id: &InstanceId| self.instances.contains_key(id);
        let fits = delta.to > delta.from
            && delta.added.iter().all(|one| !holds(&one.id))
            && delta.changed.iter().all(|one| holds(&one.id))
            && delta.removed.iter().all(|(id, _)| holds(id));
        if fits {
            return Ok(());
        }
        Err(ApplyError::Contents {
            service: service(),
            at: self.at,
        })
    }
}

impl ViewDelta {
    /// Whether it changes no instance.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
