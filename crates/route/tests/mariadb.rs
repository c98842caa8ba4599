//! Routes in a real `MariaDB` with the tables of Lars.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::time::Duration;

use common::{DatabaseWorld, admin, asked, until};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use waystation_route::{PatchForm, RouteConfig, RouteForm, RouteServer};
use waystation_test_process::MariaDb;

/// A database that Lars has used: its tables, as its own programs make them.
const OF_LARS: &str = "
CREATE TABLE RouteData (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    modid INT UNSIGNED NOT NULL, cmdid INT UNSIGNED NOT NULL,
    serverip INT UNSIGNED NOT NULL, serverport INT UNSIGNED NOT NULL) ENGINE=InnoDB;
CREATE TABLE RouteVersion (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    version INT UNSIGNED NOT NULL) ENGINE=InnoDB;
CREATE TABLE RouteChange (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    modid INT UNSIGNED NOT NULL, cmdid INT UNSIGNED NOT NULL,
    version BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB;
INSERT INTO RouteVersion (id, version) VALUES (1, 1700000000);
INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES
    (1, 1, 167772161, 80), (1, 1, 167772162, 80), (4294967291, 7, 3355443201, 80);
";

type World = DatabaseWorld<MariaDb>;

impl World {
    fn new() -> Option<Self> {
        let world = Self::of(MariaDb::start(&[])?);
        world.run_in("", "CREATE DATABASE lars");
        Some(world)
    }

    /// Runs statements, as a program that is none of ours does.
    fn run(&self, text: &str) {
        self.run_in("lars", text);
    }

    fn run_in(&self, database: &str, text: &str) {
        self.runtime.block_on(async {
            let mut conn = Conn::from_url(self.database.url(database)).await.unwrap();
            for one in text.split(';').filter(|one| !one.trim().is_empty()) {
                conn.query_drop(one).await.unwrap();
            }
            conn.disconnect().await.unwrap();
        });
    }

    fn number(&self, text: &str) -> i64 {
        self.runtime.block_on(async {
            let mut conn = Conn::from_url(self.database.url("lars")).await.unwrap();
            let number: Option<i64> = conn.query_first(text).await.unwrap();
            conn.disconnect().await.unwrap();
            number.unwrap()
        })
    }

    fn serve(&self, name: &str, change: impl FnOnce(&mut RouteConfig)) -> RouteServer {
        self.serve_at(&self.database.url("lars"), name, change)
    }
}

#[test]
fn needs_mariadb_an_existing_database_of_lars_serves_unchanged() {
    let Some(world) = World::new() else { return };
    world.run(OF_LARS);
    let server = world.serve("a", |_| ());
    let mut agent = asked(&server, 1, 1);
    agent.until_ports(&[80, 80]);
    // Negative ids stand there as large numbers.
    asked(&server, -5, 7).until_ports(&[80]);
    let listed = admin(&server).list(Some("-5/7")).unwrap();
    assert_eq!(listed[0].address, "200.0.0.1:80");
    // As its web pages add a route, and as they delete one.
    world.run(
        "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, 1, 167772163, 81);
        INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, 1, 1700000001);
        UPDATE RouteVersion SET version = 1700000001 WHERE id = 1",
    );
    agent.until_ports(&[80, 80, 81]);
    world.run(
        "DELETE FROM RouteData WHERE serverip = 167772161;
        UPDATE RouteVersion SET version = 1700000002 WHERE id = 1",
    );
    agent.until_ports(&[80, 81]);
    // What we write is what its own programs read.
    admin(&server)
        .add(&RouteForm::new("1/1", "10.0.0.9:82"))
        .unwrap();
    agent.until_ports(&[80, 81, 82]);
    let rows = "SELECT COUNT(*) FROM RouteData WHERE modid = 1 AND serverip = 167772169";
    assert_eq!(world.number(rows), 1);
    assert!(world.number("SELECT version FROM RouteVersion WHERE id = 1") > 1_700_000_002);
    let told = "SELECT COUNT(*) FROM RouteChange c JOIN RouteVersion v ON v.id = 1 \
                WHERE c.modid = 1 AND c.cmdid = 1 AND c.version = v.version";
    assert_eq!(world.number(told), 1);
    admin(&server).remove("1/1", "10.0.0.9:82").unwrap();
    agent.until_ports(&[80, 81]);
    assert_eq!(world.number(rows), 0);
}

