//! The module of a service: its methods, handler trait, registration, client and pushes.
//!
//! Paths are absolute throughout, so that no name of a `.proto` file can shadow one.

use std::collections::HashSet;

use prost_build::{Method, Service, ServiceGenerator};
use prost_types::method_options::IdempotencyLevel;
use prost_types::{DescriptorProto, FileDescriptorProto};

use crate::names;

/// Writes one module for each service into the file of its package.
pub(crate) struct ServiceWriter {
    /// The protobuf names, with the dot in front, of all messages without fields.
    empty_messages: HashSet<String>,
}

impl ServiceWriter {
    pub(crate) fn new(files: &[FileDescriptorProto]) -> Self {
        let mut empty_messages = HashSet::new();
        for file in files {
            collect_empty(
                &format!(".{}", file.package()),
                &file.message_type,
                &mut empty_messages,
            );
        }
        Self { empty_messages }
    }

    /// Whether the reply says nothing but "done", so that a push can do without it.
    fn is_one_way(&self, method: &Method) -> bool {
        self.empty_messages.contains(&method.output_proto_type)
    }
}

fn collect_empty(scope: &str, messages: &[DescriptorProto], empty: &mut HashSet<String>) {
    for message in messages {
        let full = format!("{scope}.{}", message.name());
        collect_empty(&full, &message.nested_type, empty);
        if message.field.is_empty() {
            empty.insert(full);
        }
    }
}

impl ServiceGenerator for ServiceWriter {
    fn generate(&mut self, service: Service, code: &mut String) {
        let full_name = format!("{}.{}", service.package, service.proto_name);
        code.push('\n');
        service.comments.append_with_indent(0, code);
        code.push_str(&fill(
            r#"pub mod MODULE {
    /// The full protobuf name of the service.
    pub const SERVICE: &str = "FULL_NAME";

    /// A marker for each rpc, for code that is generic over
    /// [`Method`](::waystation_service::Method).
    pub mod method {
"#,
            &[
                ("MODULE", &names::snake(&service.proto_name)),
                ("FULL_NAME", &full_name),
            ],
        ));
        for (index, method) in service.methods.iter().enumerate() {
            if index > 0 {
                code.push('\n');
            }
            write_marker(&full_name, method, code);
        }
        code.push_str("    }\n\n");
        write_handler_trait(&service, code);
        write_register(&service, &full_name, code);
        write_client(&service, &full_name, code);
        for method in &service.methods {
            if self.is_one_way(method) {
                write_push(&full_name, method, code);
            }
        }
        code.push_str("}\n");
    }
}

fn write_marker(service: &str, method: &Method, code: &mut String) {
    let idempotent = matches!(
        method.options.idempotency_level(),
        IdempotencyLevel::Idempotent | IdempotencyLevel::NoSideEffects
    );
    code.push_str(&fill(
        r#"        /// The rpc `FULL_NAME`.
        #[derive(Clone, Copy, Debug)]
        pub struct MARKER;

        impl ::waystation_service::Method for MARKER {
            type Request = super::super::REQUEST;
            type Reply = super::super::REPLY;
            const NAME: &'static str = "FULL_NAME";
            const ID: ::waystation_service::MessageId =
                ::waystation_service::MessageId::of(Self::NAME);
            const IDEMPOTENT: bool = IS_IDEMPOTENT;
        }
"#,
        &[
            ("FULL_NAME", &format!("{service}/{}", method.proto_name)),
            ("MARKER", &names::upper_camel(&method.proto_name)),
            ("REQUEST", &method.input_type),
            ("REPLY", &method.output_type),
            ("IS_IDEMPOTENT", if idempotent { "true" } else { "false" }),
        ],
    ));
}

fn write_handler_trait(service: &Service, code: &mut String) {
    service.comments.append_with_indent(1, code);
    code.push_str(&fill(
        r"    ///
    /// Implement the methods as `async fn`; the futures stay on the shard that runs them.
    pub trait SERVICE: 'static {
",
        &[("SERVICE", &service.name)],
    ));
    for (index, method) in service.methods.iter().enumerate() {
        if index > 0 {
            code.push('\n');
        }
        method.comments.append_with_indent(2, code);
        code.push_str(&fill(
            r"        fn FUNCTION(
            &self,
            ctx: &::waystation_service::Ctx,
            request: super::REQUEST,
        ) -> impl ::core::future::Future<
            Output = ::core::result::Result<super::REPLY, ::waystation_service::Status>,
        >;
",
            &[
                ("FUNCTION", &method.name),
                ("REQUEST", &method.input_type),
                ("REPLY", &method.output_type),
            ],
        ));
    }
    code.push_str("    }\n\n");
}

