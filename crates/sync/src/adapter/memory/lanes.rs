//! The lanes of a table in memory.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use waystation_base::Seq;
use waystation_net::unix_time;
use waystation_replica::{
    ApplyBatch, Chunk, Cursor, Decider, Decision, Entry, Holding, LifeId, Origin, Position,
    SnapshotSize, StoreChunk, Verdict,
};

use super::change::{put, take};
use super::{Audited, Fate, MemoryChange, Rows, Shared, State};
use crate::adapter::{AdapterError, Apply, ApplyError, Capture, RangeHash, RangeHasher, Snapshot};

/// Transactions and captured writes.
pub(super) struct Lane(pub(super) Arc<Shared>);

/// What a transaction is to leave, or why it leaves nothing.
fn stored_seq(holding: &Holding) -> Seq {
    match holding {
        Holding::Fresh => Seq(0),
        Holding::Restoring(part) => part.position.seq,
        Holding::At { position, .. } => position.seq,
    }
}

impl State {
    /// Runs a transaction, unless a fault has its turn.
    fn transact(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        if self.faults.transient > 0 {
            self.faults.transient -= 1;
            return Err(ApplyError::transient("the table is locked"));
        }
        run(self)?;
        if self.faults.committed_and_lost > 0 {
            self.faults.committed_and_lost -= 1;
            return Err(ApplyError::transient("the connection is lost"));
        }
        Ok(())
    }

    fn changes(&self, entry: &Entry) -> Result<Vec<MemoryChange>, ApplyError> {
        let seq = entry.position.seq;
        let changes = MemoryChange::decode(&entry.payload);
        let changes = changes.map_err(|error| ApplyError::poison(seq, error))?;
        match changes
            .iter()
            .find(|one| self.faults.poisoned.contains(one.key()))
        {
            Some(_) => Err(ApplyError::poison(seq, "the table refuses the row")),
            None => Ok(changes),
        }
    }

    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError> {
        let done = stored_seq(&self.holding);
        let due = |entry: &Entry| entry.position.seq > done;
        let due: Vec<_> = (batch.entries.iter()).filter(|(one, _)| due(one)).collect();
        // All that can fail comes first: there is nothing to roll back.
        let mut changes = Vec::new();
        for (entry, verdict) in &due {
            changes.push(match verdict {
                Verdict::Apply => self.changes(entry)?,
                _ => Vec::new(),
            });
        }
        for ((entry, verdict), changes) in due.into_iter().zip(changes) {
            self.note_returned(entry);
            let below = batch.below.as_ref().map(Cursor::as_bytes);
            let is_there = |one: &&MemoryChange| below.is_none_or(|below| one.key() < below);
            for change in changes.iter().filter(is_there) {
                change.apply(&mut self.rows);
            }
            match verdict {
                Verdict::Park => {
                    self.parked.insert(entry.position.seq, Arc::clone(entry));
                    self.note_fate(entry, Fate::Parked, batch.decision.as_ref());
                }
                Verdict::Skip => {
                    self.is_differing = true;
                    self.note_fate(entry, Fate::Skipped, batch.decision.as_ref());
                }
                Verdict::Apply | Verdict::Contained => {}
            }
        }
        if batch.position.seq >= done {
            self.move_to(batch);
        }
        Ok(())
    }

    fn move_to(&mut self, batch: &ApplyBatch) {
        let (position, ahead) = (batch.position, batch.ahead);
        match &mut self.holding {
            Holding::Restoring(part) => part.position = position,
            holding => *holding = Holding::At { position, ahead },
        }
    }

    fn note_returned(&mut self, entry: &Entry) {
        if let Origin::Site { life, source, .. } = entry.origin
            && Some(life) == self.life
        {
            self.returned = source;
        }
    }

    fn note_fate(&mut self, entry: &Entry, fate: Fate, decision: Option<&Decision>) {
        self.audit.push(Audited {
            seq: entry.position.seq,
            fate,
            by: decision.map_or(Decider::Order, |one| one.by),
            error: decision
                .map(|one| one.error.to_string())
                .unwrap_or_default(),
            at: unix_time().as_secs(),
            payload: entry.payload.clone(),
        });
    }

    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError> {
        let rows = rows_of(&store.chunk.data).ok_or_else(|| ApplyError::transient("no rows"))?;
        if store.chunk.index == 0 {
            *self = Self {
                life: Some(life),
                faults: std::mem::take(&mut self.faults),
                ..Self::default()
            };
        }
        let (from, to) = (&store.chunk.from, &store.chunk.to);
        self.rows.retain(|key, _| {
            let key = key.as_slice();
            key < from.as_bytes() || to.as_ref().is_some_and(|to| key >= to.as_bytes())
        });
        self.rows.extend(rows);
        self.holding = store.holding.clone();
        Ok(())
    }

    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError> {
        let Some(entry) = self.parked.get(&seq).map(Arc::clone) else {
            return Ok(());
        };
        for change in self.changes(&entry)? {
            change.apply(&mut self.rows);
        }
        self.parked.remove(&seq);
        if let Some(audited) = self.audit.iter_mut().find(|one| one.seq == seq) {
            audited.fate = Fate::Replayed;
        }
        Ok(())
    }
}

