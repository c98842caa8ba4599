//! A route server by Lars' protocol, natively and over HTTP, with `SQLite`.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::{Resource, getrlimit, setrlimit};

use common::{LarsAgent, WAIT, address, admin, config, host, sqlite, until};
use waystation_membership::{DrainStep, Instance, InstanceId, LarsPair, Owner, Watch};
use waystation_registry::{
    Client, EmbeddedConfig, EmbeddedServer, RegistrationOptions, Registry as _, RegistryUrl,
    WatchOptions,
};
use waystation_route::{AdminError, PatchForm, RouteForm, RouteServer};

struct World {
    folder: tempfile::TempDir,
    server: Option<RouteServer>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            server: None,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let config = config(self.folder.path(), sqlite(self.folder.path()));
        self.server = Some(RouteServer::start(config).unwrap());
    }

    /// One whose connections are on other threads than its routes.
    fn split() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), sqlite(folder.path()));
        config.io_shards = 2;
        let server = Some(RouteServer::start(config).unwrap());
        Self { folder, server }
    }

    fn server(&self) -> &RouteServer {
        self.server.as_ref().unwrap()
    }

    fn agent(&self) -> LarsAgent {
        LarsAgent::connect(address(self.server()))
    }

    fn add(&self, service: &str, at: &str) {
        admin(self.server())
            .add(&RouteForm::new(service, at))
            .unwrap();
    }

    fn remove(&self, service: &str, at: &str) {
        admin(self.server()).remove(service, at).unwrap();
    }

    /// What it has read, over all connections.
    fn bytes_in(&self) -> u64 {
        let counters = self.server().server().counters();
        counters.iter().map(|one| one.bytes_in.get()).sum()
    }

    /// A client that watches this server.
    fn watcher(&self) -> Client {
        let host = address(self.server()).to_string();
        Client::open(&RegistryUrl::Route { host }).unwrap()
    }
}

#[test]
fn questions_have_the_golden_bytes_whatever_pieces_they_come_in() {
    let world = World::new();
    world.add("1/1", "127.0.0.1:9001");
    let golden = [1, 0, 0, 0, 4, 0, 0, 0, 8, 1, 16, 1];
    // 127.0.0.1 is 0x7f000001, port 9001 is 0x2329.
    let answer = [
        2, 0, 0, 0, 15, 0, 0, 0, 8, 1, 16, 1, 26, 9, 8, 129, 128, 128, 248, 7, 16, 169, 70,
    ];
    for cut in 1..golden.len() {
        let mut agent = world.agent();
        let before = world.bytes_in();
        agent.send(&golden[..cut]);
        until(|| world.bytes_in() == before + cut as u64);
        agent.send(&golden[cut..]);
        assert_eq!(agent.frame(), answer, "cut at {cut}");
    }
    // Byte by byte, and two at once.
    let mut agent = world.agent();
    for byte in golden {
        agent.send(&[byte]);
    }
    assert_eq!(agent.frame(), answer);
    agent.send(&[golden, golden].concat());
    assert_eq!(
        (agent.frame(), agent.frame()),
        (answer.into(), answer.into())
    );
}

/// An empty body, which is a question for the pair 0/0, killed the reference; a
/// negative pair indexed outside of its arrays.
#[test]
fn an_empty_body_and_negative_pairs_are_pairs_as_others() {
    let world = World::new();
    world.add("0/0", "200.0.0.1:80");
    world.add("-5/-2147483648", "200.0.0.2:80");
    let mut agent = world.agent();
    agent.send(&[1, 0, 0, 0, 0, 0, 0, 0]);
    let route = agent.route();
    assert_eq!((route.modid, route.cmdid), (0, 0));
    assert_eq!(route.hosts, [host([200, 0, 0, 1], 80)]);
    agent.ask(-5, i32::MIN);
    assert_eq!(agent.route().hosts, [host([200, 0, 0, 2], 80)]);
    for pair in [(i32::MAX, -1), (7, 7)] {
        agent.ask(pair.0, pair.1);
        let route = agent.route();
        assert_eq!((route.modid, route.cmdid), pair);
        assert_eq!(route.hosts, []);
    }
}

