//! A file that is put back from a backup while its hub goes on.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, Place, wait_until};
use rusqlite::Connection;
use waystation_replica::{Refusal, SiteConfig, SiteEvent, SiteName};
use waystation_sync::adapter::SqliteDatabase;
use waystation_sync::client::HubClient;
use waystation_sync::hub::Operation;
use waystation_sync::site::{SiteOptions, SiteServer};

fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

fn start(place: &Place, name: &str, target: SqliteDatabase) -> SiteServer {
    let core = SiteConfig::new(SiteName::new(name).unwrap());
    let options = SiteOptions::new(place.address(), core);
    SiteServer::start(options, Arc::new(target)).unwrap()
}

fn items(app: &Connection) -> Vec<String> {
    let Ok(mut statement) = app.prepare("SELECT name FROM item ORDER BY id") else {
        // The table is still to come.
        return Vec::new();
    };
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn insert(app: &Connection, name: &str) {
    let sql = "INSERT INTO item (name) VALUES (?1)";
    app.execute(sql, [name]).unwrap();
}

/// The last captured write that has a number.
fn captured(file: &Path) -> i64 {
    let sql = "SELECT number FROM _waystation_captured";
    open(file).query_row(sql, [], |row| row.get(0)).unwrap()
}

fn are_equal(client: &HubClient) -> bool {
    client.verify(PATIENCE).is_ok_and(|proof| proof.is_equal)
}

fn grant(client: &HubClient) {
    let site = "master".to_owned();
    let _: serde_json::Value = client.operate(Operation::Grant { site }, PATIENCE).unwrap();
}

/// The story: the file of a writer was put back from a backup. The hub welcomed it: what
/// it had published since counted as contained and was never applied, and what programs
/// wrote from then on got numbers that the hub had, was erased, and reached nobody.
#[test]
fn a_file_that_was_put_back_is_refused_until_it_has_what_it_published() {
    let place = Place::new();
    let _hub = place.start();
    let client = place.client();
    let files = ["master", "room"].map(|name| place.folder.path().join(format!("{name}.db")));
    let target = || SqliteDatabase::new(&files[0]).captured();
    let [app, other] = files.each_ref().map(|file| open(file));
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)")
        .unwrap();
    let master = start(&place, "master", target());
    let room = start(&place, "room", SqliteDatabase::new(&files[1]));
    grant(&client);
    insert(&app, "before");
    wait_until("the copies are equal", || {
        items(&other) == ["before"] && are_equal(&client)
    });
    wait_until("no captured write waits in the file", || {
        let sql = "SELECT count(*) FROM _waystation_outbox \
            WHERE seq > (SELECT erased FROM _waystation_captured)";
        app.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == 0
    });
    master.stop();
    let backup = place.folder.path().join("backup.db");
    app.execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    let master = start(&place, "master", target());
    insert(&app, "after 1");
    insert(&app, "after 2");
    wait_until("all of it is published and has come back", || {
        items(&other).len() == 3 && are_equal(&client)
    });
    // The disk breaks, and somebody puts the backup back.
    master.stop();
    drop(app);
    let put_back = || {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(place.folder.path().join(format!("master.db{end}")));
        }
        std::fs::copy(&backup, &files[0]).unwrap();
    };
    put_back();
    let master = start(&place, "master", target());
    wait_until("it is refused", || master.view().unwrap().is_barred);
    let events = master.events().unwrap();
    let is_named = |one: &SiteEvent| {
        matches!(one, SiteEvent::Refused(Refusal::OlderCopy { at, acked, captured, published })
            if at < acked && captured < published)
    };
    assert!(events.iter().any(is_named), "{events:?}");
    master.stop();
    // Nor is it taken later for what programs wrote meanwhile: see the lane of captured
    // writes, which gives them no numbers.
    let before = captured(&files[0]);
    insert(&open(&files[0]), "meanwhile");
    let master = start(&place, "master", target());
    wait_until("it is refused again", || master.view().unwrap().is_barred);
    master.stop();
    assert_eq!(captured(&files[0]), before);
    put_back();
    // Started once without capture it applies what it lost, and goes on after it.
    let master = start(&place, "master", SqliteDatabase::new(&files[0]));
    wait_until("the copies are equal", || are_equal(&client));
    let app = open(&files[0]);
    assert_eq!(items(&app), ["before", "after 1", "after 2"]);
    master.stop();
    let _master = start(&place, "master", target());
    insert(&app, "later");
    wait_until("what is written from then on arrives", || {
        items(&other).len() == 4 && are_equal(&client)
    });
    room.stop();
}

