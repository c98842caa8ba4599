//! Processes of this crate's program, to be killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use waystation_test_process::Watchdog;

/// A running process; killed with SIGKILL when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    _watchdog: Watchdog,
    /// Kept open: a process whose output nobody takes must not end by it.
    _out: BufReader<ChildStdout>,
    ready: String,
}

impl Process {
    /// Starts `program` and waits for its first line, `ready SOMETHING`.
    ///
    /// # Panics
    /// When it cannot be started, or says something else.
    pub fn start(program: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program of this crate runs");
        let watchdog = Watchdog::over(&child);
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("its output is text");
        let ready = line.trim_end().strip_prefix("ready ").map(str::to_owned);
        Self {
            child,
            _watchdog: watchdog,
            _out: out,
            ready: ready.unwrap_or_else(|| panic!("{args:?} said {line:?}")),
        }
    }

    /// What followed `ready`.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
