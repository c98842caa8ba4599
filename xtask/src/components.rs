//! The external programs that tests drive, and which tests need which.
//!
//! A test that needs a component says so in its name: `needs_chromium_two_tabs_talk`. It finds the
//! program through `WAYSTATION_TEST_COMPONENTS=chromium=/usr/bin/chromium,…`.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The variable that carries the programs' paths to the tests.
pub(crate) const VARIABLE: &str = "WAYSTATION_TEST_COMPONENTS";

const PREFIX: &str = "needs_";

/// One external program: how to find it and where Debian keeps it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// As it stands in test names and in the variable: letters and digits only.
    pub(crate) name: &'static str,
    /// Programs any of which will do, the best first.
    programs: &'static [&'static str],
    /// What `apt-get install` is asked for.
    pub(crate) debian_packages: &'static [&'static str],
}

/// All components that a test may need.
pub(crate) const COMPONENTS: &[Component] = &[
    Component {
        name: "cc",
        programs: &["cc", "gcc"],
        debian_packages: &["gcc", "libc6-dev"],
    },
    Component {
        name: "chromium",
        programs: &["chromium", "chromium-browser", "google-chrome"],
        // Without a font the pictures that the page test takes show no text.
        debian_packages: &["chromium", "fonts-dejavu-core"],
    },
    Component {
        name: "etcd",
        programs: &["etcd"],
        debian_packages: &["etcd-server"],
    },
    Component {
        name: "iproute",
        // Network namespaces of tests begin with a loopback that is down.
        programs: &["ip"],
        debian_packages: &["iproute2"],
    },
    Component {
        name: "mariadb",
        // Tests make a database of their own with `mariadb-install-db`, which comes with it.
        programs: &["mariadbd"],
        debian_packages: &["mariadb-server"],
    },
    Component {
        name: "postgresql",
        // Tests make a cluster of their own; `postgres` stands beside it.
        programs: &["initdb"],
        debian_packages: &["postgresql"],
    },
    Component {
        name: "proj",
        // What is wanted is the database beside it, which nobody here wrote.
        programs: &["projinfo"],
        debian_packages: &["proj-bin", "proj-data"],
    },
    Component {
        name: "python",
        programs: &["python3"],
        debian_packages: &["python3"],
    },
    Component {
        name: "redis",
        programs: &["redis-server"],
        debian_packages: &["redis-server"],
    },
    Component {
        name: "sqlite3",
        // The distribution's own, which is not the version that ours is built with.
        programs: &["sqlite3"],
        debian_packages: &["sqlite3"],
    },
    Component {
        name: "strace",
        // What a program asks the system for, as the system sees it.
        programs: &["strace"],
        debian_packages: &["strace"],
    },
    Component {
        name: "zookeeper",
        // Tests start the server's class themselves; the script shows that it is installed.
        programs: &["zkServer.sh"],
        debian_packages: &["zookeeper"],
    },
];

/// Folders searched behind `PATH`; Debian keeps servers where a user's `PATH` does not look.
const MORE_FOLDERS: &[&str] = &[
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/share/zookeeper/bin",
];

/// The folder with a folder of programs for each version, `VERSION/bin`: Debian keeps those of
/// `PostgreSQL` so.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The folders of programs below `folder`, of the latest version first.
fn versions(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path().join("bin")))
    });
    let mut found: Vec<(u32, PathBuf)> = numbered.collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, path)| path).collect()
}

impl Component {
    /// Where its program is, if it is installed.
    pub(crate) fn find(&self, path: &OsStr) -> Option<PathBuf> {
        let folders: Vec<PathBuf> = std::env::split_paths(path)
            .chain(MORE_FOLDERS.iter().map(PathBuf::from))
            .chain(versions(Path::new(VERSIONS)))
            .collect();
        let candidates = self
            .programs
            .iter()
            .flat_map(|program| folders.iter().map(move |folder| folder.join(program)));
        candidates
            .into_iter()
            .find(|candidate| is_executable(candidate))
    }

    /// True when the test of this full name (`module::function`) needs the component.
    pub(crate) fn is_needed_by(&self, test: &str) -> bool {
        needed_part(test)
            .and_then(|part| part.strip_prefix(self.name))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    }
}

/// The components that at least one of the tests needs.
///
/// # Errors
/// A test names a component that `table` does not have.
pub(crate) fn needed<'a>(tests: &[String], table: &'a [Component]) -> Result<Vec<&'a Component>> {
    for test in tests.iter().filter(|test| needed_part(test).is_some()) {
        if !table.iter().any(|component| component.is_needed_by(test)) {
            bail!(
                "test {test} needs a component that xtask does not know; \
                 add it to xtask/src/components.rs or rename the test"
            );
        }
    }
    let is_needed = |component: &&Component| tests.iter().any(|test| component.is_needed_by(test));
    Ok(table.iter().filter(is_needed).collect())
}

/// The value of [`VARIABLE`] for these programs.
pub(crate) fn variable_value(found: &[(&Component, PathBuf)]) -> String {
    let entries = found
        .iter()
        .map(|(component, path)| format!("{}={}", component.name, path.display()));
    entries.collect::<Vec<_>>().join(",")
}

fn needed_part(test: &str) -> Option<&str> {
    test.rsplit("::")
        .next()
        .and_then(|function| function.strip_prefix(PREFIX))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|entry| entry.is_file() && entry.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Component] = &[
        Component {
            name: "redis",
            programs: &["redis-server"],
            debian_packages: &["redis-server"],
        },
        Component {
            name: "sh",
            programs: &["no-such-shell", "sh"],
            debian_packages: &["dash"],
        },
    ];

    fn names(tests: &[&str]) -> Vec<String> {
        tests.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_test_names_its_component() {
        let tests = names(&[
            "store::needs_redis_keeps_order",
            "wheel::fires",
            "a_caller_needs_redis",
        ]);
        assert_eq!(needed(&tests, TABLE).unwrap(), [&TABLE[0]]);
        assert!(TABLE[0].is_needed_by("needs_redis"));
        assert!(!TABLE[0].is_needed_by("needs_rediscovery"));
    }

    #[test]
    fn an_unknown_component_is_an_error() {
        let error = needed(&names(&["x::needs_oracle_too"]), TABLE).unwrap_err();
        assert!(error.to_string().contains("x::needs_oracle_too"));
    }

    #[test]
    fn any_of_the_programs_will_do_and_a_missing_one_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sh");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(
            TABLE[1].find(folder.path().as_os_str()),
            None,
            "not executable"
        );
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(TABLE[1].find(folder.path().as_os_str()), Some(program));
    }

    #[test]
    fn programs_that_stand_by_version_are_found_the_latest_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["9", "15", "common"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let expected = ["15", "9"].map(|name| folder.path().join(name).join("bin"));
        assert_eq!(versions(folder.path()), expected);
        assert_eq!(versions(&folder.path().join("none")), Vec::<PathBuf>::new());
    }

    #[test]
    fn paths_reach_the_tests_in_one_variable() {
        let found = [
            (&TABLE[0], PathBuf::from("/a/redis-server")),
            (&TABLE[1], PathBuf::from("/b/sh")),
        ];
        assert_eq!(variable_value(&found), "redis=/a/redis-server,sh=/b/sh");
    }
}
