mod faults;
mod full_disk;
mod ids;
mod kinds;
mod parts;
mod payload;
mod put_back;
mod rebuilt;
mod triggers;
mod unfit;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use waystation_base::{Epoch, Seq, SiteId};
use waystation_replica::{
    ApplyBatch, ApplyFault, Chunk, Cursor, Entry, Holding, LifeId, Origin, Position, Restoring,
    StoreChunk, Verdict,
};

use super::{SqliteDatabase, keys};
use crate::adapter::{
    Adapter, AdapterError, Apply, ApplyError, Capture, Fate, Opened, RangeHash, Snapshot,
};

const WAIT: Duration = Duration::from_secs(30);

/// A file, what writes to it as an application does, and the target over it.
struct Copy {
    folder: tempfile::TempDir,
    app: Connection,
    target: SqliteDatabase,
}

impl Copy {
    fn path(&self) -> PathBuf {
        self.folder.path().join("db")
    }

    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let app = Connection::open(&path).unwrap();
        app.busy_timeout(WAIT).unwrap();
        app.execute_batch(sql).unwrap();
        let target = SqliteDatabase::new(&path);
        Self {
            folder,
            app,
            target,
        }
    }

    fn captured(sql: &str) -> (Self, Box<dyn Apply>, Box<dyn Capture>) {
        let mut copy = Self::new(sql);
        copy.target = copy.target.captured();
        let Opened { apply, capture, .. } = copy.target.open(LifeId(1)).unwrap();
        (copy, apply, capture.unwrap())
    }

    fn opened(sql: &str) -> (Self, Box<dyn Apply>) {
        let copy = Self::new(sql);
        let apply = copy.target.open(LifeId(2)).unwrap().apply;
        (copy, apply)
    }

    fn write(&self, sql: &str) {
        self.app.execute_batch(sql).unwrap();
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.app.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn ranges(&self) -> Vec<RangeHash> {
        let mut snapshot = self.target.open_snapshot().unwrap();
        let (mut all, mut from) = (Vec::new(), Cursor::default());
        while let Some(range) = snapshot.hash(&from).unwrap() {
            // What comes after the last key.
            let mut next = range.last.as_bytes().to_vec();
            next.push(0);
            from = Cursor::new(&next);
            all.push(range);
        }
        all
    }
}

/// Puts a copy at a position: it holds what the log says up to there.
fn begin(apply: &mut Box<dyn Apply>) {
    apply.apply(&batch(Vec::new(), 0)).unwrap();
}

fn entry(seq: u64, payload: impl Into<Bytes>) -> Arc<Entry> {
    let position = Position {
        epoch: Epoch(1),
        seq: Seq(seq),
    };
    let origin = Origin::Site {
        site: SiteId(1),
        life: LifeId(1),
        source: seq,
    };
    let payload = payload.into();
    Arc::new(Entry {
        position,
        origin,
        payload,
    })
}

fn batch(entries: Vec<(Arc<Entry>, Verdict)>, through: u64) -> ApplyBatch {
    ApplyBatch {
        entries,
        below: None,
        position: Position::new(1, through),
        ahead: None,
        decision: None,
    }
}

fn apply_one(
    apply: &mut Box<dyn Apply>,
    seq: u64,
    payload: impl Into<Bytes>,
) -> Result<(), ApplyError> {
    apply.apply(&batch(vec![(entry(seq, payload), Verdict::Apply)], seq))
}

/// Everything that was captured so far, applied to another copy.
fn ship(capture: &mut Box<dyn Capture>, done: &mut u64, apply: &mut Box<dyn Apply>) {
    let number = capture.wait(*done, WAIT).unwrap();
    while *done < number {
        for payload in capture.read(*done, 10, 1 << 20).unwrap() {
            *done += 1;
            apply_one(apply, *done, payload).unwrap();
        }
    }
}

