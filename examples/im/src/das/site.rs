//! A Das as one of several sites that keep copies of the chat: what it writes goes
//! to all others by way of the hub, and what they write arrives here.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use serde::de::IgnoredAny;
use tokio::sync::{broadcast, watch};
use waystation_base::{Clock as _, Seq};
use waystation_net::{Address, MonotonicClock};
use waystation_replica::{
    ApplyBatch, Holding, LifeId, SiteConfig, SiteName as CopyName, StoreChunk, Verdict,
};
use waystation_sync::adapter::{
    Adapter, AdapterError, Apply, ApplyError, Audited, Kind, Opened, Snapshot, SqliteDatabase,
};
use waystation_sync::client::{ClientError, HubClient};
use waystation_sync::control::{self, Control};
use waystation_sync::hub::Operation;
use waystation_sync::progress::{Joining, News, Progress};
use waystation_sync::site::{SiteError, SiteOptions, SiteServer};

use super::arrivals::{Arrival, Row};
use super::limits::{ARRIVALS_KEPT, HUB_WAIT, LOOK, LOOK_AGAIN};
use crate::error::Error;
use crate::role::SiteName;

/// How a Das keeps its copy equal to those of other sites.
#[derive(Debug, Clone)]
pub struct SyncConfig {
    /// Where the hub listens.
    pub hub: Address,
    /// All sites; the first one founds the chat, and the hub knows it as its first.
    pub sites: Vec<SiteName>,
}

/// A running site. It stops when it is dropped.
pub(super) struct Site {
    arrivals: broadcast::Sender<Arrival>,
    is_whole: watch::Receiver<bool>,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    _lock: File,
}

/// Holds the file for this site alone: a second Das would be a second site of the
/// same name. The system lets go of it when the process ends, however it does.
fn lock(file: &Path) -> Result<File, Error> {
    let path = file.with_extension("site-lock");
    let fault = |source| Error::Directory {
        path: path.clone(),
        source,
    };
    let lock = File::create(&path).map_err(fault)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let file = file.display();
            let text = format!("another das keeps {file} for its site: stop that one first");
            Err(Error::Client(text))
        }
        Err(TryLockError::Error(source)) => Err(fault(source)),
    }
}

impl Site {
    /// Opens a chat's file, which has been made, as the copy of `name`, and begins
    /// to sync; operators ask for it in the folder `run`. The hub need not be there.
    ///
    /// # Errors
    /// The file cannot be synced, or a thread cannot be started.
    pub(super) fn start(
        name: &SiteName,
        config: &SyncConfig,
        file: &Path,
        run: &Path,
    ) -> Result<Self, Error> {
        let lock = lock(file)?;
        let operators = Control::listen(control::socket(run, name.as_str()))?;
        let (arrivals, _) = broadcast::channel(ARRIVALS_KEPT);
        let adapter = Watched {
            database: SqliteDatabase::new(file).captured(),
            arrivals: arrivals.clone(),
        };
        let core = CopyName::new(name.as_str());
        let core = core.map_err(|error| Error::Instance(error.to_string()))?;
        let options = SiteOptions::new(config.hub.clone(), SiteConfig::new(core));
        let server = Arc::new(SiteServer::start(options, Arc::new(adapter))?);
        operators.serve(&server)?;
        let hub = Some(HubClient::start(config.hub.clone())?);
        let (whole, is_whole) = watch::channel(false);
        let (stop, stopped) = channel();
        let keeper = Keeper {
            name: name.as_str().to_owned(),
            is_founder: config.sites.first() == Some(name),
            server,
            hub,
            whole,
        };
        let thread = std::thread::Builder::new().name("chat site".to_owned());
        let keeper = thread.spawn(move || keeper.run(&stopped));
        Ok(Self {
            arrivals,
            is_whole,
            stop: Some(stop),
            keeper: Some(keeper.map_err(Error::Thread)?),
            _lock: lock,
        })
    }

    /// Whether the copy has ever been whole; then it can be read and written,
    /// whether the hub is there or not.
    pub(super) fn is_whole(&self) -> watch::Receiver<bool> {
        self.is_whole.clone()
    }

    /// What arrives from other sites, from now on.
    pub(super) fn arrivals(&self) -> broadcast::Sender<Arrival> {
        self.arrivals.clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // It has told of its own panic.
            let _ = keeper.join();
        }
    }
}

/// Holds the site, and does for it what an operator would: gives it the right to
/// write when it is new.
struct Keeper {
    name: String,
    is_founder: bool,
    server: Arc<SiteServer>,
    /// Until it has the right to write.
    hub: Option<HubClient>,
    whole: watch::Sender<bool>,
}

