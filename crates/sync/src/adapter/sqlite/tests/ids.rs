//! Ids that plain statements leave to the database.

use super::super::statement::{Guard, RunError};
use super::*;

const SQL: &str = "
CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE);
CREATE TABLE \"odd \"\" one\" (\"the id\" INTEGER PRIMARY KEY AUTOINCREMENT, v);
CREATE TABLE like_log (id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE);
CREATE TABLE plain (id INTEGER PRIMARY KEY, v DEFAULT 'autoincrement');
CREATE TABLE bare (id INT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE source (id INTEGER PRIMARY KEY, other, v);
CREATE TABLE said (id INTEGER PRIMARY KEY, v);
CREATE TRIGGER saying AFTER INSERT ON said BEGIN INSERT INTO log (v) VALUES (NEW.v); END;
CREATE TABLE told (id INTEGER PRIMARY KEY, v);
CREATE TRIGGER telling AFTER INSERT ON told BEGIN INSERT INTO log VALUES (NEW.id, NEW.v); END;
CREATE VIEW seen AS SELECT id, v FROM log;
CREATE TRIGGER seeing INSTEAD OF INSERT ON seen BEGIN INSERT INTO log VALUES (NEW.id, NEW.v); END;
INSERT INTO log VALUES (5, 'five');
INSERT INTO like_log VALUES (50, 'fifty');
INSERT INTO source VALUES (1, 11, 'a'), (2, NULL, 'b');
";

/// What a statement leaves, in a transaction of its own on a connection with triggers.
fn run(app: &mut Connection, sql: &str) -> Result<(), RunError> {
    let guard = Guard::install(app).unwrap();
    let transaction = app.transaction().unwrap();
    guard.run(&transaction, sql)?;
    transaction.commit().unwrap();
    Ok(())
}

fn refusal(sql: &str) -> String {
    let mut copy = Copy::new(SQL);
    let dumps = |copy: &Copy| ["log", "plain", "sqlite_sequence"].map(|table| dump(copy, table));
    let before = dumps(&copy);
    let error = match run(&mut copy.app, sql) {
        Err(RunError::Differs(error)) => error,
        other => panic!("{sql}: {other:?}"),
    };
    assert_eq!(dumps(&copy), before, "{sql}");
    error
}

/// The story: the counter of `AUTOINCREMENT` is not copied. Copies that were proven equal
/// gave a row that was published without an id different ones.
#[test]
fn an_id_that_comes_from_a_counter_is_refused() {
    let cases = [
        "INSERT INTO log (v) VALUES ('x')",
        "INSERT INTO log VALUES (NULL, 'x')",
        "INSERT INTO log VALUES (CASE WHEN 1 > 2 THEN 7 END, 'x')",
        "INSERT INTO log VALUES (7, 'x'), (NULL, 'y'), (NULL, 'z')",
        "INSERT INTO log (v) SELECT v FROM source",
        "INSERT INTO log SELECT other, v FROM source",
        "INSERT INTO log SELECT max(id), 'x' FROM plain",
        "INSERT INTO log (v) VALUES ('five') ON CONFLICT (v) DO UPDATE SET v = 'six'",
        "INSERT OR IGNORE INTO log (v) VALUES ('five')",
        "REPLACE INTO log (v) VALUES ('five')",
        "INSERT INTO log (v) VALUES ('x') RETURNING id",
        "INSERT INTO log DEFAULT VALUES",
        "INSERT INTO said VALUES (1, 'x')",
        "INSERT INTO seen (v) VALUES ('x')",
        "INSERT INTO plain VALUES (1, 'x'); WITH x (v) AS (SELECT 'x') INSERT INTO log (v) SELECT v FROM x",
    ];
    for sql in cases {
        let error = refusal(sql);
        assert!(error.contains("table log counts its ids"), "{sql}: {error}");
        assert!(error.contains("give id in the statement"), "{sql}: {error}");
    }
    let error = refusal("INSERT INTO \"odd \"\" one\" (v) VALUES ('x')");
    assert!(error.contains("give the id in the statement"), "{error}");
}

#[test]
fn an_id_that_is_given_is_taken_and_the_counter_follows_it() {
    let cases = [
        ("INSERT INTO log VALUES (9, 'x')", "9"),
        ("INSERT INTO log VALUES (2, 'x')", "5"),
        ("INSERT INTO log VALUES (7, 'x'), (8, 'y')", "8"),
        ("INSERT INTO log SELECT id + 20, v FROM source", "22"),
        ("INSERT INTO log SELECT * FROM like_log", "50"),
        ("INSERT INTO log SELECT 1 + max(id), 'x' FROM log", "6"),
        (
            "INSERT INTO log VALUES (9, 'five') ON CONFLICT (v) DO UPDATE SET v = 'x'",
            "5",
        ),
        ("REPLACE INTO log VALUES (9, 'five')", "9"),
        ("INSERT INTO told VALUES (30, 'x')", "30"),
        ("INSERT INTO seen VALUES (31, 'x')", "31"),
        ("INSERT INTO log SELECT id, v FROM source WHERE id > 9", "5"),
        ("UPDATE log SET v = 'x'; DELETE FROM log", "5"),
    ];
    for (sql, stands) in cases {
        let mut copy = Copy::new(SQL);
        run(&mut copy.app, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let counters = |name: &str| {
            copy.rows(&format!(
                "SELECT quote(seq) FROM sqlite_sequence WHERE name = '{name}'"
            ))
        };
        assert_eq!(counters("log"), [stands], "{sql}");
        assert_eq!(counters("like_log"), ["50"], "{sql}");
        assert_eq!(counters("odd \" one"), Vec::<String>::new(), "{sql}");
    }
}

/// Ids of other tables follow from their rows, which equal copies agree on.
#[test]
fn an_id_that_follows_from_the_rows_is_given() {
    let mut copy = Copy::new(SQL);
    let sql = "INSERT INTO plain (v) VALUES ('x'), ('y'); INSERT INTO plain SELECT NULL, 'z';
        INSERT INTO bare VALUES (1, 'x')";
    run(&mut copy.app, sql).unwrap();
    assert_eq!(dump(&copy, "plain"), ["1,'x'", "2,'y'", "3,'z'"]);
}

/// After the largest one there is they are random.
#[test]
fn an_id_after_the_largest_one_is_refused() {
    let largest = i64::MAX;
    let before = format!("INSERT INTO plain VALUES ({largest}, 'x')");
    for sql in [
        format!("INSERT INTO plain VALUES ({largest}, 'x'), (NULL, 'y')"),
        format!("{before}; INSERT INTO plain (v) VALUES ('y')"),
    ] {
        let error = refusal(&sql);
        assert!(error.contains("table plain has the largest id"), "{error}");
    }
    let mut copy = Copy::new(SQL);
    copy.write(&before);
    let delete = "INSERT INTO plain (v) SELECT 'y'; DELETE FROM plain";
    assert!(matches!(
        run(&mut copy.app, delete),
        Err(RunError::Differs(_))
    ));
    run(&mut copy.app, "UPDATE plain SET v = 'z'").unwrap();
    // A counter that stands there gives none at all, which is not a full disk.
    copy.write(&format!("INSERT INTO log VALUES ({largest}, 'x')"));
    let full = run(&mut copy.app, "INSERT INTO log (v) VALUES ('y')");
    assert!(matches!(full, Err(RunError::Differs(_))), "{full:?}");
}

#[test]
fn where_a_counter_stands_is_not_read() {
    for sql in [
        "INSERT INTO log SELECT seq + 1, 'x' FROM sqlite_sequence",
        "UPDATE plain SET v = (SELECT count(*) FROM sqlite_sequence)",
    ] {
        let run = run(&mut Copy::new(SQL).app, sql);
        assert!(matches!(run, Err(RunError::Database(_))), "{sql}: {run:?}");
    }
    let sql = "ALTER TABLE log RENAME TO old; DROP TABLE like_log;
        CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
        INSERT INTO log SELECT * FROM old; DROP TABLE old";
    let mut copy = Copy::new("CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
        CREATE TABLE like_log (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO log VALUES (3, 1)");
    run(&mut copy.app, sql).unwrap();
    assert_eq!(dump(&copy, "sqlite_sequence"), ["'log',3"]);
}

/// Copies with equal rows and other counters stay equal, and stand at the same entry.
#[test]
fn copies_whose_counters_differ_refuse_the_same_entries() {
    const SQL: &str = "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, v)";
    let (one, mut apply) = Copy::opened(SQL);
    let (other, mut apply_other) = Copy::opened(SQL);
    other.write("INSERT INTO log VALUES (99, 'gone'); DELETE FROM log");
    for apply in [&mut apply, &mut apply_other] {
        begin(apply);
        let error = apply_one(apply, 1, "INSERT INTO log (v) VALUES ('a')").unwrap_err();
        assert_eq!(error.fault, ApplyFault::Poison(Seq(1)));
        assert!(error.error.contains("table log counts its ids"), "{error}");
        apply_one(apply, 1, "INSERT INTO log VALUES (7, 'a')").unwrap();
    }
    assert_eq!(one.ranges(), other.ranges());
    assert_eq!(dump(&other, "sqlite_sequence"), ["'log',99"]);
}
