//! An agent and its callers, over real memory and sockets.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{WAIT, World, done, tcp};
use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig, Error as StartFault, SocketAccess};
use waystation_balance::{CallEnd, Load, PolicyKind};
use waystation_base::{Moment, ServiceName};
use waystation_client::protocol::{Answer, Code, Request, pair_hosts};
use waystation_client::{Caller, CallerConfig, Error, LarsCaller, Socket, Source, machine_now};
use waystation_membership::{DrainStep, Instance, InstanceId, Owner, OwnerId};
use waystation_registry::{
    Client, EmbeddedConfig, EmbeddedServer, Registered, RegistrationOptions, Registry as _,
    RegistryUrl,
};
use waystation_segment::limits::LEDGERS_MAX;

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
        other.pick().unwrap();
        for picked in &open {
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
    assert_eq!(caller.get_route().unwrap().len(), 2);
    // They go on by the hosts that they had, and say so. Story: they had errors,
    // although the hosts were in their memory. And for two seconds they went on as if
    // the agent were there: nobody counted that, and hosts that left were called.
    let source = |caller: &mut Caller| caller.pick().unwrap().source;
    assert_eq!(source(&mut caller), Source::Kept);
    let kept: std::collections::BTreeSet<_> = (0..4).map(|_| done(&mut caller)).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    // Who had none has an error.
    let refused = world.caller().pick();
    assert!(matches!(refused, Err(Error::Unreachable(_))), "{refused:?}");
    world.start();
    world.until(|_| source(&mut caller) == Source::Segment);
    // Calls to hosts that were kept are nobody's.
    drop(caller);
    world.until(|world| world.in_flight() == 0);
}

/// Story: each pick failed from the moment on that an agent came whose registry was
/// away, although the caller had hosts and had called them while there was no agent.
/// Who asked for the route had an error with and without that agent.
#[test]
fn callers_keep_their_hosts_while_a_new_agent_knows_none() {
    let mut world = World::new(2);
    let mut caller = world.caller();
    done(&mut caller);
    assert_eq!(caller.source(), Some(Source::Segment));
    world.agent = None;
    // A file that is gone is a registry that cannot be talked to.
    std::fs::remove_file(world.nodes()).unwrap();
    world.begin();
    let is_not_yet = |asked: Result<(), Error>| {
        matches!(
            asked,
            Err(Error::Refused {
                code: Code::NotYet,
                ..
            })
        )
    };
    assert!(is_not_yet(world.list().map(drop)));
    // Who had none hears why.
    assert!(is_not_yet(world.caller().pick().map(drop)));
    assert!(is_not_yet(world.caller().reg_init().map(drop)));
    assert_eq!(caller.get_route().unwrap().len(), 2);
    assert_eq!(caller.reg_init().unwrap().len(), 2);
    for _ in 0..100 {
        done(&mut caller);
        assert_eq!(caller.source(), Some(Source::Kept));
    }
    world.write(2);
    world.until(|_| {
        done(&mut caller);
        caller.source() == Some(Source::Segment)
    });
    // What is not in a registry that is there is offered by nobody.
    let mut config = world.config();
    "nobody".clone_into(&mut config.service);
    let mut caller = Caller::new(config);
    world.until(|_| {
        matches!(
            caller.pick(),
            Err(Error::Refused {
                code: Code::NoSuchService,
                ..
            })
        )
    });
}

/// Story: a clone that had not picked itself, as of a C program's thread, dropped the
/// ends of calls that another one had picked, without a word.
#[test]
fn any_clone_reports_what_another_picked() {
    let world = World::new(1);
    let mut caller = world.caller();
    let open: Vec<_> = (0..3).map(|_| caller.pick().unwrap()).collect();
    world.until(|world| world.in_flight() == 3);
    let mut fresh = caller.clone();
    for picked in &open {
        fresh.report(picked, CallEnd::Failed, None, Load::default());
    }
    world.until(|world| world.in_flight() == 0);
    assert!(world.list().unwrap()[0].error_share > 0.0);
    assert_eq!(fresh.source(), caller.source());
}

