//! Tables that are altered, or made anew, while they are captured.

use super::*;

const SQL: &str = "
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, user INTEGER REFERENCES users);
CREATE UNIQUE INDEX by_v ON t (v);
CREATE INDEX by_user ON t (user);
CREATE VIEW w AS SELECT id FROM users;
CREATE TABLE seen (id INTEGER PRIMARY KEY);
CREATE TRIGGER seeing AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO seen VALUES (NEW.id); END;
";

const ROWS: &str = "INSERT INTO users VALUES (1, 'ann'), (2, 'bob');
    INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', NULL)";

/// All tables with their rows, and all else that statements made.
pub(super) fn all(copy: &Copy) -> Vec<String> {
    let mut all = copy.rows(
        "SELECT type || ' ' || name || ': ' || coalesce(sql, '') FROM sqlite_master \
         WHERE name NOT LIKE '\\_way%' ESCAPE '\\' AND tbl_name NOT LIKE '\\_way%' ESCAPE '\\' \
         AND name NOT LIKE 'sqlite_%' ORDER BY 1",
    );
    let tables = copy.rows(
        "SELECT name FROM sqlite_master WHERE type = 'table' \
         AND name NOT LIKE '\\_way%' ESCAPE '\\' AND name NOT LIKE 'sqlite_%' ORDER BY 1",
    );
    for table in tables {
        all.push(table.clone());
        all.extend(dump(copy, &table));
    }
    all
}

/// A copy that is captured, one that follows it, and how far.
struct Pair {
    source: Copy,
    target: Copy,
    capture: Box<dyn Capture>,
    apply: Box<dyn Apply>,
    done: u64,
}

impl Pair {
    fn new() -> Self {
        let (source, _, capture) = Copy::captured(SQL);
        let (target, mut apply) = Copy::opened(SQL);
        begin(&mut apply);
        source.write(ROWS);
        let done = 0;
        let mut pair = Self {
            source,
            target,
            capture,
            apply,
            done,
        };
        pair.check("nothing");
        pair
    }

    fn check(&mut self, after: &str) {
        ship_all(&mut self.capture, &mut self.done, &mut self.apply);
        assert_eq!(all(&self.target), all(&self.source), "after {after}");
    }

    /// The copies are equal after these statements, and after what is written later.
    fn follows(&mut self, sql: &str, later: &str) {
        self.source.write(sql);
        self.check(sql);
        self.source.write(later);
        self.check(later);
    }

    fn triggers(&self, what: &str) -> Vec<String> {
        let sql = format!(
            "SELECT {what} FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 't' \
             AND name LIKE '\\_way%' ESCAPE '\\'"
        );
        self.source.rows(&sql)
    }
}

/// A table that was made anew with the same columns lost its triggers with the old
/// one, and whatever was written to it later went nowhere, without a word.
#[test]
fn a_table_that_is_made_anew_is_captured_as_before() {
    let mut pair = Pair::new();
    // What the manual of `SQLite` says for what ALTER TABLE cannot do.
    pair.follows(
        "INSERT INTO t VALUES (4, 'd', 1);
         BEGIN;
         CREATE TABLE new_t (id INTEGER PRIMARY KEY, v TEXT, user INTEGER REFERENCES users);
         INSERT INTO new_t SELECT id, upper(v), user FROM t;
         DROP TABLE t;
         ALTER TABLE new_t RENAME TO t;
         CREATE UNIQUE INDEX by_v ON t (v);
         CREATE TRIGGER seeing AFTER INSERT ON t
             BEGIN INSERT OR IGNORE INTO seen VALUES (NEW.id); END;
         INSERT INTO t VALUES (5, 'e', 1);
         COMMIT",
        "INSERT INTO t VALUES (6, 'f', 1); UPDATE t SET v = 'B' WHERE id = 2;
         DELETE FROM t WHERE id = 1",
    );
    pair.follows(
        "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, user INTEGER);
         INSERT INTO t VALUES (7, 'g', NULL)",
        "UPDATE t SET v = 'h'; INSERT INTO t VALUES (8, 'i', 1)",
    );
    // The triggers go with the old one, and write its rows down as those of the new.
    pair.follows(
        "ALTER TABLE t RENAME TO t_old;
         CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, user INTEGER);
         INSERT INTO t SELECT id + 10, v, user FROM t_old;
         UPDATE t_old SET v = 'old'",
        "INSERT INTO t VALUES (9, 'j', 1); DELETE FROM t_old WHERE id = 7",
    );
    let [name, ..] = &pair.triggers("name")[..] else {
        panic!("no triggers")
    };
    pair.follows(
        &format!("DROP TRIGGER {name}; INSERT INTO t VALUES (20, 'k', 1); UPDATE t SET user = 2"),
        "INSERT INTO t VALUES (21, 'l', 1); UPDATE t SET user = 3; DELETE FROM t WHERE id = 20",
    );
    // Tools that make a table anew make its triggers anew, ours among them.
    let triggers = pair.triggers("sql").join(";");
    pair.follows(
        &format!(
            "CREATE TABLE new_t (id INTEGER PRIMARY KEY, v BLOB, user TEXT);
             INSERT INTO new_t SELECT id, v, user FROM t; DROP TABLE t;
             ALTER TABLE new_t RENAME TO t; {triggers}"
        ),
        "INSERT INTO t VALUES (22, 'm', '01')",
    );
}

