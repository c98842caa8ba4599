//! Running the binary as a user does.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod chat;
pub(crate) mod lists;
pub(crate) mod load;
pub(crate) mod role;
pub(crate) mod sync;
pub(crate) mod user;
pub(crate) mod world;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use waystation_test_process::Watchdog;

/// The binary with `args`, without anything of this environment that would
/// configure it. It runs where the expected texts stand.
pub(crate) fn waystation(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waystation"));
    command
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WAYSTATION_") {
            command.env_remove(name);
        }
    }
    if args.first() == Some(&"up") {
        // However slow the machine is.
        for wait in ["START", "PREDECESSOR"] {
            command.env(format!("WAYSTATION_UP__{wait}_TIMEOUT_MS"), "120000");
        }
    }
    if args.first() == Some(&"up") && !args.contains(&"--config") {
        // Beside others, whose servers have the default ports.
        for server in ["REGISTRY", "ROUTE", "REPORT"] {
            command.env(format!("WAYSTATION_{server}__LISTEN"), "127.0.0.1:0");
        }
        command.env("WAYSTATION_AGENT__UDP_PORT", "0");
        command.env("WAYSTATION_UP__HUB", "127.0.0.1:0");
    }
    command.stdin(Stdio::null());
    command
}

/// The same for a process whose disk [`set_room`] fills: what it writes beyond its
/// limit is refused, and does not end it.
pub(crate) fn on_small_disk(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}

/// Whether the files of a process may grow from now on.
pub(crate) fn set_room(pid: u32, has_room: bool) {
    let soft = if has_room { "unlimited" } else { "0" };
    let limit = format!("--fsize={soft}:unlimited");
    let set = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &limit])
        .status();
    assert!(set.unwrap().success());
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    waystation(args).output().unwrap()
}

/// What a finished run printed to standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a finished run printed to standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A running `up`, killed when it is dropped.
pub(crate) struct Up {
    child: Child,
    _watchdog: Watchdog,
    out: BufReader<ChildStdout>,
}

impl Up {
    /// Starts `up` with `args`.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = waystation(&[&["up"], args].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            _watchdog: Watchdog::over(&child),
            child,
            out,
        }
    }

    /// Waits for the line that says ready; returns the console's `IP:PORT`.
    pub(crate) fn ready(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        let url = line
            .strip_prefix("ready http://")
            .and_then(|rest| rest.strip_suffix('\n'));
        url.unwrap_or_else(|| panic!("expected the ready line, got {line:?}"))
            .to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end; returns the exit code and what else it printed.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
