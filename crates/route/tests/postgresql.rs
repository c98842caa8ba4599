//! Routes in a real `PostgreSQL`.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::time::Duration;

use common::{DatabaseWorld, admin, asked, until};
use tokio_postgres::NoTls;
use waystation_route::{PatchForm, RouteForm, RouteServer};
use waystation_test_process::Postgres;

type World = DatabaseWorld<Postgres>;

impl World {
    fn new() -> Option<Self> {
        Some(Self::of(Postgres::start()?))
    }

    /// Runs statements, as an operator's program does.
    fn run(&self, text: &str) {
        let url = self.database.url("postgres");
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            client.batch_execute(text).await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
        });
    }

    /// A server that hears of changes by notification or not at all.
    fn serve(&self, name: &str) -> RouteServer {
        self.serve_at(&self.database.url("postgres"), name, |config| {
            config.poll = Duration::from_hours(1);
        })
    }
}

#[test]
fn needs_postgresql_changes_of_anybody_are_notified_to_all_servers() {
    let Some(world) = World::new() else { return };
    let (one, two) = (world.serve("a"), world.serve("b"));
    let mut agents = [asked(&one, 1, 1), asked(&two, 1, 1)];
    for agent in &mut agents {
        agent.until_ports(&[]);
    }
    let form = RouteForm {
        lars: Some("1/1".to_owned()),
        metadata: [("rack".to_owned(), "9".to_owned())].into(),
        ..RouteForm::new("pay", "10.0.0.1:80")
    };
    admin(&one).add(&form).unwrap();
    for agent in &mut agents {
        agent.until_ports(&[80]);
    }
    assert!(admin(&two).add(&form).is_err(), "it is there");
    let patch = PatchForm {
        service: "pay".to_owned(),
        address: "10.0.0.1:80".to_owned(),
        weight: Some(0),
        ..PatchForm::default()
    };
    admin(&two).set(&patch).unwrap();
    for agent in &mut agents {
        agent.until_ports(&[]);
    }
    let listed = admin(&one).list(Some("pay")).unwrap();
    assert_eq!(
        (listed[0].weight, listed[0].metadata["rack"].as_str()),
        (0, "9")
    );
    world.run("UPDATE waystation_route SET weight = 5");
    for agent in &mut agents {
        agent.until_ports(&[80]);
    }
    world.run("TRUNCATE waystation_route");
    for agent in &mut agents {
        agent.until_ports(&[]);
    }
}

#[test]
fn needs_postgresql_rows_out_of_range_are_skipped_and_named() {
    let Some(world) = World::new() else { return };
    let server = world.serve("a");
    admin(&server)
        .add(&RouteForm::new("pay", "10.0.0.1:80"))
        .unwrap();
    world.run(
        "INSERT INTO waystation_route (service, address, weight, modid, metadata) VALUES
            ('pay', '10.0.0.2:99999', 100, NULL, '{}'), ('PAY', '10.0.0.3:1', 100, NULL, '{}'),
            ('pay', '10.0.0.4:1', -3, NULL, '{}'), ('pay', '10.0.0.5:1', 100, 5, '{}'),
            ('pay', '10.0.0.6:1', 100, NULL, 'none')",
    );
    until(|| admin(&server).status().unwrap().skipped == 5);
    let status = admin(&server).status().unwrap();
    assert_eq!(status.routes, 1);
    let named = |row: &str| status.skipped_rows.iter().any(|(name, _)| name == row);
    assert!(named("pay 10.0.0.4:1"), "{:?}", status.skipped_rows);
}

#[test]
fn needs_postgresql_a_database_that_vanishes_takes_no_route_with_it() {
    let Some(mut world) = World::new() else {
        return;
    };
    let server = world.serve("a");
    admin(&server)
        .add(&RouteForm::new("1/1", "10.0.0.1:80"))
        .unwrap();
    let mut agent = asked(&server, 1, 1);
    agent.until_ports(&[80]);
    world.database.kill();
    until(|| admin(&server).status().unwrap().source == "kept");
    asked(&server, 1, 1).until_ports(&[80]);
    assert!(
        admin(&server)
            .add(&RouteForm::new("1/1", "10.0.0.2:81"))
            .is_err()
    );
    world.database.restart();
    until(|| admin(&server).status().unwrap().source == "live");
    // What is written from here on is notified again.
    world.run("INSERT INTO waystation_route VALUES ('lars.1.1', '10.0.0.2:81', 1, 1)");
    agent.until_ports(&[80, 81]);
}
