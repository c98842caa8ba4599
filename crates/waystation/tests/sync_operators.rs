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
