//! Hubs and sites as processes.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use waystation_test_process::Watchdog;

use super::{run, stderr, stdout, waystation};

/// More than anything here takes on a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server that says `ready …`; killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    _watchdog: Watchdog,
    out: BufReader<ChildStdout>,
    pub(crate) ready: String,
}

impl Server {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::begin(args).ready()
    }

    /// Starts it.
    pub(crate) fn begin(args: &[&str]) -> Self {
        Self::begin_as(waystation(args))
    }

    /// Starts what is it in the end.
    pub(crate) fn begin_as(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::over(&child);
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            _watchdog: watchdog,
            out,
            ready: String::new(),
        }
    }

    /// Waits until it is ready.
    pub(crate) fn ready(mut self) -> Self {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        let ready = line.trim_end().strip_prefix("ready ");
        self.ready = ready.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        self
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with a signal: its exit code.
    pub(crate) fn end(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(kill.unwrap().success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with the log and the files of all sites, and where its hub is.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) hub: String,
}

impl Place {
    /// A place and its running hub. The hub has an address of this process alone:
    /// while it is down nobody else gets its port, and no site that looks for it
    /// there meets itself.
    pub(crate) fn new() -> (Self, Server) {
        let pid = std::process::id();
        let [_, a, b, c] = (pid + 1).to_be_bytes();
        let mut place = Self {
            folder: tempfile::tempdir().unwrap(),
            hub: format!("127.{}.{b}.{}:0", 100 + a % 100, c.max(1)),
        };
        let hub = place.start_hub();
        place.hub.clone_from(&hub.ready);
        (place, hub)
    }

    pub(crate) fn start_hub(&self) -> Server {
        let dir = self.folder.path().to_str().unwrap();
        Server::start(&["sync", "hub", "--dir", dir, "--listen", &self.hub])
    }

    pub(crate) fn file(&self, site: &str) -> PathBuf {
        self.folder.path().join(format!("{site}.db"))
    }

    /// The program that a site's file belongs to.
    pub(crate) fn open(&self, site: &str) -> Connection {
        open(&self.file(site))
    }

    pub(crate) fn url(&self, site: &str) -> String {
        format!("sqlite://{}", self.file(site).display())
    }

    pub(crate) fn site(&self, name: &str, more: &[&str]) -> Server {
        Server::start(&self.site_args(name, &self.url(name), more))
    }

    /// Starts a site that may not be ready for long.
    pub(crate) fn begin_site(&self, name: &str, more: &[&str]) -> Server {
        Server::begin(&self.site_args(name, &self.url(name), more))
    }

    /// Asks the site of this name.
    pub(crate) fn ask(&self, what: &str, site: &str, more: &[&str]) -> Output {
        let dir = self.folder.path().to_str().unwrap();
        let args = ["sync", what, site, "--dir", dir];
        run(&[args.as_slice(), more].concat())
    }

    pub(crate) fn site_args<'a>(
        &'a self,
        name: &'a str,
        url: &'a str,
        more: &[&'a str],
    ) -> Vec<&'a str> {
        let dir = self.folder.path().to_str().unwrap();
        let args = ["sync", "site", "--name", name, "--hub", &self.hub];
        [&args, ["--database", url, "--dir", dir].as_slice(), more].concat()
    }
}

pub(crate) fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

/// Waits until `is_done`, and says what for if it never is.
pub(crate) fn wait_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let (_never, pause) = mpsc::channel::<()>();
    for _ in 0..PATIENCE.as_millis() / 50 {
        if is_done() {
            return;
        }
        let _ = pause.recv_timeout(Duration::from_millis(50));
    }
    panic!("waited in vain until {what}");
}

/// What the site says of the entries that it did not apply.
pub(crate) fn audit(place: &Place, site: &str) -> String {
    let output = place.ask("audit", site, &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

pub(crate) fn publish(place: &Place, sql: &str) {
    let file = place.folder.path().join("entry.sql");
    std::fs::write(&file, sql).unwrap();
    let file = file.to_str().unwrap();
    let output = run(&["sync", "publish", "--hub", &place.hub, file]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// What the hub says of a site.
pub(crate) fn status(place: &Place, site: &str) -> serde_json::Value {
    let output = run(&["sync", "status", "--hub", &place.hub, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut lines = lines.filter(|line: &serde_json::Value| line["name"] == site);
    lines.next().unwrap_or_default()
}

/// Waits until a site stands at an entry that its database refuses.
pub(crate) fn wait_until_it_stands(place: &Place, site: &str) {
    wait_until("the site stands", || {
        status(place, site)["applier"] == "stopped"
    });
}
