//! A real Redis server, on a socket in a folder of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use waystation_test_process::Watchdog;

/// Looks for the server to be ready, each after a millisecond or more.
const LOOKS: u32 = 30_000;

/// The server's program: as `cargo xtask test` says, or where Debian has it.
/// Nothing when it is missing, which is said, and a failure with `CI=true`.
pub(crate) fn program() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
    let components = variable("WAYSTATION_TEST_COMPONENTS").unwrap_or_default();
    let named = components
        .split(',')
        .find_map(|entry| entry.strip_prefix("redis="));
    let program = PathBuf::from(named.unwrap_or("/usr/bin/redis-server"));
    if program.is_file() {
        return Some(program);
    }
    let is_ci = variable("CI").is_some_and(|value| value == "true" || value == "1");
    assert!(!is_ci, "{} is missing", program.display());
    println!("left out: {} is missing", program.display());
    None
}

/// A running server without persistence; ends when it is dropped.
pub(crate) struct Redis {
    program: PathBuf,
    folder: TempDir,
    child: Child,
    watchdog: Watchdog,
}

impl Redis {
    pub(crate) fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(program, folder.path());
        let redis = Self {
            program: program.to_owned(),
            folder,
            watchdog: Watchdog::over(&child),
            child,
        };
        redis.until_ready();
        redis
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Makes it do nothing; the kernel still takes connections and bytes.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again in the same place, with no keys.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.program, self.folder.path());
        self.watchdog = Watchdog::over(&self.child);
        self.until_ready();
    }

    /// Answers one inline command on a connection of its own; the first line
    /// of the answer.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        let wait = Duration::from_secs(30);
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    fn until_ready(&self) {
        for _ in 0..LOOKS {
            if self.ask("PING").as_deref() == Some("+PONG") {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("the server does not become ready");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, folder: &Path) -> Child {
    Command::new(program)
        .args(["--port", "0", "--unixsocket", "redis.sock"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
