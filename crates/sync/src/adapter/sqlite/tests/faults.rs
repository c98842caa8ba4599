//! Faults that were found here: each test tells its own.

use std::os::unix::fs::FileExt as _;

use rusqlite::TransactionBehavior;
use waystation_replica::{Decider, Decision, Touches};

use super::*;
use crate::adapter::Stage;

/// A column that a statement left out got the time or a random value as its default,
/// another one at each site: only functions in the statement's own text were looked
/// for.
#[test]
fn a_default_that_would_differ_is_refused_and_a_value_in_its_place_is_not() {
    let (target, mut apply) = Copy::opened(
        "CREATE TABLE stamped (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP);
         CREATE TABLE drawn (id INTEGER PRIMARY KEY, v TEXT DEFAULT (hex(randomblob(4))));
         CREATE TABLE since (id INTEGER PRIMARY KEY, v INT DEFAULT (strftime('%s', 'now')));
         CREATE TABLE plain (id INTEGER PRIMARY KEY, v INT DEFAULT (abs(-7)))",
    );
    begin(&mut apply);
    let refused = [
        ("INSERT INTO stamped (id) VALUES (1)", "current_timestamp"),
        ("INSERT INTO stamped DEFAULT VALUES", "current_timestamp"),
        (
            "INSERT INTO plain (id) VALUES (1);\n -- and then\n ;INSERT INTO drawn (id) VALUES (1)",
            "randomblob",
        ),
        (
            "INSERT INTO since (id) SELECT id FROM plain UNION SELECT 1",
            "strftime",
        ),
    ];
    for (sql, function) in refused {
        let error = apply_one(&mut apply, 1, sql).unwrap_err();
        assert_eq!(error.fault, ApplyFault::Poison(Seq(1)), "{sql}: {error}");
        assert!(error.error.contains(function), "{sql}: {error}");
    }
    let allowed = "INSERT INTO stamped VALUES (1, '2001-02-03'), (2, NULL);
         UPDATE stamped SET at = 'then' WHERE id = 2; INSERT INTO plain (id) VALUES (1)";
    apply_one(&mut apply, 1, allowed).unwrap();
    let all = "SELECT quote(at) FROM stamped UNION ALL SELECT quote(v) FROM plain";
    assert_eq!(target.rows(all), ["'2001-02-03'", "'then'", "7"]);
}

/// Dates are computed by the same functions that tell the time, and were refused
/// where a table is made that checks them: what one site made no other would take.
#[test]
fn a_check_of_a_date_arrives() {
    let (source, _apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let (target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    source.write(
        "CREATE TABLE day (id INTEGER PRIMARY KEY, at TEXT CHECK (date(at) IS at),
             year TEXT AS (strftime('%Y', at)) STORED);
         CREATE INDEX by_day ON day (julianday(at));
         INSERT INTO day (at) VALUES ('2026-11-22')",
    );
    ship(&mut capture, &mut 0, &mut apply);
    assert_eq!(target.rows("SELECT year FROM day"), ["2026"]);
    apply_one(&mut apply, 9, "INSERT INTO day (at) VALUES ('2027-01-01')").unwrap();
    assert_eq!(target.rows("SELECT year FROM day WHERE id = 2"), ["2027"]);
}

/// A captured file that was opened again without capture kept its triggers: every
/// write went into an outbox that nobody read.
#[test]
fn a_file_that_is_not_captured_any_more_has_no_triggers() {
    const TRIGGERS: &str = "SELECT name FROM sqlite_master \
        WHERE type = 'trigger' AND name LIKE '\\_waystation%' ESCAPE '\\'";
    let (source, mut apply, mut capture) =
        Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    source.write("INSERT INTO t VALUES (1)");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    let plain = SqliteDatabase::new(&source.path());
    let Err(AdapterError::Unfit(error)) = plain.open(LifeId(9)).map(drop) else {
        panic!("a write was dropped that no other site has")
    };
    assert!(error.contains("1 captured changes"), "{error}");
    // It is in the log and has come back.
    capture.erase(1).unwrap();
    assert!(plain.open(LifeId(9)).is_err());
    let own = vec![(entry(1, Bytes::new()), Verdict::Contained)];
    apply.apply(&batch(own, 1)).unwrap();
    plain.open(LifeId(9)).unwrap();
    assert_eq!(source.rows(TRIGGERS), Vec::<String>::new());
    source.write("INSERT INTO t VALUES (2)");
    let rows = source.rows("SELECT quote(count(*)) FROM _waystation_outbox");
    assert_eq!(
        rows,
        ["1"],
        "the last one stays, so that numbers are not used again"
    );
    // What is captured later has the next number, and all triggers are there again.
    let mut capture = source.target.open(LifeId(9)).unwrap().capture.unwrap();
    assert_eq!(source.rows(TRIGGERS).len(), 3);
    assert_eq!(capture.wait(1, Duration::ZERO).unwrap(), 1);
    source.write("INSERT INTO t VALUES (3)");
    assert_eq!(capture.wait(1, WAIT).unwrap(), 2);
    assert_eq!(capture.read(1, 9, 1 << 20).unwrap().len(), 1);
}

/// A table that was skipped from some start on kept its triggers, and would have
/// been dropped at all other sites; one that was skipped no more had none.
#[test]
fn what_is_skipped_may_change_from_start_to_start() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY); \
        CREATE TABLE u (id INTEGER PRIMARY KEY); CREATE INDEX by_id ON u (id)";
    let (source, apply, capture) = Copy::captured(SQL);
    drop((apply, capture));
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let skipping = source.target.clone().skip("u");
    let mut capture = skipping.open(LifeId(1)).unwrap().capture.unwrap();
    source.write("INSERT INTO u VALUES (1); INSERT INTO t VALUES (1)");
    let mut done = 0;
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(dump(&target, "t"), ["1"]);
    assert_eq!(dump(&target, "u"), Vec::<String>::new());
    drop(capture);
    let mut capture = source.target.open(LifeId(1)).unwrap().capture.unwrap();
    source.write("INSERT INTO u VALUES (2)");
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(dump(&target, "u"), ["1", "2"]);
}

