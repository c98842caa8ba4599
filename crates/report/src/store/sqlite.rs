//! Counts in a `SQLite` file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::{Store, StoreError, signed, unsigned};
use crate::batch::{
    BUCKET_S, Batch, Found, HistoryQuery, HistoryRow, KeyRow, LarsRow, Loaded, Retention, Span,
    Standing, Told,
};
use crate::key::{KeyName, LarsKey};
use crate::limits::DELETE_ROWS_MAX;
use crate::totals::Totals;

/// How long another program's lock on the file is waited for.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS ServerCallStatus (
  modid INTEGER NOT NULL, cmdid INTEGER NOT NULL, ip INTEGER NOT NULL, port INTEGER NOT NULL,
  caller INTEGER NOT NULL, succ_cnt INTEGER NOT NULL, err_cnt INTEGER NOT NULL,
  ts INTEGER NOT NULL, overload TEXT NOT NULL,
  PRIMARY KEY (modid, cmdid, ip, port, caller)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waystation_call_keys (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, host TEXT NOT NULL, caller TEXT NOT NULL,
  source INTEGER NOT NULL, ok INTEGER NOT NULL, failed INTEGER NOT NULL,
  ts INTEGER NOT NULL, is_out INTEGER NOT NULL, seen INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS waystation_call_names
  ON waystation_call_keys (service, host, caller);
CREATE TABLE IF NOT EXISTS waystation_calls_10s (
  start INTEGER NOT NULL, key_id INTEGER NOT NULL, ok INTEGER NOT NULL, failed INTEGER NOT NULL,
  PRIMARY KEY (start, key_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waystation_calls_1m (
  start INTEGER NOT NULL, key_id INTEGER NOT NULL, ok INTEGER NOT NULL, failed INTEGER NOT NULL,
  PRIMARY KEY (start, key_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waystation_calls_1h (
  start INTEGER NOT NULL, key_id INTEGER NOT NULL, ok INTEGER NOT NULL, failed INTEGER NOT NULL,
  PRIMARY KEY (start, key_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waystation_call_state (
  id INTEGER PRIMARY KEY CHECK (id = 1), batch INTEGER NOT NULL, owner INTEGER NOT NULL,
  folded INTEGER NOT NULL);
INSERT OR IGNORE INTO waystation_call_state VALUES (1, 0, 0, 0);";

const KEYS: &str = "SELECT id, service, host, caller, source, ok, failed, ts, is_out
  FROM waystation_call_keys";

const LARS: &str = "SELECT modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload
  FROM ServerCallStatus";

const PUT_KEY: &str = "INSERT INTO waystation_call_keys VALUES (?,?,?,?,?,?,?,?,?,?)
  ON CONFLICT (id) DO UPDATE SET source = excluded.source, ok = excluded.ok,
  failed = excluded.failed, ts = excluded.ts, is_out = excluded.is_out, seen = excluded.seen";

const PUT_LARS: &str = "INSERT INTO ServerCallStatus VALUES (?,?,?,?,?,?,?,?,?)
  ON CONFLICT (modid, cmdid, ip, port, caller) DO UPDATE SET succ_cnt = excluded.succ_cnt,
  err_cnt = excluded.err_cnt, ts = excluded.ts, overload = excluded.overload";

const PUT_COUNT: &str = "INSERT INTO waystation_calls_10s VALUES (?,?,?,?)
  ON CONFLICT (start, key_id) DO UPDATE SET ok = ok + excluded.ok, failed = failed + excluded.failed";

/// A `SQLite` file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    is_writer: bool,
    connection: Option<Connection>,
    /// Held by the one that writes. The system lets go of it with the process.
    lock: Option<File>,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::failed(error)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::failed(error)
    }
}

impl SqliteStore {
    /// The one that writes.
    pub const fn writer(path: PathBuf) -> Self {
        Self {
            path,
            is_writer: true,
            connection: None,
            lock: None,
        }
    }

    /// One that reads beside it.
    pub const fn reader(path: PathBuf) -> Self {
        Self {
            path,
            is_writer: false,
            connection: None,
            lock: None,
        }
    }

    /// Runs `work`; after an error the connection is gone.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.connection.is_none() {
            self.open()?;
        }
        let Some(connection) = &mut self.connection else {
            return Err(StoreError::TimedOut);
        };
        let done = work(connection);
        if done.is_err() {
            self.connection = None;
        }
        done
    }

    fn hold_lock(&mut self) -> Result<(), StoreError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let mut name = self.path.as_os_str().to_owned();
        name.push("-writer");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(Path::new(&name))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => {
                Err(StoreError::InUse(self.path.display().to_string()))
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

impl Store for SqliteStore {
    fn open(&mut self) -> Result<Standing, StoreError> {
        self.connection = None;
        let connection = if self.is_writer {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            self.hold_lock()?;
            let connection = Connection::open(&self.path)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            // A power loss may take the last batches, and what they go on from
            // with them: agents tell it again.
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.execute_batch(TABLES)?;
            connection
        } else {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY)?;
            connection
        };
        let standing = standing(&connection)?;
        self.connection = Some(connection);
        Ok(standing)
    }

    fn load(&mut self, keys_max: usize) -> Result<Loaded, StoreError> {
        self.with(|connection| load(connection, keys_max))
    }

    fn find(&mut self, names: &[KeyName]) -> Result<Found, StoreError> {
        self.with(|connection| find(connection, names))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.with(|connection| {
            let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let at = standing(&write)?;
            if (at.seq, at.owner) == (batch.seq, batch.owner) {
                return Ok(());
            }
            if at.seq + 1 != batch.seq {
                return Err(StoreError::Elsewhere {
                    found: at.seq,
                    expected: batch.seq - 1,
                });
            }
            put(&write, batch)?;
            write.commit()?;
            Ok(())
        })
    }

    fn fold(&mut self, before: u64) -> Result<(), StoreError> {
        self.with(|connection| {
            while fold_one(connection, before)? {}
            Ok(())
        })
    }

    fn begin_anew(&mut self, start: u64) -> Result<(), StoreError> {
        self.with(|connection| {
            let sql = "SELECT max(start) FROM waystation_calls_10s";
            let last: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
            let before = last.map_or(0, |last| unsigned(last) + BUCKET_S);
            while fold_one(connection, before)? {}
            let table = Span::TenSeconds.table();
            let sql = format!(
                "DELETE FROM {table} WHERE (start, key_id) IN \
                 (SELECT start, key_id FROM {table} WHERE start >= ? LIMIT {DELETE_ROWS_MAX})"
            );
            let start = signed(start);
            while connection.execute(&sql, [start])? > 0 {}
            connection.execute("UPDATE waystation_call_state SET folded = ?", [start])?;
            Ok(())
        })
    }

    fn expire(&mut self, now_s: u64, retention: &Retention) -> Result<bool, StoreError> {
        self.with(|connection| {
            let mut has_more = false;
            for span in Span::ALL {
                let table = span.table();
                let before = signed(now_s.saturating_sub(retention.of(span)));
                let sql = format!(
                    "DELETE FROM {table} WHERE (start, key_id) IN \
                     (SELECT start, key_id FROM {table} WHERE start < ? LIMIT {DELETE_ROWS_MAX})"
                );
                has_more |= connection.execute(&sql, [before])? >= DELETE_ROWS_MAX;
            }
            if !has_more {
                let before = signed(now_s.saturating_sub(retention.of_keys()));
                connection.execute("DELETE FROM waystation_call_keys WHERE seen < ?", [before])?;
            }
            Ok(has_more)
        })
    }

    fn history(&mut self, query: &HistoryQuery) -> Result<Vec<HistoryRow>, StoreError> {
        self.with(|connection| history(connection, query))
    }
}

fn standing(connection: &Connection) -> Result<Standing, StoreError> {
    let sql = "SELECT batch, owner, folded FROM waystation_call_state WHERE id = 1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Standing {
            seq: unsigned(row.get(0)?),
            owner: row.get::<_, i64>(1)?.cast_unsigned(),
            folded: unsigned(row.get(2)?),
        })
    };
    Ok(connection.query_row(sql, [], read)?)
}

fn put(write: &Transaction<'_>, batch: &Batch) -> Result<(), StoreError> {
    let mut put_key = write.prepare_cached(PUT_KEY)?;
    for row in &batch.keys {
        let [service, host, caller] = row.name.texts();
        let told = &row.told;
        put_key.execute(params![
            row.id,
            service,
            host,
            caller,
            // All 64 bits of a random number.
            told.source.cast_signed(),
            signed(told.totals.ok),
            signed(told.totals.failed),
            signed(told.ts),
            told.is_out,
            signed(batch.now),
        ])?;
    }
    let mut put_lars = write.prepare_cached(PUT_LARS)?;
    for row in &batch.lars {
        let LarsRow { key, told } = row;
        put_lars.execute(params![
            key.modid,
            key.cmdid,
            key.ip.cast_unsigned(),
            key.port,
            key.caller.cast_unsigned(),
            signed(told.totals.ok),
            signed(told.totals.failed),
            signed(told.ts),
            if told.is_out { "1" } else { "0" },
        ])?;
    }
    let mut put_count = write.prepare_cached(PUT_COUNT)?;
    for row in &batch.counts {
        let (ok, failed) = (signed(row.added.ok), signed(row.added.failed));
        put_count.execute(params![signed(batch.start), row.key, ok, failed])?;
    }
    write.execute(
        "UPDATE waystation_call_state SET batch = ?, owner = ?",
        [signed(batch.seq), batch.owner.cast_signed()],
    )?;
    Ok(())
}

/// Folds the oldest bucket that is not; false when there is none.
fn fold_one(connection: &mut Connection, before: u64) -> Result<bool, StoreError> {
    let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let folded = signed(standing(&write)?.folded);
    let sql = "SELECT min(start) FROM waystation_calls_10s WHERE start >= ? AND start < ?";
    let range = [folded, signed(before)];
    let start: Option<i64> = write.query_row(sql, range, |row| row.get(0))?;
    let now_folded = match start {
        None if folded >= signed(before) => return Ok(false),
        None => signed(before),
        Some(start) => {
            for span in [Span::Minute, Span::Hour] {
                let (table, seconds) = (span.table(), span.seconds());
                let sql = format!(
                    "INSERT INTO {table} SELECT start / {seconds} * {seconds}, key_id, ok, failed \
                     FROM waystation_calls_10s WHERE start = ? ON CONFLICT (start, key_id) \
                     DO UPDATE SET ok = ok + excluded.ok, failed = failed + excluded.failed"
                );
                write.execute(&sql, [start])?;
            }
            start.saturating_add(signed(BUCKET_S))
        }
    };
    write.execute("UPDATE waystation_call_state SET folded = ?", [now_folded])?;
    write.commit()?;
    Ok(start.is_some())
}

fn load(connection: &Connection, keys_max: usize) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded {
        standing: standing(connection)?,
        ..Loaded::default()
    };
    let limit = i64::try_from(keys_max).unwrap_or(i64::MAX);
    let mut keys = connection.prepare(&format!("{KEYS} ORDER BY seen DESC LIMIT ?"))?;
    let mut rows = keys.query([limit])?;
    while let Some(row) = rows.next()? {
        match key_row(row) {
            Some(row) => loaded.keys.push(row),
            None => loaded.skipped += 1,
        }
    }
    let mut lars = connection.prepare(&format!("{LARS} ORDER BY ts DESC LIMIT ?"))?;
    let mut rows = lars.query([limit])?;
    while let Some(row) = rows.next()? {
        match lars_row(row) {
            Some(row) => loaded.lars.push(row),
            None => loaded.skipped += 1,
        }
    }
    loaded.is_cut =
        loaded.keys.len().max(loaded.lars.len()) as u64 + loaded.skipped >= keys_max as u64;
    let sql = "SELECT ifnull(max(id), 0) FROM waystation_call_keys";
    loaded.last_id = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(loaded)
}

