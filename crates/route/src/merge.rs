//! What registries and the store have, as one: which instances each service
//! shows.
//!
//! A service shows the instances that are registered and the routes that are
//! stored under its name; one that has both at an address shows the registered
//! one, which lives. A pair's own service, `lars.MODID.CMDID`, shows all hosts of
//! the pair, whatever their service; and routes of a pair without a name are
//! shown by the first service that has the pair, too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use waystation_base::{ServiceName, hash64};
use waystation_membership::{Address, Instance, InstanceId, LarsPair, Removal, State, View};

use crate::row::{Route, RouteKey};

/// What one service has to show from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The service.
    pub service: ServiceName,
    /// Instances that are new or different.
    pub placed: Vec<Arc<Instance>>,
    /// Instances that are gone, and why.
    pub displaced: Vec<(InstanceId, Removal)>,
}

type Instances = BTreeMap<InstanceId, Arc<Instance>>;

/// The core of a route server: its sources, and what is shown of them.
///
/// Calling order: [`Merge::put_route`], [`Merge::drop_route`] and
/// [`Merge::put_registered`] as the sources change, then [`Merge::settle`] until
/// `None`.
#[derive(Debug, Default)]
pub struct Merge {
    routes: BTreeMap<ServiceName, BTreeMap<Address, Route>>,
    registered: BTreeMap<ServiceName, Arc<View>>,
    /// The services of each pair, other than its own; how many hosts each has.
    of_pair: BTreeMap<LarsPair, BTreeMap<ServiceName, usize>>,
    /// The pairs of each service.
    pairs_of: BTreeMap<ServiceName, BTreeSet<LarsPair>>,
    shown: BTreeMap<ServiceName, Instances>,
    dirty: BTreeSet<ServiceName>,
    steps: u64,
}

impl Merge {
    /// Instances and routes that it has looked at since it began: what its work
    /// comes to, whatever the machine.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// A route is new or different.
    pub fn put_route(&mut self, route: Route) {
        let (service, lars) = (route.service.clone(), route.lars);
        let old = self
            .routes
            .entry(service.clone())
            .or_default()
            .insert(route.address.clone(), route);
        self.pair_changes(&service, old.and_then(|old| old.lars), lars);
        self.touch(&service);
        self.steps += 1;
    }

    /// A route is gone.
    pub fn drop_route(&mut self, key: &RouteKey) {
        let Some(routes) = self.routes.get_mut(&key.service) else {
            return;
        };
        let old = routes.remove(&key.address);
        if routes.is_empty() {
            self.routes.remove(&key.service);
            if let Some(pair) = LarsPair::of_service(&key.service) {
                self.forget_idle(pair);
            }
        }
        if let Some(old) = old {
            self.touch(&key.service);
            self.pair_changes(&key.service, old.lars, None);
        }
    }

    /// A registry shows this.
    pub fn put_registered(&mut self, view: Arc<View>) {
        let service = view.service.clone();
        self.steps += view.instances.len() as u64;
        for one in view.instances.values() {
            self.pair_changes(&service, None, one.lars);
        }
        self.touch(&service);
        let old = self.registered.insert(service.clone(), view);
        for one in old.iter().flat_map(|old| old.instances.values()) {
            self.steps += 1;
            self.pair_changes(&service, one.lars, None);
        }
    }

    /// Views of registries, as they are.
    pub(crate) fn registered(&self) -> impl Iterator<Item = &View> {
        self.registered.values().map(|view| &**view)
    }

    /// The service after `after`, in order, that has a route or was registered.
    pub(crate) fn service_after(&self, after: &str) -> Option<&ServiceName> {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let stored = self.routes.range::<str, _>(from).next();
        let registered = self.registered.range::<str, _>(from).next();
        let stored = stored.map(|(name, _)| name);
        let registered = registered.map(|(name, _)| name);
        stored.into_iter().chain(registered).min()
    }

    /// The first service from there on, in order, that shows a host.
    pub(crate) fn shown_from(&self, from: Bound<&str>) -> Option<&ServiceName> {
        let (service, _) = self
            .shown
            .range::<str, _>((from, Bound::Unbounded))
            .next()?;
        Some(service)
    }

