//! Keys of rows as bytes whose order is `SQLite`'s.
//!
//! A key is the table's name and the values of its primary key. Compared as bytes
//! two keys are in the order of the names, then of the values: NULL, numbers, text,
//! blobs, as in "Datatypes In `SQLite`", section 4.1, with binary collation. So a
//! cursor of a snapshot is a place among the rows of all tables.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use waystation_replica::Cursor;

const AFTER: u8 = 0;
const NULL: u8 = 1;
const NUMBER: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const INTEGER: u8 = 0;
const REAL: u8 = 1;
const SIGN: u64 = 1 << 63;

/// The key of a row. Cost: O(bytes).
pub(super) fn encode<'v>(table: &str, values: impl IntoIterator<Item = ValueRef<'v>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(table.len() + 24);
    put_bytes(&mut out, table.as_bytes());
    for value in values {
        match value {
            ValueRef::Null => out.push(NULL),
            ValueRef::Integer(number) => put_integer(&mut out, number),
            ValueRef::Real(number) => put_real(&mut out, number),
            ValueRef::Text(text) => {
                out.push(TEXT);
                put_bytes(&mut out, text);
            }
            ValueRef::Blob(blob) => {
                out.push(BLOB);
                put_bytes(&mut out, blob);
            }
        }
    }
    out
}

/// A value of a key. A text is bytes: nothing says that they are UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Text(Vec<u8>),
    /// Anything else.
    Value(Value),
}

impl Part {
    pub(super) fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Value(value) => value.into(),
        }
    }
}

impl ToSql for Part {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_ref()))
    }
}

/// A place among the rows of all tables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) table: String,
    /// None for the beginning of the table.
    pub(super) key: Vec<Part>,
    /// After the row with this key, not at it.
    pub(super) is_after: bool,
}

/// The place of a cursor: a key, or a key and a zero for what comes after it. None
/// if it is neither.
pub(super) fn decode(cursor: &Cursor) -> Option<Place> {
    let (table, mut rest) = take_bytes(cursor.as_bytes())?;
    let (mut key, mut is_after) = (Vec::new(), false);
    while let Some((kind, after)) = rest.split_first() {
        let (value, after) = match *kind {
            AFTER if after.is_empty() && !key.is_empty() => {
                is_after = true;
                break;
            }
            NULL => (Part::Value(Value::Null), after),
            NUMBER => {
                let (number, after) = take_number(after)?;
                (Part::Value(number), after)
            }
            TEXT => {
                let (text, after) = take_bytes(after)?;
                (Part::Text(text), after)
            }
            BLOB => {
                let (blob, after) = take_bytes(after)?;
                (Part::Value(Value::Blob(blob)), after)
            }
            _ => return None,
        };
        key.push(value);
        rest = after;
    }
    let table = String::from_utf8(table).ok()?;
    Some(Place {
        table,
        key,
        is_after,
    })
}

/// Bytes, of which none is a prefix of another: a zero is followed by 255, and two
/// zeros end them.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(255);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn take_bytes(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 0, after @ ..] => return Some((out, after)),
            [0, 255, after @ ..] => {
                out.push(0);
                rest = after;
            }
            [byte, after @ ..] if *byte != 0 => {
                out.push(*byte);
                rest = after;
            }
            _ => return None,
        }
    }
}

/// Numbers by the nearest double first, then by their whole part: of several
/// integers with one nearest double this decides, and a double that is not whole
/// shares its place with none.
fn put_integer(out: &mut Vec<u8>, number: i64) {
    #[allow(clippy::cast_precision_loss, reason = "the whole part follows")]
    put_number(out, number as f64, number, INTEGER);
}

fn put_real(out: &mut Vec<u8>, number: f64) {
    #[allow(clippy::cast_possible_truncation, reason = "it saturates, in order")]
    put_number(out, number, number as i64, REAL);
}

fn put_number(out: &mut Vec<u8>, near: f64, whole: i64, kind: u8) {
    // Zero has two signs, which are equal.
    let bits = if near == 0.0 { 0 } else { near.to_bits() };
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    out.push(NUMBER);
    out.extend_from_slice(&ordered.to_be_bytes());
    out.extend_from_slice(&(whole.cast_unsigned() ^ SIGN).to_be_bytes());
    out.push(kind);
}

