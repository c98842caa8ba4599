//! Watching a route server over HTTP.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size;

use common::{WAIT, address, admin, config, sqlite, until};
use waystation_route::limits::WATCHERS_MAX;
use waystation_route::{PatchForm, RouteConfig, RouteForm, RouteServer};

struct World {
    folder: tempfile::TempDir,
    server: RouteServer,
}

impl World {
    fn new(io_shards: u16) -> Self {
        Self::with(|config| config.io_shards = io_shards)
    }

    fn with(change: impl FnOnce(&mut RouteConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), sqlite(folder.path()));
        change(&mut config);
        let server = RouteServer::start(config).unwrap();
        Self { folder, server }
    }

    fn add(&self, service: &str, at: &str) {
        let form = RouteForm::new(service, at);
        admin(&self.server).add(&form).unwrap();
    }

    fn watch(&self, query: &str) -> Watching {
        let (status, watching) = self.ask(query);
        assert_eq!(status, 200, "{query}");
        watching
    }

    /// Asks to watch: the status, and the lines behind the head.
    fn ask(&self, query: &str) -> (u16, Watching) {
        let mut stream = TcpStream::connect(address(&self.server)).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        // By HTTP/1.0 a body comes as it is, and ends with its connection.
        let head = format!("GET /v1/watch{query} HTTP/1.0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut status = String::new();
        lines.read_line(&mut status).unwrap();
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        (status, Watching(lines))
    }

    /// How often a peer was closed because it did not read.
    fn slow_readers(&self) -> u64 {
        let counters = self.server.server().counters();
        let reasons = counters.iter().flat_map(|one| one.closed.list());
        let slow = reasons.filter(|(name, _)| *name == "slow_reader");
        slow.map(|(_, count)| count).sum()
    }
}

/// The lines of a watch.
struct Watching(BufReader<TcpStream>);

impl Watching {
    /// The next line: what changed, and of which host.
    fn next(&mut self) -> String {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "it ended");
        }
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let change = line["change"].as_str().unwrap();
        let Some(node) = line.get("node") else {
            return change.to_owned();
        };
        assert!(line["version"].is_string(), "{line}");
        let text = |name: &str| node[name].as_str().unwrap().to_owned();
        format!("{change} {} {}", text("service"), text("address"))
    }

    fn expect(&mut self, lines: &[&str]) {
        let found: Vec<String> = lines.iter().map(|_| self.next()).collect();
        assert_eq!(found, lines);
    }

    /// What comes until it ends, without the signs of life.
    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest.trim().to_owned()
    }
}

#[test]
fn a_watch_tells_what_is_there_and_then_each_change() {
    for io_shards in [0, 1] {
        let world = World::new(io_shards);
        world.add("pay", "10.0.0.1:80");
        world.add("pay.b", "10.0.0.2:80");
        world.add("1/1", "10.0.0.3:80");
        let mut all = world.watch("");
        all.expect(&[
            "added lars.1.1 10.0.0.3:80",
            "added pay 10.0.0.1:80",
            "added pay.b 10.0.0.2:80",
            "complete",
        ]);
        let mut pay = world.watch("?service=pay");
        pay.expect(&["added pay 10.0.0.1:80", "complete"]);
        let mut begin_so = world.watch("?service=pay*");
        begin_so.expect(&[
            "added pay 10.0.0.1:80",
            "added pay.b 10.0.0.2:80",
            "complete",
        ]);
        let mut pair = world.watch("?service=1%2F1");
        pair.expect(&["added lars.1.1 10.0.0.3:80", "complete"]);
        // A service without hosts may be watched, too.
        let mut later = world.watch("?service=later");
        later.expect(&["complete"]);

        let client = admin(&world.server);
        let patch = PatchForm {
            service: "pay".to_owned(),
            address: "10.0.0.1:80".to_owned(),
            weight: Some(7),
            ..PatchForm::default()
        };
        client.set(&patch).unwrap();
        for watching in [&mut all, &mut pay, &mut begin_so] {
            watching.expect(&["changed pay 10.0.0.1:80"]);
        }
        client.remove("pay", "10.0.0.1:80").unwrap();
        for watching in [&mut all, &mut pay, &mut begin_so] {
            watching.expect(&["removed pay 10.0.0.1:80"]);
        }
        client.remove("1/1", "10.0.0.3:80").unwrap();
        for watching in [&mut all, &mut pair] {
            watching.expect(&["removed lars.1.1 10.0.0.3:80"]);
        }
        world.add("later", "10.0.0.4:80");
        for watching in [&mut all, &mut later] {
            watching.expect(&["added later 10.0.0.4:80"]);
        }
        world.add("pay", "10.0.0.5:80");
        // Nothing of others came in between.
        for watching in [&mut all, &mut pay, &mut begin_so] {
            watching.expect(&["added pay 10.0.0.5:80"]);
        }
        // A server that goes away ends them in good order.
        world.server.drain();
        for watching in [all, pay, begin_so, pair, later] {
            assert_eq!(watching.rest(), "");
        }
    }
}

