//! `cargo xtask check`: every static check; all of them run, then the failed ones are named.

use std::process::Command;

use anyhow::Result;

use crate::fuzz::Report;
use crate::{environment, process, tidy};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 60;

/// What became of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// A tool that the step needs is missing.
    LeftOut,
}

impl From<bool> for Outcome {
    fn from(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Runs all steps; true when none failed. A step whose tool is missing is named and left out,
/// except that fuzzing that was asked for fails with `CI=true`.
///
/// # Errors
/// A tool that must be there cannot be started, or fell silent.
pub(crate) fn run(with_fuzz: bool) -> Result<bool> {
    let mut outcomes = vec![
        ("fmt", fmt()?),
        ("clippy", cargo_step(&CLIPPY)?),
        ("targets", fuzz_targets()?),
        ("tidy", Outcome::from(tidy::run()?)),
        ("doc", doc()?),
        ("deny", deny()?),
        ("advisories", advisories()?),
    ];
    if with_fuzz {
        outcomes.push(("fuzz", fuzz()?));
    }
    println!();
    for (name, outcome) in &outcomes {
        println!("{name:10} {}", describe(*outcome));
    }
    Ok(is_success(&outcomes, environment::is_ci()))
}

const CLIPPY: [&str; 7] = [
    "clippy",
    "--workspace",
    "--all-targets",
    "--locked",
    "--",
    "-D",
    "warnings",
];

fn describe(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::LeftOut => "left out, what it needs is missing",
    }
}

fn is_success(outcomes: &[(&str, Outcome)], is_ci: bool) -> bool {
    outcomes.iter().all(|(name, outcome)| match outcome {
        Outcome::Passed => true,
        Outcome::Failed => false,
        Outcome::LeftOut => !(is_ci && *name == "fuzz"),
    })
}

fn cargo_step(arguments: &[&str]) -> Result<Outcome> {
    announce(arguments);
    process::run(environment::cargo().args(arguments)).map(Outcome::from)
}

fn announce(arguments: &[&str]) {
    eprintln!("==> cargo {}", arguments.join(" "));
}

fn fmt() -> Result<Outcome> {
    let workspace = cargo_step(&["fmt", "--all", "--", "--check"])?;
    if !environment::root().join(tidy::FUZZ_MANIFEST).exists() {
        return Ok(workspace);
    }
    let fuzz = cargo_step(&[
        "fmt",
        "--manifest-path",
        tidy::FUZZ_MANIFEST,
        "--",
        "--check",
    ])?;
    Ok(Outcome::from(
        workspace == Outcome::Passed && fuzz == Outcome::Passed,
    ))
}

/// That the fuzz targets compile: they stand outside the workspace, where nothing else would see that
/// they do not. Their runtime is C++.
fn fuzz_targets() -> Result<Outcome> {
    if !process::works(Command::new("c++").arg("--version")) {
        eprintln!("==> there is no C++ compiler: the fuzz targets stay unchecked");
        return Ok(Outcome::LeftOut);
    }
    let arguments = ["check", "--locked", "--manifest-path", tidy::FUZZ_MANIFEST];
    announce(&arguments);
    let mut command = environment::cargo();
    command.args(arguments);
    if environment::variable("CARGO_TARGET_DIR").is_none() {
        // Else it would compile everything once more in a folder of its own.
        command.env("CARGO_TARGET_DIR", environment::root().join("target"));
    }
    process::run(&mut command).map(Outcome::from)
}

fn doc() -> Result<Outcome> {
    let arguments = [
        "doc",
        "--no-deps",
        "--workspace",
        "--locked",
        "--document-private-items",
    ];
    announce(&arguments);
    let mut command = environment::cargo();
    command.args(arguments).env("RUSTDOCFLAGS", "-Dwarnings");
    process::run(&mut command).map(Outcome::from)
}

fn deny() -> Result<Outcome> {
    if !process::works(environment::cargo().args(["deny", "--version"])) {
        eprintln!("==> cargo deny is not installed: licences and sources stay unchecked");
        eprintln!("    cargo install --locked cargo-deny");
        return Ok(Outcome::LeftOut);
    }
    cargo_step(&["deny", "--locked", "check", "bans", "licenses", "sources"])
}

/// Known vulnerabilities, by a database that is fetched each time. A machine that cannot reach it
/// leaves the step out, since nothing in this repository is wrong then.
fn advisories() -> Result<Outcome> {
    if !process::works(environment::cargo().args(["deny", "fetch", "db"])) {
        eprintln!(
            "==> cargo deny or its database of advisories is out of reach: they stay unchecked"
        );
        return Ok(Outcome::LeftOut);
    }
    cargo_step(&["deny", "--locked", "check", "--disable-fetch", "advisories"])
}

fn fuzz() -> Result<Outcome> {
    if !crate::fuzz::is_available() {
        return Ok(Outcome::LeftOut);
    }
    let reports = crate::fuzz::run_all(FUZZ_SECONDS)?;
    Ok(Outcome::from(reports.iter().all(Report::is_clean)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_check() {
        assert!(is_success(
            &[("fmt", Outcome::Passed), ("deny", Outcome::LeftOut)],
            true
        ));
        assert!(!is_success(
            &[("fmt", Outcome::Failed), ("deny", Outcome::Passed)],
            false
        ));
    }

    #[test]
    fn fuzzing_that_was_asked_for_must_run_in_ci_only() {
        let outcomes = [("fuzz", Outcome::LeftOut)];
        assert!(is_success(&outcomes, false));
        assert!(!is_success(&outcomes, true));
    }
}
