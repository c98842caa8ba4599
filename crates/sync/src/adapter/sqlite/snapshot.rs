//! A copy as it was at one moment: a read transaction.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params_from_iter};
use waystation_replica::limits::{CURSOR_BYTES_MAX, PAYLOAD_BYTES_MAX};
use waystation_replica::{Chunk, Cursor, Holding, Position, SnapshotSize};

use super::changes::{Shape, Writer, put_value};
use super::known::{Found, Known};
use super::schema::{self, Object, quoted};
use super::{key_bound, keys};
use crate::adapter::{AdapterError, RangeHash, RangeHasher, Snapshot};

/// Bytes of a row in a chunk, at most, with room for what stands beside it.
const CHUNK_ROW_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - (1 << 20);

pub(super) struct SqliteSnapshot {
    connection: Connection,
    tables: Vec<Shape>,
    objects: Vec<Object>,
    position: Position,
    captured: Option<u64>,
    size: SnapshotSize,
}

impl SqliteSnapshot {
    /// Begins a read transaction on a connection that has none. It ends with the
    /// connection.
    pub(super) fn begin(
        connection: Connection,
        skipped: &[String],
        known: &Known,
    ) -> Result<Self, AdapterError> {
        let found = known.check(|| {
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            connection.execute_batch("BEGIN")?;
            // The first read decides what it sees.
            Found::load(&connection, false)
        })?;
        let state = found.state.ok_or(AdapterError::NoPosition)?;
        let Holding::At { position, .. } = state.holding else {
            return Err(AdapterError::NoPosition);
        };
        let tables = schema::tables(&connection, skipped)?;
        Ok(Self {
            tables: tables.into_iter().map(|table| table.shape).collect(),
            objects: schema::objects(&connection, skipped)?,
            size: size(&connection)?,
            connection,
            position,
            captured: None,
        })
    }

    pub(super) fn set_captured(&mut self, captured: Option<u64>) {
        self.captured = captured;
    }

