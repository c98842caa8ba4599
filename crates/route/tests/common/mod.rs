//! A route server, its store and its peers, for tests.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses some of it"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use waystation_base::{Clock, Moment};
use waystation_net::MonotonicClock;
use waystation_route::{AdminClient, RouteConfig, RouteServer, StoreUrl};
use waystation_wire::lars::{GetRouteRequest, GetRouteResponse, HostInfo, Message, Scan, scan};

/// For conditions; never reached when all is well.
pub const WAIT: Duration = Duration::from_secs(30);

pub fn now() -> Moment {
    MonotonicClock.now()
}

/// Waits for a condition.
pub fn until(mut is_so: impl FnMut() -> bool) {
    let (_never, pause) = std::sync::mpsc::channel::<()>();
    let end = now() + WAIT;
    while !is_so() {
        assert!(now() < end, "it did not come about");
        let _nothing = pause.recv_timeout(Duration::from_millis(2));
    }
}

pub fn sqlite(folder: &Path) -> StoreUrl {
    let path = folder.join("routes.db");
    format!("sqlite://{}", path.display()).parse().unwrap()
}

/// A configuration that notices changes soon.
pub fn config(folder: &Path, store: StoreUrl) -> RouteConfig {
    let mut config = RouteConfig::new(folder.to_owned(), "127.0.0.1:0".parse().unwrap(), store);
    config.poll = Duration::from_millis(10);
    config.first_wait = WAIT;
    config.registry_wait = WAIT;
    config
}

pub fn address(server: &RouteServer) -> SocketAddr {
    server.address().to_string().parse().unwrap()
}

pub fn admin(server: &RouteServer) -> AdminClient {
    AdminClient::new(address(server))
}

/// A database server with routes in it, and what a test needs around it.
pub struct DatabaseWorld<D> {
    pub database: D,
    pub folder: tempfile::TempDir,
    /// For programs that are none of ours.
    pub runtime: tokio::runtime::Runtime,
}

impl<D> DatabaseWorld<D> {
    pub fn of(database: D) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Self {
            database,
            folder: tempfile::tempdir().unwrap(),
            runtime: builder.enable_all().build().unwrap(),
        }
    }

    /// A route server with a folder of this name, on the database at this URL. It
    /// never reads all again: what is noticed is noticed by what the database says.
    pub fn serve_at(
        &self,
        url: &str,
        name: &str,
        change: impl FnOnce(&mut RouteConfig),
    ) -> RouteServer {
        let mut config = config(&self.folder.path().join(name), url.parse().unwrap());
        config.reload = Duration::from_hours(1);
        change(&mut config);
        RouteServer::start(config).unwrap()
    }
}

/// An agent of Lars that has asked for a pair.
pub fn asked(server: &RouteServer, modid: i32, cmdid: i32) -> LarsAgent {
    let mut agent = LarsAgent::connect(address(server));
    agent.ask(modid, cmdid);
    agent
}

/// An agent of Lars, as far as its route server sees it.
pub struct LarsAgent {
    stream: TcpStream,
    received: Vec<u8>,
}

impl LarsAgent {
    pub fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn ask(&mut self, modid: i32, cmdid: i32) {
        let mut bytes = Vec::new();
        let ask = Message::GetRouteRequest(GetRouteRequest { modid, cmdid });
        ask.encode_into(&mut bytes).unwrap();
        self.send(&bytes);
    }

    /// The bytes of the next frame.
    pub fn frame(&mut self) -> Vec<u8> {
        loop {
            if let Scan::Frame(frame) = scan(&self.received).unwrap() {
                let length = frame.len();
                return self.received.drain(..length).collect();
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the server closed");
            self.received.extend_from_slice(&piece[..count]);
        }
    }

    /// The next answer or push.
    pub fn route(&mut self) -> GetRouteResponse {
        let bytes = self.frame();
        let Ok(Scan::Frame(frame)) = scan(&bytes) else {
            panic!("no frame");
        };
        match Message::parse(frame.id, frame.body) {
            Ok(Message::GetRouteResponse(route)) => route,
            other => panic!("{other:?}"),
        }
    }

    /// Answers and pushes until one has these ports.
    pub fn until_ports(&mut self, ports: &[i32]) {
        loop {
            let mut hosts: Vec<i32> = self.route().hosts.iter().map(|one| one.port).collect();
            hosts.sort_unstable();
            if hosts == ports {
                return;
            }
        }
    }

    /// Whether the server closes the connection, and says nothing more.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        matches!(self.stream.read_to_end(&mut rest), Ok(0) | Err(_)) && rest.is_empty()
    }
}

pub fn host(ip: [u8; 4], port: u16) -> HostInfo {
    HostInfo::new(ip.into(), port)
}
