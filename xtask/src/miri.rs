//! `cargo xtask miri`: tests of the crates whose memory is shared, under Miri, which finds accesses
//! beyond what is there, data races and reads that the memory model allows and no machine at hand
//! shows.

use anyhow::{Result, bail};

use crate::metadata::Metadata;
use crate::{fuzz, process};

/// A package and which of its tests run, run by run.
type Package = (&'static str, &'static [&'static [&'static str]]);

/// The crates whose threads or processes share words, and which of their tests run: the others make
/// thousands of picks, which take hours there, and touch the same words in the same ways. What maps
/// words into a process (`crates/client/src/mapping.rs`) calls the system, which Miri has not.
const PACKAGES: &[Package] = &[
    ("waystation-segment", &[&["--lib"], HOSTILE, PICKS]),
    ("waystation-mailbox", &[&["--test", "mailbox"]]),
];

/// Words of any content, read by a picker.
const HOSTILE: &[&str] = &[
    "--test",
    "hostile",
    "--",
    "a_pick_from_any_bytes",
    "another_layout",
];

/// Picks that end with few calls.
const PICKS: &[&str] = &["--test", "picks", "--", "the_cheapest_reported_host"];

/// Cases of each property: Miri takes about a thousand times as long as a machine.
const PROPERTY_CASES: &str = "4";

/// Runs the tests of `packages`, of all that are known when none is named; true when nothing was
/// found.
///
/// # Errors
/// A package is none of them, Miri is missing, or cargo cannot be started.
pub(crate) fn run(packages: &[String]) -> Result<bool> {
    let chosen = chosen(packages)?;
    if !process::works(fuzz::nightly().args(["miri", "--version"])) {
        eprintln!("==> Miri is a component of the nightly toolchain:");
        eprintln!("    rustup toolchain install nightly --component miri,rust-src");
        bail!("a tool is missing");
    }
    // A folder of its own: another compiler would drop what the pinned one built.
    let folder = Metadata::load()?.target_directory.join("miri");
    let mut is_clean = true;
    let runs = chosen
        .into_iter()
        .flat_map(|(package, runs)| runs.iter().map(move |arguments| (package, *arguments)));
    for (package, arguments) in runs {
        let mut command = fuzz::nightly();
        command
            .args(["miri", "test", "--locked", "--package", package])
            .args(arguments)
            // Properties read the environment and the folder of their regressions.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
            .env("PROPTEST_CASES", PROPERTY_CASES)
            .env("CARGO_TARGET_DIR", &folder);
        is_clean &= process::run(&mut command)?;
    }
    Ok(is_clean)
}

/// The packages to run, each with its runs.
fn chosen(packages: &[String]) -> Result<Vec<Package>> {
    if packages.is_empty() {
        return Ok(PACKAGES.to_vec());
    }
    let known = |name: &String| PACKAGES.iter().find(|(known, _)| known == name).copied();
    let named = |name| match known(name) {
        Some(package) => Ok(package),
        None => bail!("Miri runs nothing of {name:?}"),
    };
    packages.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment;

    #[test]
    fn all_are_run_unless_some_are_named() {
        assert_eq!(chosen(&[]).unwrap(), PACKAGES);
        let one = chosen(&["waystation-segment".to_owned()]).unwrap();
        assert_eq!(one, PACKAGES[..1]);
        let error = chosen(&["waystation-net".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("waystation-net"), "{error}");
    }

    #[test]
    fn the_packages_are_there() {
        for (package, _) in PACKAGES {
            let name = package.strip_prefix("waystation-").unwrap();
            let folder = environment::root().join("crates").join(name);
            let text = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            assert!(text.contains(&format!("name = \"{package}\"")), "{text}");
        }
    }
}