/// The tables in which a virtual table keeps its rows went to the other sites as
/// tables of their own, although the virtual one was skipped; there they stood in
/// its way, or had no primary key.
#[test]
fn what_a_skipped_virtual_table_keeps_its_rows_in_stays_here() {
    let copy = Copy::new("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let target = copy.target.clone().captured().skip("words");
    let mut capture = target.open(LifeId(1)).unwrap().capture.unwrap();
    copy.write(
        "CREATE VIRTUAL TABLE words USING fts5(a); INSERT INTO words VALUES ('one');
         INSERT INTO t VALUES (1)",
    );
    let (other, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    ship(&mut capture, &mut 0, &mut apply);
    let names = "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'";
    assert_eq!(other.rows(names), ["t"]);
    assert_eq!(dump(&other, "t"), ["1"]);
    // Nor do they go with a copy.
    begin(&mut target.open(LifeId(1)).unwrap().apply);
    let mut snapshot = target.open_snapshot().unwrap();
    let position = snapshot.position();
    let (joiner, mut apply) = Copy::opened("");
    for chunk in chunks(&mut snapshot, 1 << 20) {
        store(&mut apply, &chunk, position);
    }
    assert_eq!(joiner.rows(names), ["t"]);
}

/// The entry with the next number, as it is captured when `sql` runs.
fn captured(source: &Copy, capture: &mut Box<dyn Capture>, done: &mut u64, sql: &str) -> Entry {
    source.write(sql);
    let number = capture.wait(*done, WAIT).unwrap();
    assert_eq!(number, *done + 1, "{sql}");
    let payload = capture.read(*done, 1, 1 << 20).unwrap().remove(0);
    *done = number;
    Entry::clone(&entry(number, payload))
}

fn overlap(target: &SqliteDatabase, one: &Entry, other: &Entry) -> bool {
    let touches = target.kind().touches;
    let (Touches::Keys(one), Touches::Keys(other)) = (touches.of(one), touches.of(other)) else {
        panic!("rows have keys")
    };
    one.iter().any(|key| other.contains(key))
}

/// A put was parked that was to take another row away, by a second unique index. A
/// later put of that value was applied, since its key was another, and the replay of
/// the parked one took its row away.
#[test]
fn a_parked_put_holds_back_puts_of_the_values_that_it_takes() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, note, more);
         CREATE UNIQUE INDEX by_both ON t (note, more);
         CREATE TABLE anyway (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE UNIQUE, size INT);
         CREATE TABLE odd (id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX by_v ON odd (abs(v));
         CREATE TABLE word (w TEXT PRIMARY KEY COLLATE NOCASE NOT NULL) WITHOUT ROWID";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let (other, mut apply) = Copy::opened(SQL);
    let mut done = 0;
    let mut put = |sql: &str| captured(&source, &mut capture, &mut done, sql);
    let first = put("INSERT INTO t VALUES (1, 'x', 1, 1)");
    let pairs = [
        ("INSERT OR REPLACE INTO t VALUES (2, 'x', 2, 2)", true),
        ("INSERT INTO t VALUES (3, 'y', 1, 2)", false),
        ("INSERT OR REPLACE INTO t VALUES (4, 'z', 1, 1)", true),
        ("INSERT OR REPLACE INTO t VALUES (1, 'w', 9, 9)", true),
        ("INSERT INTO t VALUES (5, NULL, NULL, 1)", false),
        ("DELETE FROM t WHERE id = 3", false),
    ];
    for (sql, is_held) in pairs {
        let next = put(sql);
        assert_eq!(overlap(&other.target, &first, &next), is_held, "{sql}");
    }
    // Where other bytes may be the same value, each put may take any row away.
    let pairs = [
        (
            "INSERT INTO anyway VALUES (1, 'a', 1)",
            "INSERT OR REPLACE INTO anyway VALUES (2, 'A', 1)",
        ),
        (
            "INSERT INTO odd VALUES (1, -7)",
            "INSERT OR REPLACE INTO odd VALUES (2, 7)",
        ),
        (
            "INSERT INTO word VALUES ('a')",
            "INSERT OR REPLACE INTO word VALUES ('A')",
        ),
    ];
    for (one, then) in pairs {
        let (one, then) = (put(one), put(then));
        assert!(overlap(&other.target, &one, &then));
        assert!(!overlap(&other.target, &one, &first));
    }
    // An index that only this copy has counts as well, from the next transaction on.
    let (one, two) = (
        put("INSERT INTO t VALUES (30, 'm', 1000, 7)"),
        put("INSERT INTO t VALUES (31, 'n', 2000, 7)"),
    );
    assert!(!overlap(&other.target, &one, &two));
    other.write("CREATE UNIQUE INDEX late ON t (more)");
    begin(&mut apply);
    assert!(overlap(&other.target, &one, &two));
}

/// The list of parked entries is read again at the next start, with what they touch.
#[test]
fn what_a_parked_put_holds_back_is_known_after_a_restart() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let mut done = 0;
    let parked = captured(
        &source,
        &mut capture,
        &mut done,
        "INSERT INTO t VALUES (1, 'x')",
    );
    let sql = "INSERT OR REPLACE INTO t VALUES (2, 'x')";
    let later = captured(&source, &mut capture, &mut done, sql);
    apply
        .apply(&batch(vec![(Arc::new(parked), Verdict::Park)], 1))
        .unwrap();
    drop(apply);
    let anew = SqliteDatabase::new(&target.path());
    let restored = anew.open(LifeId(2)).unwrap().restored;
    let [(Seq(1), Touches::Keys(held))] = restored.parked.as_slice() else {
        panic!("{:?}", restored.parked)
    };
    let Touches::Keys(keys) = anew.kind().touches.of(&later) else {
        panic!("rows have keys")
    };
    assert!(keys.iter().any(|key| held.contains(key)));
}

