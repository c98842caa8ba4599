//! Counts in `MySQL` or `MariaDB`, beside the table that Lars' readers know.
//!
//! A table of Lars that is there already is used as it is: its columns' own
//! ranges decide in which form numbers are written, and what none can hold is left
//! out, counted and named. With `InnoDB` a batch is one transaction.

mod forms;
mod read;
mod tables;

use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, FromValueError, Opts, TxOpts};
use tokio::runtime::Runtime;
use waystation_base::{Clock as _, line_passes};
use waystation_net::MonotonicClock;

use super::{Store, StoreError, UrlError, signed, unsigned, without_password};
use crate::batch::{
    BUCKET_S, Batch, Found, HistoryQuery, HistoryRow, LarsRow, Loaded, Retention, Span, Standing,
};
use crate::key::KeyName;
use crate::limits::{DELETE_ROWS_MAX, STATEMENT_ROWS_MAX, STORE_WAIT};
use forms::Forms;
use read::{find, history, load};
use tables::prepare;

const STANDING: &str = "SELECT batch, owner, folded FROM waystation_call_state WHERE id = 1";

const FOR_UPDATE: &str = " FOR UPDATE";

/// `MySQL` or `MariaDB`. Its connection has an event loop of its own, on the
/// thread that asks.
pub struct MySqlStore {
    opts: Opts,
    /// For people, without the password.
    name: String,
    is_writer: bool,
    runtime: Option<Runtime>,
    conn: Option<Conn>,
    /// The number of the last connection that held the lock.
    earlier: Option<u32>,
    forms: Forms,
    unstorable: u64,
}

impl From<mysql_async::Error> for StoreError {
    fn from(error: mysql_async::Error) -> Self {
        Self::failed(error)
    }
}

impl From<FromValueError> for StoreError {
    fn from(error: FromValueError) -> Self {
        Self::failed(error)
    }
}

impl MySqlStore {
    /// The one that writes.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn writer(url: &str) -> Result<Self, UrlError> {
        Ok(Self {
            is_writer: true,
            ..Self::reader(url)?
        })
    }

    /// One that reads beside it.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn reader(url: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError(without_password(url));
        let opts = Opts::from_url(url).map_err(|_| wrong())?;
        if opts.db_name().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        Ok(Self {
            opts,
            name: without_password(url),
            is_writer: false,
            runtime: None,
            conn: None,
            earlier: None,
            forms: Forms::default(),
            unstorable: 0,
        })
    }

    /// Runs `work` over the connection, within the time for one step; after an
    /// error the connection is gone.
    fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Conn, Forms) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.conn.is_none() {
            self.open()?;
        }
        let (Some(runtime), Some(mut conn)) = (&self.runtime, self.conn.take()) else {
            return Err(StoreError::TimedOut);
        };
        let forms = self.forms;
        let (done, conn) = runtime.block_on(async {
            let done = within(STORE_WAIT, work(&mut conn, forms)).await;
            // One that is dropped in the middle of an answer is closed.
            (done, conn)
        });
        let done = done?;
        self.conn = Some(conn);
        Ok(done)
    }

    fn start_runtime(&mut self) -> Result<(), StoreError> {
        if self.runtime.is_none() {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            self.runtime = Some(builder.enable_all().build().map_err(StoreError::failed)?);
        }
        Ok(())
    }
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let done = tokio::time::timeout(time, work).await;
    done.unwrap_or(Err(StoreError::TimedOut))
}

impl Store for MySqlStore {
    fn open(&mut self) -> Result<Standing, StoreError> {
        self.start_runtime()?;
        let Some(runtime) = &self.runtime else {
            return Err(StoreError::TimedOut);
        };
        if let Some(old) = self.conn.take() {
            // Its lock goes with it.
            let _ = runtime.block_on(within(STORE_WAIT, async { Ok(old.disconnect().await?) }));
        }
        let (opts, name, is_writer) = (self.opts.clone(), self.name.clone(), self.is_writer);
        let earlier = &mut self.earlier;
        let opened = runtime.block_on(within(STORE_WAIT, async {
            let mut conn = Conn::new(opts).await?;
            if is_writer {
                prepare(&mut conn, &name, *earlier).await?;
                *earlier = Some(conn.id());
            }
            let forms = Forms::read(&mut conn).await?;
            let standing = standing(&mut conn, "").await?;
            Ok((conn, forms, standing))
        }));
        let (conn, forms, standing) = opened?;
        self.forms = forms;
        self.conn = Some(conn);
        Ok(standing)
    }

    fn load(&mut self, keys_max: usize) -> Result<Loaded, StoreError> {
        self.with(async |conn, _| load(conn, keys_max).await)
    }

