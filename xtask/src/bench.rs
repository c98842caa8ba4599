//! `cargo xtask bench`: one benchmark of `waystation-bench`, in the release profile.

use anyhow::{Context as _, Result};

use crate::environment;

/// Runs the benchmark named first with the arguments behind it; true when it exited with 0.
///
/// It keeps the terminal and has no deadline here, since each benchmark bounds its own run.
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
            "waystation-bench",
            "--",
        ])
        .args(arguments)
        .status()
        .context("cannot start cargo")?;
    Ok(status.success())
}
