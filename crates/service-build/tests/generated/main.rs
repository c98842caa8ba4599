//! Compiles the expected text under the lints of the workspace and runs it against a stand-in for
//! the contract of `waystation-service`. `golden.rs` proves that it is the text that is generated.

// Generated code names the runtime crate by its absolute path; here that is this test.
extern crate self as waystation_service;

mod contract_stand_in;
mod json;
mod service;

pub use contract_stand_in::*;

include!("../../testdata/expected/_mod.rs");
