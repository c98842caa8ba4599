//! What is asked of `MariaDB` directly.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::runtime::Runtime;
use waystation_base::Moment;
use waystation_test_process::MariaDb;

use crate::timing;

/// Between two looks at the table of Lars.
const LOOK_EVERY: Duration = Duration::from_millis(200);

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("no event loop")
}

/// Makes a database and returns its URL.
///
/// # Errors
/// The server refuses.
pub(crate) fn create(mariadb: &MariaDb) -> Result<String> {
    runtime()?.block_on(async {
        let mut conn = Conn::from_url(mariadb.url("")).await?;
        conn.query_drop("CREATE DATABASE lars").await?;
        conn.disconnect().await?;
        Ok(mariadb.url("lars"))
    })
}

/// Results a second that a loop writes by a statement each.
///
/// # Errors
/// The server refuses.
pub(crate) fn bare(url: &str, time: Duration) -> Result<f64> {
    runtime()?.block_on(async {
        let mut conn = Conn::from_url(url).await?;
        conn.query_drop(
            "CREATE TABLE bare (modid int, cmdid int, ip int unsigned, port int, \
             caller int unsigned, succ_cnt int unsigned, err_cnt int unsigned, ts bigint, \
             overload char(1), PRIMARY KEY (modid, cmdid, ip, port, caller)) ENGINE=InnoDB",
        )
        .await?;
        let began = timing::now();
        let mut written = 0_u32;
        while timing::now().saturating_since(began) < time {
            let key = written % 10_000;
            conn.query_drop(format!(
                "INSERT INTO bare VALUES (1, {}, {}, 7000, 1, {written}, 0, 1, '0') \
                 ON DUPLICATE KEY UPDATE succ_cnt={written}, err_cnt=0, ts=1, overload='0'",
                key / 10,
                key % 10
            ))
            .await?;
            written += 1;
        }
        let took = timing::now().saturating_since(began);
        conn.query_drop("DROP TABLE bare").await?;
        conn.disconnect().await?;
        Ok(f64::from(written) / took.as_secs_f64())
    })
}

/// All that history has.
///
/// # Errors
/// The server refuses.
pub(crate) fn sum_of_history(url: &str) -> Result<u64> {
    runtime()?.block_on(async {
        let mut conn = Conn::from_url(url).await?;
        let sql = "SELECT CAST(ifnull(sum(ok), 0) AS UNSIGNED) FROM waystation_calls_10s";
        let sum: Option<u64> = conn.query_first(sql).await?;
        conn.disconnect().await?;
        sum.context("no sum")
    })
}

/// Looks at the table of Lars while results come.
pub(crate) struct Reader {
    stop: Sender<()>,
    thread: JoinHandle<Result<Vec<u64>>>,
}

impl Reader {
    /// Begins to look. Totals are milliseconds since `began`.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(url: &str, began: Moment, keys: u64) -> Result<Self> {
        let (stop, stopped) = channel();
        let url = url.to_owned();
        let thread = std::thread::Builder::new().name("reader".to_owned());
        let thread = thread.spawn(move || look(&url, began, keys, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// The ages of the oldest row, in milliseconds, look by look.
    ///
    /// # Errors
    /// The server refused.
    pub(crate) fn finish(self) -> Result<Vec<u64>> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|_| Ok(Vec::new()))
    }
}

fn look(url: &str, began: Moment, keys: u64, stopped: &Receiver<()>) -> Result<Vec<u64>> {
    let runtime = runtime()?;
    let mut conn = runtime.block_on(Conn::from_url(url))?;
    let mut ages = Vec::new();
    loop {
        if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
            return Ok(ages);
        }
        let sql = "SELECT count(*), min(succ_cnt) FROM ServerCallStatus";
        let found = runtime.block_on(conn.query_first::<(u64, Option<u64>), _>(sql));
        // Before the first batch there is no table.
        let Ok(Some((count, Some(oldest)))) = found else {
            continue;
        };
        if count == keys {
            let now = timing::now().saturating_since(began).as_millis();
            ages.push(
                u64::try_from(now)
                    .unwrap_or(u64::MAX)
                    .saturating_sub(oldest),
            );
        }
    }
}