fn find(connection: &Connection, names: &[KeyName]) -> Result<Found, StoreError> {
    let keys = "service = ? AND host = ? AND caller = ? ORDER BY seen DESC LIMIT 1";
    let mut keys = connection.prepare_cached(&format!("{KEYS} WHERE {keys}"))?;
    let lars = "modid = ? AND cmdid = ? AND ip = ? AND port = ? AND caller = ?";
    let mut lars = connection.prepare_cached(&format!("{LARS} WHERE {lars}"))?;
    let mut found = Found::default();
    for name in names {
        let mut rows = keys.query(name.texts())?;
        while let Some(row) = rows.next()? {
            found.keys.extend(key_row(row));
        }
        if let KeyName::Lars(key) = name {
            let (ip, caller) = (key.ip.cast_unsigned(), key.caller.cast_unsigned());
            let mut rows = lars.query(params![key.modid, key.cmdid, ip, key.port, caller])?;
            while let Some(row) = rows.next()? {
                found.lars.extend(lars_row(row));
            }
        }
    }
    Ok(found)
}

fn key_row(row: &rusqlite::Row<'_>) -> Option<KeyRow> {
    let text = |at: usize| row.get::<_, String>(at).ok();
    let number = |at: usize| u64::try_from(row.get::<_, i64>(at).ok()?).ok();
    Some(KeyRow {
        id: row.get(0).ok()?,
        name: KeyName::of_texts(&text(1)?, &text(2)?, &text(3)?).ok()?,
        told: Told {
            source: row.get::<_, i64>(4).ok()?.cast_unsigned(),
            totals: Totals::new(number(5)?, number(6)?),
            ts: number(7)?,
            is_out: row.get(8).ok()?,
        },
    })
}

