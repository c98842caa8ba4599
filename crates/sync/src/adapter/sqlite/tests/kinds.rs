//! Tables of every kind that can be captured, and rows that change places.

use super::*;

const SQL: &str = "
    CREATE TABLE made (id INTEGER PRIMARY KEY AUTOINCREMENT, a INT,
        b AS (a * 2) STORED UNIQUE, c AS (a || 'x') VIRTUAL, d DEFAULT 7);
    CREATE TABLE strict (k TEXT PRIMARY KEY NOT NULL, v ANY, n INT) STRICT, WITHOUT ROWID;
    CREATE TABLE tree (id INTEGER PRIMARY KEY,
        parent INTEGER REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE
            DEFERRABLE INITIALLY DEFERRED,
        place INTEGER UNIQUE);
    CREATE TABLE many (x, y BLOB NOT NULL, z REAL NOT NULL, v,
        PRIMARY KEY (z, y), UNIQUE (v COLLATE NOCASE), CHECK (v <> 'never')) WITHOUT ROWID;
    CREATE INDEX part ON many (x) WHERE x > 5;
    CREATE VIEW seen AS SELECT id, a FROM made;
    CREATE TRIGGER via INSTEAD OF INSERT ON seen
        BEGIN INSERT INTO made (a) VALUES (NEW.a); END";

const STEPS: [&str; 15] = [
    "INSERT INTO made (a) VALUES (1), (2), (3)",
    // The one that is in the way goes, and no trigger says so.
    "INSERT OR REPLACE INTO made (id, a, d) VALUES (9, 2, NULL)",
    "UPDATE made SET a = -a; DELETE FROM made WHERE c = '-3x'",
    "INSERT INTO seen (a) VALUES (100)",
    "INSERT INTO made (a) VALUES (100) ON CONFLICT (b) DO UPDATE SET d = 1 RETURNING id",
    "INSERT INTO strict VALUES ('a', 1, 1), ('b', x'00', 2), ('c', 'text', NULL), ('d', 1.5, 4)",
    "UPDATE strict SET v = k || v, k = k || k WHERE n > 1; REPLACE INTO strict VALUES ('a', 2, 3)",
    // Each row names one that comes later.
    "BEGIN; INSERT INTO tree VALUES (1, 2, 1), (2, 3, 2), (3, 3, 3), (4, 3, 4); COMMIT",
    // Two rows change places by way of a third.
    "BEGIN; UPDATE tree SET place = 0 WHERE id = 1; UPDATE tree SET place = 1 WHERE id = 2;
     UPDATE tree SET place = 2 WHERE id = 1; COMMIT",
    "UPDATE tree SET id = 30 WHERE id = 3",
    "DELETE FROM tree WHERE id = 2; UPDATE tree SET id = id - 1, place = -place",
    "INSERT INTO many VALUES (1, x'00', 1, 'A'), (9, x'0001', -0.0, 'b'), (NULL, x'', 1e300, NULL)",
    "UPDATE OR IGNORE many SET v = 'a'; UPDATE OR REPLACE many SET v = 'B' WHERE x = 1",
    "INSERT INTO many SELECT x, CAST(y || 'f' AS BLOB), z * 2, v || v FROM many WHERE true
     ON CONFLICT DO NOTHING",
    "DELETE FROM tree; DELETE FROM made WHERE id IN (SELECT max(id) FROM made)",
];

/// Computed columns, strict tables, rows that name each other, and conflicts that take
/// other rows away: what the source has in the end is what the target has.
#[test]
fn tables_of_every_kind_arrive() {
    let (source, mut own, mut capture) = Copy::captured(SQL);
    begin(&mut own);
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let mut done = 0;
    for step in STEPS {
        source.write(step);
        ship_all(&mut capture, &mut done, &mut apply);
        for table in ["made", "strict", "tree", "many"] {
            assert_eq!(dump(&source, table), dump(&target, table), "after {step}");
        }
        let computed = "SELECT quote(b) || quote(c) FROM made ORDER BY id";
        assert_eq!(source.rows(computed), target.rows(computed), "after {step}");
    }
    assert_eq!(target.rows("PRAGMA integrity_check"), ["ok"]);
    assert_eq!(source.ranges(), target.ranges());
}

/// The same steps as one transaction: what counts is what is there in the end.
#[test]
fn tables_of_every_kind_arrive_in_one_transaction() {
    let (source, mut own, mut capture) = Copy::captured(SQL);
    begin(&mut own);
    let (target, mut apply) = Copy::opened(SQL);
    begin(&mut apply);
    let inner = |step: &str| step.replace("BEGIN; ", "").replace("; COMMIT", "");
    let all: Vec<String> = STEPS.iter().map(|step| inner(step)).collect();
    source.write(&format!("BEGIN; {}; COMMIT", all.join("; ")));
    let mut done = 0;
    ship_all(&mut capture, &mut done, &mut apply);
    assert_eq!(done, 1, "one transaction is one entry");
    for table in ["made", "strict", "tree", "many"] {
        assert_eq!(dump(&source, table), dump(&target, table), "{table}");
    }
    assert_eq!(source.ranges(), target.ranges());
}
