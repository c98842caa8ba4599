//! Triggers of an application beside those that capture.

use super::*;

/// Triggers that an application made after a site had begun to capture ran before
/// ours: the outbox ended with the row as it was before them, or with one that was
/// gone.
#[test]
fn what_an_applications_own_triggers_change_arrives() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, stamp);
        CREATE TABLE w (a TEXT, b INTEGER, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
        CREATE TABLE word (w TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, v);
        CREATE TABLE \"new\" (\"old\" INTEGER PRIMARY KEY, v)";
    const AFTER: &str = "
        CREATE TRIGGER made AFTER INSERT ON t WHEN NEW.v LIKE 'stamp%'
            BEGIN UPDATE t SET stamp = 'made' WHERE id = NEW.id; END;
        CREATE TRIGGER changed AFTER UPDATE OF v ON t WHEN NEW.v LIKE 'stamp%'
            BEGIN UPDATE t SET stamp = 'changed' WHERE id = NEW.id; END;
        CREATE TRIGGER gone AFTER INSERT ON t WHEN NEW.v = 'gone'
            BEGIN DELETE FROM t WHERE id = NEW.id; END;
        CREATE TRIGGER away AFTER UPDATE ON t WHEN NEW.v = 'away'
            BEGIN DELETE FROM t WHERE id = NEW.id; END;
        CREATE TRIGGER moved AFTER INSERT ON t WHEN NEW.v = 'moved'
            BEGIN UPDATE t SET id = id + 100 WHERE id = NEW.id; END;
        CREATE TRIGGER kept AFTER DELETE ON t WHEN OLD.v = 'kept'
            BEGIN INSERT INTO t VALUES (OLD.id, 'again', OLD.stamp); END;
        CREATE TRIGGER left AFTER UPDATE OF id ON t WHEN OLD.v = 'left'
            BEGIN INSERT INTO t VALUES (OLD.id, 'behind', NULL); END;
        CREATE TRIGGER upper AFTER INSERT ON word
            BEGIN UPDATE word SET w = upper(w) WHERE w = NEW.w; END;
        CREATE TRIGGER both AFTER UPDATE ON w WHEN NEW.v = 'swap'
            BEGIN UPDATE w SET b = -b, v = 'swapped' WHERE a = NEW.a AND b = NEW.b; END";
    const TEMP: &str = "CREATE TEMP TRIGGER now AFTER INSERT ON t WHEN NEW.v = 'temp'
        BEGIN UPDATE t SET stamp = 'temp' WHERE id = NEW.id; END;
        CREATE TEMP TRIGGER never AFTER INSERT ON t WHEN NEW.v = 'never'
        BEGIN DELETE FROM t WHERE id = NEW.id; END";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let mut done = 0;
    source.write(AFTER);
    source.write(TEMP);
    let steps = [
        "INSERT INTO t (v) VALUES ('stamp'), ('stamp it'), ('plain'), ('kept'), ('left')",
        "UPDATE t SET v = 'stamp anew' WHERE id IN (1, 3)",
        "INSERT INTO t (v) VALUES ('gone'); INSERT INTO t (v) VALUES ('moved'), ('never')",
        "INSERT INTO t (v) VALUES ('temp'), ('temp')",
        "UPDATE t SET v = 'away' WHERE id = 1",
        "DELETE FROM t WHERE v = 'kept'",
        "UPDATE t SET id = 50 WHERE v = 'left'",
        "INSERT OR REPLACE INTO t VALUES (2, 'stamp', NULL)",
        "INSERT INTO w VALUES ('a', 1, 'x'), ('a', 2, 'swap'), ('a', 3, 'x')",
        "UPDATE w SET v = 'swap'",
        "UPDATE w SET b = b - 10 WHERE b < 0",
        "INSERT INTO word VALUES ('one', 1), ('Two', 2)",
        "UPDATE word SET w = 'oNe' WHERE w = 'one'; DELETE FROM word WHERE w = 'two'",
        "INSERT INTO \"new\" VALUES (1, 'a'), (2, 'b'); UPDATE \"new\" SET v = 'c' WHERE \"old\" = 1",
        "DELETE FROM \"new\" WHERE \"old\" = 2; UPDATE \"new\" SET \"old\" = 9",
        "UPDATE t SET id = -id",
    ];
    for step in steps {
        source.write(step);
        ship_all(&mut capture, &mut done, &mut apply);
        for table in ["t", "w", "word", "new"] {
            assert_eq!(dump(&source, table), dump(&target, table), "after {step}");
        }
    }
    let stamps = "SELECT DISTINCT stamp FROM t WHERE stamp IS NOT NULL ORDER BY 1";
    assert_eq!(target.rows(stamps), ["changed", "made", "temp"]);
}

/// A number column in descending order is no row number, and takes NULL: rows with
/// it were captured, and came twice.
#[test]
fn a_key_in_descending_order_takes_no_null() {
    let (source, _apply, mut capture) =
        Copy::captured("CREATE TABLE d (id INTEGER PRIMARY KEY DESC, v)");
    let error = source.app.execute_batch("INSERT INTO d VALUES (NULL, 'x')");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("no NULL in its primary key"), "{error}");
    source.write("INSERT INTO d VALUES (1, 'x')");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    let copy = Copy::new(
        "CREATE TABLE d (id INTEGER PRIMARY KEY DESC, v); INSERT INTO d VALUES (NULL, 'x')",
    );
    let Err(AdapterError::Unfit(error)) = copy.target.captured().open(LifeId(1)) else {
        panic!("it was not refused")
    };
    assert!(
        error.contains("table d has a row with NULL in column id"),
        "{error}"
    );
}

