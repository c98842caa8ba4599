//! Changes of rows as the payload of an entry, and the rows of a chunk: the bytes of
//! `docs/formats/sync-changes.md`.

use std::sync::Arc;

use rusqlite::types::{Value, ValueRef};

/// The first byte. A statement begins with a letter, a blank or a comment.
pub(super) const KIND: u8 = 1;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const MAKE: u8 = 3;
const DROP: u8 = 4;

/// A table as those see it who write and read its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Its name.
    pub(super) name: String,
    /// Its stored columns, in the order of their values.
    pub(super) columns: Vec<String>,
    /// Which of them are the primary key, in its order.
    pub(super) key: Vec<usize>,
}

impl Shape {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, self.name.as_bytes());
        put_count(out, self.columns.len());
        for column in &self.columns {
            put_string(out, column.as_bytes());
        }
        put_count(out, self.key.len());
        self.key.iter().for_each(|index| put_count(out, *index));
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let shape = reader.shape()?;
        reader.0.is_empty().then_some(shape)
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change<'p> {
    /// A row takes the place of the one with its key.
    Put {
        table: usize,
        row: Vec<ValueRef<'p>>,
    },
    /// The row with a key goes.
    Delete {
        table: usize,
        key: Vec<ValueRef<'p>>,
    },
    /// A table, index, view or trigger is made, if there is none with its name.
    Make { name: &'p str, sql: &'p str },
    /// A table, index, view or trigger goes, if there is one.
    Drop { name: &'p str, sql: &'p str },
}

/// Builds a payload.
#[derive(Debug, Default)]
pub(super) struct Writer {
    shapes: Vec<Shape>,
    changes: Vec<u8>,
}

impl Writer {
    /// Bytes so far, about.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    fn table(&mut self, shape: &Shape) -> usize {
        // Changes of one table follow each other.
        let found = self.shapes.iter().rposition(|one| one == shape);
        found.unwrap_or_else(|| {
            self.shapes.push(shape.clone());
            self.shapes.len() - 1
        })
    }

    pub(super) fn put<'v>(&mut self, shape: &Shape, row: impl IntoIterator<Item = ValueRef<'v>>) {
        self.row(PUT, shape, row);
    }

    pub(super) fn delete<'v>(
        &mut self,
        shape: &Shape,
        key: impl IntoIterator<Item = ValueRef<'v>>,
    ) {
        self.row(DELETE, shape, key);
    }

    fn row<'v>(&mut self, kind: u8, shape: &Shape, row: impl IntoIterator<Item = ValueRef<'v>>) {
        let table = self.table(shape);
        self.changes.push(kind);
        put_count(&mut self.changes, table);
        for value in row {
            put_value(&mut self.changes, value);
        }
    }

    pub(super) fn make(&mut self, name: &str, sql: &str) {
        self.schema(MAKE, name, sql);
    }

    pub(super) fn drop(&mut self, name: &str, sql: &str) {
        self.schema(DROP, name, sql);
    }

    fn schema(&mut self, kind: u8, name: &str, sql: &str) {
        self.changes.push(kind);
        put_string(&mut self.changes, name.as_bytes());
        put_string(&mut self.changes, sql.as_bytes());
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = vec![KIND];
        put_count(&mut out, self.shapes.len());
        self.shapes.iter().for_each(|shape| shape.encode(&mut out));
        out.extend_from_slice(&self.changes);
        out
    }
}

/// A payload being read: its tables, then one change after the other.
#[derive(Clone, Debug)]
pub(super) struct Changes<'p> {
    /// The tables that changes name by index.
    pub(super) shapes: Arc<[Shape]>,
    rest: Reader<'p>,
}

impl<'p> Changes<'p> {
    /// Begins to read; none if it is not a payload of changes. Cost: O(tables).
    pub(super) fn read(payload: &'p [u8]) -> Option<Self> {
        let mut rest = Reader(payload);
        if rest.byte()? != KIND {
            return None;
        }
        let count = rest.count()?;
        let mut shapes = Vec::new();
        for _ in 0..count {
            shapes.push(rest.shape()?);
        }
        let shapes = shapes.into();
        Some(Self { shapes, rest })
    }

