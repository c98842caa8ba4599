//! Copies that come in parts, into files that have tables already.

use super::rebuilt::all;
use super::*;

/// Of entries that touched keys behind the part that had come nothing was done: what a
/// REPLACE had taken away before it stayed, where another write hid that later.
#[test]
fn what_a_replace_takes_away_from_a_part_of_a_copy_goes() {
    check_part(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
         INSERT INTO t SELECT i, 'u' || i, zeroblob(100) FROM n",
        &[
            "INSERT OR REPLACE INTO t VALUES (1000, 'u5', 'took the place of 5')",
            "UPDATE t SET u = 'hidden' WHERE id = 1000",
            "UPDATE OR REPLACE t SET u = 'u6' WHERE id = 99; DELETE FROM t WHERE id = 99",
        ],
    );
    // Keys that a column compares as equal have places of their own.
    check_part(
        "CREATE TABLE w (w TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, v);
         WITH RECURSIVE n (i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO w SELECT 'Q' || i, zeroblob(100) FROM n",
        &[
            "INSERT OR REPLACE INTO w VALUES ('q100', 'small'), ('q101', 'small')",
            "UPDATE w SET w = 'z' || w WHERE v = 'small'",
        ],
    );
}

/// Cuts a copy after some 5,000 bytes, applies what is written then, and has the rest.
fn check_part(sql: &str, writes: &[&str]) {
    let (source, mut apply, mut capture) = Copy::captured(sql);
    begin(&mut apply);
    let (joiner, mut apply) = Copy::opened("");
    let mut snapshot = source.target.open_snapshot().unwrap();
    let first = Arc::new(snapshot.read(0, &Cursor::default(), 5000).unwrap());
    let to = first.to.clone().unwrap();
    store(&mut apply, &first, snapshot.position());
    let mut done = 0;
    for sql in writes {
        source.write(sql);
        let number = capture.wait(done, WAIT).unwrap();
        for payload in capture.read(done, 10, 1 << 20).unwrap() {
            done += 1;
            let mut part = batch(vec![(entry(done, payload), Verdict::Apply)], done);
            part.below = Some(to.clone());
            apply.apply(&part).unwrap();
        }
        assert_eq!(done, number);
    }
    let mut snapshot = source.target.open_snapshot().unwrap();
    let rest = Arc::new(snapshot.read(1, &to, 1 << 20).unwrap());
    store(&mut apply, &rest, Position::new(1, done));
    assert_eq!(all(&joiner), all(&source));
}

/// A copy kept the tables that it found, and only emptied them: of rows that an index
/// there allowed one of, one stayed; and where a column was missing, the copy never
/// ended.
#[test]
fn a_copy_into_a_file_with_other_definitions_is_equal() {
    let donor = Copy::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT, n INTEGER CHECK (n > 0));
         CREATE INDEX by_u ON t (u);
         CREATE VIEW w AS SELECT u FROM t;
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN UPDATE t SET u = 'x' WHERE id = -1; END;
         INSERT INTO t VALUES (1, 'a', 1), (2, 'a', 2), (3, '7', 3)",
    );
    begin(&mut donor.target.open(LifeId(1)).unwrap().apply);
    for sql in [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT, n INTEGER);
         CREATE UNIQUE INDEX by_u ON t (u)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT, n INTEGER, more DEFAULT 'more')",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u INTEGER, n TEXT)",
        "CREATE TABLE T (u TEXT PRIMARY KEY NOT NULL, id INTEGER, n CHECK (n < 2)) WITHOUT ROWID",
        "CREATE TABLE own (id INTEGER PRIMARY KEY); INSERT INTO own VALUES (1);
         CREATE TABLE w (id INTEGER PRIMARY KEY REFERENCES own); INSERT INTO w VALUES (1);
         CREATE VIEW t AS SELECT id FROM w; CREATE INDEX tr ON own (id);
         CREATE TRIGGER by_u INSTEAD OF INSERT ON t BEGIN SELECT 1; END",
    ] {
        let (joiner, mut apply, mut own) = Copy::captured(sql);
        let mut snapshot = donor.target.open_snapshot().unwrap();
        let position = snapshot.position();
        for chunk in chunks(&mut snapshot, 10) {
            store(&mut apply, &chunk, position);
        }
        assert_eq!(all(&joiner), all(&donor), "{sql}");
        // Nothing of that is a write of its own, and what follows is.
        assert_eq!(own.wait(0, Duration::ZERO).unwrap(), 0);
        joiner.write("INSERT INTO t VALUES (9, 'own', 9)");
        assert_eq!(own.wait(0, WAIT).unwrap(), 1);
    }
}

