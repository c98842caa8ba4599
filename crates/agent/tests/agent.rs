//! An agent and its callers, over real memory and sockets.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_base::{Moment, ServiceName};
use waystation_client::protocol::{Answer, Code, ListedHost, Request};
use waystation_client::{Caller, CallerConfig, Error, LarsCaller, Socket, Source, machine_now};
use waystation_membership::{Instance, InstanceId, LarsPair, Owner};
use waystation_registry::instance_to_json;

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

struct World {
    folder: TempDir,
    agent: Option<Agent>,
    policy: PolicyKind,
    /// Waiting on it is how a test pauses between two looks.
    pause: (Sender<()>, Receiver<()>),
}

impl World {
    fn new(hosts: u16) -> Self {
        Self::with(PolicyKind::default(), hosts)
    }

    fn with(policy: PolicyKind, hosts: u16) -> Self {
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

    /// The hosts of `pay`, in the file that is the registry.
    fn write(&self, hosts: u16) {
        let service = ServiceName::new("pay").unwrap();
        let mut text = String::new();
        for n in 1..=hosts {
            let id = InstanceId::new(&format!("pay-{n}")).unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], 9000 + n));
            let address = address.to_string().parse().unwrap();
            let mut one = Instance::new(id, service.clone(), address, Owner::default());
            one.lars = Some(LarsPair { modid: 1, cmdid: 1 });
            writeln!(text, "{}", instance_to_json(&one)).unwrap();
        }
        // At once, so that no half of it is read.
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.path().join("nodes")).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn start(&mut self) {
        let file = self.folder.path().join("nodes");
        let registry = format!("file://{}", file.display()).parse().unwrap();
        let mut config = AgentConfig::new(self.socket(), registry, 7);
        config.policy = self.policy;
        config.udp.iter_mut().for_each(|at| at.set_port(0));
        self.agent = Some(Agent::start(config).unwrap());
        // Until it knows its routes.
        self.until(|world| world.list().is_ok_and(|hosts| !hosts.is_empty()));
    }

    fn caller(&self) -> Caller {
        let mut config = CallerConfig::new("pay", self.socket());
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        Caller::new(config)
    }

    fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let mut socket = Socket::connect(&self.socket(), WAIT)?;
        socket.ask(request).map(|(answer, _)| answer)
    }

    fn list(&self) -> Result<Vec<ListedHost>, Error> {
        let service = "pay".to_owned();
        match self.ask(&Request::List { service })? {
            Answer::Listed { hosts } => Ok(hosts),
            other => panic!("{other:?}"),
        }
    }

    fn in_flight(&self) -> u32 {
        self.list().unwrap().iter().map(|host| host.in_flight).sum()
    }

    /// Waits for a condition.
    fn until(&self, mut is_so: impl FnMut(&Self) -> bool) {
        let end = machine_now() + WAIT;
        while !is_so(self) {
            assert!(machine_now() < end, "it did not come about");
            let _nothing = self.pause.1.recv_timeout(Duration::from_millis(5));
        }
    }

    fn lars(&self) -> LarsCaller {
        let mut lars = LarsCaller::new(1, 1);
        let agent = self.agent.as_ref().unwrap();
        for (port, at) in lars.ports.iter_mut().zip(agent.udp_addresses()) {
            *port = at.port();
        }
        lars.timeout = WAIT;
        lars
    }
}

fn done(caller: &mut Caller) -> SocketAddr {
    let picked = caller.pick().unwrap();
    caller.report(
        &picked,
        CallEnd::Ok,
        Some(Duration::from_millis(1)),
        Load::default(),
    );
    picked.address
}

#[test]
fn picks_come_from_shared_memory_and_the_agent_sees_them() {
    let world = World::new(3);
    let mut caller = world.caller();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        seen.insert(done(&mut caller));
    }
    assert_eq!(caller.source(), Some(Source::Segment));
    assert_eq!(seen.len(), 3, "{seen:?}");
    let open: Vec<_> = (0..5).map(|_| caller.pick().unwrap()).collect();
    world.until(|world| world.in_flight() == 5);
    // Another thread has its own picker over the same memory.
    let mut other = caller.clone();
    let thread = std::thread::spawn(move || {
        for picked in &open {
            other.pick().unwrap();
            other.report(picked, CallEnd::Cancelled, None, Load::default());
        }
        other
    });
    let other = thread.join().unwrap();
    assert_eq!(other.source(), Some(Source::Segment));
    world.until(|world| world.list().unwrap().iter().any(|host| host.latency_us > 0));
    // They go with the process that has them open: here, with the connection.
    drop((caller, other));
    world.until(|world| world.in_flight() == 0);
}

#[test]
fn a_changed_route_reaches_callers_that_are_attached() {
    let world = World::new(2);
    let mut caller = world.caller();
    done(&mut caller);
    world.write(1);
    // The guard on losses may keep a host that went away for a while as one to
    // be used at need; a new one is seen at once.
    world.write(90);
    world.until(|_| done(&mut caller).port() > 9002);
    assert_eq!(caller.source(), Some(Source::Segment));
    // The segment had room for 64: the service moved to a larger one.
    world.until(|_| done(&mut caller).port() > 9064);
}

