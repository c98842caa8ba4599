//! An agent whose source is a route server of Lars, played by the test.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig};
use waystation_client::protocol::hosts;
use waystation_client::{LarsCaller, Socket, machine_now};
use waystation_wire::lars::{GetRouteResponse, HostInfo, Message, Scan, scan};

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

/// A connection of the agent, seen from its route server.
struct Server {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Server {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// The next pair that the agent asks for.
    fn asked(&mut self) -> (i32, i32) {
        loop {
            if let Scan::Frame(frame) = scan(&self.received).unwrap() {
                let message = Message::parse(frame.id, frame.body).unwrap();
                let length = frame.len();
                self.received.drain(..length);
                match message {
                    Message::GetRouteRequest(ask) => return (ask.modid, ask.cmdid),
                    other => panic!("{other:?}"),
                }
            }
            let mut piece = [0; 1024];
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the agent closed");
            self.received.extend_from_slice(&piece[..count]);
        }
    }

    fn tell(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
}

/// The route of 1/1 with these ports on 200.0.0.1, as a frame.
fn route(ports: &[u16]) -> Vec<u8> {
    let hosts = ports
        .iter()
        .map(|port| HostInfo::new([200, 0, 0, 1].into(), *port));
    let message = Message::GetRouteResponse(GetRouteResponse {
        modid: 1,
        cmdid: 1,
        hosts: hosts.collect(),
    });
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes).unwrap();
    bytes
}

struct World {
    _folder: TempDir,
    agent: Agent,
}

impl World {
    fn new(at: SocketAddr) -> Self {
        Self::with(at, |_| {})
    }

    fn with(at: SocketAddr, set: impl FnOnce(&mut AgentConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = "file:///nowhere".parse().unwrap();
        let mut config = AgentConfig::new(folder.path().join("agent.sock"), registry, 7);
        config.lars_route = Some(at);
        config.udp.iter_mut().for_each(|at| at.set_port(0));
        set(&mut config);
        Self {
            agent: Agent::start(config).unwrap(),
            _folder: folder,
        }
    }

    fn caller(&self) -> LarsCaller {
        let mut lars = LarsCaller::new(1, 1);
        for (port, at) in lars.ports.iter_mut().zip(self.agent.udp_addresses()) {
            *port = at.port();
        }
        lars.timeout = WAIT;
        lars
    }

    fn until_hosts(&self, count: usize) {
        let caller = self.caller();
        until(|| caller.reg_init().is_ok_and(|hosts| hosts.len() == count));
    }
}

/// Waits for a condition.
fn until(mut is_so: impl FnMut() -> bool) {
    let (_never, pause) = std::sync::mpsc::channel::<()>();
    let end = machine_now() + WAIT;
    while !is_so() {
        assert!(machine_now() < end, "it did not come about");
        let _nothing = pause.recv_timeout(Duration::from_millis(2));
    }
}

/// A reply that arrived in two reads killed the reference's agent.
#[test]
fn answers_and_pushes_may_come_in_any_pieces() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = World::new(listener.local_addr().unwrap());
    let refused = world.caller().get_host();
    assert!(refused.is_err(), "nothing was asked for yet");
    let mut server = Server::accept(&listener);
    assert_eq!(server.asked(), (1, 1));
    for cut in 0..=route(&[80, 81, 82, 83]).len() {
        // Never so much less that the agent doubts it.
        let ports: Vec<u16> = (80..84 + u16::try_from(cut % 3).unwrap()).collect();
        let bytes = route(&ports);
        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
        server.tell(head);
        server.tell(tail);
        world.until_hosts(ports.len());
    }
    // Byte by byte, two at once, and what is none of its business.
    let ports: Vec<u16> = (80..89).collect();
    for byte in route(&ports[..7]) {
        server.tell(&[byte]);
    }
    world.until_hosts(7);
    let unknown = [99, 0, 0, 0, 1, 0, 0, 0, 7];
    server.tell(&[&unknown[..], &route(&ports[..8]), &route(&ports)].concat());
    world.until_hosts(9);
}

/// A route server that closed before its first reply killed the reference's
/// agent, and one that refused was never asked again.
#[test]
fn a_server_that_refuses_closes_or_talks_nonsense_is_tried_again() {
    // Nobody else takes a port of this address meanwhile.
    let [high, low] = u16::try_from(std::process::id() % 60_000)
        .unwrap()
        .to_be_bytes();
    let listener = TcpListener::bind(SocketAddr::from(([127, high, low, 77], 0))).unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let world = World::new(at);
    assert!(world.caller().get_host().is_err());
    let listener = TcpListener::bind(at).unwrap();
    for _ in 0..3 {
        let mut server = Server::accept(&listener);
        assert_eq!(server.asked(), (1, 1));
        // Closed, with half a frame said.
        server.tell(&route(&[80])[..5]);
    }
    let mut server = Server::accept(&listener);
    server.asked();
    server.tell(&[2, 0, 0, 0, 255, 255, 255, 255]);
    let mut server = Server::accept(&listener);
    server.asked();
    server.tell(&route(&[80, 81]));
    world.until_hosts(2);
    // It is gone: what is known stays, and it is asked for all again.
    drop(server);
    world.until_hosts(2);
    let mut server = Server::accept(&listener);
    assert_eq!(server.asked(), (1, 1));
    server.tell(&route(&[80, 81, 82]));
    world.until_hosts(3);
}

/// Story: the age at which a route is asked for again was a setting that nobody
/// read, so that a push that was lost stayed unnoticed for a minute.
#[test]
fn a_route_is_asked_for_again_at_the_age_that_the_settings_say() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let world = World::with(at, |config| config.lars_refresh = Duration::from_secs(1));
    let _not_yet = world.caller().get_host();
    let mut server = Server::accept(&listener);
    assert_eq!(server.asked(), (1, 1));
    server.tell(&route(&[7000]));
    world.until_hosts(1);
    // Nothing is pushed.
    assert_eq!(server.asked(), (1, 1));
    server.tell(&route(&[7000, 7001]));
    world.until_hosts(2);
}

/// Story: a route server that was cut off without a word was asked over the dead
/// connection for a quarter of an hour, and its routes were called live meanwhile.
#[test]
fn a_silent_server_is_left_and_its_routes_are_called_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let world = World::with(at, |config| config.lars_refresh = Duration::from_secs(1));
    let _not_yet = world.caller().get_host();
    let mut server = Server::accept(&listener);
    assert_eq!(server.asked(), (1, 1));
    server.tell(&route(&[7000]));
    world.until_hosts(1);
    let origin = || {
        let mut socket = Socket::connect(world.agent.socket(), WAIT).unwrap();
        let told = hosts("lars.1.1", |request| Ok(socket.ask(request)?.0));
        told.unwrap().1
    };
    until(|| origin() == "live");
    // From here on it says nothing, and its connection stays.
    let mut next = Server::accept(&listener);
    assert_eq!(next.asked(), (1, 1));
    assert_eq!(origin(), "kept");
    assert_eq!(world.caller().get_route().unwrap().len(), 1);
    next.tell(&route(&[7000, 7001]));
    world.until_hosts(2);
    until(|| origin() == "live");
    drop(server);
}