fn lars_row(row: &rusqlite::Row<'_>) -> Option<LarsRow> {
    let id = |at: usize| row.get::<_, i32>(at).ok();
    let ip = |at: usize| {
        Some(
            u32::try_from(row.get::<_, i64>(at).ok()?)
                .ok()?
                .cast_signed(),
        )
    };
    let count = |at: usize| u32::try_from(row.get::<_, i64>(at).ok()?).ok();
    Some(LarsRow {
        key: LarsKey {
            modid: id(0)?,
            cmdid: id(1)?,
            ip: ip(2)?,
            port: id(3)?,
            caller: ip(4)?,
        },
        told: Told {
            source: 0,
            totals: Totals::new(count(5)?.into(), count(6)?.into()),
            ts: u64::try_from(row.get::<_, i64>(7).ok()?).ok()?,
            is_out: row.get::<_, String>(8).ok()? == "1",
        },
    })
}

fn history(connection: &Connection, query: &HistoryQuery) -> Result<Vec<HistoryRow>, StoreError> {
    let sql = format!(
        "SELECT c.start, k.service, k.host, k.caller, c.ok, c.failed FROM {} c \
         JOIN waystation_call_keys k ON k.id = c.key_id \
         WHERE c.start >= ?1 AND c.start < ?2 AND (?3 IS NULL OR k.service = ?3) \
         ORDER BY c.start DESC, k.service, k.host, k.caller LIMIT ?4",
        query.span.table()
    );
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let range = params![
        signed(query.since),
        signed(query.until),
        query.service,
        limit
    ];
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(range, |row| {
        Ok(HistoryRow {
            start: unsigned(row.get(0)?),
            service: row.get(1)?,
            host: row.get(2)?,
            caller: row.get(3)?,
            ok: unsigned(row.get(4)?),
            failed: unsigned(row.get(5)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
