//! What probes say of the hosts of a service: one of the three witnesses of a
//! host's health. The others are the source of routes and the callers.

use std::collections::{BTreeMap, BTreeSet};

use waystation_balance::HostName;
use waystation_base::Moment;
use waystation_membership::ProbeWord;

use crate::limits::{PROBE_WORD_FOR, PROBES_FAILED};
use crate::probes::Probed;

/// What probes of a host found.
#[derive(Clone, Copy, Debug)]
struct Record {
    name: HostName,
    at: Moment,
    word: ProbeWord,
    /// Probes without an answer since the last one.
    unanswered: u32,
}

/// What probes found, host by host. Holds a record for each host of the view that
/// was probed.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    by_slot: BTreeMap<u32, Record>,
    /// The slots of those that failed lately.
    failed: BTreeSet<u32>,
}

impl Witnesses {
    /// A probe came to its end. Silence says nothing of a host that never
    /// answered: it may not know probes.
    pub(crate) fn handle_probed(&mut self, now: Moment, name: HostName, probed: Probed) {
        let before = self.by_slot.get(&name.slot);
        let before = before.filter(|one| one.name == name).copied();
        let is_answered = matches!(probed, Probed::Told(_));
        if probed == Probed::Silent && before.is_none() {
            return;
        }
        let unanswered = before.map_or(0, |one| one.unanswered).saturating_add(1);
        let unanswered = if is_answered { 0 } else { unanswered };
        let word = if is_answered {
            ProbeWord::Ok
        } else if unanswered >= PROBES_FAILED {
            ProbeWord::Failed
        } else {
            before.map_or(ProbeWord::None, |one| one.word)
        };
        let record = Record {
            name,
            at: now,
            word,
            unanswered,
        };
        self.by_slot.insert(name.slot, record);
        if word == ProbeWord::Failed {
            self.failed.insert(name.slot);
        } else {
            self.failed.remove(&name.slot);
        }
    }

    /// Forgets hosts that are in the view no longer. Cost: O(hosts that were
    /// probed).
    pub(crate) fn retain(&mut self, is_here: impl Fn(HostName) -> bool) {
        self.by_slot.retain(|_, one| is_here(one.name));
        let by_slot = &self.by_slot;
        self.failed.retain(|slot| by_slot.contains_key(slot));
    }

    /// What probes say of a host now.
    pub(crate) fn word(&self, now: Moment, name: HostName) -> ProbeWord {
        let record = self.by_slot.get(&name.slot);
        let recent =
            record.filter(|one| one.name == name && now.saturating_since(one.at) <= PROBE_WORD_FOR);
        recent.map_or(ProbeWord::None, |one| one.word)
    }

    /// The hosts that do not answer probes. Cost: O(these and log hosts that were
    /// probed).
    pub(crate) fn failed(&mut self, now: Moment) -> Vec<HostName> {
        let mut names = Vec::new();
        for slot in std::mem::take(&mut self.failed) {
            // A word that has faded comes back with the next probe only.
            if let Some(one) = self.by_slot.get(&slot)
                && self.word(now, one.name) == ProbeWord::Failed
            {
                names.push(one.name);
                self.failed.insert(slot);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use waystation_wire::Load;

    use super::*;

    const TOLD: Probed = Probed::Told(Load {
        in_flight: 1,
        latency_us: 1,
    });

    fn name(generation: u32) -> HostName {
        HostName {
            slot: 3,
            generation,
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1_000 * seconds)
    }

    #[test]
    fn silence_counts_of_those_who_answered_before() {
        let mut witnesses = Witnesses::default();
        let mut hear = |probed: Probed, times: u32| {
            (0..times).for_each(|_| witnesses.handle_probed(at(1), name(1), probed));
            witnesses.word(at(1), name(1))
        };
        assert_eq!(hear(Probed::Silent, 9), ProbeWord::None);
        assert_eq!(hear(Probed::Refused, 2), ProbeWord::None);
        assert_eq!(hear(Probed::Refused, 1), ProbeWord::Failed);
        assert_eq!(hear(TOLD, 1), ProbeWord::Ok);
        assert_eq!(hear(Probed::Silent, 2), ProbeWord::Ok);
        assert_eq!(hear(Probed::Silent, 1), ProbeWord::Failed);
    }

    #[test]
    fn a_word_is_of_one_host_and_fades() {
        let mut witnesses = Witnesses::default();
        (0..3).for_each(|_| witnesses.handle_probed(at(1), name(1), Probed::Refused));
        assert_eq!(witnesses.failed(at(11)), [name(1)]);
        assert_eq!(witnesses.word(at(12), name(1)), ProbeWord::None);
        assert!(witnesses.failed(at(12)).is_empty());
        assert_eq!(witnesses.word(at(1), name(2)), ProbeWord::None);
        // The next host of the slot begins anew.
        witnesses.handle_probed(at(1), name(2), Probed::Refused);
        assert_eq!(witnesses.word(at(1), name(2)), ProbeWord::None);
        assert_eq!(witnesses.word(at(1), name(1)), ProbeWord::None);
    }
    /// Story: each turn, of 2 ms, went through every host that had ever been probed,
    /// those that were gone too.
    #[test]
    fn a_turn_looks_at_those_that_failed_only() {
        let mut witnesses = Witnesses::default();
        let host = |slot| HostName {
            slot,
            generation: 1,
        };
        for slot in 0..10_000 {
            witnesses.handle_probed(at(1), host(slot), TOLD);
        }
        for slot in [7, 9_000] {
            (0..3).for_each(|_| witnesses.handle_probed(at(1), host(slot), Probed::Refused));
        }
        assert_eq!(witnesses.failed(at(2)), [host(7), host(9_000)]);
        assert_eq!(witnesses.failed.len(), 2);
        witnesses.handle_probed(at(2), host(7), TOLD);
        assert_eq!(witnesses.failed.len(), 1);
        // The other's word fades, and is looked at no more.
        assert!(witnesses.failed(at(12)).is_empty());
        assert!(witnesses.failed.is_empty());
        (0..3).for_each(|_| witnesses.handle_probed(at(12), host(9_000), Probed::Refused));
        witnesses.retain(|name| name.slot < 100);
        assert_eq!((witnesses.by_slot.len(), witnesses.failed.len()), (100, 0));
    }
}
