//! Watches, and the views and deltas that are pushed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use waystation_membership::{
    Content, Instance, Removal, SubscriberId, View, ViewDelta, ViewVersion, Watch,
};

use super::super::proto;
use super::{
    Malformed, instance, instance_id, instance_message, service, subscriber, version,
    version_message,
};

fn needed_version(message: Option<proto::Version>) -> Result<ViewVersion, Malformed> {
    message
        .map(version)
        .ok_or_else(|| Malformed::absent("a version"))
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
    use waystation_base::Epoch;
    use waystation_membership::InstanceId;

    use super::super::subscriber_bytes;
    use super::*;
    use crate::test_support::full_instance;

    fn at(number: u64) -> ViewVersion {
        ViewVersion {
            epoch: Epoch(2),
            number,
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
}
