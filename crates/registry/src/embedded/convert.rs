//! Between the messages of `proto/registry.proto` and the values of crate
//! `membership`. What comes from a peer is checked here, all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use waystation_base::{Epoch, FencingToken, Moment, ServiceName};
use waystation_membership::{
    Content, DrainStep, GrantError, Granted, HolderError, Instance, InstanceId, Label, LarsPair,
    Lease, Lifetime, Owner, OwnerId, Refusal, Register, Removal, Renewed, State, SubscriberId,
    Update, View, ViewDelta, ViewVersion, Watch,
};

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

fn needed_version(message: Option<proto::Version>) -> Result<ViewVersion, Malformed> {
    message
        .map(version)
        .ok_or_else(|| Malformed::absent("a version"))
}

pub(crate) fn register(message: proto::Register) -> Result<Register, Malformed> {
    let asked = message
        .instance
        .ok_or_else(|| Malformed::absent("the instance"))?;
    Ok(Register {
        instance: instance(asked)?,
        ttl: Duration::from_millis(message.ttl_ms),
        token_seen: FencingToken(message.token_seen),
    })
}

pub(crate) fn register_message(register: &Register) -> proto::Register {
    proto::Register {
        instance: Some(instance_message(&register.instance)),
        ttl_ms: millis(register.ttl),
        token_seen: register.token_seen.0,
    }
}

pub(crate) fn granted_message(granted: Granted) -> proto::Granted {
    proto::Granted {
        token: granted.token.0,
        ttl_ms: millis(granted.ttl),
        state: state_number(granted.state),
    }
}

pub(crate) fn granted(message: proto::Granted) -> Result<Granted, Malformed> {
    Ok(Granted {
        token: FencingToken(message.token),
        ttl: Duration::from_millis(message.ttl_ms),
        state: state(message.state)?,
    })
}

pub(crate) fn renewed_message(renewed: Renewed) -> proto::Renewal {
    proto::Renewal {
        ttl_ms: millis(renewed.ttl),
        state: state_number(renewed.state),
        drain: drain_number(renewed.drain),
    }
}

pub(crate) fn renewed(message: proto::Renewal) -> Result<Renewed, Malformed> {
    Ok(Renewed {
        ttl: Duration::from_millis(message.ttl_ms),
        state: state(message.state)?,
        drain: drain_step(message.drain)?,
    })
}

pub(crate) fn drain_number(step: Option<DrainStep>) -> i32 {
    let step = match step {
        None => proto::DrainStep::None,
        Some(DrainStep::Waiting) => proto::DrainStep::Waiting,
        Some(DrainStep::Acknowledged) => proto::DrainStep::Acknowledged,
        Some(DrainStep::Ended) => proto::DrainStep::Ended,
    };
    step.into()
}

pub(crate) fn drain_step(number: i32) -> Result<Option<DrainStep>, Malformed> {
    match proto::DrainStep::try_from(number) {
        Ok(proto::DrainStep::None) => Ok(None),
        Ok(proto::DrainStep::Waiting) => Ok(Some(DrainStep::Waiting)),
        Ok(proto::DrainStep::Acknowledged) => Ok(Some(DrainStep::Acknowledged)),
        Ok(proto::DrainStep::Ended) => Ok(Some(DrainStep::Ended)),
        Err(_) => Err(Malformed(format!("drain step {number} is not known"))),
    }
}

pub(crate) fn refused_message(refusal: &Refusal) -> proto::Refused {
    use proto::refused::Reason;
    let (reason, held, holder) = match refusal {
        Refusal::Lease { error, holder } => {
            let (reason, held) = match error {
                GrantError::Held { held } => (Reason::Held, Some(held)),
                GrantError::Superseded { held } => (Reason::Superseded, Some(held)),
                GrantError::Full => (Reason::LeasesFull, None),
                GrantError::TokensSpent => (Reason::TokensSpent, None),
                _ => (Reason::Other, None),
            };
            (reason, held.map(lease_message), holder.clone())
        }
        Refusal::Holder(HolderError::Unknown) => (Reason::Unknown, None, None),
        Refusal::Holder(HolderError::Fenced { current }) => {
            let held = proto::Lease {
                token: current.0,
                ..proto::Lease::default()
            };
            (Reason::Fenced, Some(held), None)
        }
        Refusal::Drained => (Reason::Drained, None, None),
        Refusal::ServicesFull => (Reason::ServicesFull, None, None),
        _ => (Reason::Other, None, None),
    };
    proto::Refused {
        reason: reason.into(),
        text: refusal.to_string(),
        held,
        holder_address: holder.map_or_else(String::new, |address| address.to_string()),
    }
}

fn lease_message(lease: &Lease) -> proto::Lease {
    proto::Lease {
        owner: wide_bytes(lease.owner.id.0),
        incarnation: lease.owner.incarnation,
        token: lease.token.0,
        ttl_ms: millis(lease.ttl),
    }
}

