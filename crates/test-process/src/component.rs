//! Programs that tests drive and this project does not bring.

use std::path::{Path, PathBuf};

/// Where a program is: as `cargo xtask test` says, or where Debian has it.
/// Nothing when it is missing, which is said.
///
/// # Panics
/// When it is missing with `CI=true`.
pub fn find(name: &str, usual: &str) -> Option<PathBuf> {
    let components = variable("WAYSTATION_TEST_COMPONENTS").unwrap_or_default();
    let named = components.split(',').find_map(|entry| {
        let (one, path) = entry.split_once('=')?;
        (one == name).then_some(path)
    });
    let program = Path::new(named.unwrap_or(usual)).to_owned();
    if program.is_file() {
        return Some(program);
    }
    assert!(!is_ci(), "{} is missing", program.display());
    println!("left out: {} is missing", program.display());
    None
}

/// Whether nothing may be missing.
pub(crate) fn is_ci() -> bool {
    variable("CI").is_some_and(|value| value == "true" || value == "1")
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok())
}
