//! Between the messages of `proto/registry.proto` and the values of crate
//! `membership`. What comes from a peer is checked here, all of it.

mod lease;
mod view;

use std::time::Duration;

use bytes::Bytes;
use waystation_base::{Epoch, FencingToken, ServiceName};
use waystation_membership::{
    Instance, InstanceId, Label, LarsPair, Lifetime, Owner, OwnerId, State, SubscriberId,
    ViewVersion,
};

pub(crate) use self::lease::{
    drain_number, drain_step, granted, granted_message, held_message, leave, leave_message,
    refusal, refused_message, register, register_message, renewed, renewed_message, update,
    update_message,
};
pub(crate) use self::view::{changed, content_message, view, view_message, watch, watch_message};
use super::proto;

/// A peer's message breaks a rule; the text says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

impl Malformed {
    fn absent(what: &str) -> Self {
        Self(format!("{what} is absent"))
    }
}

fn fault(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Malformed {
    move |error| Malformed(format!("{what}: {error}"))
}

fn wide(bytes: &Bytes) -> Result<u128, Malformed> {
    let bytes: [u8; 16] = (&**bytes)
        .try_into()
        .map_err(|_| Malformed("an id has 16 bytes".to_owned()))?;
    Ok(u128::from_be_bytes(bytes))
}

fn wide_bytes(number: u128) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn subscriber(bytes: &Bytes) -> Result<SubscriberId, Malformed> {
    wide(bytes).map(SubscriberId)
}

pub(crate) fn subscriber_bytes(subscriber: SubscriberId) -> Bytes {
    wide_bytes(subscriber.0)
}

pub(crate) fn service(text: &str) -> Result<ServiceName, Malformed> {
    ServiceName::new(text).map_err(|error| fault("service")(&error))
}

pub(crate) fn instance_id(text: &str) -> Result<InstanceId, Malformed> {
    InstanceId::new(text).map_err(|error| fault("instance id")(&error))
}

fn label(text: &str) -> Result<Option<Label>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    let label = Label::new(text).map_err(|error| fault("label")(&error))?;
    Ok(Some(label))
}

fn label_text(label: Option<&Label>) -> String {
    label.map_or_else(String::new, ToString::to_string)
}

fn state(number: i32) -> Result<State, Malformed> {
    match proto::State::try_from(number) {
        Ok(proto::State::Starting) => Ok(State::Starting),
        Ok(proto::State::Serving) => Ok(State::Serving),
        Ok(proto::State::Draining) => Ok(State::Draining),
        Err(_) => Err(Malformed(format!("state {number} is not known"))),
    }
}

fn state_number(state: State) -> i32 {
    let state = match state {
        State::Starting => proto::State::Starting,
        State::Serving => proto::State::Serving,
        State::Draining => proto::State::Draining,
    };
    state.into()
}

pub(crate) fn instance_message(instance: &Instance) -> proto::Instance {
    proto::Instance {
        id: instance.id.to_string(),
        service: instance.service.to_string(),
        address: instance.address.to_string(),
        site: label_text(instance.site.as_ref()),
        zone: label_text(instance.zone.as_ref()),
        version: label_text(instance.version.as_ref()),
        weight: instance.weight,
        state: state_number(instance.state),
        permanent: instance.lifetime == Lifetime::Permanent,
        metadata: instance.metadata.clone(),
        owner: wide_bytes(instance.owner.id.0),
        incarnation: instance.owner.incarnation,
        token: instance.token.0,
        lars: instance.lars.map(|pair| proto::Lars {
            modid: pair.modid,
            cmdid: pair.cmdid,
        }),
    }
}

pub(crate) fn instance(message: proto::Instance) -> Result<Instance, Malformed> {
    let address = message.address.parse();
    let owner = Owner {
        id: OwnerId(wide(&message.owner)?),
        incarnation: message.incarnation,
    };
    let mut instance = Instance::new(
        instance_id(&message.id)?,
        service(&message.service)?,
        address.map_err(|error| fault("address")(&error))?,
        owner,
    );
    instance.site = label(&message.site)?;
    instance.zone = label(&message.zone)?;
    instance.version = label(&message.version)?;
    instance.weight = message.weight;
    instance.state = state(message.state)?;
    if message.permanent {
        instance.lifetime = Lifetime::Permanent;
    }
    instance.metadata = message.metadata;
    instance.token = FencingToken(message.token);
    instance.lars = message.lars.map(|pair| LarsPair {
        modid: pair.modid,
        cmdid: pair.cmdid,
    });
    let valid = instance.validate();
    valid.map_err(|error| Malformed(error.to_string()))?;
    Ok(instance)
}

pub(crate) fn version(message: proto::Version) -> ViewVersion {
    ViewVersion {
        epoch: Epoch(message.epoch),
        number: message.number,
    }
}

pub(crate) fn version_message(version: ViewVersion) -> proto::Version {
    proto::Version {
        epoch: version.epoch.0,
        number: version.number,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::test_support::{full_instance, instance as plain};

    #[test]
    fn instances_survive() {
        for one in [full_instance(), plain("a", "a-1")] {
            let bytes = instance_message(&one).encode_to_vec();
            let message = proto::Instance::decode(&*bytes).unwrap();
            assert_eq!(instance(message).unwrap(), one);
        }
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let mut message = instance_message(&full_instance());
        message.owner = Bytes::from_static(b"short");
        assert_eq!(instance(message).unwrap_err().0, "an id has 16 bytes");
        let mut message = instance_message(&full_instance());
        message.state = 7;
        assert_eq!(instance(message).unwrap_err().0, "state 7 is not known");
        let mut message = instance_message(&full_instance());
        message.weight = 20_000;
        assert!(instance(message).unwrap_err().0.contains("weight 20000"));
        for bad in ["", "a b", "../a", &"a".repeat(300)] {
            let mut message = instance_message(&full_instance());
            message.id = bad.to_owned();
            let refused = instance(message).unwrap_err().0;
            assert!(refused.starts_with("instance id: "), "{bad:?}: {refused}");
            let mut message = instance_message(&full_instance());
            message.service = bad.to_owned();
            let refused = instance(message).unwrap_err().0;
            assert!(refused.starts_with("service: "), "{bad:?}: {refused}");
        }
        assert_eq!(watch(None).unwrap_err().0, "the watch is absent");
        assert_eq!(
            register(proto::Register::default()).unwrap_err().0,
            "the instance is absent"
        );
    }
}
