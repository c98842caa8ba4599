//! `cargo xtask crash`: real processes, killed at random, in the release profile.

use anyhow::{Context as _, Result};

use crate::environment;

/// Builds the binary under test, then runs what kills it with these arguments; true when it
/// exited with 0.
///
/// # Errors
/// Cargo cannot be started.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let built = environment::cargo()
        .args(["build", "--release", "--locked", "--package", "waystation"])
        .status()
        .context("cannot start cargo")?;
    if !built.success() {
        return Ok(false);
    }
    let status = environment::cargo()
        .args([
            "run",
            "--release",
            "--locked",
            "--package",
            "waystation-crash",
            "--",
        ])
        .args(arguments)
        .status()
        .context("cannot start cargo")?;
    Ok(status.success())
}
