// Generated from the protobuf package `im`. Do not edit.

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct SendRequest {
    /// Chosen by the client: a second send with the same id is the same send.
    #[prost(string, tag = "1")]
    pub client_id: ::waystation_service::codegen::prost::alloc::string::String,
    /// What is said.
    #[prost(string, tag = "2")]
    pub text: ::waystation_service::codegen::prost::alloc::string::String,
    /// Field `kind`, number 3.
    #[prost(enumeration = "common::Kind", tag = "3")]
    pub kind: i32,
}
/// Message `im.SendReply`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct SendReply {
    /// Field `seq`, number 1.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
}
/// Nested message and enum types in `SendReply`.
pub mod send_reply {
    /// Message `im.SendReply.Ack`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
    pub struct Ack {
    }
}
/// A message on its way to a device.
#[derive(Clone, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct Delivery {
    /// Field `seq`, number 1.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Field `message`, number 2.
    #[prost(message, optional, tag = "2")]
    pub message: ::core::option::Option<SendRequest>,
}
/// Nothing more to say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct Delivered {
}

/// Business rules of the chat.
/// Takes list<string> and \[brackets\] and `code`:
///
///    this.would_be_a_test();
///
/// ```text
/// panic!("this would be a test, too");
/// ```
pub mod logic {
    /// The full protobuf name of the service.
    pub const SERVICE: &str = "im.Logic";

    /// A marker for each rpc, for code that is generic over
    /// [`Method`](::waystation_service::Method).
    pub mod method {
        /// The rpc `im.Logic/Send`.
        #[derive(Clone, Copy, Debug)]
        pub struct Send;

        impl ::waystation_service::Method for Send {
            type Request = super::super::SendRequest;
            type Reply = super::super::SendReply;
            const NAME: &'static str = "im.Logic/Send";
            const ID: ::waystation_service::MessageId =
                ::waystation_service::MessageId::of(Self::NAME);
            const IDEMPOTENT: bool = true;
        }

        /// The rpc `im.Logic/Read`.
        #[derive(Clone, Copy, Debug)]
        pub struct Read;

        impl ::waystation_service::Method for Read {
            type Request = super::super::common::Cursor;
            type Reply = super::super::common::Page;
            const NAME: &'static str = "im.Logic/Read";
            const ID: ::waystation_service::MessageId =
                ::waystation_service::MessageId::of(Self::NAME);
            const IDEMPOTENT: bool = true;
        }

        /// The rpc `im.Logic/Deliver`.
        #[derive(Clone, Copy, Debug)]
        pub struct Deliver;

        impl ::waystation_service::Method for Deliver {
            type Request = super::super::Delivery;
            type Reply = super::super::Delivered;
            const NAME: &'static str = "im.Logic/Deliver";
            const ID: ::waystation_service::MessageId =
                ::waystation_service::MessageId::of(Self::NAME);
            const IDEMPOTENT: bool = false;
        }

        /// The rpc `im.Logic/Type`.
        #[derive(Clone, Copy, Debug)]
        pub struct Type;

        impl ::waystation_service::Method for Type {
            type Request = super::super::Delivery;
            type Reply = super::super::send_reply::Ack;
            const NAME: &'static str = "im.Logic/Type";
            const ID: ::waystation_service::MessageId =
                ::waystation_service::MessageId::of(Self::NAME);
            const IDEMPOTENT: bool = false;
        }
    }

