//! The folder of a run, and the processes in it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rusqlite::Connection;
use waystation_base::{Clock as _, Moment};
use waystation_net::MonotonicClock;
use waystation_test_process::Watchdog;

/// A process that is killed when it is dropped.
struct Running {
    child: Child,
    _watchdog: Watchdog,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the processes: how it is started, and whether it runs.
pub(crate) struct Role {
    pub(crate) name: &'static str,
    arguments: Vec<String>,
    running: Option<Running>,
    pub(crate) kills: u32,
    /// How often it ended by itself.
    pub(crate) ended: u32,
}

/// A folder with everything.
pub(crate) struct Place {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    binary: PathBuf,
    pub(crate) hub: String,
}

/// Waits between two looks at something.
pub(crate) fn pause(time: Duration) {
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(time);
}

pub(crate) fn now() -> Moment {
    MonotonicClock.now()
}

impl Place {
    /// An empty folder, and an address of this process alone: while the hub is down
    /// nobody else gets its port, and no site that looks for it there meets itself.
    pub(crate) fn new(binary: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let host = format!("127.{}.{b}.{}", 100 + a % 100, c.max(1));
        let listener = std::net::TcpListener::bind((host.as_str(), 0));
        let port = listener
            .and_then(|listener| listener.local_addr())
            .context("no port is free")?
            .port();
        Ok(Self {
            path: folder.path().to_owned(),
            folder: Some(folder),
            binary: binary.to_owned(),
            hub: format!("{host}:{port}"),
        })
    }

    /// Leaves the folder where it is, for whoever looks for a fault.
    pub(crate) fn keep(&mut self) -> &Path {
        if let Some(folder) = self.folder.take() {
            self.path = folder.keep();
        }
        &self.path
    }

    pub(crate) fn file(&self, site: &str) -> PathBuf {
        self.path.join(format!("{site}.db"))
    }

    pub(crate) fn open(&self, site: &str) -> Result<Connection> {
        let connection = Connection::open(self.file(site))?;
        connection.busy_timeout(Duration::from_secs(30))?;
        Ok(connection)
    }

    fn dir(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn hub_role(&self) -> Role {
        let arguments = ["sync", "hub", "--dir", &self.dir(), "--listen", &self.hub];
        Role::new("hub", &arguments)
    }

    pub(crate) fn site_role(&self, name: &'static str, more: &[&str]) -> Role {
        let url = format!("sqlite://{}", self.file(name).display());
        let dir = self.dir();
        let site = ["sync", "site", "--name", name, "--hub", &self.hub];
        let rest = ["--database", &url, "--dir", &dir];
        Role::new(name, &[site.as_slice(), &rest, more].concat())
    }

    /// Has a command of the binary done; its exit code says whether it was.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<bool> {
        let mut command = self.command(arguments);
        command
            .stdout(self.log("asked")?)
            .stderr(self.log("asked")?);
        Ok(command
            .status()
            .context("cannot start the binary")?
            .success())
    }

    /// Asks a site on this machine.
    pub(crate) fn ask_site(&self, what: &str, site: &str) -> Result<bool> {
        self.ask(&["sync", what, site, "--dir", &self.dir()])
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(&self.path);
        command.stdin(Stdio::null());
        command
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.path.join(format!("{name}.log"));
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        opened.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Role {
    /// Starts with another last argument from now on.
    pub(crate) fn set_last_argument(&mut self, last: &str) {
        self.arguments.pop();
        self.arguments.push(last.to_owned());
    }

    fn new(name: &'static str, arguments: &[&str]) -> Self {
        Self {
            name,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            running: None,
            kills: 0,
            ended: 0,
        }
    }

    /// Starts it, and does not wait until it is ready.
    pub(crate) fn start(&mut self, place: &Place) -> Result<()> {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        let log = place.log(self.name)?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", place.binary.display()))?;
        self.running = Some(Running {
            _watchdog: Watchdog::over(&child),
            child,
        });
        Ok(())
    }

    /// Kills it: SIGKILL, at whatever it is.
    pub(crate) fn kill(&mut self) {
        self.running = None;
        self.kills += 1;
    }

    /// Starts it again if it ended by itself. That happens: a hub that was killed may
    /// have its folder a moment longer. Too often is a fault.
    pub(crate) fn keep_up(&mut self, place: &Place) -> Result<()> {
        let Some(running) = &mut self.running else {
            return self.start(place);
        };
        if running.child.try_wait()?.is_none() {
            return Ok(());
        }
        self.ended += 1;
        if self.ended > 20 + self.kills {
            bail!(
                "{} ends by itself again and again; see {}.log",
                self.name,
                self.name
            );
        }
        self.start(place)
    }
}
