use waystation_membership::{Owner, ViewVersion};
use waystation_wire::lars::HostInfo;

use super::*;

const PAIR: LarsPair = LarsPair { modid: 1, cmdid: 2 };

fn route(service: &str, port: u16, lars: Option<LarsPair>) -> Route {
    let address = format!("10.0.0.1:{port}").parse().unwrap();
    let mut route = Route::new(service.parse().unwrap(), address);
    if lars.is_some() {
        route.lars = lars;
    }
    route
}

fn view(service: &str, ports: &[u16], change: impl Fn(&mut Instance)) -> Arc<View> {
    let service: ServiceName = service.parse().unwrap();
    let mut view = View::empty(service.clone(), ViewVersion::default());
    for port in ports {
        let id = InstanceId::new(&format!("{service}-{port}")).unwrap();
        let address = format!("10.0.0.1:{port}").parse().unwrap();
        let mut one = Instance::new(id.clone(), service.clone(), address, Owner::default());
        change(&mut one);
        view.instances.insert(id, Arc::new(one));
    }
    Arc::new(view)
}

/// Follows what is told, so that it is known to be complete.
#[derive(Default)]
struct World {
    merge: Merge,
    told: BTreeMap<ServiceName, Instances>,
}

impl World {
    fn settle(&mut self) -> usize {
        let mut changes = 0;
        while let Some(settled) = self.merge.settle() {
            let told = self.told.entry(settled.service.clone()).or_default();
            for (id, _) in &settled.displaced {
                assert!(told.remove(id).is_some(), "{id} was not there");
            }
            for one in &settled.placed {
                assert_eq!(one.service, settled.service);
                told.insert(one.id.clone(), Arc::clone(one));
            }
            changes += settled.placed.len() + settled.displaced.len();
        }
        changes
    }

    /// The ports of a service, with an asterisk for those that are registered.
    fn ports(&mut self, service: &str) -> String {
        self.settle();
        let told = self.told.get(service);
        let all = told.into_iter().flat_map(BTreeMap::values);
        let text = |one: &Arc<Instance>| {
            let is_permanent = one.lifetime == waystation_membership::Lifetime::Permanent;
            let port = one
                .address
                .to_string()
                .split(':')
                .next_back()
                .unwrap()
                .to_owned();
            if is_permanent { port } else { port + "*" }
        };
        let mut ports: Vec<String> = all.map(text).collect();
        ports.sort_unstable();
        ports.join(" ")
    }
}

#[test]
fn routes_and_registered_instances_are_one_service() {
    let mut world = World::default();
    world.merge.put_route(route("pay", 1, None));
    world.merge.put_route(route("pay", 2, None));
    world.merge.put_registered(view("pay", &[2, 3], |_| ()));
    assert_eq!(
        world.ports("pay"),
        "1 2* 3*",
        "who is both is shown as alive"
    );
    world.merge.put_registered(view("pay", &[3], |_| ()));
    assert_eq!(world.ports("pay"), "1 2 3*");
    world.merge.drop_route(&route("pay", 1, None).key());
    assert_eq!(world.ports("pay"), "2 3*");
    world.merge.put_registered(view("pay", &[], |_| ()));
    world.merge.drop_route(&route("pay", 2, None).key());
    assert_eq!(world.ports("pay"), "");
    assert_eq!(world.settle(), 0);
}

#[test]
fn a_pair_shows_all_its_hosts_and_a_named_service_those_without_a_name() {
    let mut world = World::default();
    world.merge.put_route(route("lars.1.2", 1, None));
    assert_eq!(world.ports("lars.1.2"), "1");
    // The name comes later; of two names the first has them.
    world.merge.put_route(route("pay", 2, Some(PAIR)));
    assert_eq!(world.ports("lars.1.2"), "1 2");
    assert_eq!(world.ports("pay"), "1 2");
    world
        .merge
        .put_registered(view("cash", &[3], |one| one.lars = Some(PAIR)));
    assert_eq!(world.ports("cash"), "1 3*");
    assert_eq!(world.ports("pay"), "2");
    assert_eq!(world.ports("lars.1.2"), "1 2 3*");
    world.merge.put_registered(view("cash", &[], |_| ()));
    assert_eq!(world.ports("pay"), "1 2");
    world.merge.drop_route(&route("lars.1.2", 1, None).key());
    assert_eq!(world.ports("pay"), "2");
    // A route that changes its pair leaves the old one.
    world
        .merge
        .put_route(route("pay", 2, Some(LarsPair { modid: 9, cmdid: 9 })));
    assert_eq!(world.ports("lars.1.2"), "");
    assert_eq!(world.ports("lars.9.9"), "2");
    assert_eq!(world.merge.pairs_of.len(), 1);
}

