//! `cargo xtask test`: every test of the workspace, then the loom models, and one total.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::components::{self, COMPONENTS, Component};
use crate::metadata::Metadata;
use crate::process::{self, Origin, SILENCE_MAX};
use crate::summary::Summary;
use crate::{environment, install};

/// The integration test that holds a crate's loom models.
const LOOM_TEST: &str = "loom";

/// The crate whose tests run in both placements: see `WAYSTATION_TEST_PLACEMENT` in them.
const SPLIT_PACKAGE: &str = "waystation-net";

/// Cases of each property in a long run; proptest's own default is 256.
const PROPERTY_CASES_LONG: &str = "4096";

/// What the tests are run with: the components that are there and the tests that must be left out.
#[derive(Debug, Default)]
struct Plan {
    found: Vec<(&'static Component, PathBuf)>,
    /// Each test that cannot run, with the component it misses.
    left_out: Vec<(String, &'static str)>,
}

/// Runs the tests whose names contain one of `filters` (all when empty) and prints the total as
/// the last line; true when nothing failed. With `CI=true` a missing component is a failure.
///
/// # Errors
/// The tests cannot be listed, or one names an unknown component.
pub(crate) fn run(is_long: bool, filters: &[String]) -> Result<bool> {
    let metadata = Metadata::load()?;
    let Some(tests) = list()? else {
        let mut nothing = Summary::default();
        nothing.handle_end(false);
        println!("{nothing}");
        return Ok(false);
    };
    let tests: Vec<String> = tests
        .into_iter()
        .filter(|test| matches(test, filters))
        .collect();
    let plan = plan(&tests)?;
    let mut total = Summary::with_skipped(plan.left_out.len());
    let mut succeeded = true;
    for mut command in commands(&metadata, &plan, is_long, filters) {
        let (summary, run_succeeded) = observe(&mut command);
        total.add(summary);
        succeeded &= run_succeeded;
    }
    if total == Summary::default() {
        eprintln!("error: no test matches {}", filters.join(", "));
        succeeded = false;
    }
    for (test, lines) in &total.outputs {
        eprintln!("what {test} printed:");
        for line in lines {
            eprintln!("  {line}");
        }
    }
    for test in &total.failures {
        eprintln!("failed: {test}");
    }
    for test in &total.left_out {
        eprintln!("left out: {test}");
    }
    for (test, component) in &plan.left_out {
        eprintln!("left out: {test} ({component} is not installed)");
    }
    if environment::is_ci() && !plan.left_out.is_empty() {
        eprintln!("error: with CI=true a missing component is a failure");
        succeeded = false;
    }
    println!("{total}");
    Ok(succeeded && total.failed == 0)
}

/// The full names of all unit and integration tests, or `None` when they do not build.
fn list() -> Result<Option<Vec<String>>> {
    let mut tests = Vec::new();
    let mut command = environment::cargo();
    command.args([
        "test",
        "--workspace",
        "--locked",
        "--tests",
        "--quiet",
        "--",
        "--list",
    ]);
    let status = process::stream(&mut command, SILENCE_MAX, |origin, line| match origin {
        Origin::Out => tests.extend(listed_test(line)),
        Origin::Err => eprintln!("{line}"),
    })?;
    Ok(status.success().then_some(tests))
}

fn listed_test(line: &str) -> Option<String> {
    line.strip_suffix(": test").map(str::to_owned)
}

fn matches(test: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| test.contains(filter.as_str()))
}

/// Finds the needed components, installs what is missing where that is possible, and names the
/// tests for which it was not.
fn plan(tests: &[String]) -> Result<Plan> {
    let needed = components::needed(tests, COMPONENTS)?;
    let path = environment::variable("PATH").unwrap_or_default();
    let missing: Vec<&Component> = needed
        .iter()
        .copied()
        .filter(|component| component.find(&path).is_none())
        .collect();
    if !missing.is_empty() && install::is_possible() {
        // Not the end of the run: what could not be installed is left out and named below.
        if let Err(error) = install::install(&missing) {
            eprintln!("error: {error:#}");
        }
    }
    let mut plan = Plan::default();
    for component in needed {
        match component.find(&path) {
            Some(program) => plan.found.push((component, program)),
            None => plan.left_out.extend(
                tests
                    .iter()
                    .filter(|test| component.is_needed_by(test))
                    .map(|test| (test.clone(), component.name)),
            ),
        }
    }
    Ok(plan)
}

/// The cargo calls of a run: the workspace, the network core in split placement, then each crate
/// that has loom models.
fn commands(metadata: &Metadata, plan: &Plan, is_long: bool, filters: &[String]) -> Vec<Command> {
    let workspace = tests(&["--workspace"], plan, is_long, filters);
    let mut split = tests(
        &["--package", SPLIT_PACKAGE, "--tests"],
        plan,
        is_long,
        filters,
    );
    split.env("WAYSTATION_TEST_PLACEMENT", "split");
    let with_models = metadata.members().filter(|package| {
        package
            .test_file(LOOM_TEST)
            .is_some_and(|file| may_match(file, filters))
    });
    let models = with_models.map(|package| loom(metadata, package.name.as_str(), filters));
    [workspace, split].into_iter().chain(models).collect()
}

/// One run of ordinary tests.
fn tests(packages: &[&str], plan: &Plan, is_long: bool, filters: &[String]) -> Command {
    let mut workspace = environment::cargo();
    workspace
        .arg("test")
        .args(packages)
        .args(["--locked", "--no-fail-fast", "--"])
        .args(filters);
    for (test, _) in &plan.left_out {
        workspace.args(["--skip", test]);
    }
    workspace.env(
        components::VARIABLE,
        components::variable_value(&plan.found),
    );
    if is_long {
        workspace
            .env("WAYSTATION_TEST_LONG", "1")
            .env("PROPTEST_CASES", PROPERTY_CASES_LONG);
    }
    workspace
}

/// The run of a crate's loom models.
fn loom(metadata: &Metadata, package: &str, filters: &[String]) -> Command {
    let mut command = environment::cargo();
    command
        .args(["test", "--locked", "--release", "--test", LOOM_TEST])
        .args(["--package", package, "--"])
        .args(filters)
        // A folder of its own: the flag changes every crate, and the next ordinary build would
        // compile all of them again.
        .env(
            "CARGO_TARGET_DIR",
            metadata.target_directory.join(LOOM_TEST),
        )
        .env("RUSTFLAGS", loom_flags(environment::variable("RUSTFLAGS")));
    command
}

/// True when a filter may name a test in this file. To know it for sure the models would have to be
/// built, which takes longer than most filtered runs.
fn may_match(file: &Path, filters: &[String]) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut names = filters
        .iter()
        .map(|filter| filter.rsplit("::").next().unwrap_or(filter));
    filters.is_empty() || names.any(|name| text.contains(name))
}

