//! How calls ended, host by host, for those who keep statistics.

use std::sync::Arc;

use waystation_balance::{CallEnd, Entry, HostName};
use waystation_membership::Instance;

/// Ends of calls to one host since they were asked for last.
#[derive(Clone, Debug)]
pub struct HostEnds {
    /// The host, which may be gone.
    pub name: HostName,
    /// What is known of it.
    pub instance: Arc<Instance>,
    /// Calls that went well.
    pub ok: u64,
    /// Calls that failed; those that were given up are in neither.
    pub failed: u64,
}

/// Counts ends of calls until they are drained. Cost of one: O(1). Holds a place
/// a host, and one for each host that went since the last drain.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    by_slot: Vec<Option<HostEnds>>,
    /// Of hosts whose slot has another since.
    gone: Vec<HostEnds>,
}

impl Tally {
    /// So many calls to this host ended so.
    pub(crate) fn add(&mut self, entry: &Entry, end: CallEnd, count: u32) {
        if count == 0 || end == CallEnd::Cancelled {
            return;
        }
        let at = entry.name.slot as usize;
        if self.by_slot.len() <= at {
            self.by_slot.resize(at + 1, None);
        }
        let place = &mut self.by_slot[at];
        if let Some(other) = place.take_if(|known| known.name != entry.name) {
            self.gone.push(other);
        }
        let ends = place.get_or_insert_with(|| HostEnds {
            name: entry.name,
            instance: Arc::clone(&entry.instance),
            ok: 0,
            failed: 0,
        });
        if end.is_error() {
            ends.failed += u64::from(count);
        } else {
            ends.ok += u64::from(count);
        }
    }

    /// All that was counted since the last time. Cost: O(hosts).
    pub(crate) fn drain(&mut self, mut visit: impl FnMut(&HostEnds)) {
        for ends in self.gone.drain(..) {
            visit(&ends);
        }
        for ends in self.by_slot.iter_mut().flatten() {
            if ends.ok > 0 || ends.failed > 0 {
                visit(ends);
                (ends.ok, ends.failed) = (0, 0);
            }
        }
    }
}
