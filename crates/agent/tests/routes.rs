//! An agent whose source is a route server.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use waystation_agent::{Agent, AgentConfig};
use waystation_balance::{CallEnd, Load};
use waystation_client::protocol::{Code, End, HostRef, Request, ToldLoad, hosts};
use waystation_client::{Caller, CallerConfig, Error, LarsCaller, Socket, Source, machine_now};
use waystation_registry::RegistryUrl;
use waystation_route::{AdminClient, RouteConfig, RouteForm, RouteServer};

/// For conditions; never reached when all is well.
const WAIT: Duration = Duration::from_secs(30);

struct World {
    folder: TempDir,
    server: Option<RouteServer>,
    at: SocketAddr,
    agent: Option<Agent>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            server: None,
            at: SocketAddr::from(([127, 0, 0, 1], 0)),
            agent: None,
        };
        world.serve();
        world.start();
        world
    }

    fn serve(&mut self) {
        let dir = self.folder.path().join("server");
        let store = format!("sqlite://{}", dir.join("routes.db").display());
        let config = RouteConfig::new(dir, self.at.into(), store.parse().unwrap());
        let server = RouteServer::start(config).unwrap();
        self.at = server.address().to_string().parse().unwrap();
        self.server = Some(server);
    }

    fn start(&mut self) {
        let host = self.at.to_string();
        let mut config = AgentConfig::new(self.socket(), RegistryUrl::Route { host }, 7);
        config.copy = Some(self.copy());
        config.udp.iter_mut().for_each(|at| at.set_port(0));
        self.agent = Some(Agent::start(config).unwrap());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("agent.jsonl")
    }

    fn admin(&self) -> AdminClient {
        AdminClient::new(self.at)
    }

    fn add(&self, service: &str, port: u16, lars: Option<&str>) {
        let form = RouteForm {
            lars: lars.map(str::to_owned),
            ..RouteForm::new(service, format!("127.0.0.1:{port}"))
        };
        self.admin().add(&form).unwrap();
    }

    fn caller(&self, service: &str) -> Caller {
        let mut config = CallerConfig::new(service, self.socket());
        config.timeout = WAIT;
        config.pause = Duration::from_millis(1);
        Caller::new(config)
    }

    fn lars(&self, modid: i32, cmdid: i32) -> LarsCaller {
        let mut lars = LarsCaller::new(modid, cmdid);
        let agent = self.agent.as_ref().unwrap();
        for (port, at) in lars.ports.iter_mut().zip(agent.udp_addresses()) {
            *port = at.port();
        }
        lars.timeout = WAIT;
        lars
    }

    /// The ports of a service's hosts, and where they come from.
    fn list(&self, service: &str) -> Result<(Vec<u16>, String), Error> {
        let mut socket = Socket::connect(&self.socket(), WAIT)?;
        let (hosts, origin) = hosts(service, |request| Ok(socket.ask(request)?.0))?;
        let port = |text: &str| text.parse::<SocketAddr>().unwrap().port();
        let mut ports: Vec<u16> = hosts.iter().map(|one| port(&one.address)).collect();
        ports.sort_unstable();
        Ok((ports, origin))
    }
}

/// Waits for a condition.
fn until(mut is_so: impl FnMut() -> bool) {
    let (_never, pause) = std::sync::mpsc::channel::<()>();
    let end = machine_now() + WAIT;
    while !is_so() {
        assert!(machine_now() < end, "it did not come about");
        let _nothing = pause.recv_timeout(Duration::from_millis(5));
    }
}

fn pick(caller: &mut Caller) -> Option<u16> {
    let picked = caller.pick().ok()?;
    caller.report(&picked, CallEnd::Ok, None, Load::default());
    let address: SocketAddr = picked.address.to_string().parse().unwrap();
    Some(address.port())
}