    fn find(&mut self, names: &[KeyName]) -> Result<Found, StoreError> {
        self.with(async |conn, forms| find(conn, forms, names).await)
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let left_out = self.with(async |conn, forms| write(conn, forms, batch).await)?;
        self.unstorable += left_out;
        Ok(())
    }

    fn fold(&mut self, before: u64) -> Result<(), StoreError> {
        while self.with(async |conn, _| fold_one(conn, before).await)? {}
        Ok(())
    }

    fn begin_anew(&mut self, start: u64) -> Result<(), StoreError> {
        let last = self.with(async |conn, _| last_start(conn).await)?;
        if let Some(last) = last {
            self.fold(unsigned(last) + BUCKET_S)?;
        }
        let table = Span::TenSeconds.table();
        let sql = format!("DELETE FROM {table} WHERE start >= {start} LIMIT {DELETE_ROWS_MAX}");
        let delete = async |conn: &mut Conn, _| {
            conn.query_drop(&sql).await?;
            Ok(conn.affected_rows() > 0)
        };
        while self.with(delete)? {}
        let sql = format!("UPDATE waystation_call_state SET folded = {start}");
        self.with(async |conn, _| Ok(conn.query_drop(&sql).await?))
    }

    fn expire(&mut self, now_s: u64, retention: &Retention) -> Result<bool, StoreError> {
        self.with(async |conn, _| {
            let mut has_more = false;
            for span in Span::ALL {
                let before = now_s.saturating_sub(retention.of(span));
                let sql = format!(
                    "DELETE FROM {} WHERE start < {before} LIMIT {DELETE_ROWS_MAX}",
                    span.table()
                );
                conn.query_drop(sql).await?;
                has_more |= conn.affected_rows() >= DELETE_ROWS_MAX as u64;
            }
            if !has_more {
                let before = now_s.saturating_sub(retention.of_keys());
                let sql = format!("DELETE FROM waystation_call_keys WHERE seen < {before}");
                conn.query_drop(sql).await?;
            }
            Ok(has_more)
        })
    }

    fn history(&mut self, query: &HistoryQuery) -> Result<Vec<HistoryRow>, StoreError> {
        self.with(async |conn, _| history(conn, query).await)
    }

    fn unstorable(&self) -> u64 {
        self.unstorable
    }
}

async fn standing(conn: &mut impl Queryable, how: &str) -> Result<Standing, StoreError> {
    let row = conn.query_first(format!("{STANDING}{how}")).await?;
    let (seq, owner, folded): (i64, i64, i64) = row.unwrap_or_default();
    Ok(Standing {
        seq: unsigned(seq),
        owner: owner.cast_unsigned(),
        folded: unsigned(folded),
    })
}

/// Writes a batch and returns how many rows Lars' table could not hold.
async fn write(conn: &mut Conn, forms: Forms, batch: &Batch) -> Result<u64, StoreError> {
    let mut write = conn.start_transaction(TxOpts::default()).await?;
    let at = standing(&mut write, FOR_UPDATE).await?;
    if (at.seq, at.owner) == (batch.seq, batch.owner) {
        write.rollback().await?;
        return Ok(0);
    }
    if at.seq + 1 != batch.seq {
        write.rollback().await?;
        return Err(StoreError::Elsewhere {
            found: at.seq,
            expected: batch.seq - 1,
        });
    }
    let mut left_out = 0;
    for sql in statements(forms, batch, &mut left_out) {
        write.query_drop(sql).await?;
    }
    let (seq, owner) = (batch.seq, batch.owner.cast_signed());
    let sql = format!("UPDATE waystation_call_state SET batch = {seq}, owner = {owner}");
    write.query_drop(sql).await?;
    write.commit().await?;
    Ok(left_out)
}

