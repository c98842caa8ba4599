//! Files and tables that cannot be synced.

use super::*;

fn refusal(target: &SqliteDatabase) -> String {
    match target.open(LifeId(1)) {
        Err(AdapterError::Unfit(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

/// Texts of UTF-16 have another order than the keys that are sent.
#[test]
fn a_database_of_utf_16_is_refused() {
    let copy = Copy::new("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (a TEXT PRIMARY KEY)");
    let error = refusal(&copy.target);
    assert!(error.contains("UTF-16le"), "{error}");
}

/// Nobody looked whether the file had been put into WAL mode.
#[test]
fn a_database_without_wal_mode_is_refused() {
    let error = refusal(&SqliteDatabase::new(std::path::Path::new(":memory:")));
    assert!(error.contains("journal mode is memory"), "{error}");
}

/// Tables with functions and collations of their application were taken, and the site
/// stood at their first entry.
#[test]
fn a_table_that_only_its_application_can_write_is_refused_by_name() {
    for sql in [
        "CREATE TABLE own (id INTEGER PRIMARY KEY, v CHECK (abs(v)))",
        "CREATE TABLE own (id INTEGER PRIMARY KEY, v AS (abs(id)) STORED)",
        "CREATE TABLE own (id INTEGER PRIMARY KEY, v); CREATE INDEX i ON own (abs(v))",
        "CREATE TABLE own (id TEXT PRIMARY KEY NOT NULL COLLATE nocase, v)",
        "CREATE TABLE own (id INTEGER PRIMARY KEY, v TEXT COLLATE nocase UNIQUE)",
    ] {
        let copy = Copy::new("CREATE TABLE t (id INTEGER PRIMARY KEY)");
        copy.write(sql);
        // As if an application had made it, with what only its connections have.
        copy.write(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_master
             SET sql = replace(replace(sql, 'abs(', 'mine('), 'nocase', 'ours')",
        );
        let error = refusal(&copy.target.clone().captured());
        assert!(error.contains("table own cannot be written"), "{error}");
        copy.target.skip("own").open(LifeId(1)).unwrap();
    }
}

/// A cursor at a text that is no UTF-8 made no sense to who got it: joins and proofs
/// began anew for ever.
#[test]
fn keys_that_are_no_utf_8_are_copied_and_compared() {
    let donor = Copy::new("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v)");
    begin(&mut donor.target.open(LifeId(1)).unwrap().apply);
    donor.write(
        "WITH RECURSIVE n (i) AS (SELECT 128 UNION ALL SELECT i + 1 FROM n WHERE i < 255)
         INSERT INTO t SELECT CAST(unhex(format('41%02x%02x', i, 255 - i)) AS TEXT), i FROM n",
    );
    let mut snapshot = donor.target.open_snapshot().unwrap();
    let chunks = chunks(&mut snapshot, 100);
    assert!(chunks.len() > 10);
    let (joiner, mut apply) = Copy::opened("");
    for chunk in chunks.iter().chain(&chunks[1..]) {
        store(&mut apply, chunk, snapshot.position());
    }
    let keys = "SELECT hex(id) || ' ' || v FROM t ORDER BY id";
    assert_eq!(joiner.rows(keys).len(), 128);
    assert_eq!(joiner.rows(keys), donor.rows(keys));
    assert_eq!(joiner.ranges(), donor.ranges());
}

/// The first copy from another site takes the place of all rows, also of those in
/// tables that the donor does not have.
#[test]
fn rows_that_a_first_copy_would_replace_are_told() {
    let copy = Copy::new(
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY);
         CREATE TABLE c (id INTEGER PRIMARY KEY); INSERT INTO a VALUES (1);
         INSERT INTO c VALUES (1)",
    );
    let own = |target: &SqliteDatabase| target.own_rows().unwrap();
    assert_eq!(own(&copy.target), ["a", "c"]);
    assert_eq!(own(&copy.target.clone().skip("A")), ["c"]);
    let mut apply = copy.target.open(LifeId(1)).unwrap().apply;
    assert_eq!(own(&copy.target), ["a", "c"]);
    apply.give_up(LifeId(2)).unwrap();
    assert_eq!(own(&copy.target), Vec::<String>::new());
    begin(&mut apply);
    assert_eq!(own(&copy.target), Vec::<String>::new());
    let none = copy.path().with_file_name("none");
    assert_eq!(own(&SqliteDatabase::new(&none)), Vec::<String>::new());
    assert!(!none.exists());
}
