// Generated: one module for each protobuf package. Do not edit.

/// Messages and services of the protobuf package `containers`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    dead_code,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod containers {
    include!("containers.rs");
}

/// Messages and services of the protobuf package `every_type`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    dead_code,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod every_type {
    include!("every_type.rs");
}

/// Messages and services of the protobuf package `im`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    dead_code,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod im {
    include!("im.rs");
    /// Messages and services of the protobuf package `im.common`.
    pub mod common {
        include!("im.common.rs");
    }
}