/// Story: calls that were in flight when their service outgrew its segment were given
/// up, and their results lost, as soon as any clone had attached to the next one.
#[test]
fn calls_that_were_picked_before_the_segment_grew_are_counted() {
    let world = World::new(2);
    let (mut caller, mut other) = (world.caller(), None);
    let picked = caller.pick().unwrap();
    let call = caller.begin().unwrap();
    world.until(|world| world.in_flight() == 2);
    world.write(90);
    world.until(|_| {
        let other = other.get_or_insert_with(|| caller.clone());
        done(other).port() > 9064
    });
    world.until(|world| world.in_flight() == 2);
    caller.report(&picked, CallEnd::Failed, None, Load::default());
    world.until(|world| world.in_flight() == 1);
    let failed = |world: &World| {
        let hosts = world.list().unwrap();
        hosts.iter().any(|host| host.error_share > 0.0)
    };
    assert!(failed(&world));
    call.end(CallEnd::Ok, Load::default());
    world.until(|world| world.in_flight() == 0);
    assert_eq!(caller.source(), Some(Source::Segment));
}

/// Story: a caller that was gone between its pick by socket and its report left the
/// call in flight for as long as the agent ran.
#[test]
fn calls_that_were_picked_by_socket_end_with_their_connection() {
    let world = World::with(PolicyKind::RoundRobin, 2);
    let connected = || Socket::connect(&world.socket(), WAIT).unwrap();
    let pick = |socket: &mut Socket| {
        let service = "pay".to_owned();
        match socket.ask(&Request::Pick { service, key: None }).unwrap().0 {
            Answer::Picked { host, .. } => host,
            other => panic!("{other:?}"),
        }
    };
    let (mut first, mut second) = (connected(), connected());
    let host = pick(&mut first);
    pick(&mut first);
    pick(&mut second);
    assert_eq!(world.in_flight(), 3);
    drop(first);
    world.until(|world| world.in_flight() == 1);
    // A result that comes after all is one, and ends no other call.
    let report = Request::Report {
        service: "pay".to_owned(),
        host,
        end: waystation_client::protocol::End::Failed,
        latency_us: None,
        load: waystation_client::protocol::ToldLoad::default(),
        address: None,
    };
    connected().tell(&report).unwrap();
    world.until(|world| {
        world
            .list()
            .unwrap()
            .iter()
            .any(|host| host.error_share > 0.0)
    });
    assert_eq!(world.in_flight(), 1);
}

/// Story: no caller could say what a call is about, so that the policy for affinity
/// picked anybody.
#[test]
fn calls_of_one_key_go_to_one_host() {
    let world = World::with(PolicyKind::Maglev, 5);
    let (mut caller, mut other) = (world.caller(), world.caller());
    let mut hosts = std::collections::BTreeSet::new();
    for key in 0..40 {
        let at = |caller: &mut Caller| {
            let picked = caller.pick_by(waystation_base::hash64(&[key])).unwrap();
            assert_eq!(picked.source, Source::Socket);
            caller.report(&picked, CallEnd::Ok, None, Load::default());
            tcp(&picked.address)
        };
        let home = at(&mut caller);
        assert_eq!((at(&mut caller), at(&mut other)), (home, home), "{key}");
        hosts.insert(home);
    }
    assert_eq!(hosts.len(), 5, "each has some of the keys");
    world.until(|world| world.in_flight() == 0);
}

/// A process more than there are ledgers for picks by the socket.
#[test]
fn without_a_ledger_a_caller_asks_by_the_socket() {
    let world = World::new(2);
    let service = "pay".to_owned();
    let attach = Request::Attach { service };
    let attached = |_| {
        let mut socket = Socket::connect(&world.socket(), WAIT).unwrap();
        socket.ask(&attach).unwrap();
        socket
    };
    let mut others: Vec<Socket> = (0..LEDGERS_MAX).map(attached).collect();
    let mut caller = world.caller();
    done(&mut caller);
    assert_eq!(caller.source(), Some(Source::Socket));
    drop(others.pop());
    world.until(|_| {
        done(&mut caller);
        caller.source() == Some(Source::Segment)
    });
}

