//! What operators do with a site that stands, and with a copy that differs.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::sync::{Place, Server, audit, publish, status, wait_until, wait_until_it_stands};
use common::{run, stderr, stdout};
use rusqlite::Connection;

/// A site that stands at entry 1, a statement about a table that is not there; entry
/// 2 waits behind it.
fn standing() -> (Place, Server, Server, Connection) {
    let (place, hub) = Place::new();
    let app = place.open("master");
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        .unwrap();
    let site = place.site("master", &[]);
    publish(&place, "INSERT INTO absent VALUES (1)");
    publish(&place, "INSERT INTO item VALUES (2)");
    wait_until_it_stands(&place, "master");
    let error = status(&place, "master")["error"].to_string();
    assert!(error.contains("no such table: absent"), "{error}");
    (place, hub, site, app)
}

fn items(app: &Connection) -> i64 {
    let sql = "SELECT count(*) FROM item";
    app.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn make_absent(app: &Connection) {
    app.execute_batch("CREATE TABLE absent (id INTEGER PRIMARY KEY)")
        .unwrap();
}

fn succeeds(place: &Place, what: &str, more: &[&str]) {
    let output = place.ask(what, "master", more);
    assert!(output.status.success(), "{what}: {}", stderr(&output));
}

/// Says no, and why.
fn refuses(place: &Place, what: &str, more: &[&str]) -> String {
    let output = place.ask(what, "master", more);
    assert_eq!(output.status.code(), Some(1), "{what}");
    stderr(&output)
}

#[test]
fn an_entry_that_is_skipped_is_left_out_and_the_copy_is_known_to_differ() {
    let (place, _hub, _site, app) = standing();
    let said = refuses(&place, "skip", &["2"]);
    assert!(said.contains("does not stand at entry 2"), "{said}");
    assert_eq!(items(&app), 0);
    succeeds(&place, "skip", &["1"]);
    wait_until("the entry behind it is applied", || items(&app) == 1);
    assert!(audit(&place, "master").contains("skipped"));
    wait_until("the hub knows that the copy differs", || {
        let status = status(&place, "master");
        status["is_differing"] == true && status["applier"] == "running"
    });
    let said = refuses(&place, "skip", &["1"]);
    assert!(said.contains("does not stand at entry 1"), "{said}");
    // Somebody does by hand what the entry would have done.
    succeeds(&place, "repaired", &[]);
    wait_until("the hub knows that the copy differs no more", || {
        status(&place, "master")["is_differing"] == false
    });
}

#[test]
fn an_entry_that_is_parked_holds_back_what_may_touch_the_same_until_it_is_replayed() {
    let (place, _hub, _site, app) = standing();
    succeeds(&place, "park", &["1"]);
    // A statement may touch anything.
    wait_until("both are parked", || {
        status(&place, "master")["parked"] == 2
    });
    assert_eq!(items(&app), 0);
    make_absent(&app);
    let said = refuses(&place, "replay", &["2"]);
    assert!(said.contains("entry 2 waits for entry 1"), "{said}");
    succeeds(&place, "replay", &["1", "--wait", "30"]);
    succeeds(&place, "replay", &["2", "--wait", "30"]);
    assert_eq!(items(&app), 1);
    wait_until("nothing is parked", || {
        status(&place, "master")["parked"] == 0
    });
    assert_eq!(status(&place, "master")["is_differing"], false);
    assert_eq!(audit(&place, "master").matches("replayed").count(), 2);
}

#[test]
fn a_site_that_is_resumed_tries_its_entry_again() {
    let (place, _hub, _site, app) = standing();
    succeeds(&place, "resume", &[]);
    wait_until_it_stands(&place, "master");
    assert_eq!(items(&app), 0);
    make_absent(&app);
    succeeds(&place, "resume", &[]);
    wait_until("the entry behind it is applied", || items(&app) == 1);
    assert_eq!(audit(&place, "master"), "");
    wait_until("the site runs", || {
        status(&place, "master")["applier"] == "running"
    });
}

/// Somebody wrote to one copy behind the log's back, and nothing but a copy by hand
/// put it right.
#[test]
fn a_copy_that_differs_is_found_and_taken_anew() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name); INSERT INTO item VALUES (1, 'a')",
    )
    .unwrap();
    let _master = place.site("master", &[]);
    let _room = place.site("room-2", &["--join", "master"]);
    let verify = || run(&["sync", "verify", "--hub", &place.hub]);
    wait_until("the copies are equal", || verify().status.success());
    let copy = place.open("room-2");
    copy.execute_batch("UPDATE item SET name = 'b'").unwrap();
    let differs = verify();
    assert_eq!(differs.status.code(), Some(1));
    assert!(stdout(&differs).contains("differs"));
    let rejoined = place.ask("rejoin", "room-2", &[]);
    assert!(rejoined.status.success(), "{}", stderr(&rejoined));
    wait_until("the copies are equal again", || verify().status.success());
    let sql = "SELECT name FROM item";
    let name: String = copy.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(name, "a");
    publish(&place, "INSERT INTO item VALUES (2, 'c')");
    wait_until("it goes on from there", || items(&copy) == 2);
}