    /// Calls `visit` with rows from a key on, in order, until it returns false.
    ///
    /// # Errors
    /// [`AdapterError::Unfit`] names a table with a key that no cursor can name: the
    /// hub would end the connection over it, again and again.
    fn scan(
        &self,
        from: &Cursor,
        mut visit: impl FnMut(&Shape, Vec<u8>, &[ValueRef<'_>]) -> Result<bool, AdapterError>,
    ) -> Result<(), AdapterError> {
        let nonsense = || AdapterError::Damaged("a cursor makes no sense".to_owned());
        let place = match from.as_bytes() {
            [] => None,
            _ => Some(keys::decode(from).ok_or_else(nonsense)?),
        };
        let is_due = |shape: &&Shape| place.as_ref().is_none_or(|one| shape.name >= one.table);
        for shape in self.tables.iter().filter(is_due) {
            let columns: Vec<_> = shape.columns.iter().map(|one| quoted(one)).collect();
            let order: Vec<_> = (shape.key.iter())
                .map(|index| format!("{} COLLATE BINARY", columns[*index]))
                .collect();
            let bound = place
                .as_ref()
                .filter(|one| shape.name == one.table && !one.key.is_empty());
            let condition = bound.map_or("1".to_owned(), |one| {
                key_bound(shape, if one.is_after { ">" } else { ">=" }, 0)
            });
            let sql = format!(
                "SELECT {} FROM {} WHERE {condition} ORDER BY {}",
                columns.join(", "),
                quoted(&shape.name),
                order.join(", ")
            );
            let mut statement = self.connection.prepare_cached(&sql)?;
            let values = bound.map_or(&[][..], |one| one.key.as_slice());
            let mut rows = statement.query(params_from_iter(values))?;
            while let Some(row) = rows.next()? {
                let values = (0..shape.columns.len()).map(|index| row.get_ref(index));
                let values = values.collect::<Result<Vec<_>, _>>()?;
                let key = shape.key.iter().map(|index| values[*index]);
                let key = keys::encode(&shape.name, key);
                // One more for what comes after it.
                if key.len() >= CURSOR_BYTES_MAX {
                    return Err(too_large(shape, "key", CURSOR_BYTES_MAX));
                }
                if !visit(shape, key, &values)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn too_large(shape: &Shape, what: &str, bytes_max: usize) -> AdapterError {
    let name = &shape.name;
    AdapterError::Unfit(format!(
        "table {name} has a {what} of more than {bytes_max} bytes"
    ))
}

/// About how large the file's rows are: its pages that are in use, and how far the
/// numbers of rows go. Counting them would read all of it.
fn size(connection: &Connection) -> Result<SnapshotSize, AdapterError> {
    let sql = "SELECT (p.page_count - f.freelist_count) * s.page_size \
        FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s";
    let bytes: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    let sql = "SELECT name FROM pragma_table_list \
        WHERE schema = 'main' AND type = 'table' AND NOT wr AND name NOT LIKE 'sqlite_%'";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    let mut rows = 0_i64;
    for name in names.collect::<Result<Vec<String>, _>>()? {
        if name.starts_with(schema::OWN) {
            continue;
        }
        let table = quoted(&name);
        let sql = format!(
            "SELECT (SELECT max(_rowid_) FROM {table}) - (SELECT min(_rowid_) FROM {table}) + 1"
        );
        let spread = connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0));
        // A column may have that name; then nobody knows.
        rows = rows.saturating_add(spread.ok().flatten().unwrap_or_default().max(0));
    }
    Ok(SnapshotSize {
        bytes: bytes.max(0).cast_unsigned(),
        rows: rows.cast_unsigned(),
    })
}

impl Snapshot for SqliteSnapshot {
    fn position(&self) -> Position {
        self.position
    }

    fn captured(&self) -> Option<u64> {
        self.captured
    }

    fn size(&self) -> SnapshotSize {
        self.size
    }

    fn read(&mut self, index: u64, from: &Cursor, bytes_max: usize) -> Result<Chunk, AdapterError> {
        let mut writer = Writer::default();
        let make = |writer: &mut Writer, is_first: bool| {
            let all = self.objects.iter();
            for object in all.filter(|object| object.is_needed_first() == is_first) {
                writer.make(&object.name, &object.sql);
            }
        };
        if index == 0 {
            make(&mut writer, true);
        }
        let (mut count, mut to) = (0, None);
        self.scan(from, |shape, key, values| {
            if count > 0 && writer.len() >= bytes_max {
                to = Some(Cursor::new(&key));
                return Ok(false);
            }
            let before = writer.len();
            writer.put(shape, values.iter().copied());
            if writer.len() - before > CHUNK_ROW_BYTES_MAX {
                return Err(too_large(shape, "row", CHUNK_ROW_BYTES_MAX));
            }
            count += 1;
            Ok(true)
        })?;
        if to.is_none() {
            make(&mut writer, false);
        }
        let data = writer.finish().into();
        Ok(Chunk::new(index, from.clone(), to, count, data))
    }

    fn hash(&mut self, from: &Cursor) -> Result<Option<RangeHash>, AdapterError> {
        let (mut hasher, mut bytes) = (RangeHasher::default(), Vec::new());
        let mut order: Option<(String, Vec<usize>)> = None;
        self.scan(from, |shape, key, values| {
            // Columns may be in another order in another copy.
            if order.as_ref().is_none_or(|(name, _)| *name != shape.name) {
                let mut indexes: Vec<_> = (0..shape.columns.len()).collect();
                indexes.sort_by(|a, b| shape.columns[*a].cmp(&shape.columns[*b]));
                order = Some((shape.name.clone(), indexes));
            }
            bytes.clear();
            for index in order.iter().flat_map(|(_, indexes)| indexes) {
                put_value(&mut bytes, values[*index]);
            }
            Ok(!hasher.push(Cursor::new(&key), &bytes))
        })?;
        Ok(hasher.finish())
    }
}
