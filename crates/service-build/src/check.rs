//! What is refused before a line of code is written.
//!
//! The code generators behind this crate panic, or write code that does not compile, on names and
//! features that protobuf allows. Everything of that kind is found here, all at once and with its
//! place in the file.

use std::collections::HashMap;
use std::path::PathBuf;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    MethodDescriptorProto, ServiceDescriptorProto,
};
use waystation_base::MessageId;

use crate::error::{Fault, path_of};
use crate::names;
use crate::source::{child, fault, part};

/// Types that the generated JSON code calls by their short names.
const RESERVED_TYPES: &[&str] = &["GeneratedField", "GeneratedVisitor", "ToString", "Vec"];

/// Modules that the generated JSON code calls by their short names.
const RESERVED_MODULES: &[&str] = &["pbjson", "serde", "std"];

/// Whether the file belongs to protobuf itself; no code is generated for it.
pub(crate) fn is_well_known(file: &FileDescriptorProto) -> bool {
    file.package() == "google.protobuf"
}

/// Every fault of every file, in the order of the files.
pub(crate) fn check(files: &[FileDescriptorProto], includes: &[PathBuf]) -> Vec<Fault> {
    let mut checker = Checker {
        file: None,
        includes,
        scopes: HashMap::new(),
        ids: HashMap::new(),
        faults: Vec::new(),
    };
    for file in files {
        checker.file(file);
    }
    checker.faults
}

/// What shares a scope and therefore needs different names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Type,
    Module,
    Field,
    Variant,
    Function,
}

struct Checker<'a> {
    file: Option<&'a FileDescriptorProto>,
    includes: &'a [PathBuf],
    /// (scope, kind, Rust name) to what has it.
    scopes: HashMap<(String, Kind, String), String>,
    /// Message id to the rpc that has it.
    ids: HashMap<MessageId, String>,
    faults: Vec<Fault>,
}

impl<'a> Checker<'a> {
    fn fault(&mut self, path: &[i32], message: String) {
        let file = self.file.expect("a file is being checked");
        let shown_as = path_of(file.name(), self.includes);
        self.faults.push(fault(file, shown_as, path, message));
    }

    /// Enters a Rust name into a scope. `owner` says in a fault's words what takes it.
    fn claim(&mut self, scope: &str, kind: Kind, name: String, owner: String, path: &[i32]) {
        let key = (scope.to_owned(), kind, name);
        match self.scopes.get(&key) {
            // A package that several files share claims its name once for each.
            Some(holder) if *holder == owner => {}
            Some(holder) => {
                let message = format!(
                    "{owner} and {holder} would both be `{}` in Rust: rename one",
                    key.2
                );
                self.fault(path, message);
            }
            None => {
                self.scopes.insert(key, owner);
            }
        }
    }

    fn file(&mut self, file: &'a FileDescriptorProto) {
        self.file = Some(file);
        if file.syntax() != "proto3" {
            let found = file.syntax.as_deref().unwrap_or("proto2");
            self.fault(
                &[part::SYNTAX],
                format!("syntax is {found}: write `syntax = \"proto3\";`"),
            );
            return;
        }
        if file.package().is_empty() {
            self.fault(
                &[part::SYNTAX],
                "no package: write `package NAME;`, it names the Rust module and the services"
                    .to_owned(),
            );
            return;
        }
        self.package(file.package());
        let package = file.package();
        for (index, message) in file.message_type.iter().enumerate() {
            self.message(package, message, &child(&[], part::MESSAGE, index));
        }
        for (index, enumeration) in file.enum_type.iter().enumerate() {
            self.enumeration(package, enumeration, &child(&[], part::ENUM, index));
        }
        for (index, service) in file.service.iter().enumerate() {
            self.service(package, service, &child(&[], part::SERVICE, index));
        }
    }