/// The capture of a site stood, with not one write leaving it, and everything that
/// operators could see said that it was live.
#[test]
fn a_capture_that_stands_is_seen_until_it_goes_on() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name)")
        .unwrap();
    let _master = place.site("master", &["--capture"]);
    let _room = place.site("room-2", &["--join", "master"]);
    let granted = run(&["sync", "grant", "master", "--hub", &place.hub]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    app.execute_batch("CREATE TABLE clicks (at); INSERT INTO item VALUES (1, 'a')")
        .unwrap();
    wait_until("the hub knows that the capture stands", || {
        status(&place, "master")["is_capture_stopped"] == true
    });
    let error = status(&place, "master")["error"].to_string();
    assert!(error.contains("table clicks has no primary key"), "{error}");
    let table = stdout(&run(&["sync", "status", "--hub", &place.hub]));
    assert!(table.contains("writes, capture stopped"), "{table}");
    let copy = place.open("room-2");
    assert_eq!(items(&copy), 0);
    app.execute_batch("DROP TABLE clicks").unwrap();
    wait_until("what was written meanwhile arrives", || items(&copy) == 1);
    wait_until("the error is over", || {
        let status = status(&place, "master");
        status["is_capture_stopped"] == false && status["error"].is_null()
    });
}

/// A chunk could not be stored: its site tried it again and again, and nobody was told
/// why.
#[test]
fn a_chunk_that_cannot_be_stored_is_seen_until_it_is() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name); INSERT INTO item VALUES (1, 'a')",
    )
    .unwrap();
    let joining = place.begin_site("room-2", &[]);
    wait_until("the hub knows the site", || {
        !status(&place, "room-2").is_null()
    });
    // There is nobody whose copy it could take, and then it is locked.
    let copy = place.open("room-2");
    copy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let _master = place.site("master", &[]);
    wait_until("the hub knows what is wrong", || {
        let error = status(&place, "room-2")["error"].to_string();
        error.contains("cannot be stored") && error.contains("locked")
    });
    copy.execute_batch("COMMIT").unwrap();
    let _room = joining.ready();
    assert_eq!(items(&copy), 1);
    wait_until("the error is over", || {
        status(&place, "room-2")["error"].is_null()
    });
}

/// A site that was started on a file with rows of its own took them away unasked, also
/// those of tables that no other site had: a wrong path cost a database.
#[test]
fn a_file_with_rows_of_its_own_joins_only_where_they_may_go() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name); INSERT INTO item VALUES (1, 'a')",
    )
    .unwrap();
    let _master = place.site("master", &[]);
    let copy = place.open("room-2");
    copy.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY);
         CREATE TABLE mine (id INTEGER PRIMARY KEY); INSERT INTO mine VALUES (7)",
    )
    .unwrap();
    let url = place.url("room-2");
    for more in [["--capture"].as_slice(), &["--skip", "item"]] {
        let refused = run(&place.site_args("room-2", &url, more));
        assert_eq!(refused.status.code(), Some(1));
        let said = stderr(&refused);
        assert!(
            said.contains("in mine: ") && said.contains("--replace"),
            "{said}"
        );
    }
    let mine = |copy: &Connection| copy.query_row("SELECT id FROM mine", [], |row| row.get(0));
    assert_eq!(mine(&copy), Ok(7));
    let room = place.site("room-2", &["--replace"]);
    assert_eq!(items(&copy), 1);
    assert!(mine(&copy).is_err());
    // Once it is a copy it needs to say nothing.
    assert_eq!(room.end("TERM"), Some(0));
    let _room = place.site("room-2", &[]);
}

/// What the log and the messages advised after a table was altered lost what had been
/// written since, or could not be done: the first site gave its copy up, and the hub
/// took no other one under its name.
#[test]
fn the_first_site_keeps_its_copy_and_a_table_that_is_altered_loses_nothing() {
    let (place, _hub) = Place::new();
    let app = place.open("master");
    app.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        .unwrap();
    let master = place.site("master", &["--capture"]);
    let _room = place.site("room-2", &["--join", "master"]);
    let granted = run(&["sync", "grant", "master", "--hub", &place.hub]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    let copy = place.open("room-2");
    app.execute_batch(
        "INSERT INTO item VALUES (1); ALTER TABLE item ADD COLUMN name DEFAULT 'none';
         INSERT INTO item VALUES (2, 'b')",
    )
    .unwrap();
    wait_until("the altered table arrives", || items(&copy) == 2);
    let said = refuses(&place, "rejoin", &[]);
    assert!(said.contains("this is the first site"), "{said}");
    // The same while it does not run.
    assert_eq!(master.end("TERM"), Some(0));
    app.execute_batch(
        "ALTER TABLE item RENAME COLUMN name TO title; INSERT INTO item VALUES (3, 'c')",
    )
    .unwrap();
    let _master = place.site("master", &["--capture"]);
    wait_until("it arrives, too", || items(&copy) == 3);
    let titles = |of: &Connection| -> String {
        let sql = "SELECT group_concat(title) FROM (SELECT title FROM item ORDER BY id)";
        of.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(titles(&copy), titles(&app));
    wait_until("the copies are equal", || {
        run(&["sync", "verify", "--hub", &place.hub])
            .status
            .success()
    });
}
