//! Network namespaces of a test's own: it runs itself once more, in one.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Watchdog, component};

/// Set in a process that has a namespace of its own.
const INSIDE: &str = "WAYSTATION_TEST_NAMESPACE";

/// Where `ip` may be; the first if it is nowhere.
const IP: [&str; 3] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"];

type Way = &'static [&'static str];

/// To a network of one's own: as root, and as anybody else where that is allowed.
const WAYS: [Way; 2] = [&["--net"], &["--map-root-user", "--net"]];

/// How this machine allows network namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces {
    ip: PathBuf,
    way: Way,
}

/// Whether this process has a namespace of its own: what [`Namespaces::again`]
/// started does.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Where the program `ip` is; nothing when it is missing, which is said.
///
/// # Panics
/// When it is missing with `CI=true`.
pub fn ip() -> Option<PathBuf> {
    let place = IP.into_iter().find(|place| Path::new(place).is_file());
    component::find("iproute", place.unwrap_or(IP[0]))
}

impl Namespaces {
    /// Looks for a way into a namespace in which `setup` succeeds, a script that
    /// finds `ip` as `$0`.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Panics
    /// When there is none with `CI=true`.
    pub fn find(setup: &str) -> Result<Self, String> {
        let found = Self::look(setup);
        if let Err(reason) = &found {
            let is_ci = component::is_ci();
            assert!(!is_ci, "network namespaces are missing: {reason}");
        }
        found
    }

    fn look(setup: &str) -> Result<Self, String> {
        let ip = ip().ok_or("there is no ip")?;
        let mut reason = String::new();
        for way in WAYS {
            let one = Self {
                ip: ip.clone(),
                way,
            };
            let tried = one.enter(setup).arg("true").output();
            let tried = tried.map_err(|error| format!("unshare: {error}"))?;
            if tried.status.success() {
                return Ok(one);
            }
            let said = String::from_utf8_lossy(&tried.stderr);
            said.trim().clone_into(&mut reason);
        }
        Err(reason)
    }

    /// What is added to it runs in a new namespace, behind `setup`.
    fn enter(&self, setup: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = format!("{setup} && exec \"$@\"");
        command.args(self.way).args(["/bin/sh", "-c", &script]);
        command.arg(&self.ip);
        command
    }

    /// Runs the test of this name in this program once more, in a namespace of its
    /// own, behind `setup`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn again(&self, setup: &str, test: &str) -> Inside {
        let program = std::env::current_exe().expect("this program has a path");
        let child = self
            .enter(setup)
            .arg(program)
            .args([OsStr::new(test), "--exact".as_ref(), "--nocapture".as_ref()])
            .env(INSIDE, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("it just did");
        Inside {
            _watchdog: Watchdog::over(&child),
            child,
        }
    }
}

/// A test that runs once more.
#[derive(Debug)]
pub struct Inside {
    child: Child,
    _watchdog: Watchdog,
}

impl Inside {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it failed.
    pub fn passes(self) {
        let Self { child, _watchdog } = self;
        let output = child.wait_with_output().expect("it is a child of ours");
        let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
        let has_passed = output.status.success() && out.contains("test result: ok. 1 passed");
        assert!(has_passed, "in a network namespace: {out}\n{err}");
    }
}

/// Says that a test is left out, past the harness, which shows what a passed test
/// prints to nobody. `cargo xtask test` counts it as skipped.
pub fn leave_out(test: &str, reason: &str) {
    say(&format!("left out: test {test}: {reason}"));
}

/// Says something of a test, past the harness.
pub fn say(text: &str) {
    // Without standard error there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