fn take_number(bytes: &[u8]) -> Option<(Value, &[u8])> {
    let (ordered, rest) = bytes.split_first_chunk()?;
    let (whole, rest) = rest.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let ordered = u64::from_be_bytes(*ordered);
    let bits = if ordered & SIGN == 0 {
        !ordered
    } else {
        ordered & !SIGN
    };
    let whole = (u64::from_be_bytes(*whole) ^ SIGN).cast_signed();
    match *kind {
        INTEGER => Some((Value::Integer(whole), rest)),
        REAL => Some((Value::Real(f64::from_bits(bits)), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &Value) -> Vec<u8> {
        encode("t", [ValueRef::from(value)])
    }

    fn part(value: Value) -> Part {
        match value {
            Value::Text(text) => Part::Text(text.into_bytes()),
            value => Part::Value(value),
        }
    }

    fn values() -> Vec<Value> {
        let integers = [
            i64::MIN,
            -(1 << 53) - 1,
            -1,
            0,
            1,
            1 << 53,
            (1 << 53) + 1,
            i64::MAX,
        ];
        let reals = [
            f64::NEG_INFINITY,
            -1.5,
            -0.25,
            0.5,
            1.5,
            9e15 + 0.5,
            1e300,
            f64::INFINITY,
        ];
        let texts = ["", "\0", "\0\0", "\0a", "a", "a\0", "aa", "b", "ä"];
        let mut all = vec![Value::Null];
        all.extend(integers.map(Value::Integer));
        all.extend(reals.map(Value::Real));
        all.extend(texts.map(|text| Value::Text(text.to_owned())));
        all.extend(texts.map(|text| Value::Blob(text.as_bytes().to_vec())));
        all.push(Value::Blob(vec![0, 255, 0, 0, 255]));
        all
    }

    /// The order that the database itself puts the values in decides.
    #[test]
    fn keys_are_in_the_order_of_the_database() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (v)").unwrap();
        for value in values() {
            connection
                .execute("INSERT INTO t VALUES (?1)", [value])
                .unwrap();
        }
        let mut statement = connection.prepare("SELECT v FROM t ORDER BY v").unwrap();
        let rows = statement
            .query_map([], |row| row.get::<_, Value>(0))
            .unwrap();
        let sorted: Vec<Vec<u8>> = rows.map(|value| key(&value.unwrap())).collect();
        assert_eq!(sorted.len(), values().len());
        assert!(sorted.is_sorted());
        for (index, one) in sorted.iter().enumerate() {
            assert!(!sorted[..index].contains(one));
        }
    }

    #[test]
    fn keys_decode_to_what_was_encoded() {
        let place = |table: &str, key: &[Value], is_after| {
            Some(Place {
                table: table.to_owned(),
                key: key.iter().cloned().map(part).collect(),
                is_after,
            })
        };
        for value in values() {
            let mut bytes = key(&value);
            let value = [value];
            assert_eq!(decode(&Cursor::new(&bytes)), place("t", &value, false));
            bytes.push(0);
            assert_eq!(decode(&Cursor::new(&bytes)), place("t", &value, true));
        }
        let several = [Value::Integer(7), Value::Text("x".to_owned())];
        let bytes = encode("a\0b", several.iter().map(ValueRef::from));
        assert_eq!(decode(&Cursor::new(&bytes)), place("a\0b", &several, false));
        // Not each text is UTF-8.
        let bytes = encode("t", [ValueRef::Text(&[255, 0, 0xc3])]);
        let place = decode(&Cursor::new(&bytes)).unwrap();
        assert_eq!(place.key, [Part::Text(vec![255, 0, 0xc3])]);
        assert_eq!(encode("t", place.key.iter().map(Part::as_ref)), bytes);
        for cut in 0..bytes.len() {
            let _ = decode(&Cursor::new(&bytes[..cut]));
        }
        assert_eq!(decode(&Cursor::new(b"")), None);
        assert_eq!(decode(&Cursor::new(&[b't', 0, 0, 0])), None);
        assert_eq!(decode(&Cursor::new(&[b't', 0, 0, 9])), None);
    }

    #[test]
    fn tables_are_in_the_order_of_their_names() {
        let last = encode("a", [ValueRef::Blob(&[255; 9])]);
        assert!(last < encode("a\0", []));
        assert!(encode("a\0", []) < encode("aa", []));
    }
}