#[test]
fn a_service_that_nobody_asked_for_before_is_asked_for_and_kept_up_to_date() {
    let world = World::new();
    world.add("pay", 9001, None);
    let mut caller = world.caller("pay");
    until(|| pick(&mut caller) == Some(9001));
    assert_eq!(caller.source(), Some(Source::Segment));
    world.add("pay", 9002, None);
    until(|| pick(&mut caller) == Some(9002));
    world.admin().remove("pay", "127.0.0.1:9001").unwrap();
    let only_two = |list: Result<(Vec<u16>, String), Error>| {
        list.is_ok_and(|(ports, origin)| ports == [9002] && origin == "live")
    };
    until(|| only_two(world.list("pay")));
    // One that does not exist is told so, and seen once it does.
    let mut later = world.caller("later");
    until(|| {
        let refused = later.pick().unwrap_err();
        matches!(
            refused,
            Error::Refused {
                code: Code::NoSuchService,
                ..
            }
        )
    });
    world.add("later", 9003, None);
    until(|| pick(&mut later) == Some(9003));
}

#[test]
fn callers_of_lars_are_told_of_pairs_that_were_not_asked_for_before() {
    let world = World::new();
    world.add("pay", 9001, Some("-5/7"));
    let lars = world.lars(-5, 7);
    let refused = lars.get_host();
    if let Err(refused) = refused {
        let is_unknown = matches!(
            refused,
            Error::Refused {
                code: Code::NoSuchService,
                ..
            }
        );
        assert!(is_unknown, "{refused}");
    }
    until(|| lars.get_host().is_ok_and(|host| host.port() == 9001));
    // Rows without a name and named ones are one pair; who picks by name in the
    // same agent does not disturb it.
    let mut caller = world.caller("pay");
    until(|| pick(&mut caller) == Some(9001));
    world.add("-5/7", 9002, None);
    until(|| lars.reg_init().is_ok_and(|hosts| hosts.len() == 2));
    until(|| pick(&mut caller) == Some(9002));
    world.admin().remove("pay", "127.0.0.1:9001").unwrap();
    until(|| lars.reg_init().is_ok_and(|hosts| hosts.len() == 1));
    assert_eq!(lars.get_host().unwrap().port(), 9002);
}

/// Nothing was on disk: an agent that was restarted while the route server was
/// down knew no routes. And a refused connection to the route server was never
/// tried again.
#[test]
fn an_agent_that_starts_without_its_route_server_answers_from_disk_and_says_so() {
    let mut world = World::new();
    world.add("pay", 9001, Some("1/1"));
    let lars = world.lars(1, 1);
    until(|| lars.get_host().is_ok());
    until(|| world.list("pay").is_ok_and(|(_, origin)| origin == "live"));
    let has_both = |text: &str| text.contains("\"pay\"") && text.contains("\"lars.1.1\"");
    until(|| std::fs::read_to_string(world.copy()).is_ok_and(|text| has_both(&text)));
    world.server.take().unwrap().drain();
    until(|| world.list("pay").unwrap().1 == "kept");
    world.agent.take();
    world.start();
    until(|| world.list("pay").is_ok_and(|(ports, _)| ports == [9001]));
    assert_eq!(world.list("pay").unwrap().1, "disk");
    let lars = world.lars(1, 1);
    until(|| lars.get_host().is_ok_and(|host| host.port() == 9001));
    let mut caller = world.caller("pay");
    until(|| pick(&mut caller) == Some(9001));
    // It is found again, and what changed meanwhile is seen.
    world.serve();
    world.add("pay", 9002, Some("1/1"));
    until(|| {
        world
            .list("pay")
            .is_ok_and(|(ports, origin)| ports.len() == 2 && origin == "live")
    });
    until(|| pick(&mut caller) == Some(9002));
}

/// Each end of a call to a service of which nothing was heard waited for its first
/// word, one after the other, and so did every question behind them: 200 of them a
/// minute.
#[test]
fn ends_that_wait_in_vain_keep_no_question_waiting() {
    let mut world = World::new();
    world.server.take().unwrap().drain();
    let mut socket = Socket::connect(&world.socket(), WAIT).unwrap();
    let end = Request::Report {
        service: "pay".into(),
        host: HostRef::default(),
        end: End::Ok,
        latency_us: Some(1),
        load: ToldLoad::default(),
        address: Some("127.0.0.1:9001".into()),
    };
    for _ in 0..200 {
        socket.tell(&end).unwrap();
    }
    let service = "pay".into();
    let asked = socket.ask(&Request::List { service, from: 0 });
    assert!(
        matches!(
            asked,
            Err(Error::Refused {
                code: Code::NotYet,
                ..
            })
        ),
        "{asked:?}"
    );
}