    fn package(&mut self, package: &str) {
        let path = [part::PACKAGE];
        let mut scope = String::new();
        for component in package.split('.') {
            self.agreed_snake(component, "package", &path);
            let full = join(&scope, component);
            let owner = format!("package `{full}`");
            // The outermost module stands in the user's crate, where no JSON code looks.
            if !scope.is_empty() {
                self.unreserved_module(component, &owner, &path);
            }
            self.claim(&scope, Kind::Module, names::snake(component), owner, &path);
            scope = full;
        }
    }

    fn message(&mut self, scope: &str, message: &'a DescriptorProto, path: &[i32]) {
        let full = join(scope, message.name());
        let owner = format!("message `{full}`");
        self.type_name(scope, message.name(), &owner, path);
        let oneofs = declared_oneofs(message);
        let has_module = !oneofs.is_empty()
            || !message.enum_type.is_empty()
            || message
                .nested_type
                .iter()
                .any(|nested| !is_map_entry(nested));
        if has_module {
            self.agreed_snake(message.name(), "message", path);
            let module = names::snake(message.name());
            if self.is_package(scope) {
                self.unreserved_module(message.name(), &owner, path);
            }
            self.claim(scope, Kind::Module, module, owner, path);
        }
        for (index, field) in message.field.iter().enumerate() {
            self.field(&full, message, field, &child(path, part::FIELD, index));
        }
        for (index, name) in oneofs {
            let path = child(path, part::ONEOF, index);
            let owner = format!("oneof `{full}.{name}`");
            self.agreed_snake(name, "oneof", &path);
            self.claim(&full, Kind::Field, names::snake(name), owner.clone(), &path);
            self.claim(&full, Kind::Type, names::upper_camel(name), owner, &path);
        }
        for (index, nested) in message.nested_type.iter().enumerate() {
            if !is_map_entry(nested) {
                self.message(&full, nested, &child(path, part::NESTED_MESSAGE, index));
            }
        }
        for (index, nested) in message.enum_type.iter().enumerate() {
            self.enumeration(&full, nested, &child(path, part::NESTED_ENUM, index));
        }
    }

    fn field(
        &mut self,
        scope: &str,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        path: &[i32],
    ) {
        let name = field.name();
        let owner = format!("field `{scope}.{name}`");
        self.agreed_snake(name, "field", path);
        if field
            .json_name()
            .contains(|c: char| c == '"' || c == '\\' || c.is_control())
        {
            self.fault(
                path,
                format!(
                    "{owner} has a `json_name` with a quote, a backslash or a control character"
                ),
            );
        }
        // A map is a field of a message behind the scenes, whose fields are its key and value.
        let entries = message
            .nested_type
            .iter()
            .filter(|nested| is_map_entry(nested));
        let entry = entries
            .into_iter()
            .find(|entry| field.type_name() == format!(".{scope}.{}", entry.name()));
        let typed = entry.map_or(std::slice::from_ref(field), |entry| &entry.field);
        for field in typed {
            self.own_type(field.type_name(), &owner, path);
        }
        if field.oneof_index.is_none() || field.proto3_optional() {
            self.claim(scope, Kind::Field, names::snake(name), owner.clone(), path);
        }
        // The JSON code lists all fields, those of oneofs too, as variants of one enum.
        self.claim(scope, Kind::Variant, names::upper_camel(name), owner, path);
    }

    fn enumeration(&mut self, scope: &str, enumeration: &'a EnumDescriptorProto, path: &[i32]) {
        let full = join(scope, enumeration.name());
        self.type_name(scope, enumeration.name(), &format!("enum `{full}`"), path);
        let mut numbers = Vec::new();
        for (index, value) in enumeration.value.iter().enumerate() {
            if numbers.contains(&value.number()) {
                // An alias; the first name of a number is the one that is generated.
                continue;
            }
            numbers.push(value.number());
            let path = child(path, part::VALUE, index);
            let variant = names::variant(enumeration.name(), value.name());
            if !names::is_agreed_variant(&variant) {
                self.fault(
                    &path,
                    format!(
                        "enum value `{full}.{}` has no Rust name: rename it",
                        value.name()
                    ),
                );
            }
            let owner = format!("enum value `{full}.{}`", value.name());
            self.claim(&full, Kind::Variant, variant, owner, &path);
        }
    }

