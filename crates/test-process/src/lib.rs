//! Processes of tests that end with the test, however it ends.
//!
//! A test kills the servers and browsers that it started when it drops them.
//! One that is itself ended with SIGKILL drops nothing, and left them running
//! for days. A [`Watchdog`] is a small process beside each of them that sees
//! the end of the test as the end of a pipe, which the system closes whatever
//! happened.
//!
//! The system's own way, a death signal of the parent, is of no use here: it
//! is sent when the *thread* that started the process ends, and each test has
//! a thread of its own.
//!
//! A [`Part`] is a test's own program once more, to be killed or stopped.
//! [`MariaDb`] and [`Postgres`] are servers for tests that need one;
//! [`namespace`] has networks of a test's own.
//!
//! What it leaves out: processes that those start, unless they stay in their
//! group, which `process_group` of [`CommandExt`] makes.
//!
//! ```
//! use std::process::Command;
//! use waystation_test_process::Watchdog;
//!
//! let mut server = Command::new("sleep").arg("1000").spawn().unwrap();
//! let watchdog = Watchdog::over(&server);
//! // … the test …
//! server.kill().unwrap();
//! server.wait().unwrap();
//! drop(watchdog);
//! ```

pub mod component;
mod mariadb;
pub mod namespace;
mod part;
mod postgres;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

pub use mariadb::MariaDb;
pub use part::Part;
pub use postgres::Postgres;

/// Reads one line, which says that all is well. At the end of the pipe without
/// it: kills the group that the process leads, and the process. Signals that a
/// terminal sends to everyone must not end it first.
const WATCH: &str = r#"trap '' HUP INT TERM
read -r line && exit
kill -s KILL -- "-$1"
kill -s KILL "$1""#;

/// Kills a process, and the group that it leads, when this process ends
/// without having dropped the watchdog.
///
/// Cost: a process that sleeps.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Watches from now on. Drop it after the child has been waited for.
    ///
    /// # Panics
    /// When there is no shell.
    pub fn over(child: &Child) -> Self {
        let shell = Command::new("/bin/sh")
            .args(["-c", WATCH, "watchdog", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        Self { shell }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(mut all_is_well) = self.shell.stdin.take() {
            // It fails only when somebody has ended the watchdog.
            let _ = all_is_well.write_all(b"done\n");
        }
        let _ = self.shell.wait();
    }
}
