//! How soon and how fast a site applies.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rusqlite::{Connection, params};
use waystation_base::{Epoch, Moment, Seq, ShardId};
use waystation_net::{Address, NetConfig, Server, Shard};
use waystation_replica::{
    ApplyBatch, Batch, Entry, LifeId, Origin, Position, SiteConfig, SiteName, StoreChunk,
};
use waystation_sync::adapter::{
    Adapter, AdapterError, Apply, ApplyError, Audited, Kind, Opened, Snapshot, SqliteDatabase,
};
use waystation_sync::client::Publisher;
use waystation_sync::hub::{HubOptions, HubServer};
use waystation_sync::site::{SiteOptions, SiteServer};
use waystation_sync::{Folder, Log, LogConfig, LogStore as _};

use super::WAIT;
use super::rows::{Row, TABLE};
use crate::stats::number;
use crate::timing::now;

/// Entries of a transaction, as the site's own default has it.
const BATCH: u64 = 512;

/// When a transaction began and was committed, and up to where it brought the copy.
#[derive(Clone, Copy)]
struct Done {
    began: Moment,
    ended: Moment,
    through: Seq,
}

/// A file as a target that notes its transactions.
struct Timed {
    target: SqliteDatabase,
    done: Arc<Mutex<Vec<Done>>>,
}

struct TimedApply {
    lane: Box<dyn Apply>,
    done: Arc<Mutex<Vec<Done>>>,
}

impl Adapter for Timed {
    fn kind(&self) -> Kind {
        self.target.kind()
    }

    fn open(&self, life: LifeId) -> Result<Opened, AdapterError> {
        let mut opened = self.target.open(life)?;
        opened.apply = Box::new(TimedApply {
            lane: opened.apply,
            done: Arc::clone(&self.done),
        });
        Ok(opened)
    }

    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError> {
        self.target.open_snapshot()
    }
}

impl Apply for TimedApply {
    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError> {
        let began = now();
        self.lane.apply(batch)?;
        let done = Done {
            began,
            ended: now(),
            through: batch.position.seq,
        };
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(done);
        Ok(())
    }

    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError> {
        self.lane.store(store, life)
    }

    fn give_up(&mut self, life: LifeId) -> Result<(), ApplyError> {
        self.lane.give_up(life)
    }

    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError> {
        self.lane.replay(seq)
    }

    fn audit(&mut self) -> Result<Vec<Audited>, AdapterError> {
        self.lane.audit()
    }

    fn set_repaired(&mut self, through: Seq) -> Result<bool, AdapterError> {
        self.lane.set_repaired(through)
    }
}

/// A hub and its master in one folder.
struct Running {
    hub: HubServer,
    site: SiteServer,
    done: Arc<Mutex<Vec<Done>>>,
}

impl Running {
    fn start(folder: &Path) -> Result<Self> {
        let file = folder.join("site.db");
        Connection::open(&file)?.execute_batch(TABLE)?;
        let listen: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        let options = HubOptions::new(folder.join("log"), Address::from(listen));
        let hub = HubServer::start(&options)?;
        let done = Arc::new(Mutex::new(Vec::new()));
        let timed = Timed {
            target: SqliteDatabase::new(&file),
            done: Arc::clone(&done),
        };
        let core = SiteConfig::new(SiteName::new("master")?);
        let options = SiteOptions::new(hub.address().clone(), core);
        let site = SiteServer::start(options, Arc::new(timed))?;
        Ok(Self { hub, site, done })
    }

    /// Waits until everything up to here is applied.
    fn wait_for(&self, seq: Seq) -> Result<Vec<Done>> {
        let deadline = now() + WAIT;
        let (_never, pause) = std::sync::mpsc::channel::<()>();
        loop {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            if done.last().is_some_and(|last| last.through >= seq) {
                return Ok(done.clone());
            }
            drop(done);
            if now() > deadline {
                let view = self.site.view()?;
                bail!("entry {seq} was not applied in time: {view:?}");
            }
            let _ = pause.recv_timeout(Duration::from_millis(20));
        }
    }

    fn stop(self) {
        self.site.stop();
        self.hub.drain();
    }
}

