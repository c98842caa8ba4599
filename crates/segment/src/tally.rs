//! How calls ended, host by host, for those who keep statistics, and what
//! callers say of a host by that.

use std::sync::Arc;

use waystation_balance::{CallEnd, Entry, HostName};
use waystation_base::Moment;
use waystation_membership::{CallersWord, Instance};

use crate::limits::{CALLERS_FAILURES, CALLERS_WINDOW};

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

/// What calls to a host met last.
#[derive(Clone, Copy, Debug)]
struct Met {
    name: HostName,
    at: Moment,
    /// Failures since the last answer.
    failures: u32,
}

/// Counts ends of calls until they are drained. Cost of one: O(1). Holds a place
/// a host, and one for each host that went since the last drain.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    by_slot: Vec<Option<HostEnds>>,
    met: Vec<Option<Met>>,
    /// Of hosts whose slot has another since.
    gone: Vec<HostEnds>,
}

impl Tally {
    /// So many calls to this host ended so.
    pub(crate) fn add(&mut self, now: Moment, entry: &Entry, end: CallEnd, count: u32) {
        if count == 0 || end == CallEnd::Cancelled {
            return;
        }
        self.meet(now, entry.name, end, count);
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

    /// What callers say of a host: answers, refusals for load among them, or
    /// [`CALLERS_FAILURES`] failures since the last of these. After
    /// [`CALLERS_WINDOW`] nothing.
    pub(crate) fn callers(&self, now: Moment, name: HostName) -> CallersWord {
        let met = self.met.get(name.slot as usize).copied().flatten();
        match met.filter(|met| met.name == name) {
            Some(met) if now.saturating_since(met.at) > CALLERS_WINDOW => CallersWord::None,
            Some(met) if met.failures >= CALLERS_FAILURES => CallersWord::Failing,
            Some(_) => CallersWord::Ok,
            None => CallersWord::None,
        }
    }

    fn meet(&mut self, now: Moment, name: HostName, end: CallEnd, count: u32) {
        let at = name.slot as usize;
        if self.met.len() <= at {
            self.met.resize(at + 1, None);
        }
        let before = self.met[at].filter(|met| met.name == name);
        let is_answer = matches!(end, CallEnd::Ok | CallEnd::Overloaded);
        let failures = before.map_or(0, |met| met.failures).saturating_add(count);
        self.met[at] = Some(Met {
            name,
            at: now,
            failures: if is_answer { 0 } else { failures },
        });
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
