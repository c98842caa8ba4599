//! What the service framework must get right, theme by theme.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail like the tests beside them"
)]

mod across;
mod admin;
mod answers;
mod cancellation;
mod channels;
mod deadlines;
mod groups;
mod http;
mod machines;
mod panics;
mod probes;
mod property;
mod sessions;
mod shares;
mod slow_readers;
mod start;
mod steps;
mod websocket;
mod wires;

use waystation_service_check::demo::{Act, Script};

/// A script of these acts.
fn script(acts: &[Act]) -> Script {
    Script {
        acts: acts.iter().map(|act| i32::from(*act)).collect(),
        name: String::new(),
    }
}