/// From the publish of a row change until it is applied, in milliseconds, at a fixed
/// rate.
///
/// # Errors
/// Something does not start, or is not applied in time.
pub(crate) fn latency(per_second: u64, window: Duration) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let running = Running::start(folder.path())?;
    let hub = running.hub.address().clone();
    let client = Server::builder(NetConfig::default()).start()?;
    let asked = client
        .remote()
        .ask(ShardId(0), window + WAIT, move |shard| {
            let shard = shard.clone();
            Box::pin(async move { publish_at(shard, hub, per_second, window).await })
        });
    let published = asked?.map_err(|error| anyhow!(error))?;
    client.drain();
    let last = published.iter().map(|(seq, _)| *seq).max();
    let done = running.wait_for(last.context("nothing was published")?)?;
    running.stop();
    let mut took = Vec::new();
    for (seq, began) in published {
        let at = done.partition_point(|one| one.through < seq);
        let applied = done.get(at).context("a publish was not applied")?.ended;
        took.push(applied.saturating_since(began).as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// One publish after the other's time, whether that is acknowledged or not.
async fn publish_at(
    shard: Shard,
    hub: Address,
    per_second: u64,
    window: Duration,
) -> Result<Vec<(Seq, Moment)>, String> {
    let publisher = Publisher::new(&shard, hub);
    let payload = |id: u64| Row::new(id.cast_signed()).payload();
    // The first one makes the connection, and finds the site's file as it is.
    let deadline = shard.now() + WAIT;
    let first = publisher.publish(None, &payload(0), deadline).await;
    first.map_err(|error| error.to_string())?;
    let count = per_second * window.as_secs();
    let begin = shard.now();
    let mut waiting = Vec::new();
    for id in 1..=count {
        let due = begin
            + Duration::from_nanos(1_000_000_000 / per_second)
                * u32::try_from(id).unwrap_or(u32::MAX);
        shard.sleep_until(due).await;
        let (tell, told) = tokio::sync::oneshot::channel();
        let (publisher, payload) = (publisher.clone(), payload(id));
        shard.spawn(waystation_net::Label::of("publish"), async move {
            let began = now();
            let published = publisher.publish(None, &payload, deadline).await;
            let published = published.map(|position| (position.seq, began));
            let _ = tell.send(published.map_err(|error| error.to_string()));
        });
        waiting.push(told);
    }
    let mut all = Vec::new();
    for told in waiting {
        all.push(told.await.map_err(|_| "a publish was lost".to_owned())??);
    }
    Ok(all)
}

/// A log of so many row changes, one an entry.
fn write_log(folder: &Path, rows: u64) -> Result<()> {
    let files = Folder::open(&folder.join("log"))?;
    let mut log = Log::open(files, LogConfig::default(), Epoch(1))?;
    let mut seq = 0;
    while seq < rows {
        let through = (seq + 4096).min(rows);
        let entry = |seq: u64| {
            Arc::new(Entry {
                position: Position::new(1, seq),
                origin: Origin::Client { key: None },
                payload: Row::new(seq.cast_signed()).payload(),
            })
        };
        let entries = (seq + 1..=through).map(entry).collect();
        let records = Vec::new();
        log.append(&Batch { entries, records })?;
        seq = through;
    }
    Ok(())
}

/// Row changes a second that a site applies when it has much to catch up with: from
/// the begin of its first transaction to the end of its last.
///
/// # Errors
/// Something does not start, or rows are missing.
pub(crate) fn catch_up(rows: u64) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    write_log(folder.path(), rows)?;
    let running = Running::start(folder.path())?;
    let done = running.wait_for(Seq(rows))?;
    running.stop();
    check(&folder.path().join("site.db"), rows)?;
    let began = done.first().context("nothing was applied")?.began;
    let ended = done.last().context("nothing was applied")?.ended;
    Ok(number(rows) / ended.saturating_since(began).as_secs_f64())
}

fn check(file: &Path, rows: u64) -> Result<()> {
    let sql = "SELECT count(*) FROM item";
    let count: i64 = Connection::open(file)?.query_row(sql, [], |row| row.get(0))?;
    ensure!(
        count.cast_unsigned() == rows,
        "{count} rows of {rows} are there"
    );
    Ok(())
}

/// The same rows by a prepared statement, in transactions of the same size.
///
/// # Errors
/// The file.
pub(crate) fn plain(rows: u64) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("plain.db");
    let mut connection = Connection::open(&file)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    connection.execute_batch(TABLE)?;
    let began = now();
    let mut id = 0;
    while id < rows {
        let through = (id + BATCH).min(rows);
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3, ?4)")?;
        for id in id + 1..=through {
            let row = Row::new(id.cast_signed());
            insert.execute(params![row.id, row.name, row.amount, row.note.as_slice()])?;
        }
        drop(insert);
        transaction.commit()?;
        id = through;
    }
    let took = now().saturating_since(began);
    drop(connection);
    check(&file, rows)?;
    Ok(number(rows) / took.as_secs_f64())
}
