//! Which services have hosts of which pair.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::warn;
use waystation_base::ServiceName;
use waystation_membership::{Address, LarsPair, View};

/// The hosts of each pair, by the service that has them.
#[derive(Default)]
pub(super) struct Members {
    by_pair: BTreeMap<LarsPair, BTreeMap<ServiceName, View>>,
    /// The pairs that each service had in its last view.
    of_service: BTreeMap<ServiceName, BTreeSet<LarsPair>>,
}

impl Members {
    /// Takes the view of a service; the pairs whose hosts it touches. Cost:
    /// O(instances).
    pub(super) fn handle_view(&mut self, view: &View) -> BTreeSet<LarsPair> {
        let mut found = BTreeMap::<LarsPair, View>::new();
        for (id, instance) in &view.instances {
            let Some(pair) = instance.lars else { continue };
            let told = found
                .entry(pair)
                .or_insert_with(|| View::empty(view.service.clone(), view.at));
            if matches!(instance.address, Address::V4(_)) {
                told.instances.insert(id.clone(), Arc::clone(instance));
            }
        }
        let before = self.of_service.remove(&view.service).unwrap_or_default();
        if found.is_empty() {
            // Without instances the pairs stay known: their service has no hosts.
            let own = LarsPair::of_service(&view.service);
            let known = before.iter().copied().chain(own);
            found.extend(known.map(|pair| (pair, View::empty(view.service.clone(), view.at))));
        }
        let now: BTreeSet<LarsPair> = found.keys().copied().collect();
        for pair in before.difference(&now) {
            self.remove(*pair, &view.service);
        }
        for (pair, told) in found {
            let of_pair = self.by_pair.entry(pair).or_default();
            of_pair.insert(view.service.clone(), told);
        }
        let touched = &before | &now;
        if !now.is_empty() {
            self.of_service.insert(view.service.clone(), now);
        }
        touched
    }

    /// Nothing is known of a service any more; the pairs that it had.
    pub(super) fn forget(&mut self, service: &ServiceName) -> BTreeSet<LarsPair> {
        let pairs = self.of_service.remove(service).unwrap_or_default();
        for pair in &pairs {
            self.remove(*pair, service);
        }
        pairs
    }

    /// All hosts of a pair; nothing when no service has it.
    pub(super) fn told(&self, pair: LarsPair) -> Option<View> {
        let mut views = self.by_pair.get(&pair)?.values();
        let mut told = views.next()?.clone();
        for view in views {
            for (id, instance) in &view.instances {
                match told.instances.entry(id.clone()) {
                    Entry::Vacant(place) => {
                        place.insert(Arc::clone(instance));
                    }
                    Entry::Occupied(taken) => warn!(
                        %pair, %id, service = %view.service, other = %taken.get().service,
                        "two services of one pair have an instance of the same id; callers of \
                         Lars are told of one"
                    ),
                }
            }
        }
        Some(told)
    }

    fn remove(&mut self, pair: LarsPair, service: &ServiceName) {
        let Some(views) = self.by_pair.get_mut(&pair) else {
            return;
        };
        views.remove(service);
        if views.is_empty() {
            self.by_pair.remove(&pair);
        }
    }
}