/// A table that a site was told to leave alone was left alone by its capture only:
/// rows that came from other sites took the place of its own.
#[test]
fn a_table_that_is_skipped_takes_nothing_from_others() {
    const DONOR: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY);
        CREATE TABLE session (id INTEGER PRIMARY KEY, v, more);
        CREATE INDEX by_more ON session (more);
        INSERT INTO t VALUES (1); INSERT INTO session VALUES (1, 'donor', 1), (3, 'donor', 3)";
    const OWN: &str = "CREATE TABLE Session (id INTEGER PRIMARY KEY, v);
        CREATE INDEX by_v ON Session (v); INSERT INTO Session VALUES (1, 'own'), (2, 'own')";
    let (source, mut apply, mut capture) = Copy::captured(DONOR);
    begin(&mut apply);
    let mut joiner = Copy::new(OWN);
    joiner.target = joiner.target.skip("sessioN");
    let mut apply = joiner.target.open(LifeId(2)).unwrap().apply;
    let before = dump(&joiner, "Session");
    let mut snapshot = source.target.open_snapshot().unwrap();
    for chunk in chunks(&mut snapshot, 10) {
        store(&mut apply, &chunk, snapshot.position());
    }
    let objects = "SELECT name FROM sqlite_master WHERE tbl_name = 'session' COLLATE NOCASE
        ORDER BY name";
    assert_eq!(joiner.rows(objects), ["Session", "by_v"]);
    let mut done = 0;
    for sql in [
        "INSERT OR REPLACE INTO session VALUES (2, 'donor', 2); INSERT INTO t VALUES (2)",
        "DELETE FROM session WHERE id = 1; CREATE INDEX by_both ON session (v, more)",
        "DROP INDEX by_more; CREATE TRIGGER tr AFTER INSERT ON session BEGIN SELECT 1; END",
        "CREATE UNIQUE INDEX by_v ON session (v, id)",
        "DROP INDEX by_v; ALTER TABLE session ADD COLUMN even_more",
        "DROP TABLE session; INSERT INTO t VALUES (3)",
    ] {
        source.write(sql);
        ship(&mut capture, &mut done, &mut apply);
        assert_eq!(dump(&joiner, "Session"), before, "{sql}");
        assert_eq!(joiner.rows(objects), ["Session", "by_v"], "{sql}");
    }
    assert_eq!(dump(&joiner, "t"), ["1", "2", "3"]);
}

/// A copy that had left out what came for a table was taken for whole once it was
/// told to leave that table alone no more, and was given to others who joined.
#[test]
fn a_copy_that_left_a_table_alone_differs_until_it_is_proved_equal() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY)";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let target = Copy::new(SQL);
    let skipping = target.target.clone().skip("t");
    let is_differing = |target: &SqliteDatabase| {
        let opened = target.open(LifeId(2)).unwrap();
        opened.restored.is_differing
    };
    // A file that is no copy yet has left nothing out.
    assert!(!is_differing(&skipping));
    assert!(!is_differing(&target.target));
    let mut apply = skipping.open(LifeId(2)).unwrap().apply;
    begin(&mut apply);
    source.write("INSERT INTO t VALUES (1)");
    ship(&mut capture, &mut 0, &mut apply);
    assert_eq!(dump(&target, "t"), Vec::<String>::new());
    drop(apply);
    assert!(!is_differing(&skipping));
    assert!(is_differing(&target.target));
    assert!(
        is_differing(&target.target),
        "one more start puts nothing right"
    );
    let mut apply = target.target.open(LifeId(2)).unwrap().apply;
    assert!(apply.set_repaired(Seq(1)).unwrap());
    drop(apply);
    assert!(!is_differing(&target.target));
}

