//! Proofs of equality of `SQLite` files that programs write to meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{PATIENCE, Place, wait_until};
use rusqlite::{Connection, params};
use waystation_replica::{SiteConfig, SiteName};
use waystation_sync::adapter::SqliteDatabase;
use waystation_sync::client::HubClient;
use waystation_sync::hub::Operation;
use waystation_sync::site::{SiteOptions, SiteServer};

fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

fn captured(place: &Place, name: &str) -> (PathBuf, SiteServer) {
    let file = place.folder.path().join(format!("{name}.db"));
    let core = SiteConfig::new(SiteName::new(name).unwrap());
    let options = SiteOptions::new(place.address(), core);
    let target = SqliteDatabase::new(&file).captured();
    let site = SiteServer::start(options, Arc::new(target)).unwrap();
    (file, site)
}

/// Gives a site the right to publish, and waits until it knows.
fn grant(client: &HubClient, name: &str, site: &SiteServer) {
    let name = name.to_owned();
    let grant = Operation::Grant { site: name };
    let _: serde_json::Value = client.operate(grant, PATIENCE).unwrap();
    wait_until("it may publish", || site.view().unwrap().token.is_some());
}

/// Writes to a file until it is told to stop, one row after another; others find a
/// moment in between.
fn write(file: &Path, who: &str, count: &AtomicU64, is_over: &AtomicBool) {
    let app = open(file);
    let sql = "INSERT INTO item VALUES (?1, ?2, hex(randomblob(20)))";
    let (_never, pause) = channel::<()>();
    while !is_over.load(Ordering::Relaxed) {
        let number = count.load(Ordering::Relaxed);
        app.execute(sql, params![who, number.cast_signed()])
            .unwrap();
        count.fetch_add(1, Ordering::Relaxed);
        let _ = pause.recv_timeout(Duration::from_millis(1));
    }
}

/// A database that programs wrote to all the time held writes that the log had not yet,
/// at any moment: a proof said `ahead`, and proved nothing.
#[test]
fn copies_that_are_written_to_all_the_time_are_proven_equal() {
    let place = Place::new();
    let _hub = place.start();
    let first = open(&place.folder.path().join("master.db"));
    first
        .execute_batch(
            "CREATE TABLE item (who TEXT NOT NULL, id INTEGER NOT NULL, note TEXT,
             PRIMARY KEY (who, id))",
        )
        .unwrap();
    let (master_file, master) = captured(&place, "master");
    let client = place.client();
    let (room_file, room) = captured(&place, "room");
    wait_until("both sites are live", || {
        let status = client.status(PATIENCE).unwrap();
        let live = status.sites.iter().filter(|one| one.phase == "live");
        live.count() == 2
    });
    grant(&client, "master", &master);
    grant(&client, "room", &room);
    let is_over = AtomicBool::new(false);
    let counts = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for (file, who, count) in [
            (&master_file, "master", &counts[0]),
            (&room_file, "room", &counts[1]),
        ] {
            let is_over = &is_over;
            scope.spawn(move || write(file, who, count, is_over));
        }
        let mut at = 0;
        for _ in 0..4 {
            let then = counts.each_ref().map(|one| one.load(Ordering::Relaxed));
            wait_until("both go on writing", || {
                // One may be counted now that was written before.
                let now = counts.iter().map(|one| one.load(Ordering::Relaxed));
                now.zip(then).all(|(now, then)| now > then + 1)
            });
            let proof = client.verify(PATIENCE);
            let is_proven = proof.as_ref().is_ok_and(|one| one.is_equal && one.at > at);
            if !is_proven {
                is_over.store(true, Ordering::Relaxed);
                panic!("after {at}: {proof:?}");
            }
            at = proof.unwrap().at;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    wait_until("all of it is everywhere", || {
        let proof = client.verify(PATIENCE).unwrap();
        let written: u64 = counts.iter().map(|one| one.load(Ordering::Relaxed)).sum();
        proof.is_equal && proof.sites.iter().all(|one| one.rows == written)
    });
}

/// What a site may not publish no proof can wait for: it says so, and nobody is kept
/// from writing.
#[test]
fn a_site_that_may_not_publish_is_ahead() {
    let place = Place::new();
    let _hub = place.start();
    let app = open(&place.folder.path().join("master.db"));
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        .unwrap();
    let (_, master) = captured(&place, "master");
    let client = place.client();
    let (_, _room) = captured(&place, "room");
    wait_until("the copies are equal", || {
        client.verify(PATIENCE).unwrap().is_equal
    });
    app.execute_batch("INSERT INTO item VALUES (1)").unwrap();
    wait_until("the write is found", || {
        let proof = client.verify(PATIENCE).unwrap();
        let master = proof.sites.iter().find(|one| one.site == "master");
        master.is_some_and(|one| one.result == "ahead")
    });
    grant(&client, "master", &master);
    wait_until("the copies are equal", || {
        client.verify(PATIENCE).unwrap().is_equal
    });
}
