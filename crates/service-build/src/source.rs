//! Where things stand in a `.proto` file: protobuf's numbering of a descriptor's parts.

use std::path::PathBuf;

use prost_types::FileDescriptorProto;

use crate::error::Fault;

/// Field numbers of protobuf's own descriptors, as `SourceCodeInfo` paths use them.
pub(crate) mod part {
    /// `FileDescriptorProto.package`.
    pub(crate) const PACKAGE: i32 = 2;
    /// `FileDescriptorProto.message_type`.
    pub(crate) const MESSAGE: i32 = 4;
    /// `FileDescriptorProto.enum_type`.
    pub(crate) const ENUM: i32 = 5;
    /// `FileDescriptorProto.service`.
    pub(crate) const SERVICE: i32 = 6;
    /// `FileDescriptorProto.syntax`.
    pub(crate) const SYNTAX: i32 = 12;
    /// `DescriptorProto.field`.
    pub(crate) const FIELD: i32 = 2;
    /// `DescriptorProto.nested_type`.
    pub(crate) const NESTED_MESSAGE: i32 = 3;
    /// `DescriptorProto.enum_type`.
    pub(crate) const NESTED_ENUM: i32 = 4;
    /// `DescriptorProto.oneof_decl`.
    pub(crate) const ONEOF: i32 = 8;
    /// `EnumDescriptorProto.value`.
    pub(crate) const VALUE: i32 = 2;
    /// `ServiceDescriptorProto.method`.
    pub(crate) const METHOD: i32 = 2;
}

/// The path of a part's child: `path`, then the kind of the child and its index among its kind.
pub(crate) fn child(path: &[i32], kind: i32, index: usize) -> Vec<i32> {
    let index = i32::try_from(index).expect("a descriptor has fewer than 2^31 parts");
    let mut child = path.to_vec();
    child.extend([kind, index]);
    child
}

/// A fault at the part with this path, or at the nearest part around it that has a place.
pub(crate) fn fault(
    file: &FileDescriptorProto,
    shown_as: PathBuf,
    path: &[i32],
    message: String,
) -> Fault {
    let span = file.source_code_info.as_ref().and_then(|info| {
        (1..=path.len()).rev().find_map(|length| {
            let mut locations = info.location.iter();
            locations.find(|location| location.path == path[..length])
        })
    });
    let number = |index: usize| {
        let zero_based = *span?.span.get(index)?;
        Some(usize::try_from(zero_based).ok()? + 1)
    };
    Fault {
        file: Some(shown_as),
        line: number(0),
        column: number(1),
        message,
    }
}