/// Story: whom callers of Lars were given, and why, could be asked nowhere.
#[test]
fn what_callers_of_lars_are_given_is_explained() {
    let world = World::new(2);
    let (modid, cmdid) = (1, 1);
    let explain = |world: &World| match world.ask(&Request::ExplainPair { modid, cmdid }) {
        Ok(Answer::Explained {
            policy, candidates, ..
        }) => {
            let mut notes: Vec<String> = candidates.into_iter().map(|one| one.note).collect();
            notes.sort();
            (policy, notes)
        }
        other => panic!("{other:?}"),
    };
    let (policy, notes) = explain(&world);
    assert_eq!((policy.as_str(), notes.len()), ("lars", 2));
    assert!(
        notes
            .iter()
            .all(|note| note.starts_with("idle: 0 ok, 0 failed"))
    );
    let lars = world.lars();
    let first = lars.get_host().unwrap();
    (0..15).for_each(|_| lars.report(first, false));
    world.until(|world| explain(world).1[1].starts_with("overloaded: 0 ok, 0 failed"));
    let mut socket = Socket::connect(&world.socket(), WAIT).unwrap();
    let listed = pair_hosts((modid, cmdid), |request| Ok(socket.ask(request)?.0));
    let (hosts, origin) = listed.unwrap();
    assert_eq!((hosts.len(), origin.as_str()), (2, "live"));
    for host in hosts {
        let is_first = host.address == first.to_string();
        let verdict = if is_first { "overloaded" } else { "idle" };
        assert_eq!((host.verdict.as_str(), host.eligible), (verdict, !is_first));
    }
    let unknown = world.ask(&Request::ExplainPair { modid: -7, cmdid });
    assert!(matches!(unknown, Err(Error::Refused { .. })), "{unknown:?}");
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
        let refused = world
            .ask(&Request::Pick { service, key: None })
            .unwrap_err();
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

/// An embedded registry, and a client of it that registers hosts.
struct Site {
    server: EmbeddedServer,
    client: Client,
    url: RegistryUrl,
    /// They stay for as long as these do.
    registered: Vec<Registered>,
}

impl Site {
    fn start(folder: &TempDir, name: &str, ports: &[u16]) -> Self {
        let at = "127.0.0.1:0".parse().unwrap();
        let config = EmbeddedConfig::new(folder.path().join(name), at);
        let server = EmbeddedServer::start(config).unwrap();
        let url: RegistryUrl = format!("embedded://{}", server.address()).parse().unwrap();
        let mut site = Self {
            client: Client::open(&url).unwrap(),
            server,
            url,
            registered: Vec::new(),
        };
        for port in ports {
            site.register(*port);
        }
        site
    }

    /// A host whose owner is the same in every registry, as that of a process
    /// that registers in several is.
    fn register(&mut self, port: u16) {
        let id = InstanceId::new(&format!("pay-{port}")).unwrap();
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        let owner = Owner {
            id: OwnerId(u128::from(port)),
            incarnation: 1,
        };
        let one = Instance::new(id, ServiceName::new("pay").unwrap(), address, owner);
        let registered = self.client.register(one, RegistrationOptions::default());
        self.registered.push(registered.unwrap());
    }
}

/// An agent watched one registry: on the way to another its callers lost the
/// hosts that had gone there first.
#[test]
fn callers_keep_their_hosts_on_the_way_to_another_registry() {
    let mut world = World::new(1);
    drop(world.agent.take());
    let old = Site::start(&world.folder, "old", &[9001, 9002]);
    let mut new = Site::start(&world.folder, "new", &[9002, 9003]);
    world.start_on(vec![old.url.clone(), new.url.clone()]);
    let ids = |world: &World| {
        let hosts = world.list().unwrap_or_default();
        let mut ids: Vec<String> = hosts.into_iter().map(|host| host.id).collect();
        ids.sort();
        ids
    };
    world.until(|world| ids(world) == ["pay-9001", "pay-9002", "pay-9003"]);
    let mut caller = world.caller();
    done(&mut caller);
    // The first one ends, for good and without a word of its hosts.
    let Site { server, .. } = old;
    drop(server);
    for _ in 0..100 {
        let host = done(&mut caller);
        assert!((9001..=9003).contains(&host.port()), "{host}");
    }
    new.register(9004);
    world.until(|world| {
        let ids = ids(world);
        let in_new = ["pay-9002", "pay-9003", "pay-9004"];
        in_new.iter().all(|id| ids.contains(&(*id).to_owned()))
    });
    let mut seen = std::collections::BTreeSet::new();
    world.until(|_| {
        seen.insert(done(&mut caller).port());
        [9002, 9003, 9004].iter().all(|port| seen.contains(port))
    });
}

/// Story: an agent that ended in good order was not waited for, so that a host's drain
/// was over while the callers of that machine went on to call it until the next agent
/// came.
#[test]
fn a_drain_waits_for_callers_whose_agent_has_ended() {
    let mut world = World::new(1);
    drop(world.agent.take());
    let site = Site::start(&world.folder, "site", &[9001, 9002]);
    world.start_on(vec![site.url.clone()]);
    world.until(|world| world.list().is_ok_and(|hosts| hosts.len() == 2));
    let mut caller = world.caller();
    done(&mut caller);
    assert_eq!(caller.source(), Some(Source::Segment));
    drop(world.agent.take());
    let drained = &site.registered[0];
    drained.drain();
    let begun = drained.wait_until(WAIT, |status| status.drain.is_some());
    assert!(begun.is_some());
    // It may take as long as lost agents are waited for, which is longer.
    let over = drained.wait_until(Duration::from_millis(500), |status| {
        status.drain != Some(DrainStep::Waiting)
    });
    assert!(over.is_none(), "{over:?}");
    assert_eq!(caller.pick().unwrap().source, Source::Kept);
}

/// Who runs under another user than the agent was refused at its socket, whatever its
/// operator wished: its mode was what the umask left.
#[test]
fn the_socket_lets_in_whom_its_operator_says() {
    let folder = tempfile::tempdir().unwrap();
    let modes = [SocketAccess::Owner, SocketAccess::Group, SocketAccess::All].map(|access| {
        let path = folder.path().join("agent.sock");
        let mut config = AgentConfig::new(&path, "file:///nowhere".parse().unwrap(), 1);
        config.access = access;
        config.udp.clear();
        let agent = Agent::start(config).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        agent.drain();
        mode & 0o777
    });
    assert_eq!(modes, [0o600, 0o660, 0o666]);
}

/// A route server is asked for what is used and a registry tells all it has: what
/// one of them does not know would look as if it had gone.
#[test]
fn a_route_server_beside_a_registry_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = "file:///nowhere".parse().unwrap();
    let mut config = AgentConfig::new(folder.path().join("agent.sock"), registry, 1);
    let host = "127.0.0.1:7778".to_owned();
    config.registries.push(RegistryUrl::Route { host });
    config.udp.clear();
    let refused = Agent::start(config).err().unwrap().to_string();
    assert_eq!(refused, "a route server cannot be used beside a registry");
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

/// Story: of two agents that started at once each took the other's socket for that of
/// one that was gone, and removed it: one of them served nobody.
#[test]
fn of_agents_that_start_at_once_one_has_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    for _ in 0..10 {
        // That of one that was killed.
        let _gone = std::fs::remove_file(&path);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let starts: Vec<_> = (0..4)
            .map(|_| {
                let registry = "file:///nowhere".parse().unwrap();
                let mut config = AgentConfig::new(&path, registry, 1);
                config.udp.clear();
                std::thread::spawn(move || Agent::start(config).ok())
            })
            .collect();
        let started = starts.into_iter().map(|one| one.join().unwrap());
        let agents: Vec<_> = started.flatten().collect();
        assert_eq!(agents.len(), 1);
        assert!(Socket::connect(&path, WAIT).is_ok());
    }
}

