//! All that was told and is not stored yet, and what is needed to tell new from
//! known.

mod known;
mod pieces;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use waystation_base::limits::SERVICE_NAME_BYTES_MAX;
use waystation_wire::calls::CallCounts;
use waystation_wire::lars::ReportStatusRequest;

use crate::batch::{BUCKET_S, Batch, CountRow, KeyRow, LarsRow, Standing, Told};
use crate::key::{KeyName, LarsKey, find_by};
use crate::limits::{AHEAD_MAX, BATCH_CELLS_MAX, CELLS_MAX, FORGET_AFTER, KEYS_MAX};
use crate::totals::{Added, Baselines, Totals};
use pieces::{Cell, Pieces};

/// A key's row is written so often at least, in seconds: it tells that the key is
/// in use.
const KEY_REFRESH_S: u64 = 3600;

/// Keys are looked through for those to forget so often, in seconds.
const FORGET_EVERY_S: u64 = 600;

/// What was counted. All but the gauges only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Messages taken in.
    pub messages: u64,
    /// Results taken in: counts of one host each.
    pub records: u64,
    /// Results refused because there are too many keys.
    pub refused_keys: u64,
    /// Results under names that are none.
    pub bad_names: u64,
    /// Keys forgotten after a long silence.
    pub forgotten: u64,
    /// Buckets that became one with the next, as the store was down for long.
    pub merged_buckets: u64,
    /// Batches handed to the store.
    pub batches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Keys held. A gauge.
    pub keys: u64,
    /// Cells that wait for the store. A gauge.
    pub waiting_cells: u64,
}

/// Bounds of a [`Ledger`], to be lowered in tests.
#[derive(Clone, Copy, Debug)]
pub struct LedgerConfig {
    /// [`KEYS_MAX`].
    pub keys_max: usize,
    /// [`CELLS_MAX`].
    pub cells_max: usize,
    /// [`BATCH_CELLS_MAX`].
    pub batch_cells_max: usize,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            keys_max: KEYS_MAX,
            cells_max: CELLS_MAX,
            batch_cells_max: BATCH_CELLS_MAX,
        }
    }
}

/// What is known of one key.
#[derive(Debug)]
struct Entry {
    name: KeyName,
    baselines: Baselines,
    told: Told,
    /// When it was told last, in unix seconds.
    heard: u64,
    /// Its number in the store; 0 for none yet.
    id: u32,
    /// Whether the store told what it knows of it, or knows nothing for sure.
    is_asked: bool,
    /// When its row was written last, in unix seconds.
    row_at: u64,
    /// Its cell in the open piece, by the piece's number.
    cell: (u64, u32),
}

/// Present counts of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRow {
    /// The service, `MODID/CMDID` for Lars.
    pub service: String,
    /// The host.
    pub host: String,
    /// Who calls.
    pub caller: String,
    /// Calls that went well, as last told: a running total of the caller.
    pub ok: u64,
    /// Calls that failed, likewise.
    pub failed: u64,
    /// Whether the caller's agent leaves the host out.
    pub is_out: bool,
    /// When it was told, in unix seconds: by the caller's clock for Lars.
    pub ts: u64,
}

/// The counts in memory, without I/O.
///
/// Calling order: [`Ledger::handle_lars`] and [`Ledger::handle_named`] as reports
/// come; [`Ledger::handle_loaded`] once the store could be read, and not before
/// that [`Ledger::poll_batch`], which yields what is to be written, one batch
/// after the other. Keys of [`Ledger::poll_unknown`] are looked up in the store, when
/// no batch is under way to it, and go into [`Ledger::handle_found`]. Cost of a result: O(1), about 100 ns; an allocation for a new
/// key.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    by_lars: HashMap<LarsKey, u32>,
    by_name: HashMap<Box<str>, u32>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    pieces: Pieces,
    /// Totals of which all may be known to the store, which was not asked yet.
    firsts: HashMap<u32, Vec<(u64, Totals)>>,
    standing: Option<Standing>,
    /// Whether the store may know keys that are not held here.
    has_forgotten: bool,
    last_id: u32,
    looked_at: u64,
    counters: Counters,
    find: String,
}

impl Ledger {
    /// Without counts.
    pub fn new(config: LedgerConfig) -> Self {
        Self {
            config,
            by_lars: HashMap::new(),
            by_name: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            pieces: Pieces::default(),
            firsts: HashMap::new(),
            standing: None,
            has_forgotten: false,
            last_id: 0,
            looked_at: 0,
            counters: Counters::default(),
            find: String::new(),
        }
    }

