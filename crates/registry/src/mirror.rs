//! Views of a source that tells its instances all at once or one by one, but
//! keeps no views of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waystation_base::ServiceName;
use waystation_membership::{
    Content, Instance, InstanceId, SubscriberId, View, ViewVersion, Watch,
};

/// What a source holds, and who watches it.
///
/// Every service that is watched by name has a view, if only an empty one.
pub(crate) struct Mirror {
    at: ViewVersion,
    /// Whether the source has been read.
    is_filled: bool,
    views: BTreeMap<ServiceName, Arc<View>>,
    subscribers: BTreeMap<SubscriberId, Watch>,
}

type Instances = BTreeMap<InstanceId, Arc<Instance>>;

impl Mirror {
    pub(crate) fn new() -> Self {
        Self {
            at: ViewVersion::default(),
            is_filled: false,
            views: BTreeMap::new(),
            subscribers: BTreeMap::new(),
        }
    }

    /// The source holds just these instances, at a version above all before.
    /// Gives what is to be pushed. Cost: O(instances).
    pub(crate) fn fill(
        &mut self,
        at: ViewVersion,
        instances: impl IntoIterator<Item = Arc<Instance>>,
    ) -> Vec<(SubscriberId, Content)> {
        self.at = at;
        self.is_filled = true;
        let mut by_service: BTreeMap<ServiceName, Instances> = BTreeMap::new();
        for instance in instances {
            let service = by_service.entry(instance.service.clone()).or_default();
            service.insert(instance.id.clone(), instance);
        }
        let known: BTreeSet<ServiceName> = self
            .views
            .keys()
            .chain(by_service.keys())
            .cloned()
            .collect();
        let mut pushes = Vec::new();
        for service in known {
            let now_there = by_service.remove(&service).unwrap_or_default();
            pushes.extend(self.replace(&service, now_there));
        }
        pushes
    }

    /// Sets one service's instances, if they are others than before.
    fn replace(
        &mut self,
        service: &ServiceName,
        now_there: Instances,
    ) -> Vec<(SubscriberId, Content)> {
        let newer = View {
            service: service.clone(),
            at: self.at,
            instances: now_there,
        };
        let content = match self.views.get(service) {
            Some(old) if old.instances == newer.instances => return Vec::new(),
            Some(old) if old.at.epoch == newer.at.epoch => {
                Content::Delta(Arc::new(old.delta_to(&newer)))
            }
            _ => Content::View(Arc::new(newer.clone())),
        };
        self.views.insert(service.clone(), Arc::new(newer));
        let watchers = (self.subscribers.iter()).filter(|(_, watch)| watch.covers(service));
        watchers.map(|(id, _)| (*id, content.clone())).collect()
    }

    /// A subscriber watches; gives the views that it is to be pushed, if the
    /// source has been read.
    pub(crate) fn subscribe(&mut self, subscriber: SubscriberId, watch: Watch) -> Vec<Arc<View>> {
        if let Watch::Service(service) = &watch {
            let empty = || Arc::new(View::empty(service.clone(), self.at));
            self.views.entry(service.clone()).or_insert_with(empty);
        }
        let views = self.list(&watch);
        self.subscribers.insert(subscriber, watch);
        views
    }

    pub(crate) fn unsubscribe(&mut self, subscriber: SubscriberId) {
        self.subscribers.remove(&subscriber);
    }

    /// The view of a service, empty if the source has none of it.
    pub(crate) fn view(&self, service: &ServiceName) -> Arc<View> {
        let empty = || Arc::new(View::empty(service.clone(), self.at));
        self.views.get(service).cloned().unwrap_or_else(empty)
    }

    /// The views that a watch covers; nothing before the source has been read.
    pub(crate) fn list(&self, watch: &Watch) -> Vec<Arc<View>> {
        if !self.is_filled {
            return Vec::new();
        }
        let covered = self
            .views
            .values()
            .filter(|view| watch.covers(&view.service));
        covered.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use waystation_base::Epoch;

    use super::*;
    use crate::test_support::instance;

    fn at(number: u64) -> ViewVersion {
        ViewVersion {
            epoch: Epoch(1),
            number,
        }
    }

    fn some(list: &[(&str, &str)]) -> Vec<Arc<Instance>> {
        let all = list
            .iter()
            .map(|(service, id)| Arc::new(instance(service, id)));
        all.collect()
    }

    #[test]
    fn a_service_is_watched_before_its_first_instance() {
        let mut mirror = Mirror::new();
        let watch = Watch::Service("a".parse().unwrap());
        assert!(
            mirror.subscribe(SubscriberId(1), watch).is_empty(),
            "nothing was read"
        );
        mirror.subscribe(SubscriberId(2), Watch::Prefix("b".into()));
        assert!(mirror.fill(at(1), some(&[])).is_empty());
        let pushes = mirror.fill(at(2), some(&[("a", "a-1")]));
        assert_eq!(pushes.len(), 1);
        assert_eq!(pushes[0].0, SubscriberId(1));
        let pushes = mirror.fill(at(3), some(&[("a", "a-1"), ("b.x", "b-1")]));
        assert_eq!(pushes.len(), 1, "what did not change is not pushed");
        assert_eq!(pushes[0].0, SubscriberId(2));
    }

    #[test]
    fn what_is_pushed_leads_from_view_to_view() {
        let mut mirror = Mirror::new();
        mirror.fill(at(1), some(&[("a", "a-1")]));
        let watch = Watch::Prefix("".into());
        let mut held = (*mirror.subscribe(SubscriberId(1), watch)[0]).clone();
        for (number, list) in [
            (2, vec![("a", "a-2")]),
            (3, vec![]),
            (4, vec![("a", "a-1")]),
        ] {
            for (_, content) in mirror.fill(at(number), some(&list)) {
                let Content::Delta(delta) = content else {
                    panic!("the epoch is the same")
                };
                held.apply(&delta).unwrap();
            }
            assert_eq!(held, *mirror.view(&held.service));
            assert_eq!(held.instances.len(), list.len());
        }
    }
}