#[test]
fn needs_mariadb_missing_tables_are_created_and_what_lars_cannot_hold_is_kept() {
    let Some(world) = World::new() else { return };
    let server = world.serve("a", |_| ());
    let client = admin(&server);
    let form = RouteForm {
        lars: Some("-5/7".to_owned()),
        weight: Some(7),
        zone: Some("hel-1".to_owned()),
        metadata: [("rack".to_owned(), "9".to_owned())].into(),
        ..RouteForm::new("pay", "10.0.0.1:80")
    };
    client.add(&form).unwrap();
    client.add(&RouteForm::new("pay", "[fd00::1]:80")).unwrap();
    let mut agent = asked(&server, -5, 7);
    agent.until_ports(&[80]);
    let patch = PatchForm {
        service: "pay".to_owned(),
        address: "10.0.0.1:80".to_owned(),
        lars: Some(Some("3/3".to_owned())),
        ..PatchForm::default()
    };
    client.set(&patch).unwrap();
    agent.until_ports(&[]);
    let rows = "SELECT COUNT(*) FROM RouteData WHERE modid = 3";
    assert_eq!(world.number(rows), 1);
    server.drain();
    // All of it is there after a restart.
    let server = world.serve("a", |_| ());
    let listed = admin(&server).list(Some("pay")).unwrap();
    assert_eq!(listed.len(), 2);
    let first = listed
        .iter()
        .find(|one| one.address == "10.0.0.1:80")
        .unwrap();
    assert_eq!((first.weight, first.lars.as_deref()), (7, Some("3/3")));
    assert_eq!(first.metadata["rack"], "9");
    // A program that knows Lars' tables only takes a host away.
    world.run(
        "DELETE FROM RouteData WHERE modid = 3; UPDATE RouteVersion SET version = version + 1",
    );
    let count = || admin(&server).list(Some("pay")).unwrap().len();
    until(|| count() == 1);
    assert_eq!(admin(&server).status().unwrap().skipped, 1);
    // Its name is free again.
    admin(&server).add(&form).unwrap();
    assert_eq!(count(), 2);
}

/// Two changes within one second: the second was not pushed. A second server
/// deleted change rows that the first had not read.
#[test]
fn needs_mariadb_two_servers_see_each_others_changes_within_one_second() {
    let Some(world) = World::new() else { return };
    world.run(OF_LARS);
    let (one, two) = (world.serve("a", |_| ()), world.serve("b", |_| ()));
    let mut agents = [asked(&one, 1, 1), asked(&two, 1, 1)];
    for agent in &mut agents {
        agent.until_ports(&[80, 80]);
    }
    for port in 81..=90 {
        let server = if port % 2 == 0 { &one } else { &two };
        let form = RouteForm::new("1/1", format!("10.0.1.1:{port}"));
        admin(server).add(&form).unwrap();
        let expected: Vec<i32> = [80, 80].into_iter().chain(81..=port).collect();
        for agent in &mut agents {
            agent.until_ports(&expected);
        }
    }
    // A writer of Lars, whose clock stands: the same second again and again.
    for port in 91..=95 {
        world.run(&format!(
            "INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, 1, 1, {port});
            INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, 1, 1800000000);
            UPDATE RouteVersion SET version = 1800000000 WHERE id = 1"
        ));
        let expected: Vec<i32> = [80, 80].into_iter().chain(81..=port).collect();
        for agent in &mut agents {
            agent.until_ports(&expected);
        }
    }
    // Both write the same route at a time: it is there once, and one is told.
    let form = RouteForm::new("1/1", "10.0.1.1:99");
    let added = std::thread::scope(|scope| {
        let tries = [&one, &two].map(|server| {
            let (client, form) = (admin(server), form.clone());
            scope.spawn(move || client.add(&form).is_ok())
        });
        tries.map(|one| one.join().unwrap())
    });
    assert_eq!(added.into_iter().filter(|one| *one).count(), 1);
    assert_eq!(
        world.number("SELECT COUNT(*) FROM RouteData WHERE serverport = 99"),
        1
    );
}

