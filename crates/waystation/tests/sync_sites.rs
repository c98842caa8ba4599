//! `waystation sync site` as a user runs it: a hub, sites and the programs that
//! write to their `SQLite` files are processes or connections of their own.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use common::sync::{Place, audit, publish, wait_until};
use common::{run, stderr, stdout};
use rusqlite::Connection;
use rusqlite::types::Value;

const ROWS: &str = "\
    CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, amount REAL);
    CREATE TABLE note (at TEXT, account INTEGER, body BLOB, PRIMARY KEY (at, account)) WITHOUT ROWID;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
    INSERT INTO account SELECT i, 'owner ' || i, i / 7.0 FROM n;";

/// All rows of both tables, in the order of keys.
fn dump(connection: &Connection) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for sql in [
        "SELECT id, owner, amount FROM account ORDER BY id",
        "SELECT at, account, body FROM note ORDER BY at, account",
    ] {
        let mut statement = connection.prepare(sql).unwrap();
        let read = |row: &rusqlite::Row<'_>| (0..3).map(|at| row.get(at)).collect();
        let read = statement.query_map([], read).unwrap();
        rows.extend(read.map(Result::unwrap));
    }
    rows
}

/// A program that writes to a file until it is told to stop.
struct Writer {
    stop: Sender<()>,
    thread: JoinHandle<i64>,
}

impl Writer {
    fn start(mut app: Connection) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            let pause = Duration::from_millis(3);
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                round += 1;
                write(&mut app, round);
            }
            round
        });
        Self { stop, thread }
    }

    /// How many transactions it made.
    fn stop(self) -> i64 {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// One transaction with every kind of change.
fn write(app: &mut Connection, round: i64) {
    let transaction = app.transaction().unwrap();
    for (sql, value) in [
        (
            "INSERT INTO account (owner, amount) VALUES ('new', ?1)",
            round,
        ),
        (
            "UPDATE account SET amount = amount + 1 WHERE id = ?1 % 4000",
            round,
        ),
        ("DELETE FROM account WHERE id = 4000 + ?1 % 1000", round),
        ("INSERT INTO note VALUES ('at ' || ?1, ?1, x'00ff')", round),
        ("UPDATE note SET account = -?1 WHERE account = ?1", round),
    ] {
        transaction.execute(sql, [value]).unwrap();
    }
    transaction.commit().unwrap();
}

fn count(connection: &Connection) -> i64 {
    let sql = "SELECT count(*) FROM note";
    // While its first chunk is on its way there is no table.
    connection
        .query_row(sql, [], |row| row.get(0))
        .unwrap_or_default()
}

/// Waits until a copy has more of what is written now.
fn wait_for_more(from: &Connection, to: &Connection) {
    let there = count(from);
    wait_until("more is written and arrives", || count(to) > there);
}

/// Both sites are proven equal.
fn verify(place: &Place) {
    let proof = run(&["sync", "verify", "--hub", &place.hub, "--json"]);
    let said = stdout(&proof);
    assert!(proof.status.success(), "{said}{}", stderr(&proof));
    let proof: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(proof["is_equal"], true);
    assert_eq!(proof["sites"].as_array().unwrap().len(), 2);
}

/// A room was brought up from another by hand, while nothing was written, and
/// whatever died in between left the two apart.
#[test]
fn a_site_joins_under_load_and_kills_leave_the_copies_equal() {
    let (place, hub) = Place::new();
    let app = place.open("master");
    app.execute_batch(ROWS).unwrap();
    let master = place.site("master", &["--capture"]);
    let granted = run(&["sync", "grant", "master", "--hub", &place.hub]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    let writer = Writer::start(place.open("master"));
    let second = place.site("room-2", &["--join", "master"]);
    let copy = place.open("room-2");
    wait_for_more(&app, &copy);

    second.end("KILL");
    let second = place.site("room-2", &["--join", "master"]);
    wait_for_more(&app, &copy);
    hub.end("KILL");
    let hub = place.start_hub();
    wait_for_more(&app, &copy);
    master.end("KILL");
    let master = place.site("master", &["--capture"]);
    wait_for_more(&app, &copy);

    // While it is written to, and once nothing more comes.
    verify(&place);
    let rounds = writer.stop();
    wait_until("all of it has arrived", || count(&copy) == rounds);
    assert_eq!(dump(&copy), dump(&app));
    verify(&place);
    assert_eq!(second.end("TERM"), Some(0));
    assert_eq!(master.end("TERM"), Some(0));
    assert_eq!(hub.end("TERM"), Some(0));
}

#[test]
fn a_table_without_a_primary_key_is_refused_by_name_unless_it_is_skipped() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch("CREATE TABLE clicks (at); CREATE TABLE item (id INTEGER PRIMARY KEY)")
        .unwrap();
    let url = place.url("master");
    let refused = run(&place.site_args("master", &url, &["--capture"]));
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("clicks"), "{said}");
    assert!(said.contains(&url), "{said}");
    let site = place.site("master", &["--capture", "--skip", "clicks"]);
    assert_eq!(site.ready, "master");
    assert_eq!(site.end("TERM"), Some(0));
}

#[test]
fn all_that_is_wrong_with_a_call_is_listed_at_once() {
    let call = ["sync", "site", "--name", "a b", "--join", "c/d"];
    let url = ["--database", "oracle://host/db", "--skip", ""];
    let refused = run(&[call.as_slice(), &url].concat());
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    for part in ["--name", "--join", "--database", "oracle://", "--skip"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("4 faults"), "{said}");
    assert_eq!(stdout(&refused), "");
}

/// A statement that the database refused stood at the head of the queue for ever,
/// or was lost without a trace.
#[test]
fn a_parked_entry_is_listed_and_applied_once_it_can_be() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)")
        .unwrap();
    let _site = place.site("master", &["--policy", "park"]);
    let second = run(&place.site_args("master", &place.url("other"), &[]));
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("a site master runs on"));

    publish(&place, "INSERT INTO absent VALUES (1)");
    wait_until("the entry is parked", || {
        !audit(&place, "master").is_empty()
    });
    let parked: serde_json::Value = serde_json::from_str(&audit(&place, "master")).unwrap();
    assert_eq!(parked["seq"], 1);
    assert_eq!(parked["fate"], "parked");
    let refused = place.ask("replay", "master", &["2"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("entry 2 is not parked"));

    app.execute_batch("CREATE TABLE absent (id INTEGER PRIMARY KEY)")
        .unwrap();
    let replayed = place.ask("replay", "master", &["1", "--wait", "30"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    assert!(audit(&place, "master").contains("replayed"));
    let sql = "SELECT count(*) FROM absent WHERE id = 1";
    let count: i64 = app.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    let nobody = place.ask("resume", "nobody", &[]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("nobody"));
}
