//! A service of plain hosts, for the tests beside this folder.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use waystation_balance::{
    Balancer, BalancerConfig, CallEnd, Fresh, Lars, LarsConfig, Maglev, Outcome, P2c, Policy,
    Prequal, RoundRobin, Table, Weighted,
};
use waystation_base::{Moment, ServiceName};
use waystation_membership::{
    Instance, InstanceId, Label, Owner, OwnerId, State, View, ViewVersion,
};

/// Some time after the clock's origin.
pub(crate) const START: Moment = Moment::from_millis(1_000_000);

pub(crate) fn service() -> ServiceName {
    ServiceName::new("logic").unwrap()
}

pub(crate) fn id(host: u32) -> InstanceId {
    InstanceId::new(&format!("host-{host}")).unwrap()
}

pub(crate) fn instance(host: u32) -> Instance {
    let address = format!("10.0.{}.{}:7000", host / 250, host % 250 + 1);
    let owner = Owner {
        id: OwnerId(host.into()),
        incarnation: 1,
    };
    let mut one = Instance::new(id(host), service(), address.parse().unwrap(), owner);
    one.state = State::Serving;
    one
}

/// A view of these instances.
pub(crate) fn view_of(instances: impl IntoIterator<Item = Instance>) -> View {
    let mut view = View::empty(service(), ViewVersion::default());
    for one in instances {
        view.instances.insert(one.id.clone(), Arc::new(one));
    }
    view
}

/// A view of hosts 0 to `count` - 1.
pub(crate) fn view(count: u32) -> View {
    view_of((0..count).map(instance))
}

pub(crate) fn in_zone(host: u32, site: &str, zone: &str) -> Instance {
    let mut one = instance(host);
    one.site = Some(Label::new(site).unwrap());
    one.zone = Some(Label::new(zone).unwrap());
    one
}

pub(crate) fn bare(policy: Box<dyn Policy<Table>>) -> Balancer {
    Balancer::new(BalancerConfig::bare(), policy, 1)
}

pub(crate) fn after(ms: u64) -> Moment {
    START + Duration::from_millis(ms)
}

pub(crate) fn ok() -> Outcome {
    Outcome::new(CallEnd::Ok, Duration::from_millis(5))
}

pub(crate) fn ended(end: CallEnd) -> Outcome {
    Outcome::new(end, Duration::from_millis(5))
}

/// The number of the host with this name.
pub(crate) fn number(balancer: &Balancer, slot: u32) -> u32 {
    let entry = balancer.table().entry_at(slot).unwrap();
    entry.instance.id.as_str()["host-".len()..].parse().unwrap()
}

/// One of each policy.
pub(crate) fn policies() -> Vec<Box<dyn Policy<Table>>> {
    vec![
        Box::new(RoundRobin::new(1)),
        Box::new(Weighted::new(1)),
        Box::new(P2c::default()),
        Box::new(Prequal::default()),
        Box::new(Maglev::new()),
        Box::new(Lars::new(LarsConfig::default(), 1)),
        Box::new(Fresh::default()),
    ]
}

/// Picks and reports at once, `count` times, a millisecond apart from `from` on;
/// returns how often each host was picked.
pub(crate) fn spread(balancer: &mut Balancer, from: Moment, count: u32, hosts: u32) -> Vec<u32> {
    let mut counts = vec![0; hosts as usize];
    for n in 0..count {
        let now = from + Duration::from_millis(n.into());
        balancer.handle_timeout(now);
        let picked = balancer.pick(now, None).unwrap();
        counts[number(balancer, picked.name.slot) as usize] += 1;
        balancer.report(now, picked.name, &ok()).unwrap();
    }
    counts
}
