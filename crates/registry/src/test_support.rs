//! What the tests of several modules build.

use waystation_base::{FencingToken, ServiceName};
use waystation_membership::{Instance, InstanceId, LarsPair, Lifetime, Owner, OwnerId, State};

pub(crate) fn instance(service: &str, id: &str) -> Instance {
    Instance::new(
        InstanceId::new(id).unwrap(),
        ServiceName::new(service).unwrap(),
        "10.0.0.1:7000".parse().unwrap(),
        Owner {
            id: OwnerId(7),
            incarnation: 1,
        },
    )
}

/// An instance none of whose fields has its default.
pub(crate) fn full_instance() -> Instance {
    let mut one = instance("im.logic", "logic-1");
    one.site = Some("hel".parse().unwrap());
    one.zone = Some("hel-1".parse().unwrap());
    one.version = Some("1.2.3".parse().unwrap());
    one.weight = 7;
    one.state = State::Draining;
    one.lifetime = Lifetime::Permanent;
    one.metadata = [("k".to_owned(), "v \"w\"\n".to_owned())].into();
    one.owner.incarnation = 9;
    one.token = FencingToken(3 << 40 | 1);
    one.lars = Some(LarsPair {
        modid: -1,
        cmdid: 2,
    });
    one
}
