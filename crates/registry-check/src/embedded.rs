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
        address(self.process.as_ref().expect("it runs"))
    }

    /// The server's process.
    ///
    /// # Panics
    /// When it is not started.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    fn journal(&self) -> PathBuf {
        self.data().join("instances.jsonl")
    }
}

/// What a process says of its address, before how much it skipped.
fn address(process: &Process) -> SocketAddr {
    let address = process.ready().split(' ').next();
    let address = address.and_then(|text| text.parse().ok());
    address.expect("it says its address")
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
        Ability::Leases,
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
        let dir = self.data();
        let dir = dir.to_str().expect("a path of the test is text");
        let process = Process::start(&self.program, &["serve", dir, "127.0.0.1:0"]);
        let address = address(&process);
        self.door.lead_to(Some(address));
        self.faulty.lead_to(Some(address));
        self.process = Some(process);
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
        std::fs::write(self.journal(), "").expect("a file");
        self.start();
    }

    fn add_foreign(&mut self) -> Vec<&'static str> {
        self.kill();
        let path = self.journal();
        let mut bytes = std::fs::read(&path).expect("a journal");
        bytes.extend(b"{\"save\":{\"id\":\"x\"},\"ttl_ms\":1}\n\xff\xfe\n0000000000000000 {}\n");
        std::fs::write(&path, bytes).expect("a file");
        self.start();
        let process = self.process.as_ref().expect("it runs");
        let skipped = process.ready().split(' ').nth(1);
        assert_eq!(skipped, Some("3"), "it counts what it skips");
        Vec::new()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("registry")
    }
}
