//! Three servers of `ZooKeeper` that are one.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tempfile::TempDir;
use waystation_registry::RegistryUrl;

use super::{STARTS, Server, ask, free_port, ready, spawn};
use crate::proxy::{Mode, Proxy};

/// Three servers, of which two are enough.
pub struct Ensemble {
    folder: TempDir,
    ports: Vec<[u16; 3]>,
    servers: Vec<Option<Server>>,
    /// For how many ticks a server goes on that does not hear of its leader.
    patience: u32,
    /// By which each finds each other as a leader, if that is under control.
    roads: Vec<Vec<Proxy>>,
}

impl Ensemble {
    /// Starts all three.
    ///
    /// # Panics
    /// When they cannot be started.
    pub fn new() -> Self {
        Self::of(4, false)
    }

    /// Starts all three, so that [`Ensemble::cut_off`] may be called; one that is
    /// cut off notices it after so many ticks of half a second.
    ///
    /// # Panics
    /// When they cannot be started.
    pub fn with_roads(patience: u32) -> Self {
        Self::of(patience, true)
    }

    fn of(patience: u32, has_roads: bool) -> Self {
        for _ in 0..STARTS {
            let port = |_| [free_port(), free_port(), free_port()];
            let mut ensemble = Self {
                folder: tempfile::tempdir().expect("a folder"),
                ports: (0..3).map(port).collect(),
                servers: Vec::new(),
                patience,
                roads: Vec::new(),
            };
            if has_roads {
                ensemble.build_roads();
            }
            let starting: Vec<Server> = (0..3).map(|member| ensemble.begin(member)).collect();
            ensemble.servers = starting.into_iter().map(ready).collect();
            if ensemble.servers.iter().all(Option::is_some) {
                return ensemble;
            }
        }
        panic!("no ports for three servers in {STARTS} tries");
    }

    fn folder(&self, member: usize) -> PathBuf {
        self.folder.path().join(member.to_string())
    }

    fn begin(&self, member: usize) -> Server {
        let folder = self.folder(member);
        std::fs::create_dir_all(folder.join("data")).expect("a folder");
        std::fs::write(folder.join("data/myid"), member.to_string()).expect("a file");
        let mut more = format!("initLimit=20\nsyncLimit={}\n", self.patience);
        for (other, [_, peers, elections]) in self.ports.iter().enumerate() {
            let road = self.roads.get(member).filter(|_| other != member);
            let peers = road.map_or(*peers, |roads| roads[other].address().port());
            let _ = writeln!(more, "server.{other}=127.0.0.1:{peers}:{elections}");
        }
        spawn(&folder, self.ports[member][0], &more)
    }

    fn build_roads(&mut self) {
        let road = |[_, peers, _]: &[u16; 3]| {
            let road = Proxy::new();
            road.lead_to(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, *peers))));
            road
        };
        let roads = |_| self.ports.iter().map(road).collect();
        self.roads = (0..3).map(roads).collect();
    }

    /// A server that is not the leader.
    ///
    /// # Panics
    /// When there is none.
    pub fn follower(&self) -> usize {
        let is_follower = |member: &usize| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[*member][0]));
            ask(address, "srvr").is_some_and(|text| text.contains("Mode: follower"))
        };
        (0..3).find(is_follower).expect("two of them are")
    }

    /// Has a server that is not the leader hear nothing of that one, and the
    /// other way round. Nobody is told.
    pub fn cut_off(&self, member: usize) {
        for road in &self.roads[member] {
            road.set(Mode::BlackHole);
        }
    }

    /// Where one of them is.
    ///
    /// # Panics
    /// Never: it is a URL.
    pub fn url_of(&self, member: usize) -> RegistryUrl {
        let url = format!("zookeeper://127.0.0.1:{}/check", self.ports[member][0]);
        url.parse().expect("it is a URL")
    }

    /// Kills a server.
    pub fn kill(&mut self, member: usize) {
        self.servers[member] = None;
    }

    /// Starts a server again.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self, member: usize) {
        let server = ready(self.begin(member));
        self.servers[member] = Some(server.expect("it starts again"));
    }

    /// Where all of them are.
    ///
    /// # Panics
    /// Never: it is a URL.
    pub fn url(&self) -> RegistryUrl {
        let hosts = self
            .ports
            .iter()
            .map(|[port, ..]| format!("127.0.0.1:{port}"));
        let hosts: Vec<String> = hosts.collect();
        let url = format!("zookeeper://{}/check", hosts.join(","));
        url.parse().expect("it is a URL")
    }
}

impl Default for Ensemble {
    fn default() -> Self {
        Self::new()
    }
}
