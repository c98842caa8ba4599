//! Programs that nobody here wrote, with the `SQLite` of the distribution, write to a
//! database that is captured.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::Path;
use std::process::Command;

use common::sync::{Place, wait_until};
use common::{run, stderr};
use waystation_crash::compare;
use waystation_test_process::component;

/// A table of each kind that triggers differ for, and one of the application's own.
const TABLES: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB, price REAL);
    CREATE TABLE part (item INTEGER, at TEXT, v, PRIMARY KEY (item, at)) WITHOUT ROWID;
    CREATE TABLE word (word TEXT PRIMARY KEY, v);
    CREATE TABLE count (name TEXT PRIMARY KEY NOT NULL, count INTEGER);
    INSERT INTO count VALUES ('item', 0);
    CREATE TRIGGER counting AFTER INSERT ON item BEGIN
        UPDATE count SET count = count + 1 WHERE name = 'item';
    END;";

const WRITES: [&str; 5] = [
    "INSERT INTO item VALUES (1, 'lamp', x'00ff', 1.5), (2, 'Äpfel', NULL, -0.25)",
    "INSERT OR REPLACE INTO item VALUES (3, 'lamp', 'text', 9e99)",
    "INSERT INTO part VALUES (1, 'a', 1), (1, 'b', NULL), (2, '', x''); UPDATE part SET item = 9 \
     WHERE at = 'b'; DELETE FROM part WHERE at = ''",
    "INSERT INTO word VALUES ('one', 1), ('two', 2); UPDATE word SET word = 'three', v = NULL \
     WHERE v = 2",
    "CREATE TABLE last (id INTEGER PRIMARY KEY); INSERT INTO last VALUES (7)",
];

/// The triggers that capture called a function that `SQLite` has only since 3.43: with
/// the one that Debian ships each write to a captured table failed, and the example in
/// the README with it.
fn writes_arrive(write: impl Fn(&Path, &str)) {
    let (place, _hub) = Place::new();
    write(&place.file("master"), TABLES);
    let _master = place.site("master", &["--capture"]);
    let granted = run(&["sync", "grant", "master", "--hub", &place.hub]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    let _room = place.site("room-2", &[]);
    for sql in WRITES {
        write(&place.file("master"), sql);
    }
    let copy = place.open("room-2");
    wait_until("the last write has arrived", || {
        copy.query_row("SELECT id FROM last", [], |row| row.get(0)) == Ok(7)
    });
    compare(&place.open("master"), &copy, &[]).unwrap();
    let count = "SELECT count FROM count";
    assert_eq!(copy.query_row(count, [], |row| row.get(0)), Ok(3));
    let proof = run(&["sync", "verify", "--hub", &place.hub]);
    assert!(proof.status.success(), "{}", stderr(&proof));
}

fn check(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn needs_sqlite3_what_the_shell_of_the_distribution_writes_arrives() {
    let Some(program) = component::find("sqlite3", "/usr/bin/sqlite3") else {
        return;
    };
    writes_arrive(|file, sql| {
        let mut command = Command::new(&program);
        command.args(["-bail", "-cmd", ".timeout 30000"]);
        command.arg(file).arg(sql);
        check(command);
    });
}

#[test]
fn needs_python_what_a_program_in_python_writes_arrives() {
    let Some(program) = component::find("python", "/usr/bin/python3") else {
        return;
    };
    let text = "import sqlite3, sys\n\
        sqlite3.connect(sys.argv[1], timeout=30).executescript(sys.argv[2])";
    writes_arrive(|file, sql| {
        let mut command = Command::new(&program);
        command.args(["-c", text]).arg(file).arg(sql);
        check(command);
    });
}
