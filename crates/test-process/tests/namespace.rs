//! Networks of a test's own, where the machine has them and where it has not.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::process::{Command, Output};

use waystation_test_process::namespace::{self, Namespaces};

/// Set in a process that plays a machine without namespaces.
const WITHOUT: &str = "WAYSTATION_TEST_WITHOUT_NAMESPACES";

/// Never succeeds.
const SETUP: &str = "echo 'not here' >&2; false";

/// Story: a machine without network namespaces passed tests that need them, and
/// nobody was told.
#[test]
fn a_machine_without_namespaces_says_so_and_fails_where_nothing_may_be_missing() {
    if std::env::var_os(WITHOUT).is_some() {
        if let Err(reason) = Namespaces::find(SETUP) {
            namespace::leave_out("ports", &reason);
        }
        return;
    }
    let left_out = without_namespaces("");
    let said = String::from_utf8(left_out.stderr).unwrap();
    assert!(said.contains("left out: test ports: "), "{said}");
    assert!(left_out.status.success());
    let failed = without_namespaces("true");
    assert!(!failed.status.success());
}

/// This program once more, where no namespace can be set up.
fn without_namespaces(ci: &str) -> Output {
    let test = "a_machine_without_namespaces_says_so_and_fails_where_nothing_may_be_missing";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact"]).env(WITHOUT, "1");
    command.env("CI", ci).output().unwrap()
}