    /// The changes of a payload whose tables were read before.
    pub(super) fn behind(rest: &'p [u8], shapes: Arc<[Shape]>) -> Self {
        let rest = Reader(rest);
        Self { shapes, rest }
    }

    /// How many bytes were not read.
    pub(super) fn bytes_left(&self) -> usize {
        self.rest.0.len()
    }

    /// The next change; `Ok(None)` at the end.
    ///
    /// # Errors
    /// The bytes make no sense.
    pub(super) fn next(&mut self) -> Result<Option<Change<'p>>, Nonsense> {
        if self.rest.0.is_empty() {
            return Ok(None);
        }
        self.change().map(Some).ok_or(Nonsense)
    }

    fn change(&mut self) -> Option<Change<'p>> {
        let kind = self.rest.byte()?;
        Some(match kind {
            PUT => {
                let table = self.rest.count()?;
                let count = self.shapes.get(table)?.columns.len();
                let row = self.rest.values(count)?;
                Change::Put { table, row }
            }
            DELETE => {
                let table = self.rest.count()?;
                let count = self.shapes.get(table)?.key.len();
                let key = self.rest.values(count)?;
                Change::Delete { table, key }
            }
            MAKE | DROP => {
                let name = self.rest.text()?;
                let sql = self.rest.text()?;
                if kind == MAKE {
                    Change::Make { name, sql }
                } else {
                    Change::Drop { name, sql }
                }
            }
            _ => return None,
        })
    }
}

/// The values of some columns of each row that a payload puts into a table.
pub(super) fn rows_put(payload: &[u8], table: &str, columns: &[&str]) -> Vec<Vec<Value>> {
    let Some(mut changes) = Changes::read(payload) else {
        return Vec::new();
    };
    let places_in = |shape: &Shape| {
        let place = |name: &&str| shape.columns.iter().position(|one| one == name);
        let places = columns.iter().map(place).collect::<Option<Vec<_>>>();
        places.filter(|_| shape.name == table)
    };
    let places: Vec<Option<Vec<usize>>> = changes.shapes.iter().map(places_in).collect();
    let mut rows = Vec::new();
    while let Ok(Some(change)) = changes.next() {
        if let Change::Put { table, row } = change
            && let Some(places) = &places[table]
        {
            let values = places.iter().map(|place| Value::try_from(row[*place]));
            rows.extend(values.collect::<Result<Vec<_>, _>>().ok());
        }
    }
    rows
}

/// A payload as it is written after it was read.
pub(super) fn again(payload: &[u8]) -> Option<Vec<u8>> {
    let mut changes = Changes::read(payload)?;
    let shapes = changes.shapes.clone();
    let mut writer = Writer::default();
    while let Some(change) = changes.next().ok()? {
        match change {
            Change::Put { table, row } => writer.put(&shapes[table], row),
            Change::Delete { table, key } => writer.delete(&shapes[table], key),
            Change::Make { name, sql } => writer.make(name, sql),
            Change::Drop { name, sql } => writer.drop(name, sql),
        }
    }
    Some(writer.finish())
}

/// Bytes that are no changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload of changes makes no sense")]
pub(super) struct Nonsense;

#[derive(Clone, Copy, Debug)]
struct Reader<'p>(&'p [u8]);

impl<'p> Reader<'p> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }

    fn count(&mut self) -> Option<usize> {
        self.chunk().map(|bytes| u16::from_le_bytes(bytes).into())
    }

    fn string(&mut self) -> Option<&'p [u8]> {
        let length = usize::try_from(u32::from_le_bytes(self.chunk()?)).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    fn text(&mut self) -> Option<&'p str> {
        std::str::from_utf8(self.string()?).ok()
    }

    fn shape(&mut self) -> Option<Shape> {
        let name = self.text()?.to_owned();
        let columns = (0..self.count()?).map(|_| self.text().map(str::to_owned));
        let columns = columns.collect::<Option<Vec<_>>>()?;
        let key = (0..self.count()?)
            .map(|_| self.count())
            .collect::<Option<Vec<_>>>()?;
        let is_known = key.iter().all(|index| *index < columns.len());
        (is_known && !key.is_empty()).then_some(Shape { name, columns, key })
    }

    fn values(&mut self, count: usize) -> Option<Vec<ValueRef<'p>>> {
        // A value has a byte at least: what a count promises takes no more room than the payload.
        let mut values = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            values.push(self.value()?);
        }
        Some(values)
    }

    fn value(&mut self) -> Option<ValueRef<'p>> {
        Some(match self.byte()? {
            0 => ValueRef::Null,
            1 => ValueRef::Integer(i64::from_le_bytes(self.chunk()?)),
            2 => ValueRef::Real(f64::from_bits(u64::from_le_bytes(self.chunk()?))),
            3 => ValueRef::Text(self.string()?),
            4 => ValueRef::Blob(self.string()?),
            _ => return None,
        })
    }
}