#[test]
fn callers_outlive_their_agent_and_find_the_next_one() {
    let mut world = World::new(2);
    let mut caller = world.caller();
    done(&mut caller);
    world.agent = None;
    // They go on by what they know until that is two seconds old; then they say
    // that nobody is there.
    world.until(|_| caller.pick().is_err());
    assert!(matches!(caller.pick(), Err(Error::Unreachable(_))));
    world.start();
    world.until(|_| caller.pick().is_ok());
    assert_eq!(caller.source(), Some(Source::Segment));
}

#[test]
fn a_policy_that_needs_the_agent_is_asked_for_over_the_socket() {
    let world = World::with(PolicyKind::RoundRobin, 3);
    let mut caller = world.caller();
    let three: std::collections::BTreeSet<_> = (0..3).map(|_| done(&mut caller)).collect();
    assert_eq!(three.len(), 3);
    assert_eq!(caller.source(), Some(Source::Socket));
    let picked = caller.pick().unwrap();
    world.until(|world| world.in_flight() == 1);
    caller.report(&picked, CallEnd::Failed, None, Load::default());
    world.until(|world| world.in_flight() == 0);
    assert!(
        world
            .list()
            .unwrap()
            .iter()
            .any(|host| host.error_share > 0.0)
    );
}

#[test]
fn callers_of_lars_are_served_by_udp() {
    let world = World::new(2);
    let lars = world.lars();
    let mut route = lars.reg_init().unwrap();
    route.sort_unstable();
    assert_eq!(
        route,
        [9001, 9002].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    );
    let first = lars.get_host().unwrap();
    let second = lars.get_host().unwrap();
    assert_ne!(first, second, "they take turns");
    // Fifteen failures in a row, then it is left out. Reports have no answer;
    // one port serves them in order.
    for _ in 0..15 {
        lars.report(first, false);
    }
    let given: Vec<_> = (0..8).map(|_| lars.get_host().unwrap()).collect();
    assert!(given.iter().all(|host| *host == second), "{given:?}");
    let unknown = LarsCaller { modid: -7, ..lars };
    let refused = unknown.get_host().unwrap_err();
    assert!(matches!(
        refused,
        Error::Refused {
            code: Code::NoSuchService,
            ..
        }
    ));
}

#[test]
fn without_a_socket_a_caller_falls_back_to_udp() {
    let world = World::new(1);
    let mut config = CallerConfig::new("pay", world.folder.path().join("nobody.sock"));
    config.lars = Some(world.lars());
    let mut caller = Caller::new(config);
    assert_eq!(done(&mut caller).port(), 9001);
    assert_eq!(caller.source(), Some(Source::Udp));
}

#[test]
fn an_agent_says_why() {
    let world = World::new(2);
    let service = "pay".to_owned();
    let Answer::Explained {
        policy, candidates, ..
    } = world.ask(&Request::Explain { service }).unwrap()
    else {
        panic!("no explanation");
    };
    assert_eq!((policy.as_str(), candidates.len()), ("fresh", 2));
    for name in ["nobody", "No Service"] {
        let service = name.to_owned();
        let refused = world.ask(&Request::Pick { service }).unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    }
    let reported = Request::ReportAddress {
        service: "pay".to_owned(),
        address: "127.0.0.1:9001".to_owned(),
        end: waystation_client::protocol::End::Failed,
    };
    assert_eq!(world.ask(&reported).unwrap(), Answer::Reported);
    assert!(
        world
            .list()
            .unwrap()
            .iter()
            .any(|host| host.error_share > 0.0)
    );
}

/// Whatever comes to the socket ends its own connection only.
#[test]
fn noise_at_the_socket_harms_nobody() {
    use std::io::{Read as _, Write as _};
    let world = World::new(1);
    let noise: [&[u8]; 4] = [
        b"\xff\xff\xff\xffabc",
        b"\x05\0\0\0hello",
        b"\x02\0\0\0{}\x02\0\0\0[]",
        b"\0\0\0\0",
    ];
    for bytes in noise {
        let mut stream = std::os::unix::net::UnixStream::connect(world.socket()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        assert!(answers.is_empty() || answers[4..].starts_with(b"{\"refused\""));
    }
    assert_eq!(done(&mut world.caller()).port(), 9001);
}

#[test]
fn a_second_agent_at_the_same_socket_is_refused() {
    let world = World::new(1);
    let registry = "file:///nowhere".parse().unwrap();
    let mut config = AgentConfig::new(world.socket(), registry, 1);
    config.udp.clear();
    let refused = Agent::start(config).err().unwrap();
    assert!(
        refused.to_string().starts_with("cannot listen at "),
        "{refused}"
    );
    assert!(machine_now() > Moment::ZERO);
}
