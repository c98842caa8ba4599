//! What the service framework must get right, theme by theme.

mod answers;
mod cancellation;
mod deadlines;
mod panics;
mod steps;
mod wires;

use waystation_service_check::demo::{Act, Script};

/// A script of these acts.
fn script(acts: &[Act]) -> Script {
    Script {
        acts: acts.iter().map(|act| i32::from(*act)).collect(),
        name: String::new(),
    }
}