/// A value as in a payload.
pub(super) fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.push(0),
        ValueRef::Integer(number) => {
            out.push(1);
            out.extend_from_slice(&number.to_le_bytes());
        }
        ValueRef::Real(number) => {
            out.push(2);
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        ValueRef::Text(text) => {
            out.push(3);
            put_string(out, text);
        }
        ValueRef::Blob(blob) => {
            out.push(4);
            put_string(out, blob);
        }
    }
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a value of SQLite is below 2 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count =
        u16::try_from(count).expect("SQLite has at most 32,767 columns; tables are bounded");
    out.extend_from_slice(&count.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            name: "t".to_owned(),
            columns: vec!["a".to_owned(), "b".to_owned()],
            key: vec![0],
        }
    }

    fn payload() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(&shape(), [ValueRef::Integer(-1), ValueRef::Text(b"x")]);
        writer.delete(&shape(), [ValueRef::Real(0.5)]);
        writer.make("u", "CREATE TABLE u (a)");
        writer.drop("u", "DROP TABLE u");
        writer.put(&shape(), [ValueRef::Blob(&[0, 1]), ValueRef::Null]);
        writer.finish()
    }

    fn all(payload: &[u8]) -> Result<usize, Nonsense> {
        let mut changes = Changes::read(payload).ok_or(Nonsense)?;
        let mut count = 0;
        while changes.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let payload = payload();
        let mut changes = Changes::read(&payload).unwrap();
        assert_eq!(*changes.shapes, [shape()]);
        let row = vec![ValueRef::Integer(-1), ValueRef::Text(b"x")];
        assert_eq!(changes.next(), Ok(Some(Change::Put { table: 0, row })));
        let key = vec![ValueRef::Real(0.5)];
        assert_eq!(changes.next(), Ok(Some(Change::Delete { table: 0, key })));
        assert_eq!(all(&payload), Ok(5));
    }

    #[test]
    fn rows_are_found_by_table_and_columns() {
        let payload = payload();
        let Shape { name, columns, .. } = shape();
        let last: Vec<&str> = columns.iter().rev().map(String::as_str).collect();
        let row = vec![Value::Text("x".to_owned()), Value::Integer(-1)];
        assert_eq!(rows_put(&payload, &name, &last)[0], row);
        assert!(rows_put(&payload, "another", &last).is_empty());
        assert!(rows_put(&payload, &name, &["absent"]).is_empty());
        assert!(rows_put(b"INSERT INTO t VALUES (1)", &name, &last).is_empty());
    }

    #[test]
    fn whatever_the_bytes_nothing_breaks() {
        let payload = payload();
        for cut in 0..payload.len() {
            let _ = all(&payload[..cut]);
        }
        for index in 0..payload.len() {
            for value in [0, 1, 3, 127, 255] {
                let mut damaged = payload.clone();
                damaged[index] = value;
                let _ = all(&damaged);
            }
        }
        assert_eq!(all(b"INSERT INTO t VALUES (1)"), Err(Nonsense));
        assert_eq!(all(&[KIND, 255, 255]), Err(Nonsense));
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        assert_eq!(again(&payload()), Some(payload()));
        assert_eq!(again(b"INSERT INTO t VALUES (1)"), None);
    }

    #[test]
    fn a_shape_is_stored_and_read_again() {
        let mut out = Vec::new();
        shape().encode(&mut out);
        assert_eq!(Shape::decode(&out), Some(shape()));
        out.push(0);
        assert_eq!(Shape::decode(&out), None);
    }
}