    fn service(&mut self, package: &str, service: &'a ServiceDescriptorProto, path: &[i32]) {
        let full = join(package, service.name());
        let owner = format!("service `{full}`");
        self.unreserved_module(service.name(), &owner, path);
        self.claim(
            package,
            Kind::Module,
            names::snake(service.name()),
            owner,
            path,
        );
        for (index, method) in service.method.iter().enumerate() {
            self.method(&full, method, &child(path, part::METHOD, index));
        }
    }

    fn method(&mut self, service: &str, method: &'a MethodDescriptorProto, path: &[i32]) {
        let full = format!("{service}/{}", method.name());
        let owner = format!("rpc `{full}`");
        if method.client_streaming() || method.server_streaming() {
            self.fault(
                path,
                format!(
                    "{owner} streams: only one request and one reply are supported; \
                     send several messages, or push to the peer"
                ),
            );
        }
        self.own_type(method.input_type(), &owner, path);
        self.own_type(method.output_type(), &owner, path);
        let function = names::snake(method.name());
        if function == "new" {
            self.fault(
                path,
                format!("{owner} clashes with `new` of the client: rename it"),
            );
        }
        self.claim(service, Kind::Function, function, owner.clone(), path);
        self.claim(
            service,
            Kind::Type,
            names::upper_camel(method.name()),
            owner.clone(),
            path,
        );
        match self.ids.insert(MessageId::of(&full), full) {
            None => {}
            Some(holder) => self.fault(
                path,
                format!("{owner} and rpc `{holder}` have the same message id: rename one"),
            ),
        }
    }

    fn type_name(&mut self, scope: &str, name: &str, owner: &str, path: &[i32]) {
        let rust_name = names::upper_camel(name);
        let reserved = RESERVED_TYPES.contains(&rust_name.as_str()) && self.is_package(scope);
        if reserved || !names::is_agreed_type(name) {
            self.fault(
                path,
                format!("{owner} cannot be `{rust_name}` in Rust: rename it"),
            );
        }
        self.claim(scope, Kind::Type, rust_name, owner.to_owned(), path);
    }

    fn unreserved_module(&mut self, name: &str, owner: &str, path: &[i32]) {
        let module = names::snake(name);
        if RESERVED_MODULES.contains(&module.as_str()) {
            self.fault(
                path,
                format!("{owner} cannot have a module `{module}` in Rust: rename it"),
            );
        }
    }

    fn agreed_snake(&mut self, name: &str, what: &str, path: &[i32]) {
        if !names::is_agreed_snake(name) {
            self.fault(
                path,
                format!("{what} name `{name}` has no Rust name: rename it"),
            );
        }
    }

    /// Refuses protobuf's own types, whose JSON forms are special cases that are not generated.
    fn own_type(&mut self, type_name: &str, owner: &str, path: &[i32]) {
        if let Some(name) = type_name.strip_prefix(".google.protobuf.") {
            self.fault(
                path,
                format!(
                    "{owner} uses google.protobuf.{name}, which is not supported: declare a \
                     message of your own (an empty one for Empty, milliseconds for Timestamp)"
                ),
            );
        }
    }

    /// JSON code stands in the module of the package, so short names matter only there.
    fn is_package(&self, scope: &str) -> bool {
        self.file.is_some_and(|file| file.package() == scope)
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

pub(crate) fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(prost_types::MessageOptions::map_entry)
}

/// The oneofs that stand in the file, with their indices; `optional` makes others behind the scenes.
pub(crate) fn declared_oneofs(message: &DescriptorProto) -> Vec<(usize, &str)> {
    let mut oneofs = message.oneof_decl.iter().enumerate().collect::<Vec<_>>();
    oneofs.retain(|(index, _)| {
        message.field.iter().any(|field| {
            let member_of = field.oneof_index.and_then(|of| usize::try_from(of).ok());
            member_of == Some(*index) && !field.proto3_optional()
        })
    });
    oneofs
        .into_iter()
        .map(|(index, oneof)| (index, oneof.name()))
        .collect()
}