    /// A message of Lars came over the connection `reporter`, a number above 0 that
    /// no other connection had; `now_s` is in unix seconds.
    pub fn handle_lars(&mut self, now_s: u64, reporter: u64, message: &ReportStatusRequest) {
        self.begin(now_s);
        self.counters.messages += 1;
        for result in &message.results {
            let key = LarsKey {
                modid: message.modid,
                cmdid: message.cmdid,
                ip: result.ip,
                port: result.port,
                caller: message.caller,
            };
            let Some(at) = self.lars_entry(key) else {
                continue;
            };
            let told = Told {
                totals: Totals::new(result.succ.into(), result.err.into()),
                source: 0,
                ts: message.ts.into(),
                is_out: result.overload,
            };
            self.take(
                now_s,
                at,
                told,
                |baselines| baselines.take_lars(reporter, told.totals),
                reporter,
            );
        }
    }

    /// Counts of an agent came.
    pub fn handle_named(&mut self, now_s: u64, message: &CallCounts) {
        self.begin(now_s);
        self.counters.messages += 1;
        for service in &message.services {
            for host in &service.hosts {
                let Some(at) = self.named_entry(&service.service, &host.host, &message.caller)
                else {
                    continue;
                };
                let told = Told {
                    totals: Totals::new(host.ok, host.failed),
                    source: message.source,
                    ts: now_s,
                    is_out: host.is_out,
                };
                let source = message.source;
                self.take(
                    now_s,
                    at,
                    told,
                    |baselines| baselines.take_named(source, told.totals),
                    source,
                );
            }
        }
    }

    /// Whether the store was read.
    pub const fn is_loaded(&self) -> bool {
        self.standing.is_some()
    }

    /// What is to be written next, if anything waits. Ask again when it was
    /// written: it is not kept here.
    pub fn poll_batch(&mut self, now_s: u64, owner: u64) -> Option<Batch> {
        self.standing?;
        self.begin(now_s);
        let (start, cells) = self.pieces.take(self.config.batch_cells_max)?;
        let mut batch = Batch {
            seq: self.standing?.seq + 1,
            owner,
            start,
            now: now_s,
            ..Batch::default()
        };
        batch.counts.reserve(cells.len());
        let mut unknown = HashMap::new();
        for cell in cells {
            if self.firsts.contains_key(&cell.entry) {
                unknown.insert(cell.entry, cell.added);
            } else {
                self.put(&cell, &mut batch);
            }
        }
        // They wait on, in a later bucket, until the store was asked.
        self.count_first(unknown);
        if batch.rows() == 0 {
            return None;
        }
        self.standing.as_mut()?.seq = batch.seq;
        self.counters.batches += 1;
        self.counters.rows += batch.rows() as u64;
        Some(batch)
    }

    /// The store, or the batch that is under way to it, stands here.
    pub fn handle_standing(&mut self, standing: Standing) {
        self.standing = Some(standing);
        self.pieces.begin_after(standing.folded);
    }

    /// The store lets counts go to buckets from `start` on again, although it has
    /// later ones: the clock was ahead. What waits goes there too.
    pub fn handle_begun_anew(&mut self, start: u64) {
        if let Some(standing) = &mut self.standing {
            standing.folded = start;
        }
        self.pieces.begin_anew(start);
    }

    /// Whether the present bucket begins more than [`AHEAD_MAX`] after `now_s`.
    pub fn is_ahead(&self, now_s: u64) -> bool {
        self.pieces.open_start() > now_s.saturating_add(AHEAD_MAX.as_secs())
    }

    /// Buckets that begin before this, in unix seconds, get nothing more once the
    /// batch that is under way is written.
    pub fn complete_before(&mut self, now_s: u64) -> u64 {
        self.begin(now_s);
        self.pieces.first_start()
    }

    /// Whether more waits than came since the last batch was taken.
    pub fn is_behind(&self) -> bool {
        self.pieces.has_closed() || (self.is_loaded() && !self.firsts.is_empty())
    }

    /// The present counts of a service, or of all; at most `limit` rows, and how
    /// many there are. Cost: O(keys).
    pub fn calls(&self, service: Option<&str>, limit: usize) -> (Vec<CallRow>, usize) {
        let entries = self.entries.iter().flatten();
        let is_wanted = |one: &&Entry| service.is_none_or(|service| one.name.is_of(service));
        let mut found: Vec<&Entry> = entries.filter(is_wanted).collect();
        let count = found.len();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found.truncate(limit);
        let row = |entry: &Entry| {
            let [service, host, caller] = entry.name.texts();
            CallRow {
                service,
                host,
                caller,
                ok: entry.told.totals.ok,
                failed: entry.told.totals.failed,
                is_out: entry.told.is_out,
                ts: entry.told.ts,
            }
        };
        (found.into_iter().map(row).collect(), count)
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters {
            keys: (self.entries.len() - self.free.len()) as u64,
            waiting_cells: self.pieces.cells() as u64,
            ..self.counters
        }
    }

    /// Begins the bucket of now, and looks for keys to forget.
    fn begin(&mut self, now_s: u64) {
        let merged = self
            .pieces
            .begin(now_s / BUCKET_S * BUCKET_S, self.config.cells_max);
        self.counters.merged_buckets += merged;
        if now_s.saturating_sub(self.looked_at) >= FORGET_EVERY_S {
            self.looked_at = now_s;
            self.forget(now_s);
        }
    }

