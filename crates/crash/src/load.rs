//! A program that writes to the master's file, and a client that publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rusqlite::Connection;
use waystation_sync::client::HubClient;

use crate::place::pause;

/// Keys of the published counters.
pub(crate) const TALLIES: u64 = 8;

/// The base data: a wide table, one with a key of two columns and an index that
/// allows each value once, and counters that publishes add to.
pub(crate) fn base(connection: &Connection, rows: u32) -> Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, amount REAL, note BLOB);
         CREATE TABLE member (room TEXT, uid INTEGER, nick TEXT UNIQUE, PRIMARY KEY (room, uid))
             WITHOUT ROWID;
         CREATE TABLE tally (id INTEGER PRIMARY KEY, count INTEGER NOT NULL);
         CREATE INDEX by_owner ON account (owner);
         BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO account SELECT i, 'owner ' || i, i / 7.0, zeroblob(350 + i % 40) FROM n;
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {TALLIES})
         INSERT INTO tally SELECT i, 0 FROM n;
         COMMIT;"
    ))?;
    Ok(())
}

/// Runs until it is told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

impl Load {
    fn start(mut step: impl FnMut(u64) -> Result<Duration> + Send + 'static) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                let rest = step(round)?;
                count.store(round, Ordering::Relaxed);
                pause(rest);
            }
            Ok(round)
        });
        Self { stop, done, thread }
    }

    /// How much was done so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops it, and answers how much was done.
    pub(crate) fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("a thread of the load panicked"))?
    }
}

/// Transactions with every kind of change, some of them large.
pub(crate) fn write(mut app: Connection, rows: u32) -> Load {
    Load::start(move |round| {
        let transaction = app.transaction()?;
        let (one, rows) = (i64::try_from(round)?, i64::from(rows));
        for (sql, value) in [
            (
                "INSERT INTO account (owner, amount) VALUES ('new', ?1)",
                one,
            ),
            (
                "UPDATE account SET amount = amount + 1 WHERE id = ?1",
                one * 7 % rows + 1,
            ),
            (
                "UPDATE account SET note = zeroblob(300) WHERE id % 997 = ?1",
                one % 997,
            ),
            (
                "DELETE FROM account WHERE id = ?1",
                rows / 2 + one % (rows / 2),
            ),
            (
                "INSERT OR REPLACE INTO member VALUES ('r' || (?1 % 50), ?1 % 300, 'n' || (?1 % 70))",
                one,
            ),
            (
                "UPDATE OR REPLACE member SET uid = uid + 1 WHERE uid = ?1",
                one * 3 % 300,
            ),
            ("DELETE FROM member WHERE nick = 'n' || ?1", one % 90),
        ] {
            transaction.execute(sql, [value])?;
        }
        transaction.commit()?;
        Ok(Duration::from_millis(4))
    })
}

/// Publishes statements that count, each under a key of its own, until each is
/// acknowledged: applied twice or not at all, one shows. A plain statement makes a
/// joiner that must change its donor begin anew, so they come in bursts.
pub(crate) fn publish(hub: &str, patience: Duration) -> Result<Load> {
    let address: std::net::SocketAddr = hub.parse().context("the hub's address")?;
    let client = HubClient::start(address.into())?;
    Ok(Load::start(move |round| {
        let id = round % TALLIES;
        let sql = format!("UPDATE tally SET count = count + 1 WHERE id = {id}");
        let key = format!("crash-{round}");
        let published = client.publish(Some(key.as_bytes()), sql.as_bytes(), patience);
        published.with_context(|| format!("publish {round}"))?;
        let is_end_of_burst = round.is_multiple_of(20);
        Ok(Duration::from_millis(if is_end_of_burst {
            4000
        } else {
            15
        }))
    }))
}