/// Rows without a name were gone for who asks by name once the last registered
/// instance was.
#[test]
fn a_service_keeps_its_pair_while_routes_without_a_name_need_it() {
    let mut world = World::default();
    world.merge.put_route(route("lars.1.2", 1, None));
    world
        .merge
        .put_registered(view("pay", &[2], |one| one.lars = Some(PAIR)));
    assert_eq!(world.ports("pay"), "1 2*");
    world.merge.put_registered(view("pay", &[], |_| ()));
    assert_eq!(world.ports("pay"), "1");
    // Until another service has the pair, or the routes are gone.
    world
        .merge
        .put_registered(view("cash", &[3], |one| one.lars = Some(PAIR)));
    assert_eq!(
        (world.ports("pay").as_str(), world.ports("cash").as_str()),
        ("", "1 3*")
    );
    world.merge.put_registered(view("cash", &[], |_| ()));
    assert_eq!(world.ports("cash"), "1");
    world.merge.drop_route(&route("lars.1.2", 1, None).key());
    assert_eq!(world.ports("cash"), "");
    assert_eq!(
        (world.merge.of_pair.len(), world.merge.pairs_of.len()),
        (0, 0)
    );
}

#[test]
fn callers_of_lars_see_ipv4_hosts_that_serve() {
    let mut world = World::default();
    let mut six = route("pay", 1, Some(PAIR));
    six.address = "[fd00::1]:1".parse().unwrap();
    world.merge.put_route(six);
    let mut idle = route("pay", 2, Some(PAIR));
    idle.weight = 0;
    world.merge.put_route(idle);
    world.merge.put_route(route("pay", 3, Some(PAIR)));
    let drains = |one: &mut Instance| {
        one.lars = Some(PAIR);
        one.state = State::Draining;
    };
    world.merge.put_registered(view("pay", &[4], drains));
    world.settle();
    let expected = HostInfo::new("10.0.0.1".parse().unwrap(), 3);
    assert_eq!(world.merge.lars_hosts(PAIR), [expected]);
    assert_eq!(world.ports("lars.1.2"), "1 2 3 4*");
}

#[test]
fn what_is_gone_says_whether_that_is_certain() {
    let mut world = World::default();
    world.merge.put_route(route("pay", 1, None));
    let drains = |one: &mut Instance| {
        if one.address.to_string().ends_with(":2") {
            one.state = State::Draining;
        }
    };
    world.merge.put_registered(view("pay", &[2, 3], drains));
    world.settle();
    world.merge.drop_route(&route("pay", 1, None).key());
    world.merge.put_registered(view("pay", &[], |_| ()));
    let settled = world.merge.settle().unwrap();
    let reasons: Vec<Removal> = settled.displaced.iter().map(|(_, why)| *why).collect();
    let certain = reasons.iter().filter(|why| **why == Removal::Deregistered);
    assert_eq!((certain.count(), reasons.len()), (2, 3));
}

#[test]
fn a_change_costs_its_own_service_only() {
    let mut world = World::default();
    for service in 0..50 {
        for port in 1..20 {
            world
                .merge
                .put_route(route(&format!("s{service}"), port, None));
        }
    }
    assert_eq!(world.settle(), 50 * 19);
    world.merge.put_route(route("s7", 99, None));
    assert_eq!(world.merge.dirty.len(), 1);
    assert_eq!(world.settle(), 1);
}
