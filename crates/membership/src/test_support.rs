//! What the tests of several modules build.

use waystation_base::{Epoch, Moment, ServiceName};

use crate::ids::{InstanceId, Owner, OwnerId};
use crate::instance::Instance;
use crate::view::ViewVersion;

pub(crate) fn service() -> ServiceName {
    ServiceName::new("logic").unwrap()
}

pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

pub(crate) fn owner(number: u128) -> Owner {
    Owner {
        id: OwnerId(number),
        incarnation: 1,
    }
}

/// An instance of `logic` whose owner is `owner_number`, in incarnation 1.
pub(crate) fn instance(text: &str, owner_number: u128) -> Instance {
    let address = "10.0.0.1:7000".parse().unwrap();
    Instance::new(id(text), service(), address, owner(owner_number))
}

pub(crate) fn version(epoch: u64, number: u64) -> ViewVersion {
    ViewVersion {
        epoch: Epoch(epoch),
        number,
    }
}

pub(crate) fn seconds(count: u64) -> Moment {
    Moment::from_millis(count * 1000)
}