/// As `.backup` of the shell does.
fn back_up(app: &Connection, to: &Path) {
    let none = None::<fn(rusqlite::backup::Progress)>;
    app.backup("main", to, none).unwrap();
}

/// As `.restore` of the shell does: the file stays, its pages do not.
fn put_back_in_place(app: &mut Connection, from: &Path) {
    let none = None::<fn(rusqlite::backup::Progress)>;
    app.restore("main", from, none).unwrap();
}

/// As [`are_equal`], where there is nothing to wait for: a copy whose file was put back
/// answers that it cannot be read, or not at all.
fn may_be_equal(client: &HubClient) -> bool {
    let soon = Duration::from_secs(3);
    client.verify(soon).is_ok_and(|proof| proof.is_equal)
}

fn is_told(site: &SiteServer) -> bool {
    let error = site.view().unwrap().error;
    error.is_some_and(|error| error.contains("was put back while the site ran"))
}

/// The story: backups were put back in place below running sites, by the shell's
/// `.restore`. A site that applies went on over the gap; one that captures gave its new
/// writes the numbers of those that were lost, and nobody got them.
#[test]
fn files_that_are_put_back_in_place_are_noticed_by_their_running_sites() {
    let place = Place::new();
    let _hub = place.start();
    let client = place.client();
    let files = ["master", "room"].map(|name| place.folder.path().join(format!("{name}.db")));
    let backups = ["1", "2"].map(|name| place.folder.path().join(name));
    let [mut app, mut other] = files.each_ref().map(|file| open(file));
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)")
        .unwrap();
    let target = || SqliteDatabase::new(&files[0]).captured();
    let master = start(&place, "master", target());
    let room = start(&place, "room", SqliteDatabase::new(&files[1]));
    grant(&client);
    insert(&app, "before");
    wait_until("the copies are equal", || {
        items(&other) == ["before"] && are_equal(&client)
    });
    back_up(&app, &backups[0]);
    back_up(&other, &backups[1]);
    insert(&app, "after 1");
    insert(&app, "after 2");
    wait_until("all of it has come", || {
        items(&other).len() == 3 && are_equal(&client)
    });
    // A site that applies: nothing comes behind the gap, and no proof passes over it.
    put_back_in_place(&mut other, &backups[1]);
    assert!(!may_be_equal(&client));
    insert(&app, "after 3");
    wait_until("the room notices", || is_told(&room));
    assert_eq!(items(&other), ["before"]);
    assert!(!may_be_equal(&client));
    room.stop();
    let room = start(&place, "room", SqliteDatabase::new(&files[1]));
    wait_until("the room has applied again what it lost", || {
        items(&other).len() == 4 && are_equal(&client)
    });
    // One that captures: nothing that is written gets a number.
    put_back_in_place(&mut app, &backups[0]);
    let before = captured(&files[0]);
    insert(&app, "meanwhile");
    wait_until("the master notices", || is_told(&master));
    assert!(!may_be_equal(&client));
    assert_eq!(captured(&files[0]), before);
    assert_eq!(items(&other).len(), 4);
    master.stop();
    let master = start(&place, "master", target());
    wait_until("it is refused", || master.view().unwrap().is_barred);
    let events = master.events().unwrap();
    let is_older = |one: &SiteEvent| matches!(one, SiteEvent::Refused(Refusal::OlderCopy { .. }));
    assert!(events.iter().any(is_older), "{events:?}");
    master.stop();
    room.stop();
}
