//! Configurations as a user writes them, and the texts they lead to.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::{run, stderr, stdout, waystation};

/// Compares with `testdata/config/NAME.expected`;
/// `UPDATE_TESTDATA=1 cargo test -p waystation` writes it.
fn expect(name: &str, actual: &str) {
    let path = format!(
        "{}/testdata/config/{name}.expected",
        env!("CARGO_MANIFEST_DIR")
    );
    if std::env::vars_os().any(|(name, _)| name == "UPDATE_TESTDATA") {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "see {path}");
}

fn check_fails(name: &str) {
    let file = format!("config/{name}.toml");
    let output = run(&["--config", &file, "config", "check"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    expect(name, &stderr(&output));
}

#[test]
fn every_fault_of_a_file_is_listed_with_its_place() {
    check_fails("many-faults");
}

#[test]
fn broken_syntax_is_placed() {
    check_fails("broken-syntax");
}

#[test]
fn duplicates_are_placed() {
    check_fails("duplicates");
}

/// Nothing may start or bind with a configuration that is wrong.
#[test]
fn up_and_the_roles_refuse_before_they_touch_anything() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let dir = dir.to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["up", "--dir", dir],
        &["im", "das", "--dir", dir],
        &["ctx", "--dir", dir],
    ];
    for command in commands {
        let output = run(&[&["--config", "config/many-faults.toml"], command].concat());
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains("many-faults.toml:12:1: console.lisen"));
        assert!(!std::path::Path::new(dir).exists());
    }
}

#[test]
fn faults_as_json_are_one_object_a_line() {
    let output = run(&[
        "--json",
        "--config",
        "config/duplicates.toml",
        "config",
        "check",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let lines = stdout(&output);
    let faults: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!faults.is_empty());
    assert_eq!(faults[0]["origin"], "config/duplicates.toml:3:1");
}

#[test]
fn a_good_file_is_valid() {
    let output = run(&["--config", "config/good.toml", "config", "check"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "the configuration is valid\n");
}

#[test]
fn show_tells_who_set_each_value() {
    let mut command = waystation(&[
        "--config",
        "config/good.toml",
        "--log",
        "debug",
        "config",
        "show",
    ]);
    command.env("WAYSTATION_UP__DIR", "/tmp/w");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    expect("show", &stdout(&output));
}

#[test]
fn show_as_json_has_every_setting() {
    let output = run(&["--config", "config/good.toml", "--json", "config", "show"]);
    let shown: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(shown["console"]["listen"]["value"], "[::1]:9070");
    assert_eq!(shown["console"]["listen"]["origin"], "config/good.toml:2:1");
    assert_eq!(shown["console"]["listen"]["default"], "127.0.0.1:7070");
    assert_eq!(shown["up"]["drain_timeout_ms"]["unit"], "ms");
}
