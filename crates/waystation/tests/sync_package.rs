//! A database that nobody here wrote: the catalogue of coordinate systems that
//! Debian's package `proj-data` ships, 8 MiB in 35 tables with checks, triggers,
//! views, foreign keys, and keys of mixed types.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use common::sync::{Place, wait_until};
use common::{run, stderr};
use rusqlite::Connection;
use waystation_crash::compare;
use waystation_test_process::component;

/// Tables without a primary key, and one of which every row has NULL in it: nothing
/// says which of their rows is which.
const WITHOUT_KEY: [&str; 7] = [
    "alias_name",
    "authority_to_authority_preference",
    "deprecation",
    "geodetic_datum_ensemble_member",
    "supersession",
    "usage",
    "vertical_datum_ensemble_member",
];

/// Where the database is. Nothing when it is missing, which is said, and a failure
/// with `CI=true`.
fn database() -> Option<PathBuf> {
    let program = component::find("proj", "/usr/bin/projinfo")?;
    let file = program.parent()?.parent()?.join("share/proj/proj.db");
    assert!(file.is_file(), "{} is missing", file.display());
    Some(file)
}

/// One transaction: new rows, keys that change their type, rows that the package
/// has, and what its own triggers look at.
fn change(app: &mut Connection, round: i64) {
    let transaction = app.transaction().unwrap();
    for sql in [
        "INSERT INTO scope VALUES ('HERE', ?1, 'scope ' || ?1, 0)",
        "UPDATE scope SET code = 'n' || code WHERE auth_name = 'HERE' AND code = ?1 - 3",
        "UPDATE extent SET description = description || '.', north_lat = 90
             WHERE auth_name = 'EPSG' AND code = 1024 + ?1 % 3000",
        "DELETE FROM helmert_transformation_table
             WHERE auth_name = 'EPSG' AND code % 4999 = ?1 % 4999",
        "INSERT OR REPLACE INTO metadata VALUES ('round', ?1)",
        "UPDATE celestial_body SET semi_major_axis = semi_major_axis + ?1 / 7.0",
        "INSERT INTO ellipsoid SELECT 'HERE', ?1, 'e' || ?1, NULL, celestial_body_auth_name,
             celestial_body_code, semi_major_axis, uom_auth_name, uom_code, inv_flattening,
             semi_minor_axis, 0 FROM ellipsoid WHERE auth_name = 'EPSG' AND code = 7030",
        "INSERT INTO alias_name VALUES ('extent', 'EPSG', 1262, 'not synced ' || ?1, 'HERE')",
    ] {
        transaction.execute(sql, [round]).unwrap();
    }
    transaction.commit().unwrap();
}

fn rounds(copy: &Connection) -> i64 {
    let sql = "SELECT CAST(value AS INTEGER) FROM metadata WHERE key = 'round'";
    let found = copy.query_row(sql, [], |row| row.get(0));
    found.unwrap_or_default()
}

#[test]
fn needs_proj_the_database_of_a_package_is_joined_changed_and_verified() {
    let Some(database) = database() else { return };
    let (place, _hub) = Place::new();
    std::fs::copy(database, place.file("master")).unwrap();
    let url = place.url("master");
    let refused = run(&place.site_args("master", &url, &["--capture"]));
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("alias_name has no primary key"), "{said}");

    let mut more = vec!["--capture"];
    for table in WITHOUT_KEY.into_iter().filter(|table| *table != "usage") {
        more.extend(["--skip", table]);
    }
    let refused = run(&place.site_args("master", &url, &more));
    let said = stderr(&refused);
    assert!(said.contains("usage has a row with NULL"), "{said}");
    more.extend(["--skip", "usage"]);
    let _master = place.site("master", &more);
    let granted = run(&["sync", "grant", "master", "--hub", &place.hub]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    let mut app = place.open("master");
    let (stop, stopped) = channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut round = 0;
        let pause = Duration::from_millis(5);
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
            round += 1;
            change(&mut app, round);
        }
        round
    });
    let _room = place.site("room-2", &["--join", "master"]);
    let copy = place.open("room-2");
    let joined_at = rounds(&copy);
    wait_until("changes arrive after the copy", || {
        rounds(&copy) > joined_at + 20
    });
    drop(stop);
    let last = writer.join().unwrap();
    wait_until("all of them have arrived", || rounds(&copy) == last);

    let rows = compare(&place.open("master"), &copy, &WITHOUT_KEY).unwrap();
    assert!(rows > 25_000, "{rows}");
    let proof = run(&["sync", "verify", "--hub", &place.hub]);
    assert!(proof.status.success(), "{}", stderr(&proof));
}
