//! Typed handlers and client stubs from `.proto` files, without `protoc`.
//!
//! Called from a build script, this crate compiles `.proto` files and writes for each protobuf
//! package one Rust file with
//!
//! - its messages and enums (prost types: `Clone`, `PartialEq`, `Debug`, `Default`, protobuf
//!   encoding),
//! - their canonical protobuf JSON (`serde::Serialize` and `Deserialize`),
//! - for each service a module with a handler trait, `register`, a typed client, a marker type for
//!   each rpc, and a `push_…` function for each rpc that can go one way.
//!
//! The crate that includes the files needs `waystation-service` and nothing else.
//!
//! # Use
//!
//! ```text
//! // proto/im.proto
//! syntax = "proto3";
//! package im;
//!
//! service Logic {
//!   // Sends a message.
//!   rpc Send(SendRequest) returns (SendReply) { option idempotency_level = IDEMPOTENT; }
//! }
//! message SendRequest { string text = 1; }
//! message SendReply { uint64 seq = 1; }
//! ```
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), waystation_service_build::Error> {
//!     waystation_service_build::Config::new()
//!         .include("proto")
//!         .compile(&["proto/im.proto"])
//! }
//! ```
//!
//! ```text
//! // src/lib.rs: one line for all packages. It makes `pub mod im`, and modules below it for
//! // packages such as `im.v1`, with the lints off that generated code does not follow.
//! include!(concat!(env!("OUT_DIR"), "/_mod.rs"));
//!
//! use im::logic::{Logic, LogicClient};
//! use waystation_service::{Ctx, Status};
//!
//! struct Rules;
//!
//! impl Logic for Rules {
//!     async fn send(&self, ctx: &Ctx, request: im::SendRequest) -> Result<im::SendReply, Status> {
//!         Ok(im::SendReply { seq: 1 })
//!     }
//! }
//!
//! im::logic::register(&mut router, Rc::new(Rules))?;
//! let reply = LogicClient::new(channel).send(&ctx, &request).await?;
//! ```
//!
//! A package whose messages refer to no other can stand in a module of one's own choice:
//!
//! ```text
//! #[allow(
//!     clippy::all,
//!     clippy::pedantic,
//!     clippy::allow_attributes_without_reason,
//!     dead_code,
//!     unreachable_pub,
//!     unused_qualifications,
//!     reason = "generated code"
//! )]
//! pub mod im {
//!     include!(concat!(env!("OUT_DIR"), "/im.rs"));
//! }
//! ```
//!
//! # What is supported
//!
//! proto3 files with a package; messages, enums, maps, oneofs, `optional`, nesting, imports. An
//! rpc is marked idempotent by `option idempotency_level = IDEMPOTENT` or `NO_SIDE_EFFECTS`. An
//! rpc whose reply is a message without fields can also go one way, as a push to a peer.
//!
//! Refused, each with file, line and what to write instead: syntax errors, proto2 and editions,
//! streaming rpcs, two rpcs with one message id, names that become one name in Rust or that the
//! generators do not agree on, and the messages of `google.protobuf`. Those have JSON forms of
//! their own that are not generated: declare an empty message instead of `Empty`, and an `int64`
//! of milliseconds instead of `Timestamp` or `Duration`. Faults of one kind are reported together.
//!
//! # JSON
//!
//! The [protobuf JSON mapping](https://protobuf.dev/programming-guides/json/): names in
//! lowerCamelCase, 64-bit integers as strings, bytes as base64, enums by name, fields with default
//! values left out. Reading also takes names as they stand in the file, strings for numbers and
//! numbers for enums; unknown fields are errors. It differs from the mapping in three ways: `null` is taken for `optional` and message fields only; a message with an
//! enum number that the file does not know cannot be written; floats that are not finite are
//! written as serde has them (`null` with `serde_json`), though `"NaN"` and `"Infinity"` are read.
//!
//! Map fields are `BTreeMap`, so that equal messages have equal bytes and equal JSON. `Debug` of a
//! message with a map shows enums as numbers, of others by name.

mod check;
mod comments;
mod config;
mod error;
mod messages;
mod modules;
mod names;
mod services;
mod source;

pub use config::{Config, Generated, GeneratedFile, compile};
pub use error::{Error, Fault};
