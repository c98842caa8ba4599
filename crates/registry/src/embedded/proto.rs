//! The messages of `proto/registry.proto`, and their ids.
#![allow(
    missing_docs,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/waystation.registry.v1.rs"));

/// The ids of the messages.
pub(crate) mod id {
    use waystation_base::MessageId;

    const fn of(name: &str) -> MessageId {
        MessageId::of(name)
    }

    pub(crate) const REGISTER: MessageId = of("waystation.registry.v1.Registry/Register");
    pub(crate) const RENEW: MessageId = of("waystation.registry.v1.Registry/Renew");
    pub(crate) const UPDATE: MessageId = of("waystation.registry.v1.Registry/Update");
    pub(crate) const DRAIN: MessageId = of("waystation.registry.v1.Registry/Drain");
    pub(crate) const IDLE: MessageId = of("waystation.registry.v1.Registry/Idle");
    pub(crate) const DEREGISTER: MessageId = of("waystation.registry.v1.Registry/Deregister");
    pub(crate) const LIST: MessageId = of("waystation.registry.v1.Registry/List");
    pub(crate) const SUBSCRIBE: MessageId = of("waystation.registry.v1.Registry/Subscribe");
    pub(crate) const SUBSCRIBED: MessageId = of("waystation.registry.v1.Registry/Subscribed");
    pub(crate) const RESYNC: MessageId = of("waystation.registry.v1.Registry/Resync");
    pub(crate) const ACK: MessageId = of("waystation.registry.v1.Registry/Ack");
    pub(crate) const UNSUBSCRIBE: MessageId = of("waystation.registry.v1.Registry/Unsubscribe");
    pub(crate) const CHANGED: MessageId = of("waystation.registry.v1.Registry/Changed");
    pub(crate) const WENT_BACK: MessageId = of("waystation.registry.v1.Registry/WentBack");
    pub(crate) const DRAINED: MessageId = of("waystation.registry.v1.Registry/Drained");
}
