//! `cargo xtask sim`: one simulation of `waystation-sim`, in the release profile.

use anyhow::{Context as _, Result};

use crate::environment;

/// Runs the simulation named first with the arguments behind it; true when it exited with 0.
///
/// Its time is virtual, so that a run ends by itself; it prints what replays a failure.
///
/// # Errors
/// Cargo cannot be started.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let status = environment::cargo()
        .args([
            "run",
            "--release",
            "--locked",
            "--package",
            "waystation-sim",
            "--",
        ])
        .args(arguments)
        .status()
        .context("cannot start cargo")?;
    Ok(status.success())
}