    /// Business rules of the chat.
    /// Takes list<string> and \[brackets\] and `code`:
    ///
    ///    this.would_be_a_test();
    ///
    /// ```text
    /// panic!("this would be a test, too");
    /// ```
    ///
    /// Implement the methods as `async fn`; the futures stay on the shard that runs them.
    pub trait Logic: 'static {
        /// Sends a message to one conversation.
        fn send(
            &self,
            ctx: &::waystation_service::Ctx,
            request: super::SendRequest,
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<super::SendReply, ::waystation_service::Status>,
        >;

        /// Reads one page.
        fn read(
            &self,
            ctx: &::waystation_service::Ctx,
            request: super::common::Cursor,
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<super::common::Page, ::waystation_service::Status>,
        >;

        /// Rpc `im.Logic/Deliver`.
        fn deliver(
            &self,
            ctx: &::waystation_service::Ctx,
            request: super::Delivery,
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<super::Delivered, ::waystation_service::Status>,
        >;

        /// A name that is a keyword in Rust.
        fn r#type(
            &self,
            ctx: &::waystation_service::Ctx,
            request: super::Delivery,
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<super::send_reply::Ack, ::waystation_service::Status>,
        >;
    }

    /// Registers every method of `im.Logic` with the handlers of `service`.
    ///
    /// # Errors
    ///
    /// The router already has a method with the name or the message id of one of these.
    pub fn register<S: Logic>(
        router: &mut ::waystation_service::Router,
        service: ::std::rc::Rc<S>,
    ) -> ::core::result::Result<(), ::waystation_service::RegisterError> {
        let handle = ::std::rc::Rc::clone(&service);
        router.method::<method::Send, _>(move |ctx, request| {
            let service = ::std::rc::Rc::clone(&handle);
            async move { Logic::send(&*service, &ctx, request).await }
        })?;
        let handle = ::std::rc::Rc::clone(&service);
        router.method::<method::Read, _>(move |ctx, request| {
            let service = ::std::rc::Rc::clone(&handle);
            async move { Logic::read(&*service, &ctx, request).await }
        })?;
        let handle = ::std::rc::Rc::clone(&service);
        router.method::<method::Deliver, _>(move |ctx, request| {
            let service = ::std::rc::Rc::clone(&handle);
            async move { Logic::deliver(&*service, &ctx, request).await }
        })?;
        let handle = service;
        router.method::<method::Type, _>(move |ctx, request| {
            let service = ::std::rc::Rc::clone(&handle);
            async move { Logic::r#type(&*service, &ctx, request).await }
        })?;
        ::core::result::Result::Ok(())
    }

    /// A client of `im.Logic`. Clones share the channel.
    #[derive(Clone)]
    pub struct LogicClient {
        channel: ::waystation_service::Channel,
    }

    impl LogicClient {
        /// A client that calls through `channel`.
        pub fn new(channel: ::waystation_service::Channel) -> Self {
            Self { channel }
        }

        /// Sends a message to one conversation.
        ///
        /// # Errors
        ///
        /// What the handler answered, a refusal, or that no answer came before the deadline of
        /// `ctx`.
        pub async fn send(
            &self,
            ctx: &::waystation_service::Ctx,
            request: &super::SendRequest,
        ) -> ::core::result::Result<super::SendReply, ::waystation_service::Status> {
            self.channel.call::<method::Send>(ctx, request).await
        }

        /// Reads one page.
        ///
        /// # Errors
        ///
        /// What the handler answered, a refusal, or that no answer came before the deadline of
        /// `ctx`.
        pub async fn read(
            &self,
            ctx: &::waystation_service::Ctx,
            request: &super::common::Cursor,
        ) -> ::core::result::Result<super::common::Page, ::waystation_service::Status> {
            self.channel.call::<method::Read>(ctx, request).await
        }

        /// Rpc `im.Logic/Deliver`.
        ///
        /// # Errors
        ///
        /// What the handler answered, a refusal, or that no answer came before the deadline of
        /// `ctx`.
        pub async fn deliver(
            &self,
            ctx: &::waystation_service::Ctx,
            request: &super::Delivery,
        ) -> ::core::result::Result<super::Delivered, ::waystation_service::Status> {
            self.channel.call::<method::Deliver>(ctx, request).await
        }

        /// A name that is a keyword in Rust.
        ///
        /// # Errors
        ///
        /// What the handler answered, a refusal, or that no answer came before the deadline of
        /// `ctx`.
        pub async fn r#type(
            &self,
            ctx: &::waystation_service::Ctx,
            request: &super::Delivery,
        ) -> ::core::result::Result<super::send_reply::Ack, ::waystation_service::Status> {
            self.channel.call::<method::Type>(ctx, request).await
        }
    }

    /// Sends a message of `im.Logic/Deliver` to `peer` one way: nothing is answered.
    ///
    /// # Errors
    ///
    /// The peer is gone, or its queue has no room.
    pub fn push_deliver(
        peer: &::waystation_service::Peer,
        message: &super::Delivery,
    ) -> ::core::result::Result<(), ::waystation_service::PushError> {
        peer.push::<method::Deliver>(message)
    }

    /// Sends a message of `im.Logic/Type` to `peer` one way: nothing is answered.
    ///
    /// # Errors
    ///
    /// The peer is gone, or its queue has no room.
    pub fn push_type(
        peer: &::waystation_service::Peer,
        message: &super::Delivery,
    ) -> ::core::result::Result<(), ::waystation_service::PushError> {
        peer.push::<method::Type>(message)
    }
}

/// A service without methods is allowed.
pub mod reserved {
    /// The full protobuf name of the service.
    pub const SERVICE: &str = "im.Reserved";

    /// A marker for each rpc, for code that is generic over
    /// [`Method`](::waystation_service::Method).
    pub mod method {
    }

    /// A service without methods is allowed.
    ///
    /// Implement the methods as `async fn`; the futures stay on the shard that runs them.
    pub trait Reserved: 'static {
    }

    /// Registers every method of `im.Reserved` with the handlers of `service`.
    ///
    /// # Errors
    ///
    /// The router already has a method with the name or the message id of one of these.
    pub fn register<S: Reserved>(
        router: &mut ::waystation_service::Router,
        service: ::std::rc::Rc<S>,
    ) -> ::core::result::Result<(), ::waystation_service::RegisterError> {
        let _ = (router, service);
        ::core::result::Result::Ok(())
    }

    /// A client of `im.Reserved`. Clones share the channel.
    #[derive(Clone)]
    pub struct ReservedClient {
        channel: ::waystation_service::Channel,
    }

    impl ReservedClient {
        /// A client that calls through `channel`.
        pub fn new(channel: ::waystation_service::Channel) -> Self {
            Self { channel }
        }
    }
}

const _: () = {
    #[allow(unused_imports, reason = "generated code")]
    use ::waystation_service::codegen::{pbjson, serde};

    impl serde::Serialize for Delivered {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let len = 0;
            let struct_ser = serializer.serialize_struct("im.Delivered", len)?;
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for Delivered {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                                Err(serde::de::Error::unknown_field(value, FIELDS))
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = Delivered;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.Delivered")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<Delivered, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    while map_.next_key::<GeneratedField>()?.is_some() {
                        let _ = map_.next_value::<serde::de::IgnoredAny>()?;
                    }
                    Ok(Delivered {
                    })
                }
            }
            deserializer.deserialize_struct("im.Delivered", FIELDS, GeneratedVisitor)
        }
    }
    impl serde::Serialize for Delivery {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if self.seq != 0 {
                len += 1;
            }
            if self.message.is_some() {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("im.Delivery", len)?;
            if self.seq != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("seq", ToString::to_string(&self.seq).as_str())?;
            }
            if let Some(v) = self.message.as_ref() {
                struct_ser.serialize_field("message", v)?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for Delivery {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "seq",
                "message",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                Seq,
                Message,
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                            match value {
                                "seq" => Ok(GeneratedField::Seq),
                                "message" => Ok(GeneratedField::Message),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = Delivery;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.Delivery")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<Delivery, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut seq__ = None;
                    let mut message__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::Seq => {
                                if seq__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("seq"));
                                }
                                seq__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::Message => {
                                if message__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("message"));
                                }
                                message__ = map_.next_value()?;
                            }
                        }
                    }
                    Ok(Delivery {
                        seq: seq__.unwrap_or_default(),
                        message: message__,
                    })
                }
            }
            deserializer.deserialize_struct("im.Delivery", FIELDS, GeneratedVisitor)
        }
    }
    impl serde::Serialize for SendReply {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if self.seq != 0 {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("im.SendReply", len)?;
            if self.seq != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("seq", ToString::to_string(&self.seq).as_str())?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for SendReply {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "seq",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                Seq,
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                            match value {
                                "seq" => Ok(GeneratedField::Seq),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = SendReply;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.SendReply")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<SendReply, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut seq__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::Seq => {
                                if seq__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("seq"));
                                }
                                seq__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                        }
                    }
                    Ok(SendReply {
                        seq: seq__.unwrap_or_default(),
                    })
                }
            }
            deserializer.deserialize_struct("im.SendReply", FIELDS, GeneratedVisitor)
        }
    }
    impl serde::Serialize for send_reply::Ack {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let len = 0;
            let struct_ser = serializer.serialize_struct("im.SendReply.Ack", len)?;
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for send_reply::Ack {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                                Err(serde::de::Error::unknown_field(value, FIELDS))
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = send_reply::Ack;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.SendReply.Ack")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<send_reply::Ack, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    while map_.next_key::<GeneratedField>()?.is_some() {
                        let _ = map_.next_value::<serde::de::IgnoredAny>()?;
                    }
                    Ok(send_reply::Ack {
                    })
                }
            }
            deserializer.deserialize_struct("im.SendReply.Ack", FIELDS, GeneratedVisitor)
        }
    }
    impl serde::Serialize for SendRequest {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if !self.client_id.is_empty() {
                len += 1;
            }
            if !self.text.is_empty() {
                len += 1;
            }
            if self.kind != 0 {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("im.SendRequest", len)?;
            if !self.client_id.is_empty() {
                struct_ser.serialize_field("clientId", &self.client_id)?;
            }
            if !self.text.is_empty() {
                struct_ser.serialize_field("text", &self.text)?;
            }
            if self.kind != 0 {
                let v = common::Kind::try_from(self.kind)
                    .map_err(|_| serde::ser::Error::custom(format!("Invalid variant {}", self.kind)))?;
                struct_ser.serialize_field("kind", &v)?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for SendRequest {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "client_id",
                "clientId",
                "text",
                "kind",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                ClientId,
                Text,
                Kind,
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                            match value {
                                "clientId" | "client_id" => Ok(GeneratedField::ClientId),
                                "text" => Ok(GeneratedField::Text),
                                "kind" => Ok(GeneratedField::Kind),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = SendRequest;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.SendRequest")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<SendRequest, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut client_id__ = None;
                    let mut text__ = None;
                    let mut kind__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::ClientId => {
                                if client_id__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("clientId"));
                                }
                                client_id__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Text => {
                                if text__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("text"));
                                }
                                text__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Kind => {
                                if kind__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("kind"));
                                }
                                kind__ = Some(map_.next_value::<common::Kind>()? as i32);
                            }
                        }
                    }
                    Ok(SendRequest {
                        client_id: client_id__.unwrap_or_default(),
                        text: text__.unwrap_or_default(),
                        kind: kind__.unwrap_or_default(),
                    })
                }
            }
            deserializer.deserialize_struct("im.SendRequest", FIELDS, GeneratedVisitor)
        }
    }
};
