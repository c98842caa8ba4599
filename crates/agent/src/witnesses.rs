//! What probes say of the hosts of a service: one of the three witnesses of a
//! host's health. The others are the source of routes and the callers.

use std::collections::BTreeMap;

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

/// What probes found, host by host. Holds a record for each slot that was probed.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    by_slot: BTreeMap<u32, Record>,
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
    }

    /// What probes say of a host now.
    pub(crate) fn word(&self, now: Moment, name: HostName) -> ProbeWord {
        let record = self.by_slot.get(&name.slot);
        let recent =
            record.filter(|one| one.name == name && now.saturating_since(one.at) <= PROBE_WORD_FOR);
        recent.map_or(ProbeWord::None, |one| one.word)
    }

    /// The hosts that do not answer probes. Cost: O(hosts that were probed).
    pub(crate) fn failed(&self, now: Moment) -> impl Iterator<Item = HostName> {
        let names = self.by_slot.values().map(|one| one.name);
        names.filter(move |name| self.word(now, *name) == ProbeWord::Failed)
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
        assert_eq!(witnesses.failed(at(11)).collect::<Vec<_>>(), [name(1)]);
        assert_eq!(witnesses.word(at(12), name(1)), ProbeWord::None);
        assert_eq!(witnesses.failed(at(12)).count(), 0);
        assert_eq!(witnesses.word(at(1), name(2)), ProbeWord::None);
        // The next host of the slot begins anew.
        witnesses.handle_probed(at(1), name(2), Probed::Refused);
        assert_eq!(witnesses.word(at(1), name(2)), ProbeWord::None);
        assert_eq!(witnesses.word(at(1), name(1)), ProbeWord::None);
    }
}
