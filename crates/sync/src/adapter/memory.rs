//! A table in memory as a target: for tests and examples of what stands above.

mod change;
mod lanes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use waystation_base::Seq;
use waystation_replica::{Entry, Holding, LifeId, SiteRestored, Touches, TouchesOf};

use super::{Adapter, AdapterError, Audited, Fate, Kind, Opened, Snapshot};
use lanes::{Lane, MemorySnapshot};

pub use change::MemoryChange;

type Rows = BTreeMap<Vec<u8>, Bytes>;

/// Faults to come.
#[derive(Clone, Debug, Default)]
pub struct MemoryFaults {
    /// So many transactions fail and leave nothing.
    pub transient: u32,
    /// So many transactions are committed, and said to have failed.
    pub committed_and_lost: u32,
    /// Changes of these keys are refused.
    pub poisoned: BTreeSet<Vec<u8>>,
    /// So many snapshots are refused.
    pub snapshots: u32,
}

/// What a table holds. All of it is as durable as the process.
#[derive(Debug, Default)]
struct State {
    rows: Rows,
    life: Option<LifeId>,
    holding: Holding,
    parked: BTreeMap<Seq, Arc<Entry>>,
    audit: Vec<Audited>,
    is_differing: bool,
    /// Captured writes that are not erased, by number.
    outbox: BTreeMap<u64, Bytes>,
    captured: u64,
    /// The last own write that came back through the log.
    returned: u64,
    faults: MemoryFaults,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    captured: Condvar,
    is_captured: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held this fails anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table of keys and values in memory. Clones are the same table; it outlives
/// the sites that are opened on it, as a database does. Entries are lists of
/// [`MemoryChange`]s.
#[derive(Clone, Debug, Default)]
pub struct MemoryDatabase {
    shared: Arc<Shared>,
}

impl MemoryDatabase {
    /// An empty table whose own writes are not captured.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table whose own writes are captured.
    pub fn captured() -> Self {
        Self {
            shared: Arc::new(Shared {
                is_captured: true,
                ..Shared::default()
            }),
        }
    }

    /// Writes to the table as an application does.
    pub fn write(&self, changes: &[MemoryChange]) {
        let mut state = self.shared.lock();
        for change in changes {
            change.apply(&mut state.rows);
        }
        if self.shared.is_captured {
            state.captured += 1;
            let number = state.captured;
            state.outbox.insert(number, MemoryChange::encode(changes));
            self.shared.captured.notify_all();
        }
    }

    /// All rows. Cost: O(rows).
    pub fn rows(&self) -> BTreeMap<Vec<u8>, Bytes> {
        self.shared.lock().rows.clone()
    }

    /// What it holds of the log.
    pub fn holding(&self) -> Holding {
        self.shared.lock().holding.clone()
    }

    /// Faults to come, in place of those that were to come.
    pub fn set_faults(&self, faults: MemoryFaults) {
        self.shared.lock().faults = faults;
    }
}

fn touches(entry: &Entry) -> Touches {
    let Ok(changes) = MemoryChange::decode(&entry.payload) else {
        return Touches::Anything;
    };
    let keys = changes.iter().map(|one| waystation_base::hash64(one.key()));
    Touches::Keys(keys.collect())
}

impl Adapter for MemoryDatabase {
    fn kind(&self) -> Kind {
        Kind {
            name: "memory",
            is_transactional: true,
            can_filter: true,
            has_rows: true,
            touches: TouchesOf::new(touches),
        }
    }

    fn open(&self, life: LifeId) -> Result<Opened, AdapterError> {
        let mut state = self.shared.lock();
        let life = *state.life.get_or_insert(life);
        let parked = state.parked.iter();
        let restored = SiteRestored {
            life,
            holding: state.holding.clone(),
            parked: parked.map(|(seq, one)| (*seq, touches(one))).collect(),
            is_differing: state.is_differing,
            is_captured: self.shared.is_captured,
            captured: state.captured,
        };
        drop(state);
        let lane = || Lane(Arc::clone(&self.shared));
        let capture = self.shared.is_captured.then(|| Box::new(lane()) as _);
        Ok(Opened {
            restored,
            apply: Box::new(lane()),
            capture,
        })
    }

    fn open_snapshot(&self) -> Result<Box<dyn Snapshot>, AdapterError> {
        let mut state = self.shared.lock();
        if state.faults.snapshots > 0 {
            state.faults.snapshots -= 1;
            return Err(AdapterError::Unavailable("the disk is full".to_owned()));
        }
        let Holding::At { position, .. } = state.holding else {
            return Err(AdapterError::NoPosition);
        };
        Ok(Box::new(MemorySnapshot {
            rows: state.rows.clone(),
            position,
            captured: (state.captured > state.returned).then_some(state.captured),
        }))
    }
}
