//! What is true: the routes of the store and the instances of the registry.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use waystation_base::{Epoch, Rng, ServiceName};
use waystation_membership::{Address, Instance, InstanceId, Owner, View, ViewVersion};
use waystation_route::{Route, RouteKey};

/// What a source tells the server.
pub(super) enum Change {
    /// The store has this route.
    Put(Box<Route>),
    /// The store has it no longer.
    Drop(RouteKey),
    /// The registry shows this.
    Registered(Arc<View>),
}

/// The hosts of one service: stored, or registered.
struct Hosts {
    service: ServiceName,
    is_stored: bool,
    /// Each with its weight.
    weights: BTreeMap<u32, u32>,
    /// What the registry shows, of those that are registered.
    view: Arc<View>,
}

/// All services. Every other one is stored.
pub(super) struct Model {
    hosts: Vec<Hosts>,
    per_service: u32,
    next: u32,
    version: u64,
}

impl Model {
    pub(super) fn new(services: u32, per_service: u32) -> Self {
        let mut model = Self {
            hosts: Vec::new(),
            per_service,
            next: 0,
            version: 0,
        };
        for number in 0..services {
            let name = format!("service-{number}");
            let service = ServiceName::new(&name).expect("a valid name");
            let mut hosts = Hosts {
                view: Arc::new(View::empty(service.clone(), ViewVersion::default())),
                service,
                is_stored: number % 2 == 0,
                weights: BTreeMap::new(),
            };
            for _ in 0..per_service {
                model.next += 1;
                hosts.put(model.next, 100);
            }
            model.hosts.push(hosts);
        }
        model
    }

    /// The services.
    pub(super) fn services(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.hosts.iter().map(|hosts| &hosts.service)
    }

    /// Of one service, where its hosts are, and their weights.
    pub(super) fn expected(&self, service: usize) -> BTreeMap<Address, u32> {
        let weights = self.hosts[service].weights.iter();
        weights
            .map(|(host, weight)| (address(*host), *weight))
            .collect()
    }

    /// All that sources tell to one that starts.
    pub(super) fn everything(&self) -> impl Iterator<Item = Change> {
        self.hosts.iter().flat_map(|hosts| {
            let routes = hosts.weights.iter();
            let routes = routes.map(|(host, weight)| hosts.route(*host, *weight));
            let routes: Vec<Change> = if hosts.is_stored {
                routes.collect()
            } else {
                vec![Change::Registered(Arc::clone(&hosts.view))]
            };
            routes
        })
    }

    /// A host comes, goes, or gets another weight.
    pub(super) fn churn(&mut self, rng: &mut Rng) -> Change {
        self.next += 1;
        self.version += 1;
        let services = self.hosts.len() as u64;
        let service = usize::try_from(rng.below(services)).expect("small");
        let hosts = &mut self.hosts[service];
        let count = u64::try_from(hosts.weights.len()).expect("small");
        let some = usize::try_from(rng.below(count)).expect("small");
        let host = *hosts.weights.keys().nth(some).expect("it is one of them");
        let (few, many) = (self.per_service * 9 / 10, self.per_service * 11 / 10);
        let what = match count {
            _ if count <= few.into() => 0,
            _ if count >= many.into() => 1,
            _ => rng.below(4),
        };
        let change = match what {
            0 => hosts.put(self.next, 100),
            1 => hosts.drop(host),
            _ => hosts.put(host, 1 + u32::try_from(rng.below(100)).expect("small")),
        };
        change.unwrap_or_else(|| hosts.show(self.version))
    }
}

impl Hosts {
    fn route(&self, host: u32, weight: u32) -> Change {
        let mut route = Route::new(self.service.clone(), address(host));
        route.weight = weight;
        Change::Put(Box::new(route))
    }

    fn put(&mut self, host: u32, weight: u32) -> Option<Change> {
        self.weights.insert(host, weight);
        if self.is_stored {
            return Some(self.route(host, weight));
        }
        let id = InstanceId::new(&format!("host-{host}")).expect("a valid id");
        let service = self.service.clone();
        let mut one = Instance::new(id.clone(), service, address(host), Owner::default());
        one.weight = weight;
        let view = Arc::make_mut(&mut self.view);
        view.instances.insert(id, Arc::new(one));
        None
    }

    fn drop(&mut self, host: u32) -> Option<Change> {
        self.weights.remove(&host);
        if self.is_stored {
            let service = self.service.clone();
            let address = address(host);
            return Some(Change::Drop(RouteKey { service, address }));
        }
        let id = InstanceId::new(&format!("host-{host}")).expect("a valid id");
        Arc::make_mut(&mut self.view).instances.remove(&id);
        None
    }

    fn show(&mut self, number: u64) -> Change {
        let epoch = Epoch(1);
        Arc::make_mut(&mut self.view).at = ViewVersion { epoch, number };
        Change::Registered(Arc::clone(&self.view))
    }
}

/// Each host has an address of its own.
fn address(host: u32) -> Address {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + host);
    std::net::SocketAddr::from((ip, 7000)).into()
}