fn loom_flags(present: Option<OsString>) -> OsString {
    let mut flags = present.unwrap_or_default();
    flags.push(" --cfg loom");
    flags
}

/// Runs one cargo call to its end. One that cannot run or hangs is a failure like any other, so
/// that the total is still printed.
fn observe(command: &mut Command) -> (Summary, bool) {
    let mut summary = Summary::default();
    let result = process::stream(command, SILENCE_MAX, |origin, line| {
        process::echo(origin, line);
        summary.handle_line(line);
    });
    let succeeded = match result {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("error: {error:#}");
            false
        }
    };
    summary.handle_end(succeeded);
    (summary, succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Package, Target};

    fn with_models(name: &str) -> Metadata {
        let target = Target {
            name: LOOM_TEST.to_owned(),
            kind: vec!["test".to_owned()],
            ..Target::default()
        };
        let package = Package {
            id: name.to_owned(),
            name: name.to_owned(),
            targets: vec![target],
            ..Package::default()
        };
        Metadata {
            packages: vec![package],
            workspace_members: vec![name.to_owned()],
            ..Metadata::default()
        }
    }

    fn arguments(command: &Command) -> Vec<&str> {
        command
            .get_args()
            .filter_map(|argument| argument.to_str())
            .collect()
    }

    #[test]
    fn listed_lines_that_are_tests_become_names() {
        assert_eq!(
            listed_test("wheel::fires: test").as_deref(),
            Some("wheel::fires")
        );
        assert_eq!(listed_test("3 tests, 0 benchmarks"), None);
    }

    #[test]
    fn a_test_that_misses_its_component_is_skipped_by_name() {
        let left_out = vec![("page::needs_chromium_x".to_owned(), "chromium")];
        let plan = Plan {
            left_out,
            ..Plan::default()
        };
        let commands = commands(&Metadata::default(), &plan, false, &["page".to_owned()]);
        assert_eq!(commands.len(), 2);
        for command in &commands {
            let arguments = arguments(command);
            let own = arguments
                .iter()
                .position(|argument| *argument == "--")
                .unwrap();
            assert_eq!(
                arguments[own + 1..],
                ["page", "--skip", "page::needs_chromium_x"]
            );
        }
    }

    #[test]
    fn each_crate_with_models_gets_a_run_with_its_own_folder() {
        let commands = commands(&with_models("mailbox"), &Plan::default(), false, &[]);
        assert_eq!(commands.len(), 3);
        assert!(arguments(&commands[2]).contains(&"mailbox"));
        assert!(variables(&commands[2]).contains(&"CARGO_TARGET_DIR"));
    }

    /// The network core ran its tests in one placement only, and the other broke.
    #[test]
    fn the_network_core_is_tested_in_both_placements() {
        let commands = commands(&Metadata::default(), &Plan::default(), false, &[]);
        assert!(arguments(&commands[0]).contains(&"--workspace"));
        assert!(!variables(&commands[0]).contains(&"WAYSTATION_TEST_PLACEMENT"));
        assert!(arguments(&commands[1]).contains(&SPLIT_PACKAGE));
        assert!(variables(&commands[1]).contains(&"WAYSTATION_TEST_PLACEMENT"));
    }

    fn variables(command: &Command) -> Vec<&str> {
        command
            .get_envs()
            .filter_map(|(name, _)| name.to_str())
            .collect()
    }

    #[test]
    fn models_that_no_filter_names_are_not_built() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("loom.rs");
        std::fs::write(&file, "fn a_sender_wakes() {}").unwrap();
        let matches = |filter: &str| may_match(&file, &[filter.to_owned()]);
        assert!(may_match(&file, &[]) && matches("wakes") && matches("tests::a_sender"));
        assert!(!matches("wheel"));
    }

    #[test]
    fn flags_that_are_set_already_stay() {
        assert_eq!(loom_flags(Some(OsString::from("-g"))), "-g --cfg loom");
    }
}
