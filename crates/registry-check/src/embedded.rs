//! The embedded registry, as a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use waystation_registry::RegistryUrl;

use crate::fixture::{Ability, Fixture};
use crate::process::Process;
use crate::proxy::Proxy;

/// An embedded registry behind two proxies: one that always passes, so that its
/// address is the same over restarts, and one for faults.
pub struct Embedded {
    program: PathBuf,
    folder: TempDir,
    process: Option<Process>,
    door: Proxy,
    faulty: Proxy,
}

impl Embedded {
    /// Where the server is, by no proxy.
    ///
    /// # Panics
    /// When it is not started.
    pub fn server(&self) -> SocketAddr {
        let process = self.process.as_ref().expect("it runs");
        process.ready().parse().expect("it says its address")
    }

    /// The server's process.
    ///
    /// # Panics
    /// When it is not started.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

fn url(proxy: &Proxy) -> RegistryUrl {
    let url = format!("embedded://{}", proxy.address());
    url.parse().expect("it is a URL")
}

impl Fixture for Embedded {
    const NAME: &'static str = "embedded";
    const ABILITIES: &'static [Ability] = &[
        Ability::Register,
        Ability::Network,
        Ability::Holders,
        Ability::Epochs,
    ];

    fn new(program: &Path, _is_alone: bool) -> Self {
        Self {
            program: program.to_owned(),
            folder: tempfile::tempdir().expect("a folder"),
            process: None,
            door: Proxy::new(),
            faulty: Proxy::new(),
        }
    }

    fn start(&mut self) {
        let dir = self.dir();
        let dir = dir.to_str().expect("a path of the test is text");
        let process = Process::start(&self.program, &["serve", dir, "127.0.0.1:0"]);
        let address: SocketAddr = process.ready().parse().expect("an address");
        self.door.lead_to(Some(address));
        self.faulty.lead_to(Some(address));
        self.process = Some(process);
        if !self.backup().exists() {
            Self::copy(&self.dir(), &self.backup());
        }
    }

    fn kill(&mut self) {
        self.door.lead_to(None);
        self.faulty.lead_to(None);
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    fn url(&self) -> RegistryUrl {
        url(&self.door)
    }

    fn proxied_url(&self) -> RegistryUrl {
        url(&self.faulty)
    }

    fn proxy(&self) -> &Proxy {
        &self.faulty
    }

    fn wipe(&mut self) {
        self.kill();
        std::fs::write(self.dir().join("instances.jsonl"), "").expect("a file");
        self.start();
    }

    fn add_foreign(&mut self) -> bool {
        self.kill();
        let path = self.dir().join("instances.jsonl");
        let mut bytes = std::fs::read(&path).expect("a journal");
        bytes.extend(b"{\"save\":{\"id\":\"x\"},\"ttl_ms\":1}\n\xff\xfe\n0000000000000000 {}\n");
        std::fs::write(&path, bytes).expect("a file");
        self.start();
        false
    }

    fn restore_backup(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir()).expect("a folder");
        Self::copy(&self.backup(), &self.dir());
        self.start();
    }
}