fn dump(copy: &Copy, table: &str) -> Vec<String> {
    let quoted = table.replace('"', "\"\"");
    let columns = copy.rows(&format!(
        "SELECT group_concat('quote(\"' || name || '\")', ' || '','' || ') \
         FROM pragma_table_info('{table}')"
    ));
    copy.rows(&format!(
        "SELECT {} FROM \"{quoted}\" ORDER BY 1",
        columns[0]
    ))
}

const TABLES: &str = "
PRAGMA foreign_keys = ON;
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB, score REAL);
CREATE TABLE \"odd \"\" name\" (a TEXT, b INTEGER NOT NULL, c, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE notes (
    id TEXT PRIMARY KEY NOT NULL,
    user INTEGER REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE,
    length INTEGER AS (octet_length(id)) STORED
);
CREATE TABLE counts (name TEXT PRIMARY KEY NOT NULL, count INTEGER);
CREATE TRIGGER counting AFTER INSERT ON users BEGIN
    INSERT INTO counts VALUES ('users', 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
";

/// Triggers of the application at the target fired again on apply, foreign keys
/// deleted twice, and rows that `INSERT OR REPLACE` pushed out stayed.
#[test]
fn whatever_an_application_writes_arrives() {
    let (source, _apply, mut capture) = Copy::captured(TABLES);
    let (target, mut apply) = Copy::opened(TABLES);
    begin(&mut apply);
    let mut done = 0;
    let steps = [
        "INSERT INTO users VALUES (1, 'ann', x'00ff00', 1.5), (2, 'bob', NULL, -0.1)",
        "INSERT INTO notes (id, user) VALUES ('a', 1), ('b', 1), ('c', 2)",
        "UPDATE users SET id = 9 WHERE id = 2",
        "INSERT OR REPLACE INTO users VALUES (5, 'bob', 'text', 9e99)",
        "UPDATE OR REPLACE users SET name = 'bob' WHERE id = 1",
        "BEGIN; DELETE FROM users WHERE id = 1; INSERT INTO notes (id) VALUES ('z'); COMMIT",
        "INSERT INTO \"odd \"\" name\" VALUES ('x', 1, 2.0), ('x', 2, 'ä'), ('', 0, x'')",
        "UPDATE \"odd \"\" name\" SET b = b + 10, c = NULL WHERE a = 'x'",
        "BEGIN; INSERT INTO users (name) VALUES ('rolled back'); ROLLBACK",
        "INSERT OR IGNORE INTO counts VALUES ('users', 99), ('other', 1)",
        "DELETE FROM \"odd \"\" name\"",
        "INSERT INTO users (name) VALUES ('last')",
    ];
    for step in steps {
        source.write(step);
        ship_all(&mut capture, &mut done, &mut apply);
        for table in ["users", "odd \" name", "notes", "counts"] {
            assert_eq!(dump(&source, table), dump(&target, table), "after {step}");
        }
    }
    assert_eq!(
        target.rows("SELECT name FROM users WHERE name = 'last'"),
        ["last"]
    );
}

/// As [`ship`], for steps that may have written nothing.
fn ship_all(capture: &mut Box<dyn Capture>, done: &mut u64, apply: &mut Box<dyn Apply>) {
    if capture.wait(*done, Duration::ZERO).unwrap() > *done {
        ship(capture, done, apply);
    }
}

/// What a site applied came back to it as its own write, and went round.
#[test]
fn what_was_applied_is_not_captured() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let (target, mut apply, mut own) = Copy::captured(SQL);
    begin(&mut apply);
    source.write("INSERT INTO t VALUES (1, 'a'); CREATE TABLE u (id INTEGER PRIMARY KEY)");
    source.write("INSERT INTO u VALUES (7)");
    let mut done = 0;
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(own.wait(0, Duration::ZERO).unwrap(), 0);
    assert_eq!(target.rows("SELECT quote(id) FROM u"), ["7"]);
    // Its own writes are, in the table that came through the log too.
    target.write("INSERT INTO u VALUES (8)");
    assert_eq!(own.wait(0, WAIT).unwrap(), 1);
    let payload = own.read(0, 9, 1 << 20).unwrap().remove(0);
    apply_one(
        &mut Copy::opened("CREATE TABLE u (id INTEGER PRIMARY KEY)").1,
        1,
        payload,
    )
    .unwrap();
}

