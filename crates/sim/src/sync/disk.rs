//! The hub's disk: the log as it runs in a hub, over files in memory that lose what
//! was not synced, and beside it what the log must hold.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use waystation_base::{Moment, Rng, Seq, SiteId};
use waystation_replica::{Batch, Entry, HubRestored, Record, SiteRecord};
use waystation_sync::recorded::{Fault, KILLED, LeftOut, Recorded, after_power_loss};
use waystation_sync::{AppendError, Log, LogConfig, LogStore as _, ReadError};

use super::world::{EPOCH, Mutant};

/// Calls of one append, at most about.
const CALLS: u64 = 8;

/// Small segments, so that a short history fills several.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2048,
        spare_max: 1,
        index_bytes: 256,
        ..LogConfig::default()
    }
}

pub(super) struct Disk {
    files: Recorded,
    left_out: LeftOut,
    /// While a hub runs.
    log: Option<Log<Recorded>>,
    /// A batch of which nobody knows whether it is there.
    doubt: Option<Batch>,
    sites: BTreeMap<SiteId, SiteRecord>,
    pub(super) start: Seq,
    pub(super) end: Seq,
}

impl Disk {
    pub(super) fn new(mutant: Mutant) -> Self {
        let left_out = if mutant == Mutant::NoSync {
            LeftOut::SyncOfAppend
        } else {
            LeftOut::Nothing
        };
        Self {
            files: Recorded::new(left_out),
            left_out,
            log: None,
            doubt: None,
            sites: BTreeMap::new(),
            start: Seq(0),
            end: Seq(0),
        }
    }

    fn log(&self) -> &Log<Recorded> {
        self.log.as_ref().expect("a hub runs")
    }

    fn note(&mut self, batch: &Batch) {
        if let Some(last) = batch.entries.last() {
            self.end = last.position.seq;
        }
        note_records(&mut self.sites, batch);
    }

    /// Opens the log: what the hub begins with, and the batch that turned out to be
    /// there although nobody had heard of it.
    ///
    /// # Panics
    /// The log does not hold exactly what it must.
    pub(super) fn open(&mut self, seed: u64, now: Moment, base: u64) -> (HubRestored, Batch) {
        let log = self.files.open_log(config(), EPOCH);
        let mut log = log.unwrap_or_else(|error| panic!("seed {seed}: no log: {error}"));
        let restored = log.restored(now, base);
        let found: BTreeMap<_, _> = restored.sites.iter().map(|one| (one.site, one)).collect();
        let is_same = |sites: &BTreeMap<SiteId, SiteRecord>| {
            found.len() == sites.len() && sites.iter().all(|(site, one)| found[site] == one)
        };
        let mut batch = self.doubt.take().unwrap_or_default();
        let last = batch
            .entries
            .last()
            .map_or(self.end, |one| one.position.seq);
        let mut with_batch = self.sites.clone();
        note_records(&mut with_batch, &batch);
        if log.end() == last && is_same(&with_batch) {
            self.note(&batch);
        } else {
            assert_eq!(
                log.end(),
                self.end,
                "seed {seed}: a part of a batch is there"
            );
            assert!(is_same(&self.sites), "seed {seed}: other sites are known");
            batch = Batch::default();
        }
        assert!(log.start() <= self.start, "seed {seed}: too much is gone");
        self.start = log.start();
        self.log = Some(log);
        (restored, batch)
    }

    /// Makes a batch durable, or fails at one of its calls.
    pub(super) fn append(
        &mut self,
        rng: &mut Rng,
        batch: &Batch,
        fault: Option<io::ErrorKind>,
    ) -> Result<(), AppendError> {
        let log = self.log.as_mut().expect("a hub runs");
        self.files.fault.set(fault.map(|kind| Fault {
            after: usize::try_from(rng.below(CALLS)).expect("few calls"),
            kind,
        }));
        let appended = log.append(batch);
        self.files.fault.set(None);
        match &appended {
            Ok(()) => self.note(batch),
            Err(AppendError::NotStored(_)) => {}
            Err(_) => self.doubt = Some(batch.clone()),
        }
        appended
    }

    /// The hub's process is killed, maybe at any call of a batch on its way; or the
    /// power goes, and takes what was not synced, or a part of it.
    pub(super) fn crash(&mut self, rng: &mut Rng, on_its_way: Option<Batch>) {
        if let (Some(batch), Some(log)) = (on_its_way, &mut self.log) {
            let after = usize::try_from(rng.below(CALLS)).expect("few calls");
            self.files.fault.set(Some(Fault {
                after,
                kind: KILLED,
            }));
            // Nobody hears how it ended.
            let _ = log.append(&batch);
            self.files.fault.set(None);
            self.doubt = Some(batch);
        }
        self.log = None;
        if rng.chance(0.5) {
            let left = after_power_loss(&self.files.base, &self.files.calls.borrow(), rng);
            self.files = Recorded::on(left, self.left_out);
        }
    }

    pub(super) fn read(
        &self,
        after: Seq,
        through: Seq,
        bytes_max: u64,
    ) -> Result<Vec<Arc<Entry>>, ReadError> {
        self.log().read(after, through, bytes_max)
    }

    /// Has entries go. The log keeps whole segments; a disk that fails keeps more.
    pub(super) fn trim(&mut self, rng: &mut Rng, through: Seq, may_fail: bool) {
        let log = self.log.as_mut().expect("a hub runs");
        if may_fail && rng.chance(0.1) {
            let after = usize::try_from(rng.below(CALLS)).expect("few calls");
            let kind = io::ErrorKind::StorageFull;
            self.files.fault.set(Some(Fault { after, kind }));
        }
        // A later trim tries again.
        let _ = log.trim(through);
        self.files.fault.set(None);
        self.start = log.start();
    }
}

fn note_records(sites: &mut BTreeMap<SiteId, SiteRecord>, batch: &Batch) {
    for record in &batch.records {
        match record {
            Record::Site(record) => {
                sites.insert(record.site, record.clone());
            }
            Record::Forgotten(site) => {
                sites.remove(site);
            }
        }
    }
}
