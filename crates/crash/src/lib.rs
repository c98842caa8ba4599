//! Real processes of multi-site sync, killed with SIGKILL at random under load.
//!
//! A hub and four sites run as processes: the master, whose database a program
//! writes to; a room that is, as the master is, a donor of copies; a room that applies; and a
//! room that takes its copy anew again and again. At random moments one of them is
//! killed and started again. Then `verify` and a checker of its own, which reads
//! every table of every file in the order of its keys, must agree that all copies
//! are equal, and that each publish that was acknowledged was applied exactly once.
//!
//! SIGKILL keeps what the kernel has, so that this proves nothing of a loss of power:
//! the log's own tests do (`crates/sync/src/log/tests/power.rs`).
//!
//! `cargo xtask crash sync --kills 500` runs it. What is drawn comes from the seed;
//! when processes get their turn does not, so that a seed replays the choices and
//! not the run.

mod check;
mod load;
mod place;
mod report;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

pub use check::compare;
pub use report::Report;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary under test.
    pub binary: PathBuf,
    /// How many processes are killed.
    pub kills: u32,
    /// What is drawn.
    pub seed: u64,
    /// Rows of the base data, of about 400 bytes each.
    pub rows: u32,
    /// Longest wait for anything. Default of the command: 120 s.
    pub patience: Duration,
}

/// Runs it to its end; `tell` gets a line for each stage.
///
/// # Errors
/// Copies differ, an acknowledged publish is missing or was applied twice, or
/// something did not come about in time. The folder with all files and logs is
/// kept then, and named.
pub fn run(options: &Options, mut tell: impl FnMut(&str)) -> Result<Report> {
    world::run(options, &mut tell)
}
