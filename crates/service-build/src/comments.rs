//! Comments of a `.proto` file as documentation that rustdoc takes.
//!
//! Every element gets a location with exactly one comment: its own, made harmless, or a plain
//! sentence that says what it is, so that generated code is documented throughout.

use std::collections::HashMap;

use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
    SourceCodeInfo,
};

use crate::check::declared_oneofs;
use crate::source::{child, part};

/// Replaces the source information of `file` by one comment for each of its elements.
pub(crate) fn document(file: &mut FileDescriptorProto) {
    let written = file.source_code_info.take().unwrap_or_default().location;
    let mut writer = Writer {
        written: written.iter().map(|at| (at.path.as_slice(), at)).collect(),
        locations: Vec::new(),
    };
    let package = file.package();
    for (index, message) in file.message_type.iter().enumerate() {
        writer.message(package, message, &child(&[], part::MESSAGE, index));
    }
    for (index, enumeration) in file.enum_type.iter().enumerate() {
        writer.enumeration(package, enumeration, &child(&[], part::ENUM, index));
    }
    for (index, service) in file.service.iter().enumerate() {
        writer.service(package, service, &child(&[], part::SERVICE, index));
    }
    file.source_code_info = Some(SourceCodeInfo {
        location: writer.locations,
    });
}

struct Writer<'a> {
    written: HashMap<&'a [i32], &'a Location>,
    locations: Vec<Location>,
}

impl Writer<'_> {
    /// Sets the comment of the element at `path`: what the file says, else `instead`.
    fn comment(&mut self, path: &[i32], instead: String) {
        let own = self.written.get(path).and_then(|location| {
            let comments = [&location.leading_comments, &location.trailing_comments];
            let comments = comments.into_iter().flatten();
            let text = comments.map(String::as_str).collect::<Vec<_>>().join("\n");
            let clean = clean(&text);
            (!clean.is_empty()).then_some(clean)
        });
        self.locations.push(Location {
            path: path.to_vec(),
            leading_comments: Some(own.unwrap_or(instead)),
            ..Location::default()
        });
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto, path: &[i32]) {
        let full = format!("{scope}.{}", message.name());
        self.comment(path, format!("Message `{full}`."));
        for (index, field) in message.field.iter().enumerate() {
            self.comment(
                &child(path, part::FIELD, index),
                format!("Field `{}`, number {}.", field.name(), field.number()),
            );
        }
        for (index, name) in declared_oneofs(message) {
            self.comment(
                &child(path, part::ONEOF, index),
                format!("One of several: `{full}.{name}`."),
            );
        }
        for (index, nested) in message.nested_type.iter().enumerate() {
            self.message(&full, nested, &child(path, part::NESTED_MESSAGE, index));
        }
        for (index, nested) in message.enum_type.iter().enumerate() {
            self.enumeration(&full, nested, &child(path, part::NESTED_ENUM, index));
        }
    }

    fn enumeration(&mut self, scope: &str, enumeration: &EnumDescriptorProto, path: &[i32]) {
        self.comment(path, format!("Enum `{scope}.{}`.", enumeration.name()));
        for (index, value) in enumeration.value.iter().enumerate() {
            self.comment(
                &child(path, part::VALUE, index),
                format!("Value `{}`, number {}.", value.name(), value.number()),
            );
        }
    }

    fn service(&mut self, package: &str, service: &ServiceDescriptorProto, path: &[i32]) {
        let full = format!("{package}.{}", service.name());
        self.comment(path, format!("Service `{full}`."));
        for (index, method) in service.method.iter().enumerate() {
            self.comment(
                &child(path, part::METHOD, index),
                format!("Rpc `{full}/{}`.", method.name()),
            );
        }
    }
}

/// The comment without what rustdoc would run as a test: fenced blocks become text, and indented
/// lines stay below the four spaces that begin a block.
fn clean(comment: &str) -> String {
    let mut lines = Vec::new();
    let mut fence: Option<&str> = None;
    for line in comment.lines() {
        let line = line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end());
        let text = line.trim_start();
        let opens = ["```", "~~~"]
            .into_iter()
            .find(|mark| text.starts_with(mark));
        match (fence, opens) {
            (None, Some(mark)) => {
                lines.push(format!("{mark}text"));
                fence = Some(mark);
            }
            (Some(open), Some(mark)) if open == mark => {
                lines.push(mark.to_owned());
                fence = None;
            }
            (Some(_), _) => lines.push(line.to_owned()),
            (None, None) => {
                let indent = line.len() - text.len();
                lines.push(format!("{:indent$}{text}", "", indent = indent.min(3)));
            }
        }
    }
    if let Some(mark) = fence {
        lines.push(mark.to_owned());
    }
    lines.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays() {
        assert_eq!(clean(" One line.\n Another.\n"), "One line.\nAnother.");
        assert_eq!(clean("\n\n"), "");
    }

    #[test]
    fn fenced_code_is_never_a_test() {
        assert_eq!(
            clean(" Like so:\n ```rust\n     panic!()\n ```\n"),
            "Like so:\n```text\n    panic!()\n```"
        );
        assert_eq!(clean("```\nopen"), "```text\nopen\n```");
    }

    #[test]
    fn indented_code_is_never_a_test() {
        assert_eq!(
            clean(" Like so:\n\n     panic!()\n"),
            "Like so:\n\n   panic!()"
        );
        assert_eq!(clean("\tpanic!()"), " panic!()");
    }
}
