//! What a caller's connection holds: it ends with it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use waystation_base::ServiceName;
use waystation_client::protocol::HostRef;
use waystation_segment::LedgerId;

use crate::limits::{FILES_MAX, HANDED_OVER_MAX, HELD_HOSTS_MAX};

/// What a caller's connection holds: it ends with it.
#[derive(Debug, Default)]
pub(crate) struct Held {
    ledgers: Vec<(ServiceName, LedgerId)>,
    /// Ledgers of an agent before this one that were handed over here.
    inherited: Vec<u64>,
    /// Descriptors that came with the present request.
    files: Vec<OwnedFd>,
    /// Calls that were picked over it and have no end yet, by host: slot and
    /// generation.
    picks: BTreeMap<(ServiceName, u32, u32), u32>,
}

impl Held {
    pub(crate) fn add_ledger(&mut self, service: ServiceName, ledger: LedgerId) {
        self.ledgers.push((service, ledger));
    }

    /// Whether it has a ledger of this service.
    pub(crate) fn has_ledger(&self, service: &ServiceName) -> bool {
        self.ledgers.iter().any(|(one, _)| one == service)
    }

    /// Whether nothing ends with it but ledgers for which `is_over` holds.
    pub(crate) fn is_over(&self, mut is_over: impl FnMut(&ServiceName, LedgerId) -> bool) -> bool {
        let mut ledgers = self.ledgers.iter();
        self.picks.is_empty()
            && self.inherited.is_empty()
            && ledgers.all(|(service, ledger)| is_over(service, *ledger))
    }

    /// Whether no more may be handed over here.
    pub(crate) const fn is_full_of_inherited(&self) -> bool {
        self.inherited.len() >= HANDED_OVER_MAX
    }

    pub(crate) fn add_inherited(&mut self, id: u64) {
        self.inherited.push(id);
    }

    pub(crate) fn take_inherited(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.inherited)
    }

    /// A descriptor came; false when more came than go with any request.
    pub(crate) fn add_file(&mut self, file: OwnedFd) -> bool {
        self.files.push(file);
        self.files.len() <= FILES_MAX
    }

    pub(crate) fn take_files(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.files)
    }

    /// A call to `host` was picked.
    pub(crate) fn add_pick(&mut self, service: ServiceName, host: HostRef) {
        let count = self.picks.entry((service, host.slot, host.generation));
        let count = count.or_default();
        *count = count.saturating_add(1);
    }

    /// A call to `host` ended; whether it was picked here.
    pub(crate) fn end_pick(&mut self, service: &ServiceName, host: HostRef) -> bool {
        let key = (service.clone(), host.slot, host.generation);
        let Some(count) = self.picks.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.picks.remove(&key);
        }
        true
    }

    pub(crate) fn take_ledgers(&mut self) -> Vec<(ServiceName, LedgerId)> {
        std::mem::take(&mut self.ledgers)
    }

    /// Calls without an end, with their host and service.
    pub(crate) fn take_picks(&mut self) -> Vec<(ServiceName, HostRef, u32)> {
        let picks = std::mem::take(&mut self.picks);
        picks.into_iter().map(told).collect()
    }

    /// Those of one host, when there are more hosts than are kept.
    pub(crate) fn take_most(&mut self) -> Option<(ServiceName, HostRef, u32)> {
        if self.picks.len() <= HELD_HOSTS_MAX {
            return None;
        }
        self.picks.pop_first().map(told)
    }
}

fn told(one: ((ServiceName, u32, u32), u32)) -> (ServiceName, HostRef, u32) {
    let ((service, slot, generation), count) = one;
    (service, HostRef { slot, generation }, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever only picks must not fill the agent's memory.
    #[test]
    fn calls_to_more_hosts_than_are_kept_are_given_up() {
        let pay = ServiceName::new("pay").unwrap();
        let host = |slot| HostRef {
            slot,
            generation: 1,
        };
        let mut held = Held::default();
        let most = u32::try_from(HELD_HOSTS_MAX).unwrap();
        for slot in 0..most {
            held.add_pick(pay.clone(), host(slot));
            held.add_pick(pay.clone(), host(slot));
            assert_eq!(held.take_most(), None);
        }
        held.add_pick(pay.clone(), host(most));
        assert_eq!(held.take_most(), Some((pay.clone(), host(0), 2)));
        assert_eq!(held.take_most(), None);
        assert!(!held.end_pick(&pay, host(0)));
        assert!(held.end_pick(&pay, host(1)) && held.end_pick(&pay, host(1)));
        assert!(!held.end_pick(&pay, host(1)));
        assert_eq!(held.take_picks().len(), HELD_HOSTS_MAX - 1);
    }
}