/// A table that was altered stopped its site for good: what it was told to do threw
/// its writes away, or was refused.
#[test]
fn a_table_that_is_altered_goes_to_the_others_as_it_is_then() {
    let mut pair = Pair::new();
    pair.follows(
        "UPDATE t SET v = 'before' WHERE id = 1;
         ALTER TABLE t ADD COLUMN email DEFAULT 'none'; UPDATE t SET email = 'a@b' WHERE id = 1",
        "INSERT INTO t (id, email) VALUES (4, 'c@d'); UPDATE t SET email = 'e' WHERE id = 2",
    );
    pair.follows(
        "ALTER TABLE t RENAME COLUMN email TO mail",
        "INSERT INTO t (id, mail) VALUES (5, 'x'); DELETE FROM t WHERE id = 4",
    );
    // The database refuses this while triggers name the column, and takes it without.
    let error = pair
        .source
        .app
        .execute_batch("ALTER TABLE t DROP COLUMN mail");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("trigger _waystation_"), "{error}");
    let drops = pair.triggers("'DROP TRIGGER ' || name").join(";");
    pair.follows(
        &format!("BEGIN; {drops}; ALTER TABLE t DROP COLUMN mail; COMMIT"),
        "INSERT INTO t (id, v) VALUES (6, 'y')",
    );
    pair.follows(
        "ALTER TABLE t RENAME TO t2; ALTER TABLE t2 RENAME TO T",
        "INSERT INTO t (id, v) VALUES (7, 'z')",
    );
    // What refers to a table is altered with it.
    pair.follows(
        "ALTER TABLE users RENAME TO people; INSERT INTO people VALUES (3, 'eve')",
        "UPDATE t SET user = 3; UPDATE people SET name = 'adam' WHERE id = 3",
    );
    pair.follows(
        "DROP VIEW w; CREATE TABLE w (id INTEGER PRIMARY KEY, v); INSERT INTO w VALUES (1, 'w')",
        "UPDATE w SET v = 'x'",
    );
    pair.follows(
        "DROP TABLE w; CREATE VIEW W AS SELECT name FROM people",
        "INSERT INTO people VALUES (4, 'nod')",
    );
}

/// Nobody looked at tables that had changed while no site ran, as long as their
/// columns were the same.
#[test]
fn a_table_that_is_made_anew_while_no_site_runs_is_captured_as_before() {
    for sql in [
        "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, user INTEGER);
         INSERT INTO t VALUES (9, 'new', 1)",
        "ALTER TABLE t ADD COLUMN more; UPDATE t SET more = id",
    ] {
        let mut pair = Pair::new();
        pair.source.write("UPDATE t SET v = 'last' WHERE id = 3");
        drop(std::mem::replace(&mut pair.capture, Copy::captured("").2));
        pair.source.write(sql);
        let opened = pair.source.target.open(LifeId(1)).unwrap();
        pair.capture = opened.capture.unwrap();
        pair.check(sql);
        pair.follows("INSERT INTO t (id) VALUES (10)", "UPDATE t SET v = id");
    }
}