fn write_register(service: &Service, full_name: &str, code: &mut String) {
    code.push_str(&fill(
        r"    /// Registers every method of `FULL_NAME` with the handlers of `service`.
    ///
    /// # Errors
    ///
    /// The router already has a method with the name or the message id of one of these.
    pub fn register<S: SERVICE>(
        router: &mut ::waystation_service::Router,
        service: ::std::rc::Rc<S>,
    ) -> ::core::result::Result<(), ::waystation_service::RegisterError> {
",
        &[("FULL_NAME", full_name), ("SERVICE", &service.name)],
    ));
    if service.methods.is_empty() {
        code.push_str("        let _ = (router, service);\n");
    }
    for (index, method) in service.methods.iter().enumerate() {
        // The last closure takes the handle itself.
        let is_last = index + 1 == service.methods.len();
        let handle = if is_last {
            "service"
        } else {
            "::std::rc::Rc::clone(&service)"
        };
        code.push_str(&fill(
            r"        let handle = HANDLE;
        router.method::<method::MARKER, _>(move |ctx, request| {
            let service = ::std::rc::Rc::clone(&handle);
            async move { SERVICE::FUNCTION(&*service, &ctx, request).await }
        })?;
",
            &[
                ("HANDLE", handle),
                ("MARKER", &names::upper_camel(&method.proto_name)),
                ("SERVICE", &service.name),
                ("FUNCTION", &method.name),
            ],
        ));
    }
    code.push_str("        ::core::result::Result::Ok(())\n    }\n\n");
}

fn write_client(service: &Service, full_name: &str, code: &mut String) {
    let client = format!("{}Client", service.name);
    code.push_str(&fill(
        r"    /// A client of `FULL_NAME`. Clones share the channel.
    #[derive(Clone)]
    pub struct CLIENT {
        channel: ::waystation_service::Channel,
    }

    impl CLIENT {
        /// A client that calls through `channel`.
        pub fn new(channel: ::waystation_service::Channel) -> Self {
            Self { channel }
        }
",
        &[("FULL_NAME", full_name), ("CLIENT", &client)],
    ));
    for method in &service.methods {
        code.push('\n');
        method.comments.append_with_indent(2, code);
        code.push_str(&fill(
            r"        ///
        /// # Errors
        ///
        /// What the handler answered, a refusal, or that no answer came before the deadline of
        /// `ctx`.
        pub async fn FUNCTION(
            &self,
            ctx: &::waystation_service::Ctx,
            request: &super::REQUEST,
        ) -> ::core::result::Result<super::REPLY, ::waystation_service::Status> {
            self.channel.call::<method::MARKER>(ctx, request).await
        }
",
            &[
                ("FUNCTION", &method.name),
                ("REQUEST", &method.input_type),
                ("REPLY", &method.output_type),
                ("MARKER", &names::upper_camel(&method.proto_name)),
            ],
        ));
    }
    code.push_str("    }\n");
}

fn write_push(service: &str, method: &Method, code: &mut String) {
    let plain_name = method.name.strip_prefix("r#").unwrap_or(&method.name);
    code.push_str(&fill(
        r"
    /// Sends a message of `FULL_NAME` to `peer` one way: nothing is answered.
    ///
    /// # Errors
    ///
    /// The peer is gone, or its queue has no room.
    pub fn push_FUNCTION(
        peer: &::waystation_service::Peer,
        message: &super::REQUEST,
    ) -> ::core::result::Result<(), ::waystation_service::PushError> {
        peer.push::<method::MARKER>(message)
    }
",
        &[
            ("FULL_NAME", &format!("{service}/{}", method.proto_name)),
            ("FUNCTION", plain_name),
            ("REQUEST", &method.input_type),
            ("MARKER", &names::upper_camel(&method.proto_name)),
        ],
    ));
}

/// Replaces the words in capitals of a template, in one pass: what was filled in is not searched.
fn fill(template: &str, words: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(start) = rest.find(|c: char| c.is_ascii_uppercase()) {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = rest
            .find(|c: char| !c.is_ascii_uppercase() && c != '_')
            .unwrap_or(rest.len());
        let (word, behind) = rest.split_at(length);
        let value = words.iter().find(|(name, _)| *name == word);
        filled.push_str(value.map_or(word, |(_, value)| value));
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_in_capitals_are_filled_in() {
        let words = [("NAME", "VALUE"), ("VALUE", "wrong")];
        assert_eq!(
            fill("a_NAME(NAMES, Name) VALUE", &words),
            "a_VALUE(NAMES, Name) wrong"
        );
    }

    #[test]
    fn messages_without_fields_are_found_at_any_depth() {
        let nested = DescriptorProto {
            name: Some("Inner".to_owned()),
            ..DescriptorProto::default()
        };
        let outer = DescriptorProto {
            name: Some("Outer".to_owned()),
            field: vec![prost_types::FieldDescriptorProto::default()],
            nested_type: vec![nested],
            ..DescriptorProto::default()
        };
        let file = FileDescriptorProto {
            package: Some("im".to_owned()),
            message_type: vec![outer],
            ..FileDescriptorProto::default()
        };
        let writer = ServiceWriter::new(&[file]);
        assert_eq!(
            writer.empty_messages,
            HashSet::from([".im.Outer.Inner".to_owned()])
        );
    }
}