/// A push crashed the reference, and the deletion of a route pushed nothing.
#[test]
fn each_change_is_pushed_to_those_who_asked_and_to_nobody_else() {
    for world in [World::new(), World::split()] {
        pushes_reach_those_who_asked(&world);
    }
}

fn pushes_reach_those_who_asked(world: &World) {
    let mut agents: Vec<LarsAgent> = (0..5).map(|_| world.agent()).collect();
    for agent in &mut agents {
        // A pair that does not exist yet is subscribed to as well.
        agent.ask(1, 1);
        assert_eq!(agent.route().hosts, []);
    }
    let mut other = world.agent();
    other.ask(2, 2);
    assert_eq!(other.route().hosts, []);
    world.add("1/1", "10.0.0.1:80");
    world.add("1/1", "10.0.0.2:80");
    world.remove("1/1", "10.0.0.1:80");
    world.remove("1/1", "10.0.0.2:80");
    for agent in &mut agents {
        let hosts: Vec<usize> = (0..4).map(|_| agent.route().hosts.len()).collect();
        assert_eq!(hosts, [1, 2, 1, 0]);
    }
    // Nothing but what it asked for.
    world.add("2/2", "10.0.0.9:80");
    let pushed = other.route();
    assert_eq!((pushed.modid, pushed.hosts.len()), (2, 1));
    let status = admin(world.server()).status().unwrap();
    assert_eq!((status.lars_subscriptions, status.lars_pushes), (6, 21));
}

/// In the reference pushes went by descriptor, so that a peer that had a freed
/// one got what was meant for another.
#[test]
fn what_was_for_a_peer_that_left_reaches_nobody() {
    let world = World::new();
    for _ in 0..20 {
        let mut gone = world.agent();
        gone.ask(1, 1);
        gone.route();
        drop(gone);
        let mut next = world.agent();
        next.ask(3, 3);
        assert_eq!(next.route().modid, 3);
        world.add("1/1", "10.0.0.1:80");
        world.remove("1/1", "10.0.0.1:80");
        // The next frame is the answer to its own question.
        next.ask(4, 4);
        assert_eq!(next.route().modid, 4);
    }
    let subscribed = || admin(world.server()).status().unwrap().lars_subscriptions;
    until(|| subscribed() == 0);
}

#[test]
fn unknown_frames_are_skipped_and_bad_lengths_end_their_own_connection() {
    let world = World::new();
    let mut agent = world.agent();
    // Unknown ids, messages for others, and a body that is no message.
    agent.send(&[200, 0, 0, 0, 2, 0, 0, 0, 1, 2]);
    agent.send(&[3, 0, 0, 0, 0, 0, 0, 0]);
    agent.send(&[1, 0, 0, 0, 1, 0, 0, 0, 8]);
    agent.ask(1, 1);
    assert_eq!(agent.route().modid, 1);
    assert_eq!(admin(world.server()).status().unwrap().lars_skipped, 3);
    for length in [-1_i32, 65_528, i32::MIN, i32::MAX] {
        let mut bad = world.agent();
        bad.send(&1_i32.to_le_bytes());
        bad.send(&length.to_le_bytes());
        assert!(bad.is_closed(), "{length}");
    }
    agent.ask(2, 1);
    assert_eq!(agent.route().modid, 2);
}

/// Routes over 64 KB could not be answered.
#[test]
fn a_route_of_ten_thousand_hosts_is_told_in_parts() {
    let world = World::new();
    let path = world.folder.path().join("routes.db");
    let store = rusqlite::Connection::open(path).unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) \
        INSERT INTO route (service, address, modid, cmdid) \
        SELECT 'lars.1.1', '200.0.' || (i / 250) || '.' || (i % 250 + 1) || ':7000', 1, 1 FROM n";
    store.execute(insert, []).unwrap();
    let is_there = || admin(world.server()).status().unwrap().routes == 10_000;
    until(is_there);
    let mut agent = world.agent();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        agent.ask(1, 1);
        let part = agent.route().hosts;
        assert!(part.len() > 3000);
        seen.extend(part);
    }
    assert_eq!(seen.len(), 10_000);
    assert!(admin(world.server()).status().unwrap().lars_left_out > 0);
}

