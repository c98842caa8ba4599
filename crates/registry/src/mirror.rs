//! Views of a source that tells its instances all at once or one by one, but
//! keeps no views of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waystation_base::ServiceName;
use waystation_membership::{
    Content, Instance, InstanceId, Removal, SubscriberId, View, ViewVersion, Watch,
};

use crate::store::note_taken;

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

/// Instances that a source holds, by service.
pub(crate) type ByService = BTreeMap<ServiceName, Instances>;

/// What to do about one service, found out before anything is shown.
pub(crate) struct Plan {
    /// What was shown when it was made.
    before: Option<Arc<View>>,
    newer: Arc<View>,
    /// What its watchers are to be told, if anything.
    content: Option<Content>,
}

impl Plan {
    /// What changes, if anything does.
    pub(crate) fn content(&self) -> Option<&Content> {
        self.content.as_ref()
    }

    /// Compares all of it. Cost: O(instances).
    fn new(before: Option<&Arc<View>>, newer: Arc<View>) -> Self {
        let content = match before {
            Some(old) if old.instances == newer.instances => None,
            Some(old) if old.at.epoch == newer.at.epoch => {
                Some(Content::Delta(Arc::new(old.delta_to(&newer))))
            }
            _ => Some(Content::View(Arc::clone(&newer))),
        };
        Self {
            before: before.cloned(),
            newer,
            content,
        }
    }

    /// Compares what was edited. Cost: O(that · log instances).
    fn of_edits(
        before: Option<&Arc<View>>,
        newer: Arc<View>,
        touched: &BTreeSet<InstanceId>,
        why: &Reasons,
    ) -> Self {
        let Some(old) = before.filter(|old| old.at.epoch == newer.at.epoch) else {
            return Self::new(before, newer);
        };
        let mut delta = old.delta_among(&newer, touched);
        for (id, removal) in &mut delta.removed {
            *removal = why.get(id).copied().unwrap_or(*removal);
        }
        let content = (!delta.is_empty()).then(|| Content::Delta(Arc::new(delta)));
        Self {
            before: before.cloned(),
            newer,
            content,
        }
    }
}

/// Services that are to change, as they are to be, and what went from them: found
/// out before anything is shown.
#[derive(Default)]
pub(crate) struct Edits {
    by_service: BTreeMap<ServiceName, Edited>,
    why: Reasons,
}

/// A service that is to change.
#[derive(Default)]
pub(crate) struct Edited {
    instances: Instances,
    /// What of it may be other than before.
    touched: BTreeSet<InstanceId>,
}

impl Edits {
    /// Takes out what there is of one of the services; none when nothing is left.
    pub(crate) fn pop(&mut self) -> Option<(ServiceName, Edited)> {
        self.by_service.pop_first()
    }
}

impl Edited {
    /// How much it is to make a plan of it.
    pub(crate) fn count(&self) -> usize {
        self.touched.len().max(1)
    }
}

/// Why instances are gone.
type Reasons = BTreeMap<InstanceId, Removal>;

/// What changed in a source.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Instances that are there now, new or different.
    pub(crate) put: Instances,
    /// Instances that are in their service no longer, and why.
    pub(crate) gone: BTreeMap<(ServiceName, InstanceId), Removal>,
    /// The services that changed, each at the version of its last change: every
    /// client tells the same one, however many changes it hears of at once.
    pub(crate) at: BTreeMap<ServiceName, ViewVersion>,
}