/// What was deleted from a table, altered or dropped while its writer left it alone
/// stayed at the other sites for ever: its rows went there again, and nothing else did.
#[test]
fn what_changed_while_it_was_skipped_is_made_anew_at_the_others() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY);
        CREATE TABLE u (id INTEGER PRIMARY KEY, v); CREATE INDEX by_v ON u (v);
        CREATE TABLE gone (id INTEGER PRIMARY KEY); CREATE VIEW w AS SELECT 1 AS one;
        INSERT INTO u VALUES (1, 'a'), (2, 'b'), (3, 'c')";
    const OBJECTS: &str = "SELECT type || name || sql FROM sqlite_master
        WHERE name NOT LIKE '\\_%' ESCAPE '\\' AND sql IS NOT NULL
        ORDER BY 1";
    let (source, apply, capture) = Copy::captured(SQL);
    drop((apply, capture));
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    // The names are compared as the database compares them.
    let skipping = source.target.clone().skip("U").skip("gone").skip("w");
    drop(skipping.open(LifeId(1)).unwrap());
    source.write(
        "DELETE FROM u WHERE id = 1; UPDATE u SET id = 9 WHERE id = 2; DROP TABLE gone;
         ALTER TABLE u ADD COLUMN more; DROP VIEW w; CREATE VIEW w AS SELECT 2 AS two;
         INSERT INTO t VALUES (1)",
    );
    // A start with the same list ends nothing.
    let mut capture = skipping.open(LifeId(1)).unwrap().capture.unwrap();
    let mut done = 0;
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(dump(&target, "u").len(), 3);
    drop(capture);
    let mut capture = source.target.open(LifeId(1)).unwrap().capture.unwrap();
    ship(&mut capture, &mut done, &mut apply);
    for table in ["t", "u"] {
        assert_eq!(dump(&target, table), dump(&source, table));
    }
    assert_eq!(target.rows(OBJECTS), source.rows(OBJECTS));
    // It is said once.
    drop(capture);
    let mut capture = source.target.open(LifeId(1)).unwrap().capture.unwrap();
    assert_eq!(capture.wait(done, Duration::ZERO).unwrap(), done);
}

/// What a program wrote while a copy was taken was captured: a part that came later took
/// it away again here, and the other sites had it for ever.
#[test]
fn what_is_written_while_a_copy_is_taken_is_refused() {
    let donor = many_rows();
    begin(&mut donor.target.open(LifeId(1)).unwrap().apply);
    let mut snapshot = donor.target.open_snapshot().unwrap();
    let chunks = chunks(&mut snapshot, 8000);
    let (joiner, mut apply, mut capture) = Copy::captured("");
    let (last, first) = chunks.split_last().unwrap();
    let refused = |sql: &str| {
        let error = joiner.app.execute_batch(sql).unwrap_err().to_string();
        let why = "is synced: a copy of it is being taken";
        assert!(error.contains(why), "{error}");
    };
    for chunk in first {
        store(&mut apply, chunk, snapshot.position());
        refused("INSERT INTO users (id, name) VALUES (-1, 'x'), (9999, 'y')");
        assert_eq!(capture.wait(0, Duration::ZERO).unwrap(), 0);
    }
    refused("UPDATE users SET score = 0");
    refused("DELETE FROM users");
    // No trigger sees a table that is made: it is told.
    let is_differing = || joiner.rows("SELECT is_differing || '' FROM _waystation_state");
    assert_eq!(is_differing(), ["0"]);
    joiner.write("CREATE TABLE own (id INTEGER PRIMARY KEY); INSERT INTO own VALUES (1)");
    assert_eq!(capture.wait(0, Duration::ZERO).unwrap(), 0);
    store(&mut apply, last, snapshot.position());
    assert_eq!(is_differing(), ["1"]);
    assert_eq!(dump(&joiner, "users"), dump(&donor, "users"));
    joiner.write("INSERT INTO users (id, name) VALUES (-1, 'x')");
    let mut apply = donor.target.open(LifeId(1)).unwrap().apply;
    ship(&mut capture, &mut 0, &mut apply);
    assert_eq!(dump(&joiner, "users"), dump(&donor, "users"));
}

/// A file that had left out what others wrote to a table had them drop it once it was
/// told to leave that alone no more, and gave them its own old rows, or none.
#[test]
fn a_table_that_others_wrote_is_not_made_anew_for_who_left_it_alone() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY);
        CREATE TABLE u (id INTEGER PRIMARY KEY); INSERT INTO u VALUES (1)";
    let (writer, mut apply, mut from_writer) = Copy::captured(SQL);
    begin(&mut apply);
    let (other, mut apply, capture) = Copy::captured(SQL);
    begin(&mut apply);
    drop((apply, capture));
    let skipping = other.target.clone().skip("u");
    let mut opened = skipping.open(LifeId(1)).unwrap();
    writer.write("INSERT INTO u VALUES (2)");
    ship(&mut from_writer, &mut 0, &mut opened.apply);
    assert_eq!(dump(&other, "u"), ["1"]);
    drop(opened);
    let opened = other.target.open(LifeId(1)).unwrap();
    assert!(opened.restored.is_differing);
    let mut capture = opened.capture.unwrap();
    assert_eq!(
        capture.wait(0, Duration::ZERO).unwrap(),
        0,
        "nothing is written down"
    );
    // From here on its writes are captured, as those to any other table.
    other.write("INSERT INTO u VALUES (3)");
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    ship(&mut capture, &mut 0, &mut apply);
    assert_eq!(dump(&target, "u"), ["1", "3"]);
}