#[test]
fn needs_mariadb_rows_out_of_range_are_skipped_and_a_silent_writer_is_noticed() {
    let Some(world) = World::new() else { return };
    world.run(OF_LARS);
    world.run(
        "ALTER TABLE RouteData MODIFY modid BIGINT, MODIFY serverport BIGINT;
        INSERT INTO RouteData (id, modid, cmdid, serverip, serverport) VALUES
            (50, 1, 1, 0, 80), (51, 1, 1, 167772163, 0), (52, 1, 1, 167772163, 70000),
            (53, 99999999999, 1, 167772163, 80), (54, NULL, 1, 167772163, 80)",
    );
    let server = world.serve("a", |config| config.reload = Duration::from_millis(20));
    let status = admin(&server).status().unwrap();
    assert_eq!((status.routes, status.skipped), (3, 5));
    let rows: Vec<&str> = status
        .skipped_rows
        .iter()
        .map(|(row, _)| row.as_str())
        .collect();
    assert_eq!(rows[0], "RouteData id 50");
    assert!(status.skipped_rows[2].1.contains("serverport 70000"));
    // No version, no change row.
    let mut agent = asked(&server, 1, 1);
    agent.until_ports(&[80, 80]);
    world.run("INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES (1, 1, 5, 83)");
    agent.until_ports(&[80, 80, 83]);
}

#[test]
fn needs_mariadb_a_database_that_vanishes_takes_no_route_with_it() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.run(OF_LARS);
    let server = world.serve("a", |_| ());
    let mut agent = asked(&server, 1, 1);
    agent.until_ports(&[80, 80]);
    until(|| std::fs::metadata(world.folder.path().join("a/routes.jsonl")).is_ok());
    world.database.kill();
    until(|| admin(&server).status().unwrap().source == "kept");
    asked(&server, 1, 1).until_ports(&[80, 80]);
    let refused = admin(&server).add(&RouteForm::new("1/1", "10.0.0.9:82"));
    assert!(refused.is_err());
    server.drain();
    // A server that starts while it is away says that it goes by its copy.
    let server = world.serve("a", |config| config.first_wait = Duration::from_millis(100));
    let status = admin(&server).status().unwrap();
    assert_eq!((status.source.as_str(), status.routes), ("disk", 3));
    assert!(status.fault.is_some());
    let mut agent = asked(&server, 1, 1);
    agent.until_ports(&[80, 80]);
    world.database.restart();
    until(|| admin(&server).status().unwrap().source == "live");
    admin(&server)
        .add(&RouteForm::new("1/1", "10.0.0.9:82"))
        .unwrap();
    agent.until_ports(&[80, 80, 82]);
}

/// A user who may only read what is there, as the reference's own had.
#[test]
fn needs_mariadb_without_the_right_to_create_tables_those_of_lars_serve() {
    let Some(world) = World::new() else { return };
    world.run(OF_LARS);
    world.run(
        "CREATE USER reader@'%' IDENTIFIED BY 'secret';
        GRANT SELECT, INSERT, UPDATE, DELETE ON lars.* TO reader@'%'",
    );
    let at = world.database.address();
    let server = world.serve("a", |config| {
        config.store = format!("mysql://reader:secret@{at}/lars").parse().unwrap();
    });
    assert_eq!(admin(&server).status().unwrap().routes, 3);
    admin(&server)
        .add(&RouteForm::new("1/1", "10.0.0.9:82"))
        .unwrap();
    asked(&server, 1, 1).until_ports(&[80, 80, 82]);
    let refused = admin(&server).add(&RouteForm::new("pay", "10.0.0.9:82"));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("no table for more than pairs"), "{text}");
}