    /// The instances that are registered for a service.
    pub(crate) fn registered_of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = &Arc<Instance>> {
        let view = self.registered.get(service);
        view.into_iter().flat_map(|view| view.instances.values())
    }

    /// Routes without a name that a service shows.
    pub(crate) fn nameless_of(&self, service: &ServiceName) -> impl Iterator<Item = &Route> {
        let pairs = self.pairs_of.get(service).into_iter().flatten();
        let mine = pairs.filter(|pair| self.first_of(**pair).as_ref() == Some(service));
        let own: Vec<ServiceName> = mine.map(|pair| pair.service()).collect();
        own.into_iter()
            .filter_map(|own| self.routes.get(&own))
            .flat_map(BTreeMap::values)
    }

    /// The routes of a service.
    pub(crate) fn routes_of(&self, service: &ServiceName) -> impl Iterator<Item = &Route> {
        let routes = self.routes.get(service);
        routes.into_iter().flat_map(BTreeMap::values)
    }

    /// What is different since the last call, of one service after another.
    /// Cost: O(instances of the services that changed).
    pub fn settle(&mut self) -> Option<Settled> {
        loop {
            let service = self.dirty.pop_first()?;
            let wanted = match LarsPair::of_service(&service) {
                Some(pair) => self.of_own_pair(pair, &service),
                None => self.of_name(&service),
            };
            let shown = self.shown.remove(&service).unwrap_or_default();
            // Each is put together, and then compared in both directions.
            self.steps += (2 * wanted.len() + shown.len()) as u64;
            let settled = difference(&service, &shown, &wanted);
            if !wanted.is_empty() {
                self.shown.insert(service, wanted);
            }
            if !settled.placed.is_empty() || !settled.displaced.is_empty() {
                return Some(settled);
            }
        }
    }

    /// Hosts of a pair that take calls, for callers of Lars: IPv4 only.
    pub(crate) fn lars_hosts(&self, pair: LarsPair) -> Vec<waystation_wire::lars::HostInfo> {
        let shown = self.shown.get(&pair.service());
        let hosts = shown.into_iter().flat_map(BTreeMap::values);
        let hosts = hosts.filter(|one| one.state == State::Serving && one.weight > 0);
        let hosts = hosts.filter_map(|one| match &one.address {
            Address::V4(at) => Some(waystation_wire::lars::HostInfo::new(*at.ip(), at.port())),
            _ => None,
        });
        let mut hosts: Vec<_> = hosts.collect();
        hosts.sort_unstable();
        hosts
    }
}

/// Helpers, in the order in which they are called.
impl Merge {
    fn touch(&mut self, service: &ServiceName) {
        self.dirty.insert(service.clone());
        if let Some(pair) = LarsPair::of_service(service) {
            self.dirty.extend(self.first_of(pair));
        } else {
            let pairs = self.pairs_of.get(service).into_iter().flatten();
            self.dirty.extend(pairs.map(|pair| pair.service()));
        }
    }

    /// The service that shows the pair's routes without a name.
    fn first_of(&self, pair: LarsPair) -> Option<ServiceName> {
        let (first, _) = self.of_pair.get(&pair)?.first_key_value()?;
        Some(first.clone())
    }

