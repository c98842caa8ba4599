//! The bytes of `docs/formats/sync-changes.md`.

use std::fmt::Write as _;

use super::*;

/// Entries that one version wrote are applied by the next one: these bytes stay.
#[test]
fn captured_writes_have_the_golden_bytes() {
    let (source, _apply, mut capture) =
        Copy::captured("CREATE TABLE t (a TEXT NOT NULL, b INTEGER, c, PRIMARY KEY (b, a))");
    source.write(
        "BEGIN; INSERT INTO t VALUES ('x', -2, 0.5), ('', 7, NULL);
         UPDATE t SET c = x'00ff' WHERE b = 7; DELETE FROM t WHERE b = -2;
         CREATE VIEW v AS SELECT 1; COMMIT",
    );
    assert_eq!(capture.wait(0, WAIT).unwrap(), 1);
    let payload = capture.read(0, 1, 1 << 20).unwrap().remove(0);
    let mut hex = String::new();
    for byte in &payload {
        write!(hex, "{byte:02x}").unwrap();
    }
    let expected = [
        "01 0100",
        "01000000 74 0300 01000000 61 01000000 62 01000000 63 0200 0100 0000",
        "01 0000 03 01000000 78 01 feffffffffffffff 02 000000000000e03f",
        "01 0000 03 00000000 01 0700000000000000 00",
        "01 0000 03 00000000 01 0700000000000000 04 02000000 00ff",
        "02 0000 01 feffffffffffffff 03 01000000 78",
        "03 01000000 76 19000000 43524541544520564945572076204153 2053454c4543542031",
    ];
    assert_eq!(hex, expected.concat().replace(' ', ""));
}