/// In the reference more than about a thousand connections overflowed a table.
#[test]
fn more_than_a_thousand_agents_are_served() {
    let world = World::new();
    let count = 1_200;
    // Both sides of them are in this process.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit
        .maximum
        .map_or(Some(4_096), |most| Some(most.min(4_096)));
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut agents: Vec<LarsAgent> = (0..count).map(|_| world.agent()).collect();
    for agent in &mut agents {
        agent.ask(1, 1);
    }
    for agent in &mut agents {
        assert_eq!(agent.route().hosts, []);
    }
    world.add("1/1", "10.0.0.1:80");
    for agent in &mut agents {
        assert_eq!(agent.route().hosts.len(), 1);
    }
}

#[test]
fn native_subscribers_get_what_changed_and_the_whole_after_a_restart() {
    let mut world = World::new();
    world.add("pay", "[fd00::1]:7000");
    let client = world.watcher();
    let watch = |service: &str| {
        let watch = Watch::Service(service.parse().unwrap());
        client.watch(watch, WatchOptions::default()).unwrap()
    };
    let (pay, nobody) = (watch("pay"), watch("nobody"));
    let has = |count: usize| pay.wait_view("pay", WAIT, |view| view.instances.len() == count);
    assert!(has(1).is_some());
    let form = RouteForm {
        lars: Some("1/1".to_owned()),
        weight: Some(7),
        zone: Some("hel-1".to_owned()),
        metadata: [("rack".to_owned(), "9".to_owned())].into(),
        ..RouteForm::new("pay", "10.0.0.1:7000")
    };
    admin(world.server()).add(&form).unwrap();
    let view = has(2).unwrap();
    let lars = LarsPair { modid: 1, cmdid: 1 };
    let added = view
        .instances
        .values()
        .find(|one| one.lars.is_some())
        .unwrap();
    assert_eq!((added.lars, added.weight), (Some(lars), 7));
    assert_eq!(added.metadata["rack"], "9");
    let patch = PatchForm {
        service: "pay".to_owned(),
        address: "10.0.0.1:7000".to_owned(),
        weight: Some(0),
        ..PatchForm::default()
    };
    admin(world.server()).set(&patch).unwrap();
    let is_idle =
        |view: &waystation_membership::View| view.instances.values().any(|one| one.weight == 0);
    assert!(pay.wait_view("pay", WAIT, is_idle).is_some());
    assert!(
        nobody
            .wait_view("nobody", WAIT, |view| view.instances.is_empty())
            .is_some()
    );
    // Another server on the port has another epoch and the same routes.
    let listen = world.server().address().clone();
    world.server.take().unwrap().drain();
    let mut again = config(world.folder.path(), sqlite(world.folder.path()));
    again.listen = listen;
    world.server = Some(RouteServer::start(again).unwrap());
    world.remove("pay", "[fd00::1]:7000");
    assert!(has(1).is_some());
    assert_eq!(pay.steps_backwards(), 0);
}