fn rows_of(data: &[u8]) -> Option<Vec<(Vec<u8>, Bytes)>> {
    let (mut rows, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        let (key, after) = take(rest)?;
        let (value, after) = take(after)?;
        rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
        rest = after;
    }
    Some(rows)
}

impl Apply for Lane {
    fn apply(&mut self, batch: &ApplyBatch) -> Result<(), ApplyError> {
        self.0.lock().transact(|state| state.apply(batch))
    }

    fn store(&mut self, store: &StoreChunk, life: LifeId) -> Result<(), ApplyError> {
        self.0.lock().transact(|state| state.store(store, life))
    }

    fn give_up(&mut self, life: LifeId) -> Result<(), ApplyError> {
        self.0.lock().transact(|state| {
            *state = State {
                rows: std::mem::take(&mut state.rows),
                life: Some(life),
                faults: std::mem::take(&mut state.faults),
                ..State::default()
            };
            Ok(())
        })
    }

    fn replay(&mut self, seq: Seq) -> Result<(), ApplyError> {
        self.0.lock().transact(|state| state.replay(seq))
    }

    fn audit(&mut self) -> Result<Vec<Audited>, AdapterError> {
        Ok(self.0.lock().audit.clone())
    }

    fn set_repaired(&mut self, through: Seq) -> Result<bool, AdapterError> {
        let mut state = self.0.lock();
        let is_later = |one: &Audited| one.fate == Fate::Skipped && one.seq > through;
        state.is_differing &= state.audit.iter().any(is_later);
        Ok(!state.is_differing)
    }
}

impl Capture for Lane {
    fn wait(&mut self, after: u64, wait: Duration) -> Result<u64, AdapterError> {
        let nothing = |state: &mut State| state.captured <= after;
        let state = self.0.lock();
        let waited = (self.0.captured).wait_timeout_while(state, wait, nothing);
        let (state, _): (MutexGuard<'_, State>, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(state.captured.max(after))
    }

    fn read(
        &mut self,
        after: u64,
        changes_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, AdapterError> {
        let state = self.0.lock();
        let (mut bytes, mut all) = (0, Vec::new());
        for payload in state
            .outbox
            .range(after + 1..)
            .map(|(_, one)| one)
            .take(changes_max)
        {
            bytes += payload.len();
            if bytes > bytes_max && !all.is_empty() {
                break;
            }
            all.push(payload.clone());
        }
        Ok(all)
    }

    fn erase(&mut self, through: u64) -> Result<(), AdapterError> {
        let mut state = self.0.lock();
        state.outbox = state.outbox.split_off(&(through + 1));
        Ok(())
    }
}

/// The table as it was.
pub(super) struct MemorySnapshot {
    pub(super) rows: Rows,
    pub(super) position: Position,
    pub(super) captured: Option<u64>,
}

impl Snapshot for MemorySnapshot {
    fn position(&self) -> Position {
        self.position
    }

    fn captured(&self) -> Option<u64> {
        self.captured
    }

    fn size(&self) -> SnapshotSize {
        let row = |(key, value): (&Vec<u8>, &Bytes)| (key.len() + value.len() + 8) as u64;
        SnapshotSize {
            bytes: self.rows.iter().map(row).sum(),
            rows: self.rows.len() as u64,
        }
    }

    fn read(&mut self, index: u64, from: &Cursor, bytes_max: usize) -> Result<Chunk, AdapterError> {
        let (mut data, mut count, mut to) = (Vec::new(), 0, None);
        for (key, value) in self.rows.range(from.as_bytes().to_vec()..) {
            if !data.is_empty() && data.len() + key.len() + value.len() + 8 > bytes_max {
                to = Some(Cursor::new(key));
                break;
            }
            put(&mut data, key);
            put(&mut data, value);
            count += 1;
        }
        Ok(Chunk::new(index, from.clone(), to, count, data.into()))
    }

    fn hash(&mut self, from: &Cursor) -> Result<Option<RangeHash>, AdapterError> {
        let mut hasher = RangeHasher::default();
        for (key, value) in self.rows.range(from.as_bytes().to_vec()..) {
            if hasher.push(Cursor::new(key), value) {
                break;
            }
        }
        Ok(hasher.finish())
    }
}