/// Story: a start that failed for a port left a socket behind at which nobody was.
#[test]
fn a_start_that_fails_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let registry = "file:///nowhere".parse().unwrap();
    let mut config = AgentConfig::new(&path, registry, 1);
    config.udp = vec![taken.local_addr().unwrap()];
    assert!(matches!(Agent::start(config), Err(StartFault::Start(_))));
    assert!(!path.exists());
}

/// Story: connections that said nothing stayed for ever, and a thousand of them locked
/// everybody out; one that attached again and again took all ledgers of a service.
#[test]
fn who_says_nothing_is_hung_up_on_and_nobody_attaches_twice() {
    let mut world = World::new(1);
    drop(world.agent.take());
    let file = world.folder.path().join("nodes");
    let registry = format!("file://{}", file.display()).parse().unwrap();
    let mut config = AgentConfig::new(world.socket(), registry, 7);
    config.udp.clear();
    config.silent_max = Duration::from_millis(50);
    world.agent = Some(Agent::start(config).unwrap());
    let connect = || Socket::connect(&world.socket(), WAIT).unwrap();
    let mut kept = connect();
    let service = || Request::Attach {
        service: "pay".to_owned(),
    };
    world.until(|_| kept.ask(&service()).is_ok());
    let again = kept.ask(&service()).unwrap_err();
    let text = "agent refuses: this connection has a ledger of it already";
    assert_eq!(again.to_string(), text);
    for _ in 0..3 {
        let silent = connect();
        world.until(|_| silent.is_closed());
    }
    assert!(!kept.is_closed(), "it holds a ledger");
}