/// A delete took each row whose key the column compares as equal, also where the key
/// tells them apart.
#[test]
fn a_delete_takes_the_row_with_exactly_its_key() {
    const SQL: &str = "CREATE TABLE word (w TEXT COLLATE NOCASE NOT NULL, v,
        PRIMARY KEY (w COLLATE BINARY)); INSERT INTO word VALUES ('a', 1), ('A', 2), ('b', 3)";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    source.write("DELETE FROM word WHERE w = 'a' COLLATE BINARY");
    ship(&mut capture, &mut 0, &mut apply);
    assert_eq!(dump(&target, "word"), dump(&source, "word"));
    assert_eq!(target.rows("SELECT w FROM word ORDER BY v"), ["A", "b"]);
}

/// Rows that no entry can hold, and keys that no cursor can name, were captured: the
/// capture stood for ever, and a copy ended its donor's connection again and again.
#[test]
fn rows_and_keys_that_are_too_large_are_refused_where_they_are_written() {
    let (source, _apply, mut capture) =
        Copy::captured("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a, b)");
    let refused = |sql: &str, said: &str| {
        let error = source.app.execute_batch(sql).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    let large = "INSERT INTO t VALUES ('a', zeroblob(32 << 20), zeroblob(32 << 20))";
    refused(large, "table t is synced: no row of more than");
    let long = "INSERT INTO t (id) VALUES (hex(zeroblob(4000)))";
    refused(long, "table t is synced: no key of more than");
    source.write("INSERT INTO t (id, a) VALUES (hex(zeroblob(3500)), zeroblob(1 << 20))");
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    // A table that has such a row when it is made stops the capture by its name.
    source.write(
        "CREATE TABLE u (id TEXT PRIMARY KEY NOT NULL);
         INSERT INTO u VALUES (hex(zeroblob(9000)))",
    );
    let Err(AdapterError::Unfit(error)) = capture.wait(1, WAIT) else {
        panic!("it went on")
    };
    assert!(error.contains("table u has a key of more than"), "{error}");
    source.write("DROP TABLE u; INSERT INTO t (id) VALUES ('b')");
    assert_eq!(capture.wait(1, WAIT).unwrap(), 2);
}

/// A transaction of more than eight megabytes was cut into several, also while its
/// site ran.
#[test]
fn a_large_transaction_is_one_entry_and_a_larger_one_arrives_whole_in_the_end() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)";
    let (source, _apply, mut capture) = Copy::captured(SQL);
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let write = |rows: u32| {
        source.write(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT OR REPLACE INTO t SELECT i, zeroblob(1 << 20) FROM n"
        ));
    };
    write(20);
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    let mut done = 0;
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(done, 1);
    write(70);
    ship(&mut capture, &mut done, &mut apply);
    assert_eq!(done, 3);
    let rows = "SELECT group_concat(id) || ' ' || sum(length(v)) FROM t";
    assert_eq!(target.rows(rows), source.rows(rows));
}

/// A trigger that was made after ours, and changed the value by which its row had taken
/// the place of another, hid that from the other sites: the row stayed there.
#[test]
fn a_row_whose_place_was_taken_goes_also_where_a_trigger_changes_the_taker() {
    const SQL: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v);
        INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', 'x'), (3, 'c', 'x'), (4, 'd', 'x')";
    const TRIGGERS: [&str; 2] = [
        "CREATE TRIGGER taking AFTER INSERT ON t WHEN NEW.v = 'taker'
             BEGIN UPDATE t SET u = 'u' || id WHERE id = NEW.id; END",
        "CREATE TRIGGER changing AFTER UPDATE ON t WHEN NEW.v = 'changer'
             BEGIN UPDATE t SET u = 'u' || id, v = 'changed' WHERE id = NEW.id; END",
    ];
    const TAKE: &str = "INSERT OR REPLACE INTO t VALUES (12, 'a', 'taker');
        UPDATE OR REPLACE t SET u = 'b', v = 'changer' WHERE id = 3";
    for is_looked_at in [false, true] {
        let (source, _apply, mut capture) = Copy::captured(SQL);
        let (target, mut apply) = Copy::opened(SQL);
        begin(&mut apply);
        let mut done = 0;
        source.write(&TRIGGERS.join(";"));
        if is_looked_at {
            ship(&mut capture, &mut done, &mut apply);
        }
        source.write(TAKE);
        ship(&mut capture, &mut done, &mut apply);
        assert_eq!(
            source.rows("SELECT u FROM t ORDER BY id"),
            ["u3", "d", "u12"]
        );
        assert_eq!(dump(&target, "t"), dump(&source, "t"), "{is_looked_at}");
        source.write("INSERT OR REPLACE INTO t VALUES (13, 'd', 'taker')");
        ship(&mut capture, &mut done, &mut apply);
        assert_eq!(dump(&target, "t"), dump(&source, "t"), "{is_looked_at}");
    }
}