/// A file that was removed or replaced while its site ran was written on where nobody
/// reads it, and what was applied there was acknowledged.
#[test]
fn a_file_that_disappears_is_waited_for() {
    let (copy, mut apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    let (path, away) = (copy.path(), copy.folder.path().join("away"));
    let refused = |apply: &mut Box<dyn Apply>, text: &str| {
        let error = apply_one(apply, 1, "INSERT INTO t VALUES (1)").unwrap_err();
        assert_eq!(error.fault, ApplyFault::Transient);
        assert!(error.error.contains(text), "{error}");
    };
    std::fs::rename(&path, &away).unwrap();
    refused(&mut apply, "No such file");
    assert!(matches!(
        copy.target.open_snapshot(),
        Err(AdapterError::Unavailable(_))
    ));
    assert!(!path.exists(), "nothing is made in its place");
    std::fs::write(&path, "another file").unwrap();
    refused(&mut apply, "is another file now");
    assert!(matches!(
        capture.wait(0, Duration::ZERO),
        Err(AdapterError::Unavailable(_))
    ));
    std::fs::rename(&away, &path).unwrap();
    apply_one(&mut apply, 1, "INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(dump(&copy, "t"), ["1"]);
}

#[test]
fn a_file_that_is_locked_for_long_is_waited_for_and_left_as_it_was() {
    let (copy, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    let mut other = Connection::open(copy.path()).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Immediate);
    let lock = lock.unwrap();
    let error = apply_one(&mut apply, 1, "INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!(error.fault, ApplyFault::Transient);
    assert!(error.error.contains("locked"), "{error}");
    drop(lock);
    apply_one(&mut apply, 1, "INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(dump(&copy, "t"), ["1"]);
}

/// A site was told to join anew and killed before its first chunk was there: the hub
/// knew the next copy already, the file still held the old one, and the hub refused
/// it until an operator came. Found by `cargo xtask crash sync`.
#[test]
fn a_copy_that_is_given_up_is_known_to_be_after_a_crash() {
    let (copy, mut apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    copy.write("INSERT INTO t VALUES (1)");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    let parked = (entry(7, "INSERT INTO none VALUES (1)"), Verdict::Park);
    apply.apply(&batch(vec![parked], 7)).unwrap();
    let stage = || SqliteDatabase::stage(&copy.app).unwrap();
    assert_eq!(stage(), Stage::Whole);
    apply.give_up(LifeId(8)).unwrap();
    apply.give_up(LifeId(8)).unwrap();
    assert_eq!(stage(), Stage::Partial, "its rows mean nothing any more");
    drop((apply, capture));
    let opened = copy.target.open(LifeId(9)).unwrap();
    assert_eq!(opened.restored.life, LifeId(8));
    assert_eq!(opened.restored.holding, Holding::Fresh);
    assert!(opened.restored.parked.is_empty());
    assert_eq!(stage(), Stage::Partial);
    let mut capture = opened.capture.unwrap();
    assert_eq!(capture.wait(0, Duration::ZERO).unwrap(), 0);
    let write = |sql: &str| {
        copy.app
            .execute_batch(sql)
            .map_err(|error| error.to_string())
    };
    let refused = write("INSERT INTO t VALUES (2)").unwrap_err();
    assert!(refused.contains("a copy of it is being taken"), "{refused}");
    let (donor, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    let mut snapshot = donor.target.open_snapshot().unwrap();
    let mut apply = opened.apply;
    for chunk in chunks(&mut snapshot, 1 << 20) {
        store(&mut apply, &chunk, snapshot.position());
    }
    copy.write("INSERT INTO t VALUES (2)");
    assert_eq!(
        capture.wait(0, WAIT).unwrap(),
        1,
        "the numbers of a life begin with 1"
    );
}

/// A proof of equality needs a moment at which a file has no write that the log has
/// not; while a program writes all the time there is none.
#[test]
fn while_a_file_is_held_nobody_else_writes_and_its_own_lanes_go_on() {
    let (copy, mut apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    assert!(apply.open_held().unwrap().is_none(), "it is not held");
    copy.write("INSERT INTO t VALUES (1)");
    copy.app.busy_timeout(Duration::ZERO).unwrap();
    let write = |id: u64| {
        let written = copy
            .app
            .execute("INSERT INTO t VALUES (?1)", [id.cast_signed()]);
        written.map_err(|error| error.to_string())
    };
    assert_eq!(apply.hold().unwrap(), Some(1));
    assert!(write(2).unwrap_err().contains("locked"));
    let ahead = apply.open_held().unwrap().unwrap();
    assert_eq!(ahead.captured(), Some(1));
    // What was captured goes to the log and comes back meanwhile.
    assert_eq!(capture.wait(0, Duration::ZERO).unwrap(), 1);
    let payload = capture.read(0, 9, 1 << 20).unwrap().remove(0);
    assert!(matches!(
        capture.erase(1),
        Err(AdapterError::Unavailable(_))
    ));
    let own = vec![(entry(1, payload), Verdict::Contained)];
    apply.apply(&batch(own, 1)).unwrap();
    assert!(write(2).unwrap_err().contains("locked"));
    let snapshot = apply.open_held().unwrap().unwrap();
    assert_eq!(snapshot.captured(), None);
    assert_eq!(snapshot.position(), Position::new(1, 1));
    apply.release();
    write(2).unwrap();
    capture.erase(1).unwrap();
    assert_eq!(capture.wait(1, WAIT).unwrap(), 2);
    // A transaction that fails leaves it held, and one that was ended twice is over.
    assert_eq!(apply.hold().unwrap(), Some(2));
    apply_one(&mut apply, 2, "INSERT INTO absent VALUES (1)").unwrap_err();
    assert!(write(3).unwrap_err().contains("locked"));
    apply.release();
    apply.release();
    write(3).unwrap();
}

/// A row or a key that is larger than its bound made a chunk, or an answer in a proof,
/// that the hub takes from nobody: the site's connection ended, and it was asked the
/// same again.
#[test]
fn a_copy_with_a_row_or_key_that_is_too_large_is_refused_by_name() {
    for (sql, said) in [
        (
            "INSERT INTO t VALUES ('a', zeroblob(64 << 20))",
            "table t has a row of more than",
        ),
        (
            "INSERT INTO t VALUES (hex(zeroblob(9000)), NULL)",
            "table t has a key of more than",
        ),
    ] {
        let (copy, mut apply) = Copy::opened("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v)");
        begin(&mut apply);
        copy.write("INSERT INTO t VALUES ('', NULL)");
        copy.write(sql);
        let mut snapshot = copy.target.open_snapshot().unwrap();
        let Err(AdapterError::Unfit(error)) = snapshot.read(0, &Cursor::default(), 1 << 20) else {
            panic!("{said}: it was read")
        };
        assert!(error.contains(said), "{error}");
        // A row is hashed whatever its size; a key goes into the answer.
        let hashed = snapshot
            .hash(&Cursor::default())
            .map(|range| range.is_some());
        assert_eq!(hashed.is_ok(), sql.contains("64"), "{hashed:?}");
    }
}

/// With the policy `skip` a file that was damaged refused entry after entry, and each
/// was left out.
#[test]
fn a_damaged_file_is_no_fault_of_the_entries() {
    let (copy, mut apply) = Copy::opened(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO t SELECT i, hex(zeroblob(20)) FROM n",
    );
    begin(&mut apply);
    let number = |sql: &str| -> u64 {
        let number: i64 = copy.app.query_row(sql, [], |row| row.get(0)).unwrap();
        number.cast_unsigned()
    };
    let root = number("SELECT rootpage FROM sqlite_master WHERE name = 't'");
    let size = number("SELECT page_size FROM pragma_page_size");
    copy.write("PRAGMA wal_checkpoint(TRUNCATE)");
    let file = std::fs::OpenOptions::new().write(true).open(copy.path());
    let nonsense = vec![0xee; usize::try_from(size).unwrap()];
    file.unwrap()
        .write_all_at(&nonsense, (root - 1) * size)
        .unwrap();
    drop(apply);
    let mut apply = copy.target.open(LifeId(2)).unwrap().apply;
    let error = apply_one(&mut apply, 1, "INSERT INTO t VALUES (9999, 'x')").unwrap_err();
    assert_eq!(error.fault, ApplyFault::Transient, "{error}");
    assert!(error.error.contains("malformed"), "{error}");
}

/// The list told neither why an entry was left out, nor who wanted that, nor when.
#[test]
fn the_audited_list_tells_why_and_by_whom() {
    let (target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    begin(&mut apply);
    // As an earlier version made it.
    target.write(
        "DROP TABLE _waystation_audit;
         CREATE TABLE _waystation_audit (seq INTEGER PRIMARY KEY, fate INTEGER NOT NULL,
             payload BLOB NOT NULL);
         INSERT INTO _waystation_audit VALUES (1, 2, x'00')",
    );
    drop(apply);
    let mut apply = target.target.open(LifeId(2)).unwrap().apply;
    let mut decided = |seq, verdict, by: Option<Decider>| {
        let mut batch = batch(
            vec![(entry(seq, "INSERT INTO none VALUES (1)"), verdict)],
            seq,
        );
        let error = format!("error {seq}").into();
        batch.decision = by.map(|by| Decision { by, error });
        apply.apply(&batch).unwrap();
    };
    decided(2, Verdict::Skip, Some(Decider::Policy));
    decided(3, Verdict::Park, Some(Decider::Operator));
    decided(4, Verdict::Park, None);
    let audit = apply.audit().unwrap();
    let told: Vec<_> = audit
        .iter()
        .map(|one| (one.seq.0, one.by, one.error.as_str()))
        .collect();
    let expected = [
        (1, Decider::Policy, ""),
        (2, Decider::Policy, "error 2"),
        (3, Decider::Operator, "error 3"),
        (4, Decider::Order, ""),
    ];
    assert_eq!(told, expected);
    assert_eq!(audit[0].at, 0);
    // Some day after this was written.
    assert!(audit[1..].iter().all(|one| one.at > 1_700_000_000));
}
