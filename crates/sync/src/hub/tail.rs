//! The last entries in memory: sites that keep up are served without the disk.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use waystation_base::Seq;
use waystation_replica::{Entry, entry_bytes};

use crate::limits::TAIL_BYTES_MAX;
use crate::log::ReadLog;

struct State {
    reader: Arc<dyn ReadLog>,
    entries: VecDeque<Arc<Entry>>,
    bytes: u64,
}

/// The end of the log, shared by all shards.
pub(super) struct Tail {
    state: RwLock<State>,
}

impl Tail {
    pub(super) fn new(reader: Arc<dyn ReadLog>) -> Self {
        Self {
            state: RwLock::new(State {
                reader,
                entries: VecDeque::new(),
                bytes: 0,
            }),
        }
    }

    /// The log was opened anew.
    pub(super) fn reset(&self, reader: Arc<dyn ReadLog>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State {
            reader,
            entries: VecDeque::new(),
            bytes: 0,
        };
    }

    /// These are durable, and follow those before.
    pub(super) fn push(&self, entries: &[Arc<Entry>]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            state.bytes += entry_bytes(entry);
            state.entries.push_back(Arc::clone(entry));
        }
        while state.bytes > TAIL_BYTES_MAX
            && let Some(oldest) = state.entries.pop_front()
        {
            state.bytes -= entry_bytes(&oldest);
        }
    }

    pub(super) fn reader(&self) -> Arc<dyn ReadLog> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.reader)
    }

    /// Entries in `(after, through]`, as [`LogReader::read`](crate::LogReader::read) gives them; none if
    /// the first is not in memory.
    pub(super) fn read(
        &self,
        after: Seq,
        through: Seq,
        bytes_max: u64,
    ) -> Option<Arc<[Arc<Entry>]>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let first = state.entries.front()?.position.seq;
        let skip = usize::try_from((after.0 + 1).checked_sub(first.0)?).ok()?;
        let mut bytes = 0;
        let found = state.entries.range(skip.min(state.entries.len())..);
        let found = found.enumerate().take_while(|(at, entry)| {
            bytes += entry_bytes(entry);
            entry.position.seq <= through && (*at == 0 || bytes <= bytes_max)
        });
        let found: Arc<[Arc<Entry>]> = found.map(|(_, entry)| Arc::clone(entry)).collect();
        (!found.is_empty()).then_some(found)
    }
}
