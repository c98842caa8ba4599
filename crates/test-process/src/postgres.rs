//! A real `PostgreSQL`, as a process of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Watchdog, component};

/// Starts before it is given up: the port may be taken in between.
const STARTS: usize = 5;

/// Looks at a server that starts, 20 ms apart.
const LOOKS: usize = 3_000;

/// Root may not run it; this user is everywhere.
const NOBODY: u32 = 65_534;

/// A server on a folder of its own and a free port of loopback; the user
/// `postgres` has no password. Killed when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    server: Option<(Child, Watchdog)>,
}

impl Postgres {
    /// Starts one. `None` when it is not installed, which is said, and a failure
    /// with `CI=true`. Blocks for some seconds.
    ///
    /// # Panics
    /// When it is missing with `CI=true`, or does not start.
    pub fn start() -> Option<Self> {
        let initdb = component::find("postgresql", "/usr/lib/postgresql/15/bin/initdb")?;
        // Links to it stand elsewhere; the server stands beside the program.
        let initdb = fs::canonicalize(&initdb).unwrap_or(initdb);
        let folder = tempfile::tempdir().expect("a folder");
        let mut one = Self {
            programs: initdb.parent().map(Path::to_owned).unwrap_or_default(),
            folder,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            server: None,
        };
        one.install();
        let started = (0..STARTS).any(|_| {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            one.address = free.local_addr().expect("it is bound");
            drop(free);
            one.run()
        });
        assert!(started, "postgres does not start: {}", one.log());
        Some(one)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of one of its databases; `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// Ends it without a chance to clean up.
    pub fn kill(&mut self) {
        if let Some((mut child, _watchdog)) = self.server.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, on the same port and folder.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        // Its own processes see the end of their parent, and leave; until then it
        // refuses to start.
        let started = (0..100).any(|_| {
            std::thread::park_timeout(Duration::from_millis(50));
            self.run()
        });
        assert!(started, "postgres does not start again: {}", self.log());
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// One of its programs, as a user who may run it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        let owner = fs::metadata(self.folder.path()).map(|entry| entry.uid());
        if owner.is_ok_and(|owner| owner == NOBODY) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Makes the server's own tables.
    fn install(&self) {
        // Who may not give the folder away is not root, and keeps it.
        let _ = chown(self.folder.path(), Some(NOBODY), Some(NOBODY));
        let output = self
            .command("initdb")
            .arg(format!("--pgdata={}", self.data().display()))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync"])
            .output()
            .expect("initdb runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initdb: {said}");
    }

    /// Whether it takes connections.
    fn run(&mut self) -> bool {
        let log = File::create(self.folder.path().join("log")).expect("a file");
        let child = self
            .command("postgres")
            .arg(format!("-D{}", self.data().display()))
            .args(["-clisten_addresses=127.0.0.1", "-cunix_socket_directories="])
            .arg(format!("-cport={}", self.address.port()))
            .args(["-cfsync=off", "-cshared_buffers=16MB"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs");
        let watchdog = Watchdog::over(&child);
        let (child, _) = self.server.insert((child, watchdog));
        let log = self.folder.path().join("log");
        for _ in 0..LOOKS {
            if !matches!(child.try_wait(), Ok(None)) {
                return false;
            }
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("ready to accept connections") {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
