//! Slots whose host left: another one gets a slot only when nobody's call to the
//! last one is under way any more.
//!
//! A caller looks whether a slot still has the host that it called, and then counts
//! how that ended; between the two it may be stopped for any time. So that nothing
//! is booked to the next host, there is none until a look at all ledgers, some time
//! after callers were told that the host left, has found no call to it in flight.

use waystation_base::Moment;
use waystation_membership::View;

use super::Keeper;
use crate::limits::{HOSTS_MAX, REST_LOOKS_MAX, SLOT_REST, SLOT_REST_MAX};
use crate::memory::Memory;

/// A slot whose host left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resting {
    slot: u32,
    left_at: Moment,
    /// When it is looked at.
    due: Moment,
}

impl<M: Memory, L: Memory> Keeper<M, L> {
    /// The host of `slot` left.
    pub(super) fn rest(&mut self, now: Moment, slot: u32) {
        self.resting.push_back(Resting {
            slot,
            left_at: now,
            due: now + SLOT_REST,
        });
    }

    /// Gives slots free that have rested. Cost: O([`REST_LOOKS_MAX`] + ledgers).
    pub(super) fn release_rested(&mut self, now: Moment) {
        for _ in 0..(REST_LOOKS_MAX / self.ledgers.len().max(1)).max(1) {
            let Some(one) = self.resting.pop_front_if(|one| one.due <= now) else {
                return;
            };
            let is_long = now.saturating_since(one.left_at) >= SLOT_REST_MAX;
            if self.look_at_all(now, one.slot) == 0 || is_long {
                self.release(one.slot);
            } else {
                let due = now + SLOT_REST;
                self.resting.push_back(Resting { due, ..one });
            }
        }
    }

    /// Before a view: when it needs more slots than there are, those of hosts that
    /// left longest ago are used although calls to them may be in flight.
    pub(super) fn make_room(&mut self, view: &View) {
        let table = self.balancer.table();
        let most = HOSTS_MAX as usize;
        let used = table.len() + self.resting.len();
        if used + view.instances.len() <= most {
            return;
        }
        let is_new = |one: &&std::sync::Arc<waystation_membership::Instance>| {
            let known = table.find(&one.id).map(|entry| &entry.instance);
            known.is_none_or(|known| (&known.owner, &known.address) != (&one.owner, &one.address))
        };
        let needed = view.instances.values().filter(is_new).count();
        for _ in 0..(used + needed).saturating_sub(most) {
            let Some(one) = self.resting.pop_front() else {
                return;
            };
            self.release(one.slot);
        }
    }

    /// Calls in flight to the last host of a slot, after a look at all ledgers.
    fn look_at_all(&mut self, now: Moment, slot: u32) -> u32 {
        let mut ledgers = std::mem::take(&mut self.ledgers);
        let mut in_flight = 0_u32;
        for one in &mut ledgers {
            self.look(now, one, slot);
            in_flight = in_flight.saturating_add(one.watch.in_flight(slot));
        }
        self.ledgers = ledgers;
        in_flight
    }

    fn release(&mut self, slot: u32) {
        let mut orphans = 0_u32;
        for one in &mut self.ledgers {
            // Who comes after this agent would take it for the next host's.
            one.watch.note_slot(slot);
            let left = one.watch.in_flight(slot);
            if left == 0 {
                continue;
            }
            if one.is_earlier {
                // Its caller sees no other generation there, ever.
                one.lost.insert(slot);
            } else {
                orphans = orphans.saturating_add(left);
            }
        }
        if let Some(of_slot) = self.orphans.get_mut(slot as usize) {
            *of_slot = orphans;
        }
        self.balancer.release(slot);
    }
}