/// The statements of a batch.
fn statements(forms: Forms, batch: &Batch, left_out: &mut u64) -> Vec<String> {
    let mut all = Vec::new();
    for rows in batch.keys.chunks(STATEMENT_ROWS_MAX) {
        let mut sql = String::from("INSERT INTO waystation_call_keys VALUES ");
        let mut between = "";
        for row in rows {
            let [service, host, caller] = row.name.texts().map(|text| literal(&text));
            let told = &row.told;
            let _ = write!(
                sql,
                "{between}({},{service},{host},{caller},{},{},{},{},{},{})",
                row.id,
                told.source,
                signed(told.totals.ok),
                signed(told.totals.failed),
                signed(told.ts),
                u8::from(told.is_out),
                signed(batch.now)
            );
            between = ",";
        }
        sql.push_str(
            " ON DUPLICATE KEY UPDATE source=VALUES(source), ok=VALUES(ok), failed=VALUES(failed), \
             ts=VALUES(ts), is_out=VALUES(is_out), seen=VALUES(seen)",
        );
        all.push(sql);
    }
    for rows in batch.lars.chunks(STATEMENT_ROWS_MAX) {
        let mut sql = String::from(
            "INSERT INTO ServerCallStatus \
             (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload) VALUES ",
        );
        let before = sql.len();
        for row in rows {
            if !forms.put(row, sql.len() > before, &mut sql) {
                *left_out += 1;
                warn_of_unstorable(row);
            }
        }
        if sql.len() > before {
            sql.push_str(
                " ON DUPLICATE KEY UPDATE succ_cnt=VALUES(succ_cnt), err_cnt=VALUES(err_cnt), \
                 ts=VALUES(ts), overload=VALUES(overload)",
            );
            all.push(sql);
        }
    }
    for rows in batch.counts.chunks(STATEMENT_ROWS_MAX) {
        let mut sql = String::from("INSERT INTO waystation_calls_10s VALUES ");
        let mut between = "";
        for row in rows {
            let (ok, failed) = (signed(row.added.ok), signed(row.added.failed));
            let _ = write!(sql, "{between}({},{},{ok},{failed})", batch.start, row.key);
            between = ",";
        }
        sql.push_str(" ON DUPLICATE KEY UPDATE ok=ok+VALUES(ok), failed=failed+VALUES(failed)");
        all.push(sql);
    }
    all
}

fn warn_of_unstorable(row: &LarsRow) {
    if let Some(unsaid) = line_passes!(MonotonicClock.now()) {
        let key = KeyName::Lars(row.key);
        tracing::warn!(%key, unsaid, "ServerCallStatus cannot hold a row; it is left out");
    }
}

/// A name as a literal, in a form without quotes or escapes to be taken wrongly.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(2 * text.len() + 3);
    out.push_str("x'");
    for byte in text.bytes() {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.push('\'');
    out
}

/// Where the latest bucket of the finest history begins.
async fn last_start(conn: &mut Conn) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT max(start) FROM waystation_calls_10s";
    Ok(conn.query_first::<Option<i64>, _>(sql).await?.flatten())
}

async fn fold_one(conn: &mut Conn, before: u64) -> Result<bool, StoreError> {
    let mut write = conn.start_transaction(TxOpts::default()).await?;
    let folded = signed(standing(&mut write, FOR_UPDATE).await?.folded);
    let sql = format!(
        "SELECT min(start) FROM waystation_calls_10s WHERE start >= {folded} AND start < {before}"
    );
    let start: Option<i64> = write.query_first::<Option<i64>, _>(sql).await?.flatten();
    let now_folded = match start {
        None if folded >= signed(before) => {
            write.rollback().await?;
            return Ok(false);
        }
        None => signed(before),
        Some(start) => {
            for span in [Span::Minute, Span::Hour] {
                let (table, seconds) = (span.table(), span.seconds());
                let sql = format!(
                    "INSERT INTO {table} SELECT c.start DIV {seconds} * {seconds}, c.key_id, c.ok, \
                     c.failed FROM waystation_calls_10s c WHERE c.start = {start} \
                     ON DUPLICATE KEY UPDATE {table}.ok={table}.ok+VALUES(ok), \
                     {table}.failed={table}.failed+VALUES(failed)"
                );
                write.query_drop(sql).await?;
            }
            start.saturating_add(signed(BUCKET_S))
        }
    };
    write
        .query_drop(format!(
            "UPDATE waystation_call_state SET folded = {now_folded}"
        ))
        .await?;
    write.commit().await?;
    Ok(start.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{CountRow, Told};
    use crate::key::LarsKey;
    use crate::totals::Totals;

    #[test]
    fn a_batch_has_a_bounded_number_of_rows_a_statement() {
        let counts = (0..=2 * u32::try_from(STATEMENT_ROWS_MAX).unwrap()).map(|key| CountRow {
            key,
            added: Totals::new(1, 2),
        });
        let batch = Batch {
            start: 50,
            counts: counts.collect(),
            lars: vec![LarsRow {
                key: LarsKey::default(),
                told: Told::default(),
            }],
            ..Batch::default()
        };
        let mut left_out = 0;
        let all = statements(Forms::default(), &batch, &mut left_out);
        assert_eq!((all.len(), left_out), (4, 0));
        assert!(
            all[0].contains("VALUES (0,0,0,0,0,0,0,0,'0') ON"),
            "{}",
            all[0]
        );
        assert!(all[3].contains("VALUES (50,1000,1,2) ON"), "{}", all[3]);
    }

    #[test]
    fn names_are_literals_whatever_is_in_them() {
        assert_eq!(literal("a'\\"), "x'61275c'");
    }
}