impl Keeper {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut progress = Progress::new(MonotonicClock.now());
        loop {
            if let Some(joining) = self.look(&mut progress) {
                tracing::info!("joining: {joining}");
            }
            if let Some(hub) = &self.hub
                && self.is_settled(hub)
            {
                self.hub = None;
            }
            let pause = if self.hub.is_some() { LOOK } else { LOOK_AGAIN };
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return stop(self.server),
            }
        }
    }

    /// Whether the copy is whole and may be written at the hub, for all that has to
    /// be done here.
    fn is_settled(&self, hub: &HubClient) -> bool {
        if !*self.whole.borrow() {
            return false;
        }
        self.seek_right(hub).unwrap_or_else(|error| {
            tracing::debug!(%error, "the hub was not asked for the right to write");
            false
        })
    }

    /// Tells whether the copy is whole; how a join goes on, where that is news. The
    /// founder's copy is what all others begin with.
    fn look(&self, progress: &mut Progress) -> Option<Joining> {
        let (mut is_whole, mut joining) = (self.is_founder, None);
        match self.server.view() {
            Ok(view) => {
                is_whole |= matches!(view.holding, Holding::At { .. });
                if let Some(News::Joining(news)) = progress.news(&view, MonotonicClock.now()) {
                    joining = Some(news);
                }
            }
            Err(SiteError::Lane) => {}
            Err(error) => tracing::warn!(%error, "the site does not answer"),
        }
        if is_whole && !*self.whole.borrow() {
            self.whole.send_replace(true);
        }
        joining
    }

    /// Has the site allowed to write, unless that was ever done: a right that was
    /// taken away is not taken back.
    fn seek_right(&self, hub: &HubClient) -> Result<bool, ClientError> {
        let status = hub.status(HUB_WAIT)?;
        let own = status.sites.iter().find(|site| site.name == self.name);
        match own {
            Some(site) if site.grants > 0 => Ok(true),
            Some(_) => {
                let site = self.name.clone();
                let grant = Operation::Grant { site };
                let _: IgnoredAny = hub.operate(grant, HUB_WAIT)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// An operator's question that is under way ends with this process.
fn stop(server: Arc<SiteServer>) {
    if let Some(server) = Arc::into_inner(server) {
        server.stop();
    }
}

/// A chat's file, which tells what other sites wrote once that is in it.
struct Watched {
    database: SqliteDatabase,
    arrivals: broadcast::Sender<Arrival>,
}

impl Adapter for Watched {
    fn kind(&self) -> Kind {
        self.database.kind()
    }

    fn open(&self, life: LifeId) -> Result<Opened, AdapterError> {
        let mut opened = self.database.open(life)?;
        opened.apply = Box::new(WatchedApply {
            apply: opened.apply,
            arrivals: self.arrivals.clone(),
        });
        Ok(opened)
    }

    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError> {
        self.database.open_snapshot()
    }
}

struct WatchedApply {
    apply: Box<dyn Apply>,
    arrivals: broadcast::Sender<Arrival>,
}

impl WatchedApply {
    fn tell(&self, arrival: Arrival) {
        // Nobody may listen yet; who begins to looks for what is there.
        let _ = self.arrivals.send(arrival);
    }
}

impl Apply for WatchedApply {
    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError> {
        self.apply.apply(batch)?;
        let applied = batch.entries.iter();
        let applied = applied.filter(|(_, verdict)| *verdict == Verdict::Apply);
        let rows: Vec<Row> = applied
            .flat_map(|(entry, _)| Row::all(&entry.payload))
            .collect();
        if !rows.is_empty() {
            self.tell(Arrival::Messages(rows.into()));
        }
        Ok(())
    }

    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError> {
        self.apply.store(store, life)?;
        self.tell(Arrival::Anything);
        Ok(())
    }

    fn give_up(&mut self, life: LifeId) -> Result<(), ApplyError> {
        self.apply.give_up(life)
    }

    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError> {
        self.apply.replay(seq)?;
        self.tell(Arrival::Anything);
        Ok(())
    }

    fn audit(&mut self) -> Result<Vec<Audited>, AdapterError> {
        self.apply.audit()
    }

    fn set_repaired(&mut self, through: Seq) -> Result<bool, AdapterError> {
        self.apply.set_repaired(through)
    }

    fn hold(&mut self) -> Result<Option<u64>, AdapterError> {
        self.apply.hold()
    }

    fn release(&mut self) {
        self.apply.release();
    }

    fn open_held(&mut self) -> Result<Option<Box<dyn Snapshot>>, AdapterError> {
        self.apply.open_held()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use waystation_sync::adapter::{MemoryChange, MemoryDatabase};
    use waystation_sync::hub::{HubOptions, HubServer};

    use super::*;

    fn site(hub: &Address, name: &str, table: &MemoryDatabase) -> SiteServer {
        let mut core = SiteConfig::new(CopyName::new(name).unwrap());
        core.donor_bytes_per_second = Some(1 << 20);
        let options = SiteOptions::new(hub.clone(), core);
        SiteServer::start(options, Arc::new(table.clone())).unwrap()
    }

    /// A site of `up` that took its copy told nothing of itself for as long as that
    /// took.
    #[test]
    fn a_site_that_joins_tells_how_far_it_is_until_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let hub = Address::Unix(folder.path().join("hub.sock"));
        let options = HubOptions::new(folder.path().join("log"), hub.clone());
        let _hub = HubServer::start(&options).unwrap();
        let first = MemoryDatabase::new();
        let row = |number: u8| MemoryChange::Append(vec![number], Bytes::from(vec![7; 128 << 10]));
        first.write(&(0..32).map(row).collect::<Vec<_>>());
        let _founder = site(&hub, "master", &first);
        let (whole, is_whole) = watch::channel(false);
        let keeper = Keeper {
            name: "b".to_owned(),
            is_founder: false,
            server: Arc::new(site(&hub, "b", &MemoryDatabase::new())),
            hub: None,
            whole,
        };
        let mut progress = Progress::new(MonotonicClock.now());
        let mut told = Vec::new();
        let (_never, pause) = channel::<()>();
        for _ in 0..600 {
            told.extend(keeper.look(&mut progress));
            if *is_whole.borrow() {
                break;
            }
            let _ = pause.recv_timeout(Duration::from_millis(50));
        }
        assert!(*is_whole.borrow(), "it takes its copy");
        assert!(!told.is_empty(), "it tells how far it is");
        assert!(told.iter().all(|one| one.bytes > 0));
        assert!(told.is_sorted_by_key(|one| one.bytes));
    }
}