#[test]
fn captured_writes_have_the_same_numbers_after_a_crash() {
    let (source, apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    source.write("INSERT INTO t VALUES (1)");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    source.write("INSERT INTO t VALUES (2)");
    assert_eq!(capture.wait(1, WAIT).unwrap(), 2);
    let before = capture.read(0, 9, 1 << 20).unwrap();
    assert_eq!(before.len(), 2);
    assert_eq!(capture.read(0, 9, 1).unwrap().len(), 1);
    drop((capture, apply));
    source.write("INSERT INTO t VALUES (3)");
    let opened = source.target.open(LifeId(77)).unwrap();
    assert_eq!(opened.restored.life, LifeId(1));
    let mut capture = opened.capture.unwrap();
    assert_eq!(capture.wait(2, WAIT).unwrap(), 3);
    assert_eq!(capture.read(0, 2, 1 << 20).unwrap(), before);
    capture.erase(3).unwrap();
    assert_eq!(capture.read(0, 9, 1 << 20).unwrap(), Vec::<Bytes>::new());
    // Numbers go on after everything was erased.
    source.write("INSERT INTO t VALUES (4)");
    assert_eq!(capture.wait(3, WAIT).unwrap(), 4);
    assert_eq!(capture.read(3, 9, 1 << 20).unwrap().len(), 1);
    let left = source.rows("SELECT quote(count(*)) FROM _waystation_outbox");
    assert_eq!(left, ["2"], "the last erased row and the new one");
}

/// Apply and acknowledge were not one step: killed in between, an entry was applied
/// twice.
#[test]
fn an_entry_is_applied_once() {
    let (target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    begin(&mut apply);
    apply_one(&mut apply, 1, "INSERT INTO t (v) VALUES ('a')").unwrap();
    apply_one(&mut apply, 1, "INSERT INTO t (v) VALUES ('a')").unwrap();
    drop(apply);
    let opened = target.target.open(LifeId(3)).unwrap();
    let at = Holding::At {
        position: Position::new(1, 1),
        ahead: None,
    };
    assert_eq!(opened.restored.holding, at);
    let mut apply = opened.apply;
    apply_one(&mut apply, 1, "INSERT INTO t (v) VALUES ('a')").unwrap();
    assert_eq!(target.rows("SELECT v FROM t"), ["a"]);
    // A batch that fails leaves nothing, its position neither.
    let two = vec![
        (entry(2, "INSERT INTO t (v) VALUES ('b')"), Verdict::Apply),
        (entry(3, "INSERT INTO none VALUES (1)"), Verdict::Apply),
    ];
    let error = apply.apply(&batch(two, 3)).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Poison(Seq(3)));
    assert!(error.error.contains("no such table: none"), "{error}");
    assert_eq!(target.rows("SELECT v FROM t"), ["a"]);
}

#[test]
fn what_no_trigger_sees_is_refused_by_name() {
    let cases = [
        ("CREATE TABLE bare (a)", "table bare has no primary key"),
        (
            "CREATE VIRTUAL TABLE words USING fts5(a)",
            "table words is virtual",
        ),
        (
            "CREATE TABLE n (a TEXT PRIMARY KEY); INSERT INTO n VALUES (NULL)",
            "table n has a row with NULL in column a",
        ),
    ];
    for (sql, text) in cases {
        let copy = Copy::new(sql);
        let Err(AdapterError::Unfit(error)) = copy.target.captured().open(LifeId(1)) else {
            panic!("{sql} was not refused")
        };
        assert!(error.contains(text), "{error}");
    }
    let copy = Copy::new("CREATE TABLE bare (a); CREATE TABLE t (a TEXT PRIMARY KEY)");
    copy.target
        .clone()
        .captured()
        .skip("bare")
        .open(LifeId(1))
        .unwrap();
    let error = copy
        .app
        .execute_batch("INSERT INTO t VALUES (NULL)")
        .unwrap_err();
    assert!(
        error.to_string().contains("no NULL in its primary key"),
        "{error}"
    );
    copy.write("INSERT INTO bare VALUES (1); INSERT INTO t VALUES ('a')");
}

#[test]
fn tables_that_come_and_go_are_captured() {
    let (source, _apply, mut capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let (target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    let mut done = 0;
    source.write(
        "INSERT INTO t VALUES (1);
         CREATE TABLE u (id INTEGER PRIMARY KEY, v);
         INSERT INTO u VALUES (1, 'a'), (2, 'b');
         CREATE UNIQUE INDEX by_v ON u (v);
         CREATE VIEW w AS SELECT v FROM u",
    );
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(target.rows("SELECT v FROM w ORDER BY v"), ["a", "b"]);
    source.write("INSERT OR REPLACE INTO u VALUES (3, 'a')");
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(dump(&source, "u"), dump(&target, "u"));
    source.write("DROP VIEW w; DROP TABLE u; INSERT INTO t VALUES (2)");
    ship(&mut capture, &mut done, &mut apply);
    let names = "SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_%' ESCAPE '\\'";
    assert_eq!(target.rows(names), ["t"]);
    assert_eq!(dump(&target, "t"), ["1", "2"]);
}

#[test]
fn a_column_that_is_missing_here_is_named() {
    let (source, _apply, mut capture) =
        Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY, email)");
    let (_target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    source.write("INSERT INTO t VALUES (1, 'x')");
    capture.wait(0, WAIT).unwrap();
    let payload = capture.read(0, 1, 1 << 20).unwrap().remove(0);
    let error = apply_one(&mut apply, 1, payload).unwrap_err();
    assert_eq!(error.fault, ApplyFault::Poison(Seq(1)));
    assert!(error.error.contains("no column named email"), "{error}");
}

/// Statements such as `NOW()` and `RAND()` diverge between sites.
#[test]
fn statements_that_would_differ_are_refused() {
    let (target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    begin(&mut apply);
    let refused = [
        "INSERT INTO t (v) VALUES (random())",
        "INSERT INTO t (v) VALUES (datetime('now'))",
        "INSERT INTO t (v) SELECT CURRENT_TIMESTAMP",
        "PRAGMA user_version = 3",
        "ATTACH 'x' AS y",
        "COMMIT",
        "DELETE FROM _waystation_state",
        "CREATE TEMP TABLE x (a)",
        "INSERT INTO t (v) VALUES (",
        "\u{1}\u{1}",
    ];
    for sql in refused {
        let error = apply_one(&mut apply, 1, sql).unwrap_err();
        assert_eq!(error.fault, ApplyFault::Poison(Seq(1)), "{sql}: {error}");
    }
    apply_one(
        &mut apply,
        1,
        "INSERT INTO t (v) VALUES (upper('a')); UPDATE t SET v = v || 'b'",
    )
    .unwrap();
    assert_eq!(target.rows("SELECT v FROM t"), ["Ab"]);
    let mut part = batch(vec![(entry(2, "DELETE FROM t"), Verdict::Apply)], 2);
    part.below = Some(Cursor::new(b"t"));
    assert_eq!(
        apply.apply(&part).unwrap_err().fault,
        ApplyFault::Unfilterable
    );
}

#[test]
fn parked_and_skipped_entries_are_kept_and_told() {
    let (target, mut apply) = Copy::opened("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    begin(&mut apply);
    let three = vec![
        (entry(1, "INSERT INTO t VALUES (1, 'a')"), Verdict::Park),
        (entry(2, "INSERT INTO t VALUES (2, 'b')"), Verdict::Skip),
        (
            entry(3, "INSERT INTO t VALUES (3, 'c')"),
            Verdict::Contained,
        ),
    ];
    apply.apply(&batch(three, 3)).unwrap();
    assert_eq!(target.rows("SELECT v FROM t"), Vec::<String>::new());
    let restored = target.target.open(LifeId(9)).unwrap().restored;
    assert_eq!(restored.parked.len(), 1);
    assert!(restored.is_differing);
    apply.replay(Seq(1)).unwrap();
    apply.replay(Seq(1)).unwrap();
    assert_eq!(target.rows("SELECT v FROM t"), ["a"]);
    let fates: Vec<_> = apply
        .audit()
        .unwrap()
        .into_iter()
        .map(|one| (one.seq.0, one.fate))
        .collect();
    assert_eq!(fates, [(1, Fate::Replayed), (2, Fate::Skipped)]);
    // What was repaired is not what was skipped since.
    assert!(!apply.set_repaired(Seq(1)).unwrap());
    assert!(target.target.open(LifeId(9)).unwrap().restored.is_differing);
    assert!(apply.set_repaired(Seq(2)).unwrap());
    let restored = target.target.open(LifeId(9)).unwrap().restored;
    assert!(!restored.is_differing && restored.parked.is_empty());
}

fn many_rows() -> Copy {
    let copy = Copy::new(TABLES);
    copy.write(
        "BEGIN;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO users SELECT i, 'user ' || i, zeroblob(i % 50), i / 7.0 FROM n;
         INSERT INTO notes (id, user) SELECT 'note ' || id, id FROM users WHERE id % 2;
         INSERT INTO \"odd \"\" name\" SELECT name, -id, id * 1e18 FROM users WHERE id < 500;
         CREATE INDEX by_score ON users (score);
         COMMIT",
    );
    copy
}

fn chunks(snapshot: &mut Box<dyn Snapshot>, bytes_max: usize) -> Vec<Arc<Chunk>> {
    let (mut all, mut from) = (Vec::new(), Cursor::default());
    loop {
        let chunk = snapshot.read(all.len() as u64, &from, bytes_max).unwrap();
        let to = chunk.to.clone();
        all.push(Arc::new(chunk));
        match to {
            Some(to) => from = to,
            None => return all,
        }
    }
}

fn store(apply: &mut Box<dyn Apply>, chunk: &Arc<Chunk>, position: Position) {
    let holding = match &chunk.to {
        None => Holding::At {
            position,
            ahead: None,
        },
        Some(to) => Holding::Restoring(Restoring {
            position,
            chunks: chunk.index + 1,
            cursor: to.clone(),
            ahead: None,
        }),
    };
    let chunk = Arc::clone(chunk);
    apply
        .store(&StoreChunk { chunk, holding }, LifeId(5))
        .unwrap();
}

#[test]
fn a_snapshot_makes_an_equal_copy_of_what_was_there() {
    let donor = many_rows();
    begin(&mut donor.target.open(LifeId(1)).unwrap().apply);
    let mut snapshot = donor.target.open_snapshot().unwrap();
    let position = snapshot.position();
    let before = dump(&donor, "users");
    donor.write("DELETE FROM users WHERE id > 1500; INSERT INTO users (name) VALUES ('later')");
    let chunks = chunks(&mut snapshot, 8000);
    assert!(chunks.len() > 10);
    assert!(chunks.iter().all(|chunk| chunk.is_intact()));
    // What was in the way goes, with the tables that the donor lacks.
    let (joiner, mut apply) = Copy::opened(
        "CREATE TABLE counts (name TEXT PRIMARY KEY NOT NULL, count INTEGER);
         INSERT INTO counts VALUES ('old', 1);
         CREATE TABLE own (id INTEGER PRIMARY KEY); INSERT INTO own VALUES (1)",
    );
    for chunk in &chunks {
        store(&mut apply, chunk, position);
        store(&mut apply, chunk, position);
    }
    assert_eq!(dump(&joiner, "users"), before);
    let names = "SELECT name FROM sqlite_master WHERE name IN ('by_score', 'own')";
    assert_eq!(joiner.rows(names), ["by_score"]);
    let restored = joiner.target.open(LifeId(9)).unwrap().restored;
    assert_eq!(restored.life, LifeId(5));
    let hash = |snapshot: &mut Box<dyn Snapshot>| snapshot.hash(&Cursor::default()).unwrap();
    let mut copy = joiner.target.open_snapshot().unwrap();
    assert_eq!(copy.position(), position);
    assert!(hash(&mut copy).is_some());
    assert_eq!(hash(&mut copy), hash(&mut snapshot));
    assert_ne!(
        hash(&mut copy),
        hash(&mut donor.target.open_snapshot().unwrap())
    );
}

/// A chunk is stored over rows of its range that a crash or another donor left.
#[test]
fn a_chunk_replaces_the_rows_of_its_range_only() {
    let donor = many_rows();
    begin(&mut donor.target.open(LifeId(1)).unwrap().apply);
    let mut snapshot = donor.target.open_snapshot().unwrap();
    let chunks = chunks(&mut snapshot, 8000);
    let (joiner, mut apply) = Copy::opened("");
    for chunk in &chunks {
        store(&mut apply, chunk, snapshot.position());
    }
    let whole = joiner.ranges();
    assert!(whole.len() > 2);
    joiner.write(
        "DROP TRIGGER counting;
         PRAGMA foreign_keys = OFF;
         INSERT INTO users VALUES (-5, 'x', 1, 1);
         DELETE FROM users WHERE id % 3 = 0;
         UPDATE users SET score = 0 WHERE id > 2900;
         INSERT INTO \"odd \"\" name\" VALUES ('user 1a', 1, 1)",
    );
    assert_ne!(joiner.ranges(), whole);
    for chunk in chunks.iter().skip(1).rev() {
        store(&mut apply, chunk, snapshot.position());
    }
    let last = chunks.last().unwrap();
    store(&mut apply, last, snapshot.position());
    assert_eq!(joiner.ranges(), whole);
    assert_eq!(dump(&joiner, "users"), dump(&donor, "users"));
}

#[test]
fn a_snapshot_knows_the_captured_writes_that_it_contains() {
    let (copy, mut apply, _capture) = Copy::captured("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    begin(&mut apply);
    assert_eq!(copy.target.open_snapshot().unwrap().captured(), None);
    copy.write("INSERT INTO t VALUES (1)");
    let snapshot = copy.target.open_snapshot().unwrap();
    copy.write("INSERT INTO t VALUES (2)");
    assert_eq!(snapshot.captured(), Some(1));
    let own = vec![(entry(1, Bytes::new()), Verdict::Contained)];
    apply.apply(&batch(own, 1)).unwrap();
    assert_eq!(copy.target.open_snapshot().unwrap().captured(), Some(2));
}

#[test]
fn a_file_that_is_no_database_and_one_that_is_not_there_are_told_apart() {
    let copy = Copy::new("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let file = copy.path();
    std::fs::write(
        file.with_file_name("text"),
        "not a database, but long enough to be read",
    )
    .unwrap();
    let other = SqliteDatabase::new(&file.with_file_name("text"));
    assert!(matches!(
        other.open(LifeId(1)),
        Err(AdapterError::Damaged(_))
    ));
    let none = SqliteDatabase::new(&file.with_file_name("none/db"));
    assert!(matches!(
        none.open(LifeId(1)),
        Err(AdapterError::Unavailable(_))
    ));
}
