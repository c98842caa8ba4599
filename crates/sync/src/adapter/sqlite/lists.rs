//! The lists of parked entries and of all that was not applied in its turn, as
//! tables beside the state.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use waystation_base::Seq;
use waystation_net::unix_time;
use waystation_replica::{Decider, Decision, Entry};

use crate::adapter::{AdapterError, Audited, Fate};

const PARKED: i64 = 0;
const REPLAYED: i64 = 1;
const SKIPPED: i64 = 2;

const POLICY: i64 = 0;
const OPERATOR: i64 = 1;
const ORDER: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS _waystation_parked (
    seq INTEGER PRIMARY KEY,
    payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS _waystation_audit (
    seq INTEGER PRIMARY KEY,
    fate INTEGER NOT NULL,
    payload BLOB NOT NULL
);
";

/// What versions of this program added to the audited list.
const ADDED: [&str; 3] = [
    "decider INTEGER NOT NULL DEFAULT 0",
    "error TEXT NOT NULL DEFAULT ''",
    "at INTEGER NOT NULL DEFAULT 0",
];

/// Makes the lists, if they are not there.
pub(super) fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)?;
    let sql = "SELECT count(*) FROM pragma_table_info('_waystation_audit')";
    let columns: u16 = connection.query_row(sql, [], |row| row.get(0))?;
    for column in ADDED.iter().skip(usize::from(columns).saturating_sub(3)) {
        let sql = format!("ALTER TABLE _waystation_audit ADD COLUMN {column}");
        connection.execute_batch(&sql)?;
    }
    Ok(())
}

/// Parked entries with what they say, in order. Cost: O(bytes).
pub(in crate::adapter) fn parked(
    connection: &Connection,
) -> Result<Vec<(Seq, Vec<u8>)>, AdapterError> {
    let sql = "SELECT seq, payload FROM _waystation_parked ORDER BY seq";
    let mut statement = connection.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        let seq = Seq(row.get::<_, i64>(0)?.cast_unsigned());
        Ok((seq, row.get(1)?))
    };
    let rows = statement.query_map([], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What a parked entry says; none if it is not parked.
pub(in crate::adapter) fn parked_payload(
    connection: &Connection,
    seq: Seq,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT payload FROM _waystation_parked WHERE seq = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_row([seq.0.cast_signed()], |row| row.get(0))
        .optional()
}

/// Puts an entry aside.
pub(in crate::adapter) fn note_parked(
    connection: &Connection,
    entry: &Entry,
    decision: Option<&Decision>,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO _waystation_parked VALUES (?1, ?2)";
    let seq = entry.position.seq.0.cast_signed();
    let values = params![seq, entry.payload.as_ref()];
    connection.prepare_cached(sql)?.execute(values)?;
    note(connection, entry, PARKED, decision)
}

/// Writes down that an entry was left out.
pub(in crate::adapter) fn note_skipped(
    connection: &Connection,
    entry: &Entry,
    decision: Option<&Decision>,
) -> rusqlite::Result<()> {
    note(connection, entry, SKIPPED, decision)
}

fn note(
    connection: &Connection,
    entry: &Entry,
    fate: i64,
    decision: Option<&Decision>,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO _waystation_audit (seq, fate, payload, decider, error, at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let seq = entry.position.seq.0.cast_signed();
    let decider = match decision.map_or(Decider::Order, |one| one.by) {
        Decider::Policy => POLICY,
        Decider::Operator => OPERATOR,
        Decider::Order => ORDER,
    };
    let error = decision.map_or("", |one| &one.error);
    let at = unix_time().as_secs().cast_signed();
    let values = params![seq, fate, entry.payload.as_ref(), decider, error, at];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Writes down that a parked entry was applied.
pub(in crate::adapter) fn note_replayed(connection: &Connection, seq: Seq) -> rusqlite::Result<()> {
    let seq = seq.0.cast_signed();
    let sql = "DELETE FROM _waystation_parked WHERE seq = ?1";
    connection.prepare_cached(sql)?.execute([seq])?;
    let sql = "UPDATE _waystation_audit SET fate = ?2 WHERE seq = ?1";
    connection.prepare_cached(sql)?.execute([seq, REPLAYED])?;
    Ok(())
}

/// Whether an entry after this one was left out.
pub(in crate::adapter) fn is_skipped_after(
    connection: &Connection,
    seq: Seq,
) -> rusqlite::Result<bool> {
    let seq = i64::try_from(seq.0).unwrap_or(i64::MAX);
    let sql = "SELECT EXISTS (SELECT 1 FROM _waystation_audit WHERE seq > ?1 AND fate = ?2)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([seq, SKIPPED], |row| row.get(0))
}

/// All that was not applied in its turn, in order. Cost: O(bytes).
pub(in crate::adapter) fn audit(connection: &Connection) -> Result<Vec<Audited>, AdapterError> {
    let sql = "SELECT seq, fate, payload, decider, error, at FROM _waystation_audit ORDER BY seq";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let damaged = || AdapterError::Damaged("its audited list".to_owned());
        let fate = match row.get(1)? {
            PARKED => Fate::Parked,
            REPLAYED => Fate::Replayed,
            SKIPPED => Fate::Skipped,
            _ => return Err(damaged()),
        };
        let by = match row.get(3)? {
            POLICY => Decider::Policy,
            OPERATOR => Decider::Operator,
            ORDER => Decider::Order,
            _ => return Err(damaged()),
        };
        all.push(Audited {
            seq: Seq(row.get::<_, i64>(0)?.cast_unsigned()),
            fate,
            by,
            error: row.get(4)?,
            at: row.get::<_, i64>(5)?.cast_unsigned(),
            payload: Bytes::from(row.get::<_, Vec<u8>>(2)?),
        });
    }
    Ok(all)
}

/// A new copy begins: what was wrong with the old one goes.
pub(in crate::adapter) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DELETE FROM _waystation_parked; DELETE FROM _waystation_audit")
}
