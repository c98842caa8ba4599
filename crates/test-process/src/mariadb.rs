//! A real `MariaDB`, as a process of its own.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Watchdog, component};

/// Starts before it is given up: the port may be taken in between.
const STARTS: usize = 5;

/// Looks at a server that starts, 20 ms apart.
const LOOKS: usize = 3_000;

/// A server on a folder of its own and a free port of loopback; the user `root`
/// has no password. Killed when it is dropped.
#[derive(Debug)]
pub struct MariaDb {
    program: PathBuf,
    folder: TempDir,
    settings: Vec<String>,
    address: SocketAddr,
    server: Option<(Child, Watchdog)>,
}

impl MariaDb {
    /// Starts one, with these settings beside its own, such as
    /// `--innodb-buffer-pool-size=1G`. `None` when it is not installed, which is
    /// said, and a failure with `CI=true`. Blocks for some seconds.
    ///
    /// # Panics
    /// When it is missing with `CI=true`, or does not start.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let program = component::find("mariadb", "/usr/sbin/mariadbd")?;
        let folder = tempfile::tempdir().expect("a folder");
        let mut one = Self {
            program,
            folder,
            settings: settings.iter().map(ToString::to_string).collect(),
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
        assert!(started, "mariadbd does not start: {}", one.log());
        Some(one)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(|(child, _)| child.id())
    }

    /// The URL of one of its databases; of none when the name is empty.
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@{}/{database}", self.address)
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
        assert!(self.run(), "mariadbd does not start again: {}", self.log());
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Makes the server's own tables.
    fn install(&self) {
        let output = Command::new(beside(&self.program, "mariadb-install-db"))
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .args(["--auth-root-authentication-method=normal"])
            .arg(format!("--datadir={}", self.data().display()))
            // A server that starts removes what looks like its own from the
            // folder for temporary tables: each has one of its own.
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("mariadb-install-db runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mariadb-install-db: {said}");
    }

    /// Whether it greets.
    fn run(&mut self) -> bool {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let child = Command::new(&self.program)
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1"])
            .arg(format!("--datadir={}", self.data().display()))
            .arg(format!("--port={}", self.address.port()))
            .arg(format!("--socket={}", at("socket")))
            .arg(format!("--pid-file={}", at("pid")))
            .arg(format!("--log-error={}", at("log")))
            .args(["--skip-name-resolve", "--innodb-buffer-pool-size=64M"])
            .args(&self.settings)
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadbd runs");
        let watchdog = Watchdog::over(&child);
        let (child, _) = self.server.insert((child, watchdog));
        for _ in 0..LOOKS {
            if !matches!(child.try_wait(), Ok(None)) {
                return false;
            }
            if greets(self.address) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a server says its first words there.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let timeout = stream.set_read_timeout(Some(Duration::from_secs(5)));
    timeout.is_ok() && stream.read_exact(&mut [0; 5]).is_ok()
}

/// A program that comes with the server: beside it, or where users' programs are.
fn beside(server: &Path, name: &str) -> PathBuf {
    let beside = server.with_file_name(name);
    if beside.is_file() {
        return beside;
    }
    Path::new("/usr/bin").join(name)
}
