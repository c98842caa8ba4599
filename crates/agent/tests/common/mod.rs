//! An agent with a file for a registry.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each file of tests uses a part of it"
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_base::ServiceName;
use waystation_client::protocol::{Answer, ListedHost, Request, hosts};
use waystation_client::{Caller, CallerConfig, Error, LarsCaller, Socket, machine_now};
use waystation_membership::{Address, Instance, InstanceId, LarsPair, Owner};
use waystation_registry::{RegistryUrl, instance_to_json};

/// For conditions; never reached when all is well.
pub const WAIT: Duration = Duration::from_secs(30);

pub struct World {
    pub folder: TempDir,
    pub agent: Option<Agent>,
    policy: PolicyKind,
    /// Waiting on it is how a test pauses between two looks.
    pause: (Sender<()>, Receiver<()>),
}

impl World {
    pub fn new(hosts: u16) -> Self {
        Self::with(PolicyKind::default(), hosts)
    }

    pub fn with(policy: PolicyKind, hosts: u16) -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            agent: None,
            policy,
            pause: channel(),
        };
        world.write(hosts);
        world.start();
        world
    }

    /// With hosts at these addresses.
    pub fn at(addresses: impl IntoIterator<Item = Address>) -> Self {
        Self::with_policy_at(PolicyKind::default(), addresses)
    }

    pub fn with_policy_at(
        policy: PolicyKind,
        addresses: impl IntoIterator<Item = Address>,
    ) -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            agent: None,
            policy,
            pause: channel(),
        };
        world.write_at(addresses);
        world.start();
        world
    }

    /// The hosts of `pay`, in the file that is the registry.
    pub fn write(&self, hosts: u16) {
        let at = |n| SocketAddr::from(([127, 0, 0, 1], 9000 + n)).into();
        self.write_at((1..=hosts).map(at));
    }

    /// The hosts of `pay` are at these addresses.
    pub fn write_at(&self, addresses: impl IntoIterator<Item = Address>) {
        let service = ServiceName::new("pay").unwrap();
        let mut text = String::new();
        for (address, n) in addresses.into_iter().zip(1..) {
            let id = InstanceId::new(&format!("pay-{n}")).unwrap();
            let mut one = Instance::new(id, service.clone(), address, Owner::default());
            one.lars = Some(LarsPair { modid: 1, cmdid: 1 });
            writeln!(text, "{}", instance_to_json(&one)).unwrap();
        }
        // At once, so that no half of it is read.
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.path().join("nodes")).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// The file that is the registry.
    pub fn nodes(&self) -> PathBuf {
        self.folder.path().join("nodes")
    }

    fn registry(&self) -> RegistryUrl {
        format!("file://{}", self.nodes().display())
            .parse()
            .unwrap()
    }

    pub fn start(&mut self) {
        self.start_on(vec![self.registry()]);
    }

    /// Starts an agent that may know no routes yet.
    pub fn begin(&mut self) {
        self.begin_on(vec![self.registry()]);
    }

    pub fn start_on(&mut self, registries: Vec<RegistryUrl>) {
        self.begin_on(registries);
        // Until it knows its routes.
        self.until(|world| world.list().is_ok_and(|hosts| !hosts.is_empty()));
    }

    fn begin_on(&mut self, registries: Vec<RegistryUrl>) {
        let mut config = AgentConfig::new(self.socket(), registries[0].clone(), 7);
        config.registries = registries;
        config.policy = self.policy;
        config.udp.iter_mut().for_each(|at| at.set_port(0));
        self.agent = Some(Agent::start(config).unwrap());
    }

    pub fn caller(&self) -> Caller {
        Caller::new(self.config())
    }

    pub fn config(&self) -> CallerConfig {
        let mut config = CallerConfig::new("pay", self.socket());
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        config
    }

    pub fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let mut socket = Socket::connect(&self.socket(), WAIT)?;
        socket.ask(request).map(|(answer, _)| answer)
    }

    pub fn list(&self) -> Result<Vec<ListedHost>, Error> {
        let mut socket = Socket::connect(&self.socket(), WAIT)?;
        let listed = hosts("pay", |request| Ok(socket.ask(request)?.0));
        listed.map(|(hosts, _)| hosts)
    }

    pub fn in_flight(&self) -> u32 {
        self.list().unwrap().iter().map(|host| host.in_flight).sum()
    }

    /// Waits for a condition.
    pub fn until(&self, mut is_so: impl FnMut(&Self) -> bool) {
        let end = machine_now() + WAIT;
        while !is_so(self) {
            assert!(machine_now() < end, "it did not come about");
            let _nothing = self.pause.1.recv_timeout(Duration::from_millis(5));
        }
    }

    pub fn lars(&self) -> LarsCaller {
        let mut lars = LarsCaller::new(1, 1);
        let agent = self.agent.as_ref().unwrap();
        for (port, at) in lars.ports.iter_mut().zip(agent.udp_addresses()) {
            *port = at.port();
        }
        lars.timeout = WAIT;
        lars
    }
}

/// Picks a host and reports a call to it.
pub fn done(caller: &mut Caller) -> SocketAddr {
    let picked = caller.pick().unwrap();
    caller.report(
        &picked,
        CallEnd::Ok,
        Some(Duration::from_millis(1)),
        Load::default(),
    );
    tcp(&picked.address)
}

/// An address with a port.
pub fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::V4(address) => (*address).into(),
        Address::V6(address) => (*address).into(),
        Address::Unix(path) => panic!("it is at {path}"),
    }
}
