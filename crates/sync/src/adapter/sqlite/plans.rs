//! The statements for changes of rows, found by the bytes that name the tables.

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection};

use super::changes::{Changes, Shape};
use super::schema::quoted;
use crate::limits::HEADS_MAX;

/// The tables of a payload and what their rows are changed by.
pub(super) struct Head {
    /// The payload's bytes up to its first change. Where a payload begins with them
    /// they are its head, too: they say themselves how long they are.
    bytes: Vec<u8>,
    pub(super) shapes: Arc<[Shape]>,
    plans: Vec<Plan>,
}

struct Plan {
    put: String,
    delete: String,
}

impl Plan {
    fn new(shape: &Shape) -> Self {
        let name = quoted(&shape.name);
        let columns: Vec<_> = shape.columns.iter().map(|one| quoted(one)).collect();
        let marks: Vec<_> = (1..=columns.len())
            .map(|index| format!("?{index}"))
            .collect();
        let key = shape.key.iter().enumerate();
        // First as an index of the key finds it, then exactly: texts that the column
        // compares as equal may be two keys.
        let key: Vec<_> = key
            .map(|(at, index)| {
                let (column, mark) = (&columns[*index], at + 1);
                format!("{column} = ?{mark} AND {column} = ?{mark} COLLATE BINARY")
            })
            .collect();
        Self {
            // As a writer's own REPLACE did, it takes away rows that have the same
            // value where a second index allows one only.
            put: format!(
                "INSERT OR REPLACE INTO {name} ({}) VALUES ({})",
                columns.join(", "),
                marks.join(", ")
            ),
            delete: format!("DELETE FROM {name} WHERE {}", key.join(" AND ")),
        }
    }
}

/// Whether rows of a table can be written here: its checks, indexes and computed
/// columns may name functions or collations that only its application has.
///
/// # Errors
/// What the database says of it.
pub(super) fn check(connection: &Connection, shape: &Shape) -> rusqlite::Result<()> {
    let plan = Plan::new(shape);
    connection.prepare(&plan.put)?;
    connection.prepare(&plan.delete)?;
    Ok(())
}

/// The heads that payloads had lately, the last one first: entry after entry has the
/// same, and to read it again costs more than the change behind it.
#[derive(Default)]
pub(super) struct Heads(Vec<Arc<Head>>);

impl Heads {
    /// Begins to read a payload; none if it is not one of changes. Cost: a comparison
    /// of some 50 bytes where the last payload had the same head.
    pub(super) fn read<'p>(&mut self, payload: &'p [u8]) -> Option<(Arc<Head>, Changes<'p>)> {
        let known = self
            .0
            .iter()
            .position(|one| payload.starts_with(&one.bytes));
        if let Some(at) = known {
            self.0[..=at].rotate_right(1);
            let head = Arc::clone(&self.0[0]);
            let changes = Changes::behind(&payload[head.bytes.len()..], Arc::clone(&head.shapes));
            return Some((head, changes));
        }
        let changes = Changes::read(payload)?;
        let length = payload.len() - changes.bytes_left();
        let head = Arc::new(Head {
            bytes: payload[..length].to_vec(),
            shapes: Arc::clone(&changes.shapes),
            plans: changes.shapes.iter().map(Plan::new).collect(),
        });
        self.0.truncate(HEADS_MAX - 1);
        self.0.insert(0, Arc::clone(&head));
        Some((head, changes))
    }
}

/// What is done to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Put,
    Delete,
}

/// To put a row, and to delete one.
type OfTable<'t> = [Option<CachedStatement<'t>>; 2];

/// The statements of a transaction: each is looked up once.
pub(super) struct Statements<'t> {
    connection: &'t Connection,
    /// Of each head, its tables' statements.
    of: Vec<(Arc<Head>, Vec<OfTable<'t>>)>,
}

impl<'t> Statements<'t> {
    pub(super) fn new(connection: &'t Connection) -> Self {
        Self {
            connection,
            of: Vec::new(),
        }
    }

    /// The statement for a table of this head.
    pub(super) fn get(
        &mut self,
        head: &Arc<Head>,
        table: usize,
        deed: Deed,
    ) -> rusqlite::Result<&mut CachedStatement<'t>> {
        let known = self.of.iter().position(|(one, _)| Arc::ptr_eq(one, head));
        let at = known.unwrap_or_else(|| {
            if self.of.len() >= HEADS_MAX {
                self.of.clear();
            }
            let none = head.plans.iter().map(|_| [None, None]).collect();
            self.of.push((Arc::clone(head), none));
            self.of.len() - 1
        });
        let plan = &head.plans[table];
        let (place, sql) = match deed {
            Deed::Put => (0, &plan.put),
            Deed::Delete => (1, &plan.delete),
        };
        match &mut self.of[at].1[table][place] {
            Some(statement) => Ok(statement),
            none => Ok(none.insert(self.connection.prepare_cached(sql)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::types::ValueRef;

    use super::super::changes::{Change, Writer};
    use super::*;

    fn payload(table: &str, columns: &[&str], number: i64) -> Vec<u8> {
        let mut writer = Writer::default();
        let shape = Shape {
            name: table.to_owned(),
            columns: columns.iter().map(|one| (*one).to_owned()).collect(),
            key: vec![0],
        };
        writer.put(&shape, columns.iter().map(|_| ValueRef::Integer(number)));
        writer.finish()
    }

    fn read(heads: &mut Heads, payload: &[u8]) -> (String, Vec<i64>) {
        let (head, mut changes) = heads.read(payload).unwrap();
        let Ok(Some(Change::Put { table, row })) = changes.next() else {
            panic!("a row is put");
        };
        assert_eq!(changes.next(), Ok(None));
        let row = row.iter().map(|one| one.as_i64().unwrap()).collect();
        (head.shapes[table].name.clone(), row)
    }

    #[test]
    fn each_payload_is_read_by_its_own_head() {
        let mut heads = Heads::default();
        // Names and columns of which some begin as others do.
        let tables: [(&str, &[&str]); 4] = [
            ("a", &["k"]),
            ("ab", &["k"]),
            ("a", &["k", "v"]),
            ("a", &["kk"]),
        ];
        for number in 0..3 {
            for (name, columns) in tables {
                let (table, row) = read(&mut heads, &payload(name, columns, number));
                assert_eq!(table, name);
                assert_eq!(row, vec![number; columns.len()]);
            }
        }
        assert_eq!(heads.0.len(), tables.len());
    }

    #[test]
    fn heads_are_bounded() {
        let mut heads = Heads::default();
        for number in 0..2 * HEADS_MAX {
            let name = format!("t{number}");
            assert_eq!(read(&mut heads, &payload(&name, &["k"], 1)).0, name);
        }
        assert_eq!(heads.0.len(), HEADS_MAX);
    }
}