/// The lease of somebody else, whose deadline is not told.
fn lease(message: Option<proto::Lease>) -> Result<Lease, Malformed> {
    let message = message.ok_or_else(|| Malformed::absent("the lease"))?;
    Ok(Lease {
        owner: Owner {
            id: OwnerId(wide(&message.owner)?),
            incarnation: message.incarnation,
        },
        token: FencingToken(message.token),
        ttl: Duration::from_millis(message.ttl_ms),
        deadline: Moment::FAR_FUTURE,
    })
}

pub(crate) fn refusal(message: proto::Refused) -> Result<Refusal, Malformed> {
    use proto::refused::Reason;
    let holder = message.holder_address.parse().ok();
    let of_lease = |error| Refusal::Lease { error, holder };
    let reason = Reason::try_from(message.reason).unwrap_or(Reason::Other);
    Ok(match reason {
        Reason::Held => of_lease(GrantError::Held {
            held: lease(message.held)?,
        }),
        Reason::Superseded => of_lease(GrantError::Superseded {
            held: lease(message.held)?,
        }),
        Reason::LeasesFull => of_lease(GrantError::Full),
        Reason::TokensSpent => of_lease(GrantError::TokensSpent),
        Reason::Unknown => Refusal::Holder(HolderError::Unknown),
        Reason::Fenced => Refusal::Holder(HolderError::Fenced {
            current: FencingToken(message.held.map_or(0, |held| held.token)),
        }),
        Reason::Drained => Refusal::Drained,
        Reason::ServicesFull => Refusal::ServicesFull,
        Reason::Other => Refusal::Other(message.text.into()),
    })
}

pub(crate) fn update_message(
    id: &InstanceId,
    token: FencingToken,
    update: &Update,
) -> proto::Update {
    let entries = update.metadata.clone();
    proto::Update {
        held: Some(held_message(id, token)),
        weight: update.weight,
        metadata: entries.map(|entries| proto::Metadata { entries }),
        serving: update.is_serving,
    }
}

pub(crate) fn update(message: proto::Update) -> Result<(proto::Held, Update), Malformed> {
    let held = message
        .held
        .ok_or_else(|| Malformed::absent("the holder"))?;
    let update = Update {
        weight: message.weight,
        metadata: message.metadata.map(|metadata| metadata.entries),
        is_serving: message.serving,
    };
    Ok((held, update))
}

pub(crate) fn held_message(id: &InstanceId, token: FencingToken) -> proto::Held {
    proto::Held {
        id: id.to_string(),
        token: token.0,
    }
}

pub(crate) fn leave_message(id: &InstanceId, owner: Owner) -> proto::Leave {
    proto::Leave {
        id: id.to_string(),
        owner: wide_bytes(owner.id.0),
        incarnation: owner.incarnation,
    }
}

pub(crate) fn leave(message: &proto::Leave) -> Result<(InstanceId, Owner), Malformed> {
    let owner = Owner {
        id: OwnerId(wide(&message.owner)?),
        incarnation: message.incarnation,
    };
    Ok((instance_id(&message.id)?, owner))
}

pub(crate) fn watch_message(watch: &Watch) -> proto::Watch {
    use proto::watch::What;
    let what = match watch {
        Watch::Service(service) => What::Service(service.to_string()),
        Watch::Prefix(prefix) => What::Prefix(prefix.to_string()),
    };
    proto::Watch { what: Some(what) }
}

pub(crate) fn watch(message: Option<proto::Watch>) -> Result<Watch, Malformed> {
    use proto::watch::What;
    let what = message.and_then(|watch| watch.what);
    match what.ok_or_else(|| Malformed::absent("the watch"))? {
        What::Service(name) => Ok(Watch::Service(service(&name)?)),
        What::Prefix(prefix) if prefix.len() <= 128 => Ok(Watch::Prefix(prefix.into())),
        What::Prefix(_) => Err(Malformed("a prefix has at most 128 bytes".to_owned())),
    }
}

fn instance_messages(instances: &[Arc<Instance>]) -> Vec<proto::Instance> {
    instances.iter().map(|one| instance_message(one)).collect()
}

pub(crate) fn view_message(view: &View) -> proto::View {
    let instances = view.instances.values();
    proto::View {
        service: view.service.to_string(),
        at: Some(version_message(view.at)),
        instances: instances.map(|one| instance_message(one)).collect(),
    }
}

pub(crate) fn view(message: proto::View) -> Result<View, Malformed> {
    let mut instances = BTreeMap::new();
    for one in message.instances {
        let instance = instance(one)?;
        instances.insert(instance.id.clone(), Arc::new(instance));
    }
    Ok(View {
        service: service(&message.service)?,
        at: needed_version(message.at)?,
        instances,
    })
}

fn delta_message(delta: &ViewDelta) -> proto::Delta {
    use proto::removed::Reason;
    let removed = delta.removed.iter().map(|(id, why)| {
        let reason = match why {
            Removal::Deregistered => Reason::Deregistered,
            Removal::Expired => Reason::Expired,
            Removal::Unknown => Reason::Unknown,
        };
        proto::Removed {
            id: id.to_string(),
            reason: reason.into(),
        }
    });
    proto::Delta {
        service: delta.service.to_string(),
        from: Some(version_message(delta.from)),
        to: Some(version_message(delta.to)),
        added: instance_messages(&delta.added),
        changed: instance_messages(&delta.changed),
        removed: removed.collect(),
    }
}