/// What changes nothing of a table sends none of its rows again.
#[test]
fn what_leaves_tables_as_they_are_writes_nothing() {
    let mut pair = Pair::new();
    let number = pair.done;
    pair.source.write("VACUUM; ANALYZE; REINDEX");
    assert_eq!(pair.capture.wait(number, Duration::ZERO).unwrap(), number);
    for _ in 0..2 {
        let version = || {
            pair.source
                .rows("SELECT quote(schema_version) FROM pragma_schema_version")
        };
        let before = version();
        let opened = pair.source.target.open(LifeId(1)).unwrap();
        let mut capture = opened.capture.unwrap();
        assert_eq!(capture.wait(number, Duration::ZERO).unwrap(), number);
        assert_eq!(version(), before, "the triggers stay what they are");
    }
    // Those of another version of this program are made anew, and nothing else.
    let [name, ..] = &pair.triggers("name")[..] else {
        panic!("no triggers")
    };
    let older =
        format!("DROP TRIGGER {name}; CREATE TRIGGER {name} AFTER INSERT ON t BEGIN SELECT 1; END");
    pair.source.write(&older);
    assert_eq!(pair.capture.wait(number, Duration::ZERO).unwrap(), number);
    pair.follows("INSERT INTO t (id) VALUES (10)", "DELETE FROM t");
}

/// A site that has a table anew from the log captures what is written to it there,
/// and not what came.
#[test]
fn a_table_that_came_anew_is_captured_where_it_came_to() {
    let mut pair = Pair::new();
    let (other, mut apply, mut own) = Copy::captured(SQL);
    begin(&mut apply);
    pair.source
        .write("ALTER TABLE t ADD COLUMN more; UPDATE t SET more = id");
    pair.check("it was altered");
    for number in 1..=pair.done {
        let payload = pair.capture.read(number - 1, 1, 1 << 20).unwrap().remove(0);
        apply_one(&mut apply, number, payload).unwrap();
    }
    assert_eq!(dump(&other, "t"), dump(&pair.source, "t"));
    assert_eq!(own.wait(0, Duration::ZERO).unwrap(), 0);
    other.write("UPDATE t SET more = 'own' WHERE id = 1");
    assert_eq!(own.wait(0, WAIT).unwrap(), 1);
    let payload = own.read(0, 1, 1 << 20).unwrap().remove(0);
    apply_one(&mut pair.apply, pair.done + 1, payload).unwrap();
    assert_eq!(dump(&pair.target, "t"), dump(&other, "t"));
}

/// A copy of which a part is there has no place in a table that is made anew.
#[test]
fn a_table_that_is_made_anew_under_a_part_of_a_copy_has_it_begin_anew() {
    let mut pair = Pair::new();
    pair.source.write("ALTER TABLE t ADD COLUMN more");
    let number = pair.capture.wait(pair.done, WAIT).unwrap();
    let payload = pair.capture.read(pair.done, 1, 1 << 20).unwrap().remove(0);
    let verdict = |table: &str| {
        let (_joiner, mut apply) = Copy::opened(SQL);
        begin(&mut apply);
        let one = (entry(number, payload.clone()), Verdict::Apply);
        let mut part = batch(vec![one], number);
        part.below = Some(Cursor::new(&keys::encode(table, [ValueRef::Integer(2)])));
        apply.apply(&part).map_err(|error| error.fault)
    };
    assert_eq!(verdict("t"), Err(ApplyFault::Unfilterable));
    assert_eq!(verdict("s"), Ok(()));
    assert_eq!(verdict("u"), Ok(()));
}