    /// A host of a service has another pair than before.
    fn pair_changes(
        &mut self,
        service: &ServiceName,
        old: Option<LarsPair>,
        new: Option<LarsPair>,
    ) {
        if old == new || LarsPair::of_service(service).is_some() {
            return;
        }
        for (pair, is_new) in [(new, true), (old, false)] {
            let Some(pair) = pair else { continue };
            let before = self.first_of(pair);
            let services = self.of_pair.entry(pair).or_default();
            let count = services.entry(service.clone()).or_default();
            *count = if is_new {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if is_new {
                let pairs = self.pairs_of.entry(service.clone()).or_default();
                pairs.insert(pair);
                self.forget_idle(pair);
            } else if services.values().any(|count| *count > 0)
                || !self.routes.contains_key(&pair.service())
            {
                self.forget_idle(pair);
            }
            self.dirty.insert(pair.service());
            let after = self.first_of(pair);
            if before != after {
                self.dirty.extend(before);
                self.dirty.extend(after);
            }
        }
    }

    /// Services without a host of a pair have it no longer. The last one keeps it
    /// as long as there are routes without a name, which it goes on to show: they
    /// must not vanish with the last instance that was registered.
    fn forget_idle(&mut self, pair: LarsPair) {
        let Some(services) = self.of_pair.get_mut(&pair) else {
            return;
        };
        let idle = services.iter().filter(|(_, count)| **count == 0);
        let idle: Vec<ServiceName> = idle.map(|(service, _)| service.clone()).collect();
        for service in idle {
            services.remove(&service);
            if let Some(pairs) = self.pairs_of.get_mut(&service) {
                pairs.remove(&pair);
                if pairs.is_empty() {
                    self.pairs_of.remove(&service);
                }
            }
            self.dirty.insert(service);
        }
        if services.is_empty() {
            self.of_pair.remove(&pair);
        }
    }

    /// What a service shows by its name.
    fn of_name(&self, service: &ServiceName) -> Instances {
        let mut wanted = Instances::new();
        let mut addresses = BTreeSet::new();
        if let Some(view) = self.registered.get(service) {
            for (id, one) in &view.instances {
                addresses.insert(&one.address);
                wanted.insert(id.clone(), Arc::clone(one));
            }
        }
        let nameless = self.nameless_of(service);
        for route in self.routes_of(service).chain(nameless) {
            if addresses.insert(&route.address) {
                let id = id_of('r', service, &route.address);
                let instance = route.instance(id.clone(), service.clone());
                wanted.insert(id, Arc::new(instance));
            }
        }
        wanted
    }

    /// What a pair's own service shows.
    fn of_own_pair(&self, pair: LarsPair, own: &ServiceName) -> Instances {
        let mut wanted = Instances::new();
        let mut addresses = BTreeSet::new();
        if let Some(view) = self.registered.get(own) {
            for (id, one) in &view.instances {
                addresses.insert(&one.address);
                wanted.insert(id.clone(), Arc::clone(one));
            }
        }
        let services = self.of_pair.get(&pair);
        let services = services.into_iter().flat_map(BTreeMap::keys);
        for service in services.clone() {
            let view = self.registered.get(service);
            let all = view.into_iter().flat_map(|view| view.instances.values());
            for one in all.filter(|one| one.lars == Some(pair)) {
                if addresses.insert(&one.address) {
                    let mut copy = (**one).clone();
                    copy.id = id_of('l', own, &one.address);
                    copy.service = own.clone();
                    wanted.insert(copy.id.clone(), Arc::new(copy));
                }
            }
        }
        let named = services.flat_map(|service| self.routes_of(service));
        for route in named.chain(self.routes_of(own)) {
            if route.lars == Some(pair) && addresses.insert(&route.address) {
                let id = id_of('l', own, &route.address);
                let instance = route.instance(id.clone(), own.clone());
                wanted.insert(id, Arc::new(instance));
            }
        }
        wanted
    }
}

/// The id of a route that a service shows: the same wherever it is made.
fn id_of(kind: char, service: &ServiceName, address: &Address) -> InstanceId {
    let text = format!("{service} {address}");
    let id = format!("{kind}-{:016x}", hash64(text.as_bytes()));
    InstanceId::new(&id).expect("digits and letters are an id")
}

fn difference(service: &ServiceName, shown: &Instances, wanted: &Instances) -> Settled {
    let is_new = |(id, one): &(&InstanceId, &Arc<Instance>)| shown.get(*id) != Some(*one);
    let placed = wanted.iter().filter(is_new);
    let gone = shown.iter().filter(|(id, _)| !wanted.contains_key(*id));
    Settled {
        service: service.clone(),
        placed: placed.map(|(_, one)| Arc::clone(one)).collect(),
        displaced: gone.map(|(id, one)| (id.clone(), why_gone(one))).collect(),
    }
}

/// Routes that are gone were removed, and so was what has drained. Of others
/// that were registered nobody knows whether they are dead.
fn why_gone(one: &Instance) -> Removal {
    let is_permanent = one.lifetime == waystation_membership::Lifetime::Permanent;
    if is_permanent || one.state == State::Draining {
        Removal::Deregistered
    } else {
        Removal::Unknown
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