/// What is registered and what is stored are one table, and a node that drains is
/// out once the subscribers of the route server have seen that.
#[test]
fn registered_instances_and_routes_are_merged_and_drains_wait_for_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("registry");
    let mut settings = EmbeddedConfig::new(at, "127.0.0.1:0".parse().unwrap());
    // Nobody is given up.
    settings.directory.drain_ack_max = std::time::Duration::from_hours(1);
    let registry = EmbeddedServer::start(settings).unwrap();
    let url: RegistryUrl = format!("embedded://{}", registry.address())
        .parse()
        .unwrap();
    let mut config = config(folder.path(), sqlite(folder.path()));
    config.registry = vec![url.clone()];
    let server = RouteServer::start(config).unwrap();
    admin(&server)
        .add(&RouteForm::new("1/1", "10.0.0.1:80"))
        .unwrap();
    let node = Client::open(&url).unwrap();
    let service: waystation_base::ServiceName = "pay".parse().unwrap();
    let id = InstanceId::new("pay-1").unwrap();
    let address = "10.0.0.2:80".parse().unwrap();
    let mut instance = Instance::new(id, service.clone(), address, Owner::default());
    instance.lars = Some(LarsPair { modid: 1, cmdid: 1 });
    let registered = node
        .register(instance, RegistrationOptions::default())
        .unwrap();
    let mut lars = LarsAgent::connect(common::address(&server));
    lars.ask(1, 1);
    lars.until_ports(&[80, 80]);
    let host = common::address(&server).to_string();
    let client = Client::open(&RegistryUrl::Route { host }).unwrap();
    let watch = Watch::Service(service);
    let options = WatchOptions {
        acks: waystation_registry::Acks::ByCaller,
        ..WatchOptions::default()
    };
    let watching = client.watch(watch, options).unwrap();
    let both = watching.wait_view("pay", WAIT, |view| view.instances.len() == 2);
    let both = both.unwrap();
    watching.acknowledge(&both.service, both.at);
    registered.drain();
    let drains = |view: &waystation_membership::View| {
        let mut all = view.instances.values();
        all.any(|one| one.state == waystation_membership::State::Draining)
    };
    let view = watching.wait_view("pay", WAIT, drains).unwrap();
    // Lars knows no draining: the host takes nothing new.
    lars.until_ports(&[80]);
    // It stays until the subscriber has said that its callers know.
    let step = |wanted| registered.wait_until(WAIT, |status| status.drain == Some(wanted));
    assert!(step(DrainStep::Waiting).is_some());
    watching.acknowledge(&view.service, view.at);
    assert!(step(DrainStep::Acknowledged).is_some());
    registered.idle();
    let is_out = |view: &waystation_membership::View| view.instances.len() == 1;
    assert!(watching.wait_view("pay", WAIT, is_out).is_some());
}

#[test]
fn operators_are_told_what_is_wrong() {
    let world = World::new();
    let client = admin(world.server());
    let refused = |result: Result<_, AdminError>| match result {
        Err(AdminError::Refused { status, text }) => (status, text),
        other => panic!("{other:?}"),
    };
    world.add("pay", "10.0.0.1:80");
    let again = client.add(&RouteForm::new("pay", "10.0.0.1:80"));
    let text = "pay has a route to 10.0.0.1:80 already".to_owned();
    assert_eq!(refused(again), (409, text));
    let bad = client.add(&RouteForm::new("pay", "host:80"));
    assert_eq!(refused(bad).0, 400);
    let missing = client.remove("pay", "10.0.0.2:80").map(|()| unreachable!());
    let text = "pay has no route to 10.0.0.2:80".to_owned();
    assert_eq!(refused(missing), (404, text));
    for (request, status) in [
        ("GET /v1/nothing HTTP/1.1\r\n", "404"),
        ("POST /v1/routes HTTP/1.1\r\ncontent-length: 2\r\n", "400"),
        (
            "POST /v1/routes HTTP/1.1\r\norigin: http://evil\r\ncontent-length: 2\r\n",
            "403",
        ),
    ] {
        let mut stream = TcpStream::connect(address(world.server())).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let head = format!("{request}host: a\r\nconnection: close\r\n\r\n[]");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(status), "{request}: {line}");
    }
    for port in 1..=30 {
        world.add(&format!("s{port}"), &format!("10.0.0.1:{port}"));
    }
    assert_eq!(client.list(None).unwrap().len(), 31);
    assert_eq!(client.list(Some("s7")).unwrap()[0].address, "10.0.0.1:7");
}

#[test]
fn without_any_copy_a_store_that_does_not_answer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("routes.db"),
        "this is no database at all",
    )
    .unwrap();
    let mut config = config(folder.path(), sqlite(folder.path()));
    config.first_wait = std::time::Duration::from_millis(50);
    let error = RouteServer::start(config).err().unwrap().to_string();
    assert!(error.starts_with("no routes from sqlite://"), "{error}");
}