impl Changes {
    /// An instance is so from `at` on, and was as `old` before. `is_meant` when it
    /// went by its owner's will, if it did.
    pub(crate) fn note(
        &mut self,
        old: Option<&Instance>,
        now_there: Option<&Arc<Instance>>,
        is_meant: bool,
        at: ViewVersion,
    ) {
        note_taken();
        let services = old.into_iter().chain(now_there.map(AsRef::as_ref));
        for instance in services {
            let known = self.at.entry(instance.service.clone()).or_default();
            *known = (*known).max(at);
        }
        if let Some(old) = old {
            self.put.remove(&old.id);
            // Who is elsewhere now has left this service.
            let why = if is_meant || now_there.is_some() {
                Removal::Deregistered
            } else {
                Removal::Unknown
            };
            let place = (old.service.clone(), old.id.clone());
            self.gone.insert(place, why);
        }
        if let Some(instance) = now_there {
            self.put.insert(instance.id.clone(), Arc::clone(instance));
        }
    }
}

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
        let mut by_service = ByService::new();
        for instance in instances {
            sort_in(&mut by_service, instance);
        }
        let services = self.services_with(&by_service);
        let plans = services.into_iter().map(|service| {
            let now_there = by_service.remove(&service).unwrap_or_default();
            self.plan(service, at, now_there)
        });
        let plans = plans.collect();
        self.carry_out(at, plans)
    }

    /// The services that are shown or that there is something of: to be planned
    /// one after another for [`Mirror::carry_out`].
    pub(crate) fn services_with(&self, by_service: &ByService) -> BTreeSet<ServiceName> {
        let all = self.views.keys().chain(by_service.keys());
        all.cloned().collect()
    }

    /// What to do about one service that just these instances are in. Shows
    /// nothing yet. Cost: O(instances).
    pub(crate) fn plan(&self, service: ServiceName, at: ViewVersion, instances: Instances) -> Plan {
        let before = self.views.get(&service);
        let newer = View {
            service,
            at,
            instances,
        };
        Plan::new(before, Arc::new(newer))
    }

    /// The source holds just what was planned, at a version above all before.
    /// Gives what is to be pushed. Cost: O(services).
    pub(crate) fn carry_out(
        &mut self,
        at: ViewVersion,
        plans: Vec<Plan>,
    ) -> Vec<(SubscriberId, Content)> {
        self.at = at;
        self.is_filled = true;
        let plans = plans.into_iter();
        plans.flat_map(|plan| self.show(plan)).collect()
    }

    /// The source changed, and is at a version above all before. Gives what is to be
    /// pushed. Cost: O(instances of the services that changed).
    #[cfg(test)]
    pub(crate) fn change(
        &mut self,
        at: ViewVersion,
        changes: Changes,
    ) -> Vec<(SubscriberId, Content)> {
        let plans = self.plan_changes(at, changes);
        self.carry_out(at, plans)
    }

    /// The source changed, and is to be at a version above all before. What is gone
    /// went before what is put came. Shows nothing yet. Cost: O(instances of the
    /// services that changed).
    pub(crate) fn plan_changes(&self, at: ViewVersion, changes: Changes) -> Vec<Plan> {
        let mut edits = Edits::default();
        for (place, removal) in changes.gone {
            self.edit_out(&mut edits, place, removal);
        }
        for instance in changes.put.into_values() {
            self.edit_in(&mut edits, instance);
        }
        let mut plans = Vec::with_capacity(edits.by_service.len());
        while let Some((service, edited)) = edits.pop() {
            let at = changes.at.get(&service).copied().unwrap_or(at);
            plans.push(self.plan_edited(service, at, edited, &edits));
        }
        plans
    }

    /// Something is to go from its service. Gives how many entries that was.
    pub(crate) fn edit_out(
        &self,
        edits: &mut Edits,
        (service, id): (ServiceName, InstanceId),
        why: Removal,
    ) -> usize {
        let (edited, count) = self.edited(edits, &service);
        edited.instances.remove(&id);
        edited.touched.insert(id.clone());
        edits.why.insert(id, why);
        count
    }

    /// Something is to be in its service, behind all that is to go. Gives how many
    /// entries that was.
    pub(crate) fn edit_in(&self, edits: &mut Edits, instance: Arc<Instance>) -> usize {
        let (edited, count) = self.edited(edits, &instance.service);
        edited.touched.insert(instance.id.clone());
        edited.instances.insert(instance.id.clone(), instance);
        count
    }

    /// The instances of a service that is to change, as they were at first, and
    /// how many entries it was to get at them.
    fn edited<'a>(&self, edits: &'a mut Edits, service: &ServiceName) -> (&'a mut Edited, usize) {
        note_taken();
        let mut count = 1;
        let edited = edits.by_service.entry(service.clone()).or_insert_with(|| {
            let before = self.views.get(service);
            let instances = before.map_or_else(Instances::new, |view| view.instances.clone());
            count += instances.len();
            Edited {
                instances,
                touched: BTreeSet::new(),
            }
        });
        (edited, count)
    }

    /// As [`Mirror::plan`], of a service that was taken out of `edits`. Cost: O(what
    /// was edited · log instances).
    pub(crate) fn plan_edited(
        &self,
        service: ServiceName,
        at: ViewVersion,
        Edited { instances, touched }: Edited,
        edits: &Edits,
    ) -> Plan {
        let before = self.views.get(&service);
        let newer = View {
            service,
            at,
            instances,
        };
        Plan::of_edits(before, Arc::new(newer), &touched, &edits.why)
    }

    /// Goes on at a version above one that somebody holds of an earlier source. Who
    /// holds a version of this one finds a gap at the next change, and asks for
    /// the whole. Cost: O(services), and a copy of each view that is held.
    pub(crate) fn raise(&mut self, at: ViewVersion) {
        self.at = at;
        for view in self.views.values_mut() {
            Arc::make_mut(view).at = at;
        }
    }

    /// Sets one service's instances, if they are others than before.
    fn show(&mut self, mut plan: Plan) -> Vec<(SubscriberId, Content)> {
        let before = self.views.get(&plan.newer.service);
        let is_as_planned = match (before, &plan.before) {
            (Some(before), Some(planned)) => Arc::ptr_eq(before, planned),
            (None, None) => true,
            _ => false,
        };
        if !is_as_planned {
            // Somebody began to watch it meanwhile.
            plan = Plan::new(before, plan.newer);
        }
        let Some(content) = plan.content else {
            return Vec::new();
        };
        let service = plan.newer.service.clone();
        let watchers = (self.subscribers.iter()).filter(|(_, watch)| watch.covers(&service));
        let pushes = watchers.map(|(id, _)| (*id, content.clone())).collect();
        self.views.insert(service, plan.newer);
        pushes
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

/// Sorts an instance in.
pub(crate) fn sort_in(by_service: &mut ByService, instance: Arc<Instance>) {
    let service = by_service.entry(instance.service.clone()).or_default();
    service.insert(instance.id.clone(), instance);
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

    /// A whole list is made bit by bit, and who came meanwhile was shown that a
    /// service is empty.
    #[test]
    fn who_comes_while_a_list_is_made_misses_nothing() {
        let mut mirror = Mirror::new();
        mirror.fill(at(1), some(&[("a", "a-1")]));
        let mut by_service = ByService::new();
        for instance in some(&[("a", "a-1"), ("b", "b-1")]) {
            sort_in(&mut by_service, instance);
        }
        let services = mirror.services_with(&by_service).into_iter();
        let plans: Vec<Plan> = services
            .map(|service| {
                let instances = by_service.remove(&service).unwrap();
                mirror.plan(service, at(2), instances)
            })
            .collect();
        let watch = Watch::Service("b".parse().unwrap());
        let held = mirror.subscribe(SubscriberId(1), watch);
        let mut held = (*held[0]).clone();
        assert_eq!(held.at, at(1), "what is made is not shown yet");
        let pushes = mirror.carry_out(at(2), plans);
        assert_eq!(pushes.len(), 1, "the other service is as it was");
        let Content::Delta(delta) = &pushes[0].1 else {
            panic!("the epoch is the same")
        };
        held.apply(delta).unwrap();
        assert_eq!(held, *mirror.view(&held.service));
        assert!(held.instances.contains_key("b-1"));
    }

    #[test]
    fn what_changes_is_pushed_with_its_reason() {
        let mut mirror = Mirror::new();
        mirror.fill(at(1), some(&[("a", "a-1"), ("a", "a-2"), ("b", "b-1")]));
        let held = mirror.subscribe(SubscriberId(1), Watch::Prefix("".into()));
        let mut held = (*held[0]).clone();
        let mut changes = Changes::default();
        let gone = some(&[("a", "a-1"), ("a", "a-2")]);
        for (one, is_meant) in gone.iter().zip([true, false]) {
            changes.note(Some(one), None, is_meant, at(1));
        }
        let new = some(&[("a", "a-3")]);
        changes.note(None, Some(&new[0]), false, at(2));
        let pushes = mirror.change(at(3), changes);
        assert_eq!(pushes.len(), 1, "the other service did not change");
        let Content::Delta(delta) = &pushes[0].1 else {
            panic!("the epoch is the same")
        };
        assert_eq!(delta.removed[0].1, Removal::Deregistered);
        assert_eq!(delta.removed[1].1, Removal::Unknown);
        held.apply(delta).unwrap();
        assert_eq!(held, *mirror.view(&held.service));
        assert_eq!(held.at, at(2));
        assert!(mirror.change(at(4), Changes::default()).is_empty());
    }

    #[test]
    fn an_instance_that_goes_and_comes_back_at_once_has_changed_only() {
        let mut mirror = Mirror::new();
        mirror.fill(at(1), some(&[("a", "a-1")]));
        mirror.subscribe(SubscriberId(1), Watch::Prefix("".into()));
        let mut other = instance("a", "a-1");
        other.weight = 3;
        let old = instance("a", "a-1");
        let mut changes = Changes::default();
        changes.note(Some(&old), None, true, at(2));
        changes.note(None, Some(&Arc::new(other)), false, at(2));
        let pushes = mirror.change(at(2), changes);
        let Content::Delta(delta) = &pushes[0].1 else {
            panic!("the epoch is the same")
        };
        assert_eq!((delta.changed.len(), delta.removed.len()), (1, 0));
    }
}