fn delta(message: proto::Delta) -> Result<ViewDelta, Malformed> {
    use proto::removed::Reason;
    let instances = |list: Vec<proto::Instance>| -> Result<Vec<Arc<Instance>>, Malformed> {
        let all = list.into_iter().map(instance);
        all.map(|one| one.map(Arc::new)).collect()
    };
    let mut removed = Vec::with_capacity(message.removed.len());
    for one in message.removed {
        let why = match Reason::try_from(one.reason) {
            Ok(Reason::Deregistered) => Removal::Deregistered,
            Ok(Reason::Expired) => Removal::Expired,
            Ok(Reason::Unknown) | Err(_) => Removal::Unknown,
        };
        removed.push((instance_id(&one.id)?, why));
    }
    Ok(ViewDelta {
        service: service(&message.service)?,
        from: needed_version(message.from)?,
        to: needed_version(message.to)?,
        added: instances(message.added)?,
        changed: instances(message.changed)?,
        removed,
    })
}

/// What a push says, without whom it is for.
pub(crate) fn content_message(content: &Content) -> proto::Changed {
    let content = match content {
        Content::View(view) => proto::changed::Content::View(view_message(view)),
        Content::Delta(delta) => proto::changed::Content::Delta(delta_message(delta)),
    };
    proto::Changed {
        subscriber: Bytes::new(),
        content: Some(content),
    }
}

pub(crate) fn changed(message: proto::Changed) -> Result<(SubscriberId, Content), Malformed> {
    let to = subscriber(&message.subscriber)?;
    let content = message
        .content
        .ok_or_else(|| Malformed::absent("the content"))?;
    let content = match content {
        proto::changed::Content::View(message) => Content::View(Arc::new(view(message)?)),
        proto::changed::Content::Delta(message) => Content::Delta(Arc::new(delta(message)?)),
    };
    Ok((to, content))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::test_support::{full_instance, instance as plain};

    fn at(number: u64) -> ViewVersion {
        ViewVersion {
            epoch: Epoch(2),
            number,
        }
    }

    #[test]
    fn instances_survive() {
        for one in [full_instance(), plain("a", "a-1")] {
            let bytes = instance_message(&one).encode_to_vec();
            let message = proto::Instance::decode(&*bytes).unwrap();
            assert_eq!(instance(message).unwrap(), one);
        }
    }

    #[test]
    fn refusals_survive_with_the_holders_address() {
        let held = Lease {
            owner: Owner {
                id: OwnerId(u128::MAX),
                incarnation: 3,
            },
            token: FencingToken(9),
            ttl: Duration::from_secs(6),
            deadline: Moment::FAR_FUTURE,
        };
        let holder = Some("10.0.0.1:7000".parse().unwrap());
        let of_lease = |error| Refusal::Lease {
            error,
            holder: holder.clone(),
        };
        let fenced = HolderError::Fenced {
            current: FencingToken(4),
        };
        for one in [
            of_lease(GrantError::Held { held }),
            of_lease(GrantError::Superseded { held }),
            of_lease(GrantError::Full),
            of_lease(GrantError::TokensSpent),
            Refusal::Holder(HolderError::Unknown),
            Refusal::Holder(fenced),
            Refusal::Drained,
            Refusal::ServicesFull,
            Refusal::Other("as it says".into()),
        ] {
            assert_eq!(refusal(refused_message(&one)).unwrap(), one);
        }
    }

    #[test]
    fn pushes_survive_and_are_put_together_from_two_parts() {
        let mut full = View::empty(service("im.logic").unwrap(), at(4));
        let one = Arc::new(full_instance());
        full.instances.insert(one.id.clone(), Arc::clone(&one));
        let id = |text| InstanceId::new(text).unwrap();
        let change = ViewDelta {
            service: full.service.clone(),
            from: at(4),
            to: at(5),
            added: vec![Arc::clone(&one)],
            changed: vec![one],
            removed: vec![
                (id("a"), Removal::Deregistered),
                (id("b"), Removal::Expired),
                (id("c"), Removal::Unknown),
            ],
        };
        for content in [Content::View(full.into()), Content::Delta(change.into())] {
            let mut bytes = content_message(&content).encode_to_vec();
            let to = proto::Changed {
                subscriber: subscriber_bytes(SubscriberId(5)),
                content: None,
            };
            to.encode(&mut bytes).unwrap();
            let message = proto::Changed::decode(&*bytes).unwrap();
            assert_eq!(changed(message).unwrap(), (SubscriberId(5), content));
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
        assert_eq!(watch(None).unwrap_err().0, "the watch is absent");
        assert_eq!(
            register(proto::Register::default()).unwrap_err().0,
            "the instance is absent"
        );
    }
}
