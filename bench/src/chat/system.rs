//! The system under load: `waystation up` in a folder and on ports of its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Time for `up` to say ready. It gives up by itself earlier.
const START_WAIT: Duration = Duration::from_mins(1);

/// Time for `up` to drain all roles.
const STOP_WAIT: Duration = Duration::from_mins(1);

/// After so long `up` ends by itself, whatever became of the benchmark.
const RUN_SECONDS_MAX: u32 = 6 * 3600;

/// Of the system's log, so much is shown when it fails.
const LOG_LINES_SHOWN: usize = 20;

/// Builds the program in the release profile, into the target folder of this benchmark, and
/// returns its path.
///
/// # Errors
/// It cannot be built.
pub(super) fn build() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running benchmark")?;
    let folder = own.parent().context("the benchmark lies in no folder")?;
    let target = folder
        .parent()
        .context("the benchmark lies in no target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", "waystation"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the program cannot be built: {status}");
    let program = target.join("release").join("waystation");
    ensure!(
        program.is_file(),
        "cargo did not build {}",
        program.display()
    );
    Ok(program)
}

/// A running system. Dropping it kills it.
#[derive(Debug)]
pub(super) struct System {
    child: Child,
    /// What it prints; ends when it does.
    lines: Receiver<String>,
    /// Where its console answers.
    pub(super) console: SocketAddr,
    /// Where clients connect.
    pub(super) entry: SocketAddr,
    folder: TempDir,
}

impl System {
    /// Starts `program` in a new folder, below `data` if given, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready; the error shows the end of its log.
    pub(super) fn start(program: &Path, data: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("waystation-bench-");
        let folder = match data {
            Some(data) => builder.tempdir_in(data),
            None => builder.tempdir(),
        };
        let folder = folder.context("cannot make a folder for the data")?;
        let log = File::create(folder.path().join("log")).context("cannot make a log file")?;
        let entry = free_address()?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            // What this environment configures is no part of the measurement.
            if name.to_string_lossy().starts_with("WAYSTATION_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["up", "--console", "127.0.0.1:0", "--log", "warn"])
            .args(["--sites", "1"])
            .args(["--entry", &entry.to_string()])
            .env("WAYSTATION_REGISTRY__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_ROUTE__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_REPORT__LISTEN", "127.0.0.1:0")
            .env("WAYSTATION_AGENT__UDP_PORT", "0")
            .args(["--for", &RUN_SECONDS_MAX.to_string()])
            .arg("--dir")
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let out = child.stdout.take().context("the child has no output")?;
        let mut system = Self {
            child,
            lines: read_lines(out),
            console: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            entry,
            folder,
        };
        system.console = system.ready()?;
        Ok(system)
    }

    fn ready(&self) -> Result<SocketAddr> {
        let line = self.lines.recv_timeout(START_WAIT);
        let address = line
            .as_ref()
            .ok()
            .and_then(|line| line.strip_prefix("ready http://"));
        match address.map(str::parse) {
            Some(Ok(console)) => Ok(console),
            _ => bail!(
                "the system did not become ready ({line:?}){}",
                self.log_end()
            ),
        }
    }

    /// The supervisor's process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of the system's log, for an error.
    pub(super) fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("; the end of its log:\n{}", shown.join("\n"))
    }

    /// Drains it.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the system has no process id")?;
        kill_process(pid, Signal::TERM).context("cannot stop the system")?;
        loop {
            match self.lines.recv_timeout(STOP_WAIT) {
                Ok(line) => eprintln!("waystation: {line}"),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the system does not drain{}", self.log_end())
                }
                // The kernel closes its output while it ends the process.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().context("cannot wait for the system")?;
        ensure!(
            status.success(),
            "the system ended with {status}{}",
            self.log_end()
        );
        Ok(())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now. Another program may take it before `up` does; then that says so.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    listener.local_addr().context("the port has no address")
}

/// Hands on each line of a pipe; the channel ends with the pipe.
fn read_lines(pipe: ChildStdout) -> Receiver<String> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if tx.send(line).is_err() {
                return;
            }
        }
    });
    rx
}