/// A trigger that ends all others after a row was written kept it from the other
/// sites.
#[test]
fn a_trigger_that_ends_all_others_does_not_end_ours() {
    let mut pair = Pair::new();
    pair.follows(
        "CREATE TRIGGER after_all AFTER INSERT ON t WHEN NEW.id > 50
             BEGIN SELECT raise ( ignore ); END; INSERT INTO t (id) VALUES (40), (60)",
        "INSERT INTO t (id) VALUES (41), (61)",
    );
    // Its name hid that it runs after the row was written.
    let mut pair = Pair::new();
    pair.follows(
        "CREATE TRIGGER beginning AFTER INSERT ON t WHEN NEW.id > 50
             BEGIN SELECT RAISE(IGNORE); END; INSERT INTO t (id) VALUES (40), (60)",
        "INSERT INTO t (id) VALUES (41), (61)",
    );
}

/// An index that allowed a value once and was dropped before its rows were looked at
/// still stood at the other sites when they came, and took rows away there. One that
/// was made was refused there, by rows that its REPLACE had taken away.
#[test]
fn rows_that_are_written_while_a_unique_index_comes_or_goes_arrive() {
    const LATER: &str = "INSERT OR REPLACE INTO t VALUES (30, 'later', 5), (31, 'later', 6)";
    let writes = [
        "BEGIN; DROP INDEX by_v; INSERT INTO t VALUES (9, 'a', 1); COMMIT",
        "INSERT INTO t VALUES (9, 'd', 7); DROP INDEX by_v; INSERT INTO t VALUES (10, 'b', 8)",
        "UPDATE t SET user = 10 + id; DROP INDEX by_user; CREATE UNIQUE INDEX by_user ON t (user);
         INSERT OR REPLACE INTO t VALUES (9, 'z', 11)",
        "DROP INDEX by_v; INSERT INTO t VALUES (9, 'a', 1);
         DELETE FROM t WHERE id = 1; CREATE UNIQUE INDEX \"by v\" ON T(v)",
    ];
    // For the keys that refer to them.
    let with_users = || {
        let mut pair = Pair::new();
        let users = "INSERT INTO users (id) VALUES (5), (6), (7), (8), (11), (12), (13)";
        pair.source.write(users);
        pair.check(users);
        pair
    };
    for sql in writes {
        with_users().follows(sql, LATER);
        // The triggers write down what is written while no site runs.
        let mut pair = with_users();
        drop(std::mem::replace(&mut pair.capture, Copy::captured("").2));
        pair.source.write(sql);
        let opened = pair.source.target.open(LifeId(1)).unwrap();
        pair.capture = opened.capture.unwrap();
        pair.check(sql);
        pair.follows(LATER, "DELETE FROM t WHERE id = 30");
    }
    // With nothing that waits the index goes alone.
    let mut pair = Pair::new();
    pair.source
        .write("DROP INDEX by_v; INSERT INTO users VALUES (9, 'nod')");
    let number = pair.capture.wait(pair.done, WAIT).unwrap();
    let payloads = pair.capture.read(number - 1, 1, 1 << 20).unwrap();
    let mut words = payloads[0].windows(12);
    assert!(!words.any(|word| word == b"CREATE TABLE"), "{payloads:?}");
    pair.check("the index is dropped");
}

/// All rows of a table that is altered are written down in one transaction, and arrive
/// in several entries.
#[test]
fn a_larger_table_that_is_altered_is_whole_in_the_end() {
    let mut pair = Pair::new();
    pair.source.write(
        "WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 80)
         INSERT INTO t SELECT i, hex(zeroblob(1 << 19)) || i, NULL FROM n",
    );
    ship(&mut pair.capture, &mut pair.done, &mut pair.apply);
    let before = pair.done;
    pair.source.write("ALTER TABLE t ADD COLUMN more DEFAULT 1");
    ship(&mut pair.capture, &mut pair.done, &mut pair.apply);
    assert!(pair.done > before + 1, "in several entries");
    let rows = "SELECT count(*) || ' ' || sum(id * more) || ' ' || sum(octet_length(v)) FROM t";
    assert_eq!(pair.target.rows(rows), pair.source.rows(rows));
    pair.source.write("DELETE FROM t WHERE id > 9");
    pair.check("small again");
}
