//! Which instances drain, kept up to date by what changes.

use std::collections::{BTreeMap, BTreeSet};

use waystation_base::ServiceName;
use waystation_membership::{Content, Instance, InstanceId, State};

/// The instances that drain, by service. Who asks of a service need not look at all
/// of its instances then, which most changes leave as they were.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    by_service: BTreeMap<ServiceName, BTreeSet<InstanceId>>,
}

impl Draining {
    /// Whether an instance of a service drains.
    pub(crate) fn is_any(&self, service: &ServiceName) -> bool {
        self.by_service.contains_key(service)
    }

    /// An instance is so from now on.
    pub(crate) fn put(&mut self, instance: &Instance) {
        if instance.state == State::Draining {
            let service = self.by_service.entry(instance.service.clone());
            service.or_default().insert(instance.id.clone());
        } else {
            self.take_out(&instance.service, &instance.id);
        }
    }

    /// An instance is not in a service any more.
    pub(crate) fn take_out(&mut self, service: &ServiceName, id: &InstanceId) {
        if let Some(ids) = self.by_service.get_mut(service)
            && ids.remove(id)
            && ids.is_empty()
        {
            self.by_service.remove(service);
        }
    }

    /// A service changes so.
    pub(crate) fn note(&mut self, content: &Content) {
        match content {
            Content::View(view) => {
                self.by_service.remove(&view.service);
                view.instances.values().for_each(|one| self.put(one));
            }
            Content::Delta(delta) => {
                for (id, _) in &delta.removed {
                    self.take_out(&delta.service, id);
                }
                let news = delta.added.iter().chain(&delta.changed);
                news.for_each(|one| self.put(one));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waystation_membership::{Removal, View, ViewVersion};

    use super::*;
    use crate::test_support::instance;

    fn one(id: &str, state: State) -> Arc<Instance> {
        let mut one = instance("a", id);
        one.state = state;
        Arc::new(one)
    }

    fn view(instances: &[Arc<Instance>], number: u64) -> View {
        let mut view = View::empty("a".parse().unwrap(), ViewVersion::default());
        view.at.number = number;
        let instances = instances.iter().map(|one| (one.id.clone(), one.clone()));
        view.instances = instances.collect();
        view
    }

    #[test]
    fn who_drains_is_known_by_views_and_by_what_leads_from_one_to_the_next() {
        let views = [
            view(&[one("a-1", State::Serving)], 1),
            view(
                &[one("a-1", State::Draining), one("a-2", State::Serving)],
                2,
            ),
            view(
                &[one("a-1", State::Draining), one("a-2", State::Draining)],
                3,
            ),
            view(&[one("a-2", State::Draining)], 4),
            view(&[one("a-2", State::Serving)], 5),
            view(&[one("a-3", State::Draining)], 6),
            view(&[], 7),
        ];
        let (mut by_views, mut by_deltas) = (Draining::default(), Draining::default());
        let mut before = view(&[], 0);
        for view in views {
            by_views.note(&Content::View(Arc::new(view.clone())));
            let mut delta = before.delta_to(&view);
            for (_, why) in &mut delta.removed {
                *why = Removal::Expired;
            }
            by_deltas.note(&Content::Delta(Arc::new(delta)));
            let drains = |one: &Arc<Instance>| one.state == State::Draining;
            let is_any = view.instances.values().any(drains);
            assert_eq!(by_views.is_any(&view.service), is_any, "{view:?}");
            assert_eq!(by_deltas.is_any(&view.service), is_any, "{view:?}");
            before = view;
        }
    }
}
