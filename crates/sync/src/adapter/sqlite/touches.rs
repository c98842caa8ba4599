//! What an entry touches: the keys of its rows, and the values that the target lets
//! one row have.
//!
//! A put takes away rows that have the same value where a second index allows one
//! only. So two puts of different keys touch the same where such values are equal:
//! were the first one parked and the second applied, a replay of the first would
//! take the row of the second away. A delete needs no values: whatever took its row
//! away before, it ends the same.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use waystation_base::hash64;
use waystation_replica::{Touches, TouchesOf};

use super::changes::{Change, Changes, Shape};
use super::{keys, schema};
use crate::adapter::AdapterError;

/// An index that allows each value once.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unique {
    /// Table and index, as the first part of a key.
    name: String,
    /// Its columns. None where values do not tell whether they are equal to it: it
    /// has expressions, or compares text in its own way.
    columns: Option<Vec<String>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The schema that was looked at.
    version: Option<i64>,
    /// By the table's name in lower case.
    tables: HashMap<String, Vec<Unique>>,
}

/// The target's unique indexes, as of the last transaction. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Uniques(Arc<RwLock<Known>>);

impl Uniques {
    /// Looks at the schema if it changed. Cost: one statement, else O(indexes).
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn refresh(&self, connection: &Connection) -> Result<(), AdapterError> {
        let version = schema::version(connection)?;
        if self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .version
            == Some(version)
        {
            return Ok(());
        }
        let tables = read(connection)?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known {
            version: Some(version),
            tables,
        };
        Ok(())
    }

    pub(super) fn touches_of(&self) -> TouchesOf {
        let uniques = self.clone();
        TouchesOf::new(move |entry| uniques.touches(&entry.payload))
    }

    /// What the changes of a payload touch, hashed; a statement may touch anything.
    pub(super) fn touches(&self, payload: &[u8]) -> Touches {
        let Some(mut changes) = Changes::read(payload) else {
            return Touches::Anything;
        };
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let shapes = changes.shapes.clone();
        let mut touched = Vec::new();
        loop {
            match changes.next() {
                Ok(Some(Change::Put { table, row })) => {
                    let shape = &shapes[table];
                    let key = shape.key.iter().map(|index| row[*index]);
                    touched.push(hash64(&keys::encode(&shape.name, key)));
                    let uniques = known.tables.get(&shape.name.to_ascii_lowercase());
                    let values = uniques.into_iter().flatten();
                    touched.extend(values.filter_map(|unique| unique.value(shape, &row)));
                }
                Ok(Some(Change::Delete { table, key })) => {
                    touched.push(hash64(&keys::encode(&shapes[table].name, key)));
                }
                Ok(None) => return Touches::Keys(touched),
                Ok(Some(Change::Make { .. } | Change::Drop { .. })) | Err(_) => {
                    return Touches::Anything;
                }
            }
        }
    }
}

impl Unique {
    /// The value of a row, hashed; none where no other row can have the same. What
    /// cannot be told counts as one value.
    fn value(&self, shape: &Shape, row: &[ValueRef<'_>]) -> Option<u64> {
        let Some(columns) = &self.columns else {
            return Some(hash64(&keys::encode(&self.name, [])));
        };
        let mut values = Vec::with_capacity(columns.len());
        for column in columns {
            let is_it = |one: &String| one.eq_ignore_ascii_case(column);
            match shape.columns.iter().position(is_it).map(|at| row[at]) {
                // Each NULL is a value of its own.
                Some(ValueRef::Null) => return None,
                Some(value) => values.push(value),
                // A computed column, or one that the writer does not have.
                None => return Some(hash64(&keys::encode(&self.name, []))),
            }
        }
        Some(hash64(&keys::encode(&self.name, values)))
    }
}

fn read(connection: &Connection) -> Result<HashMap<String, Vec<Unique>>, AdapterError> {
    let sql = "SELECT t.name, i.name, i.origin, x.name, x.coll FROM pragma_table_list AS t \
        JOIN pragma_index_list(t.name) AS i ON i.\"unique\" \
        JOIN pragma_index_xinfo(i.name) AS x ON x.key \
        WHERE t.schema = 'main' AND t.type = 'table' ORDER BY t.name, i.name, x.seqno";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut tables: HashMap<String, Vec<(Unique, bool)>> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (table, index): (String, String) = (row.get(0)?, row.get(1)?);
        let is_key = row.get::<_, String>(2)? == "pk";
        let column: Option<String> = row.get(3)?;
        let collation: Option<String> = row.get(4)?;
        let is_exact = collation.is_none_or(|name| name.eq_ignore_ascii_case("binary"));
        let name = format!("{table}\0{index}");
        let uniques = tables.entry(table.to_ascii_lowercase()).or_default();
        if uniques.last().is_none_or(|(one, _)| one.name != name) {
            let columns = Some(Vec::new());
            uniques.push((Unique { name, columns }, is_key));
        }
        if let Some((unique, _)) = uniques.last_mut() {
            let columns = unique.columns.take().zip(column.filter(|_| is_exact));
            unique.columns = columns.map(|(mut columns, column)| {
                columns.push(column);
                columns
            });
        }
    }
    // The key itself is told already, unless other bytes may be the same key.
    let rest = tables.into_iter().map(|(table, uniques)| {
        let uniques = uniques.into_iter();
        let more = uniques.filter(|(one, is_key)| !is_key || one.columns.is_none());
        (table, more.map(|(one, _)| one).collect())
    });
    Ok(rest.collect())
}
