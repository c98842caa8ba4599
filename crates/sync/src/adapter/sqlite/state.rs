//! What a copy stores of itself, in the same file and the same transactions.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use waystation_base::{Epoch, Seq, SiteId};
use waystation_replica::{Ahead, Cursor, Holding, LifeId, Position, Restoring};

use super::{Stage, lists};
use crate::adapter::AdapterError;
use crate::limits::BUSY_WAIT;

/// Our tables. The outbox has a column for each value of the widest table; they
/// are added as they are needed.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS _waystation_state (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    life BLOB NOT NULL,
    kind INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    cursor BLOB NOT NULL,
    ahead_site INTEGER,
    ahead_life BLOB,
    ahead_source INTEGER,
    returned INTEGER NOT NULL,
    is_differing INTEGER NOT NULL
);
";

/// Opens the file of a target that keeps its state alone in it.
///
/// # Errors
/// It is no such file, or not available.
pub(in crate::adapter) fn connect(path: &Path) -> Result<Connection, AdapterError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_WAIT)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    Ok(connection)
}

const FRESH: i64 = 0;
pub(super) const RESTORING: i64 = 1;
const AT: i64 = 2;
/// Fresh, and what the rows are counts for nothing: the next copy replaces them.
pub(super) const GIVEN_UP: i64 = 3;

/// The row of `_waystation_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::adapter) struct State {
    pub(in crate::adapter) life: LifeId,
    pub(in crate::adapter) holding: Holding,
    /// The last own captured write that came back through the log.
    pub(in crate::adapter) returned: u64,
    pub(in crate::adapter) is_differing: bool,
    /// Whether an earlier copy was given up, of which the rows may still be there.
    pub(in crate::adapter) is_given_up: bool,
}

impl State {
    pub(in crate::adapter) fn new(life: LifeId) -> Self {
        Self {
            life,
            holding: Holding::Fresh,
            returned: 0,
            is_differing: false,
            is_given_up: false,
        }
    }

    /// What is left of a copy that was given up: nothing but its rows.
    pub(in crate::adapter) fn given_up(life: LifeId) -> Self {
        Self {
            is_given_up: true,
            ..Self::new(life)
        }
    }

    /// Whether a part of the copy is missing, or it was given up: see
    /// [`Stage::Partial`].
    pub(super) fn is_partial(&self) -> bool {
        self.is_given_up || matches!(self.holding, Holding::Restoring(_))
    }

    /// The last sequence that is applied.
    pub(in crate::adapter) fn seq(&self) -> Seq {
        match &self.holding {
            Holding::Fresh => Seq(0),
            Holding::Restoring(part) => part.position.seq,
            Holding::At { position, .. } => position.seq,
        }
    }

    /// Makes our tables, if they are not there.
    pub(in crate::adapter) fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(SCHEMA)?;
        lists::create_tables(connection)
    }

    /// What is stored, if anything.
    ///
    /// # Errors
    /// [`AdapterError::Damaged`] if it makes no sense.
    pub(in crate::adapter) fn load(connection: &Connection) -> Result<Option<Self>, AdapterError> {
        let sql = "SELECT life, kind, epoch, seq, chunks, cursor, ahead_site, ahead_life, \
            ahead_source, returned, is_differing FROM _waystation_state";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let damaged = || AdapterError::Damaged("its state has a value out of range".to_owned());
        let position = Position {
            epoch: Epoch(unsigned(row, 2)?),
            seq: Seq(unsigned(row, 3)?),
        };
        let ahead = match row.get::<_, Option<i64>>(6)? {
            None => None,
            Some(site) => Some(Ahead {
                site: SiteId(site.try_into().map_err(|_| damaged())?),
                life: life(row, 7)?.ok_or_else(damaged)?,
                source: unsigned(row, 8)?,
            }),
        };
        let kind = row.get(1)?;
        let holding = match kind {
            FRESH | GIVEN_UP => Holding::Fresh,
            RESTORING => Holding::Restoring(Restoring {
                position,
                chunks: unsigned(row, 4)?,
                cursor: Cursor::new(row.get_ref(5)?.as_blob().map_err(|_| damaged())?),
                ahead,
            }),
            AT => Holding::At { position, ahead },
            _ => return Err(damaged()),
        };
        Ok(Some(Self {
            life: life(row, 0)?.ok_or_else(damaged)?,
            holding,
            returned: unsigned(row, 9)?,
            is_differing: row.get(10)?,
            is_given_up: kind == GIVEN_UP,
        }))
    }

    pub(in crate::adapter) fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let none = Position::new(0, 0);
        let (kind, position, chunks, cursor, ahead) = match &self.holding {
            Holding::Fresh if self.is_given_up => (GIVEN_UP, none, 0, &[][..], None),
            Holding::Fresh => (FRESH, none, 0, &[][..], None),
            Holding::Restoring(part) => {
                let cursor = part.cursor.as_bytes();
                (RESTORING, part.position, part.chunks, cursor, part.ahead)
            }
            Holding::At { position, ahead } => (AT, *position, 0, &[][..], *ahead),
        };
        let sql = "INSERT OR REPLACE INTO _waystation_state VALUES \
            (0, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let mut statement = connection.prepare_cached(sql)?;
        statement.execute(params![
            self.life.0.to_be_bytes(),
            kind,
            position.epoch.0.cast_signed(),
            position.seq.0.cast_signed(),
            chunks.cast_signed(),
            cursor,
            ahead.map(|ahead| ahead.site.0),
            ahead.map(|ahead| ahead.life.0.to_be_bytes()),
            ahead.map(|ahead| ahead.source.cast_signed()),
            self.returned.cast_signed(),
            self.is_differing,
        ])?;
        Ok(())
    }
}

/// What the rows of a file are; nothing is stored before the first start.
pub(super) fn stage(connection: &Connection) -> rusqlite::Result<Option<Stage>> {
    let sql = "SELECT kind FROM _waystation_state WHERE id = 0";
    let mut statement = connection.prepare_cached(sql)?;
    let kind = statement.query_row([], |row| row.get::<_, i64>(0));
    Ok(kind.optional()?.map(|kind| match kind {
        FRESH => Stage::Own,
        AT => Stage::Whole,
        _ => Stage::Partial,
    }))
}

fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::cast_unsigned)
}

fn life(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<LifeId>> {
    let bytes = row.get_ref(index)?.as_blob_or_null().unwrap_or_default();
    let bytes = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    Ok(bytes.map(|bytes| LifeId(u128::from_be_bytes(bytes))))
}