    /// Forgets who was silent for long. The store knows what they told, and is
    /// asked if they come again. While the store is behind nobody is forgotten: what
    /// waits names entries.
    fn forget(&mut self, now_s: u64) {
        if self.pieces.has_closed() || !self.is_loaded() {
            return;
        }
        let silent = |entry: &Entry| now_s.saturating_sub(entry.heard) > FORGET_AFTER.as_secs();
        let waiting: HashSet<u32> = self.pieces.open_entries().collect();
        for (at, slot) in (0_u32..).zip(&mut self.entries) {
            if waiting.contains(&at) || self.firsts.contains_key(&at) {
                continue;
            }
            let Some(entry) = slot.take_if(|entry| silent(entry)) else {
                continue;
            };
            self.has_forgotten = true;
            match &entry.name {
                KeyName::Lars(key) => {
                    self.by_lars.remove(key);
                }
                KeyName::Named {
                    service,
                    host,
                    caller,
                } => {
                    find_by(&mut self.find, service, host, caller);
                    self.by_name.remove(self.find.as_str());
                }
            }
            self.free.push(at);
            self.counters.forgotten += 1;
        }
    }

    fn lars_entry(&mut self, key: LarsKey) -> Option<u32> {
        if let Some(at) = self.known_lars(key) {
            return Some(at);
        }
        let at = self.insert(KeyName::Lars(key))?;
        self.by_lars.insert(key, at);
        Some(at)
    }

    fn named_entry(&mut self, service: &str, host: &str, caller: &str) -> Option<u32> {
        if let Some(at) = self.known_named(service, host, caller) {
            return Some(at);
        }
        let Ok(name) = KeyName::named(service, host, caller) else {
            self.counters.bad_names += 1;
            return None;
        };
        let find = self.find.as_str().into();
        let at = self.insert(name)?;
        self.by_name.insert(find, at);
        Some(at)
    }

    fn insert(&mut self, name: KeyName) -> Option<u32> {
        let entry = Entry {
            name,
            baselines: Baselines::default(),
            told: Told::default(),
            heard: 0,
            id: 0,
            is_asked: self.is_loaded() && !self.has_forgotten,
            row_at: 0,
            cell: (0, 0),
        };
        if let Some(at) = self.free.pop() {
            self.entries[at as usize] = Some(entry);
            return Some(at);
        }
        if self.entries.len() >= self.config.keys_max {
            self.counters.refused_keys += 1;
            return None;
        }
        let at = u32::try_from(self.entries.len()).ok()?;
        self.entries.push(Some(entry));
        Some(at)
    }

    fn take(
        &mut self,
        now_s: u64,
        at: u32,
        told: Told,
        compare: impl FnOnce(&mut Baselines) -> Added,
        reporter: u64,
    ) {
        self.counters.records += 1;
        let Some(Some(entry)) = self.entries.get_mut(at as usize) else {
            return;
        };
        let added = match compare(&mut entry.baselines) {
            Added::Known(added) => added,
            Added::First(totals) if entry.is_asked => totals,
            Added::First(totals) => {
                self.firsts.entry(at).or_default().push((reporter, totals));
                Totals::default()
            }
        };
        entry.told = told;
        entry.heard = now_s;
        self.count(at, added);
    }

    /// Adds to the cell of an entry in the open piece.
    fn count(&mut self, at: u32, added: Totals) {
        let Some(Some(entry)) = self.entries.get_mut(at as usize) else {
            return;
        };
        entry.cell = self.pieces.add(
            entry.cell,
            Cell {
                entry: at,
                added,
                told: entry.told,
            },
        );
    }

    /// The rows of a cell.
    fn put(&mut self, cell: &Cell, batch: &mut Batch) {
        let Some(Some(entry)) = self.entries.get_mut(cell.entry as usize) else {
            return;
        };
        let is_lars = matches!(entry.name, KeyName::Lars(_));
        let is_old = batch.now.saturating_sub(entry.row_at) >= KEY_REFRESH_S;
        let is_new = entry.id == 0;
        if is_new {
            self.last_id += 1;
            entry.id = self.last_id;
        }
        if is_new || is_old || !is_lars {
            entry.row_at = batch.now;
            batch.keys.push(KeyRow {
                id: entry.id,
                name: entry.name.clone(),
                told: cell.told,
            });
        }
        if let KeyName::Lars(key) = entry.name {
            batch.lars.push(LarsRow {
                key,
                told: cell.told,
            });
        }
        if cell.added != Totals::default() {
            batch.counts.push(CountRow {
                key: entry.id,
                added: cell.added,
            });
        }
    }
}

const _: () = assert!(SERVICE_NAME_BYTES_MAX <= waystation_wire::calls::NAME_LEN_MAX);
