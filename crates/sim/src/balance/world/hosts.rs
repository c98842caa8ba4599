//! Who is in a world, and where.

use waystation_balance::Locality;
use waystation_base::ServiceName;
use waystation_membership::{Instance, InstanceId, Label, Owner, OwnerId, State};

use crate::balance::workload::Workload;

pub(super) fn instance(workload: &Workload, host: usize, incarnation: u64) -> Instance {
    let id = InstanceId::new(&format!("host-{host}")).expect("a valid id");
    let port = 10_000 + host;
    let address = format!("10.0.0.1:{port}").parse().expect("a valid address");
    let owner = Owner {
        id: OwnerId(host as u128),
        incarnation,
    };
    let mut one = Instance::new(id, service(), address, owner);
    one.state = State::Serving;
    let near = locality(workload, host);
    (one.site, one.zone) = (near.site, near.zone);
    one
}

/// Where a caller or host of this number stands.
pub(super) fn locality(workload: &Workload, number: usize) -> Locality {
    if workload.zones == 0 {
        return Locality::default();
    }
    let zone = format!("zone-{}", number % workload.zones);
    Locality {
        site: Some(Label::new("site").expect("a valid label")),
        zone: Some(Label::new(&zone).expect("a valid label")),
    }
}

pub(super) fn service() -> ServiceName {
    ServiceName::new("logic").expect("a valid name")
}
