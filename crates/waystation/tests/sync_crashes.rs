//! `cargo xtask crash sync` in short: real processes, killed at random under load.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::path::PathBuf;
use std::time::Duration;

use waystation_crash::{Options, run};

/// Apply and acknowledge were not one step, and data and position in two stores: what
/// died in between left copies that differ.
#[test]
fn whatever_is_killed_the_copies_are_equal_in_the_end() {
    let options = Options {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_waystation")),
        kills: 10,
        seed: 6,
        rows: 4000,
        patience: Duration::from_mins(2),
    };
    let report = run(&options, |line| println!("{line}")).unwrap();
    assert_eq!(report.kills(), 10);
    assert!(report.proofs >= 2, "{}", report.text());
    assert!(report.written > 0 && report.published > 0);
}