#[test]
fn a_watch_ends_when_its_time_is_over() {
    let world = World::new(0);
    let mut watching = world.watch("?service=pay&seconds=1");
    watching.expect(&["complete"]);
    assert_eq!(watching.rest(), "");
}

#[test]
fn wrong_questions_and_too_many_are_refused() {
    let world = World::new(0);
    for query in ["?service=", "?service=%FF", "?seconds=0", "?seconds=x"] {
        let (status, watching) = world.ask(query);
        assert_eq!(status, 400, "{query}");
        let said = watching.rest();
        assert!(said.starts_with(r#"{"error":"se"#), "{query}: {said}");
    }
    let mut all: Vec<Watching> = (0..WATCHERS_MAX).map(|_| world.watch("")).collect();
    let (status, watching) = world.ask("");
    assert_eq!(status, 503);
    assert_eq!(watching.rest(), r#"{"error":"as many watch as may"}"#);
    // One that leaves makes room, and the others go on.
    drop(all.pop());
    until(|| world.ask("?service=pay").0 == 200);
    world.add("pay", "10.0.0.1:80");
    for watching in &mut all {
        watching.expect(&["complete", "added pay 10.0.0.1:80"]);
    }
}

/// A service of so many hosts, with metadata of so many bytes each.
fn fill(world: &World, hosts: u32, bytes: usize) {
    let path = world.folder.path().join("routes.db");
    let store = rusqlite::Connection::open(path).unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 - 1) \
        INSERT INTO route (service, address, metadata) \
        SELECT 'big', '10.1.' || (i / 250) || '.' || (i % 250 + 1) || ':7000', ?2 FROM n";
    let metadata = format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes));
    store.execute(insert, (hosts, metadata)).unwrap();
    until(|| admin(&world.server).status().unwrap().routes == hosts as usize);
}

#[test]
fn a_large_service_is_told_as_it_is_read() {
    let world = World::new(0);
    fill(&world, 10_000, 1);
    let mut watching = world.watch("?service=big");
    for _ in 0..10_000 {
        assert!(watching.next().starts_with("added big 10.1."));
    }
    watching.expect(&["complete"]);
}

#[test]
fn who_does_not_read_is_closed_and_holds_nobody_up() {
    let stall = Duration::from_millis(300);
    let world = World::with(|config| config.connection.write_stall = stall);
    let mut other = world.watch("?service=pay");
    // More than sockets of loopback hold when one of them is made to hold little.
    fill(&world, 3_000, 2_000);
    let stream = TcpStream::connect(address(&world.server)).unwrap();
    set_socket_recv_buffer_size(&stream, 16 * 1024).unwrap();
    (&stream)
        .write_all(b"GET /v1/watch?service=big HTTP/1.0\r\n\r\n")
        .unwrap();
    until(|| world.slow_readers() == 1);
    other.expect(&["complete"]);
    world.add("pay", "10.0.0.1:80");
    other.expect(&["added pay 10.0.0.1:80"]);
}
