//! An agent whose source is a route server of Lars, played by the test.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig};
use waystation_client::protocol::hosts;
use waystation_client::{LarsCaller, Socket, machine_now};

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

/// The question for the pair 1/1, as every agent of Lars asks it.
const QUESTION: [u8; 12] = [1, 0, 0, 0, 4, 0, 0, 0, 8, 1, 16, 1];

/// A connection of the agent, seen from its route server.
struct Server {
    stream: TcpStream,
}

impl Server {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Waits until the agent asks for 1/1.
    fn asked(&mut self) {
        let mut bytes = [0; QUESTION.len()];
        self.stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, QUESTION);
    }

    fn tell(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The same, and waits until the agent has read all that it was ever told.
    fn tell_and_wait(&mut self, bytes: &[u8]) {
        self.tell(bytes);
        until(|| self.is_read());
    }

    /// Whether nothing waits on the way to the agent, neither here nor there.
    fn is_read(&self) -> bool {
        // Of each end: address, peer's, state, and how many bytes are not
        // acknowledged yet and how many are not read.
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = format!(":{:04X}", self.stream.local_addr().unwrap().port());
        let its = format!(":{:04X}", self.stream.peer_addr().unwrap().port());
        let queues = |from: &str, to: &str| {
            table.lines().find_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let is_end = words.len() > 4 && words[1].ends_with(from) && words[2].ends_with(to);
                is_end.then(|| words[4].to_owned())
            })
        };
        let is_sent = queues(&ours, &its).is_some_and(|two| two.starts_with("00000000:"));
        is_sent && queues(&its, &ours).is_some_and(|two| two.ends_with(":00000000"))
    }
}

/// The route of 1/1 as a frame: 200.0.0.1 with so many ports from 7000 on.
fn route(hosts: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    bytes.extend((4 + 16 * u32::from(hosts)).to_le_bytes());
    bytes.extend([8, 1, 16, 1]);
    for number in 0..hosts {
        // A negative number, which takes ten bytes.
        let ip = [0x81, 0x80, 0x80, 0xc0, 0xfc, 0xff, 0xff, 0xff, 0xff, 1];
        bytes.extend([26, 14, 8]);
        bytes.extend(ip);
        bytes.extend([16, 0xd8 + number, 0x36]);
    }
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

    /// Waits until these are the hosts.
    fn until_hosts(&self, count: u8) {
        let caller = self.caller();
        let at = |number: u8| SocketAddr::from(([200, 0, 0, 1], 7000 + u16::from(number)));
        let expected: Vec<SocketAddr> = (0..count).map(at).collect();
        until(|| {
            caller.reg_init().is_ok_and(|mut hosts| {
                hosts.sort_unstable();
                hosts == expected
            })
        });
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
    server.asked();
    for cut in 1..route(4).len() {
        server.tell(&route(5));
        world.until_hosts(5);
        let bytes = route(4);
        let (head, tail) = bytes.split_at(cut);
        server.tell_and_wait(head);
        server.tell(tail);
        world.until_hosts(4);
    }
    // Byte by byte, two at once, and what is none of its business.
    for byte in route(7) {
        server.tell(&[byte]);
    }
    world.until_hosts(7);
    let unknown = [99, 0, 0, 0, 1, 0, 0, 0, 7];
    server.tell(&[&unknown[..], &route(8), &route(9)].concat());
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
        server.asked();
        // Closed, with half a frame said.
        server.tell(&route(1)[..5]);
    }
    let mut server = Server::accept(&listener);
    server.asked();
    server.tell(&[2, 0, 0, 0, 255, 255, 255, 255]);
    let mut server = Server::accept(&listener);
    server.asked();
    server.tell(&route(2));
    world.until_hosts(2);
    // It is gone: what is known stays, and it is asked for all again.
    drop(server);
    world.until_hosts(2);
    let mut server = Server::accept(&listener);
    server.asked();
    server.tell(&route(3));
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
    server.asked();
    server.tell(&route(1));
    world.until_hosts(1);
    // Nothing is pushed.
    server.asked();
    server.tell(&route(2));
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
    server.asked();
    server.tell(&route(1));
    world.until_hosts(1);
    let origin = || {
        let mut socket = Socket::connect(world.agent.socket(), WAIT).unwrap();
        let told = hosts("lars.1.1", |request| Ok(socket.ask(request)?.0));
        told.unwrap().1
    };
    until(|| origin() == "live");
    // From here on it says nothing, and its connection stays.
    let mut next = Server::accept(&listener);
    next.asked();
    assert_eq!(origin(), "kept");
    assert_eq!(world.caller().get_route().unwrap().len(), 1);
    next.tell(&route(2));
    world.until_hosts(2);
    until(|| origin() == "live");
    drop(server);
}
