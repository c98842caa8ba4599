//! Programs that tests drive and this project does not bring.

use std::path::{Path, PathBuf};

/// Where a program is: as `cargo xtask test` says, or where Debian has it.
/// Nothing when it is missing, which is said.
///
/// # Panics
/// When it is missing with `CI=true`.
pub fn find(name: &str, usual: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
    let components = variable("WAYSTATION_TEST_COMPONENTS").unwrap_or_default();
    let named = components.split(',').find_map(|entry| {
        let (one, path) = entry.split_once('=')?;
        (one == name).then_some(path)
    });
    let program = Path::new(named.unwrap_or(usual)).to_owned();
    if program.is_file() {
        return Some(program);
    }
    let is_ci = variable("CI").is_some_and(|value| value == "true" || value == "1");
    assert!(!is_ci, "{} is missing", program.display());
    println!("left out: {} is missing", program.display());
    None
}
