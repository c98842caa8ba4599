//! Installing missing components from Debian's packages, without starting any service.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::components::Component;
use crate::{environment, process};

/// Debian asks this program before a package's script starts a service; 101 means "do not".
const POLICY_PATH: &str = "/usr/sbin/policy-rc.d";

/// The first lines of our policy, by which one left behind by a killed run is known.
const POLICY: &str =
    "#!/bin/sh\n# Written by waystation's xtask while it installs packages.\nexit 101\n";

/// True where [`install`] may be called: as root on Debian.
pub(crate) fn is_possible() -> bool {
    environment::is_root() && environment::is_debian()
}

/// Installs the packages of these components, quietly and without a question.
///
/// # Errors
/// The policy file cannot be written, or apt-get fails.
pub(crate) fn install(components: &[&Component]) -> Result<()> {
    let packages: Vec<&str> = components
        .iter()
        .flat_map(|one| one.debian_packages)
        .copied()
        .collect();
    eprintln!("installing {}", packages.join(" "));
    let policy = Policy::forbid_starts(Path::new(POLICY_PATH))?;
    apt_get(&["-qq", "update"])?;
    let mut arguments = vec!["-qq", "--yes", "--no-install-recommends", "install"];
    arguments.extend(packages);
    apt_get(&arguments)?;
    policy.restore()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut lines = Vec::new();
    let status = process::stream(
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
        process::SILENCE_MAX,
        |_, line| lines.push(line.to_owned()),
    )?;
    let last: Vec<String> = lines.split_off(lines.len().saturating_sub(20));
    ensure!(
        status.success(),
        "apt-get {} failed:\n{}",
        arguments.join(" "),
        last.join("\n")
    );
    Ok(())
}

/// Our policy in place of the machine's; dropping it puts the machine's back.
struct Policy {
    path: PathBuf,
    is_restored: bool,
}

impl Policy {
    /// Sets the present policy aside and writes ours.
    fn forbid_starts(path: &Path) -> Result<Self> {
        restore(path).with_context(|| format!("cannot restore {}", path.display()))?;
        match fs::rename(path, aside(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot set {} aside", path.display()));
            }
            _ => {}
        }
        let policy = Self {
            path: path.to_path_buf(),
            is_restored: false,
        };
        fs::write(path, POLICY)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(policy)
    }

    fn restore(mut self) -> Result<()> {
        self.is_restored = true;
        restore(&self.path).with_context(|| format!("cannot restore {}", self.path.display()))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if !self.is_restored
            && let Err(error) = restore(&self.path)
        {
            eprintln!("error: cannot restore {}: {error}", self.path.display());
        }
    }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("d.before-waystation")
}

/// Removes a policy of ours and puts back the one that stood aside. Running it twice is harmless,
/// so it also cleans up after a run that was killed.
fn restore(path: &Path) -> std::io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|text| text == POLICY) {
        fs::remove_file(path)?;
    }
    match fs::rename(aside(path), path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_policy_has_none_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        let policy = Policy::forbid_starts(&path).unwrap();
        assert_eq!(Command::new(&path).status().unwrap().code(), Some(101));
        policy.restore().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_machines_own_policy_comes_back_also_on_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        fs::write(&path, "own").unwrap();
        drop(Policy::forbid_starts(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "own");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_policy_left_by_a_killed_run_is_not_taken_for_the_machines_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        fs::write(&path, "own").unwrap();
        std::mem::forget(Policy::forbid_starts(&path).unwrap());
        Policy::forbid_starts(&path).unwrap().restore().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "own");
    }
}