/// Story: a caller that chooses hosts by a key never picks, and only a pick noticed
/// that the agent was gone: from the agent's first restart on its calls were counted
/// nowhere.
#[test]
fn who_only_counts_calls_finds_the_next_agent() {
    let mut world = World::new(1);
    let mut caller = world.caller();
    caller.attach().unwrap();
    let at = caller.hosts().unwrap()[0].address.clone();
    let call = caller.begin_at(&at).unwrap();
    world.until(|world| world.in_flight() == 1);
    drop(world.agent.take());
    world.until(|_| caller.begin_at(&at).is_none());
    call.end(CallEnd::Ok, Load::default());
    world.start();
    assert_eq!(world.in_flight(), 0);
    let mut call = None;
    world.until(|_| {
        let _not_yet = caller.attach();
        call = caller.begin_at(&at);
        call.is_some()
    });
    world.until(|world| world.in_flight() == 1);
    drop(call);
    world.until(|world| world.in_flight() == 0);
}

/// A service of none and one of ten thousand hosts: nobody is picked from the one
/// and anybody from the other. Story: the list of a service of some thousand hosts
/// was longer than a message may be, so that who asked for it was hung up on.
#[test]
fn a_service_may_have_no_hosts_or_ten_thousand() {
    let address = |n: u32| {
        let at = std::net::Ipv4Addr::from(0x0a01_0000 + n);
        SocketAddr::from((at, 7000)).into()
    };
    let world = World::at((0..10_000).map(address));
    world.until(|world| world.list().is_ok_and(|hosts| hosts.len() == 10_000));
    let mut caller = world.caller();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5_000 {
        seen.insert(done(&mut caller));
    }
    assert_eq!(caller.source(), Some(Source::Segment));
    assert!(seen.len() > 1_000, "{} of them are picked", seen.len());
    // By UDP all are told, a part at a time.
    let lars = world.lars();
    let mut told = std::collections::BTreeSet::new();
    world.until(|_| {
        told.extend(lars.get_route().unwrap());
        told.len() == 10_000
    });
    // Of a service without hosts both kinds of callers hear that there is none.
    let mut config = world.config();
    "empty".clone_into(&mut config.service);
    let refused = Caller::new(config).pick().unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let empty = LarsCaller {
        modid: 8,
        ..world.lars()
    };
    assert!(empty.get_route().unwrap().is_empty());
}
