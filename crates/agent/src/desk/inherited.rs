//! Ledgers of agents before this one, which were killed before they had told all of
//! them: callers hand them over. And what becomes of ledgers that are left.
//!
//! What is in them is counted, and says nothing of hosts: it is of a time that is
//! over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use waystation_base::{Moment, ServiceName};
use waystation_client::protocol::{Answer, Code, service_hash};
use waystation_client::{Access, Mapping};
use waystation_membership::Address;
use waystation_segment::{AttachError, LedgerWatch, Place, RouteReader};

use super::{Desk, Reply};
use crate::held::Held;
use crate::limits::{INHERITED_MAX, INHERITED_SLOTS_MAX, LEFT_MAX};

#[derive(Default)]
pub(super) struct Inherited {
    by_id: BTreeMap<u64, One>,
    /// The capacities of all of them.
    pub(super) slots: usize,
    last_id: u64,
    /// Ledgers of connections that ended. What was seen of them is noted when it is
    /// told; an agent that is killed before leaves that to the next one.
    left: Vec<LedgerWatch<Mapping>>,
}

/// A ledger that was handed over.
struct One {
    service: ServiceName,
    watch: LedgerWatch<Mapping>,
    /// Where the host of each slot was.
    hosts: Vec<Option<Box<str>>>,
}

impl One {
    /// How many hosts there is room for.
    fn slots(&self) -> usize {
        self.hosts.len().max(self.watch.capacity() as usize)
    }

    fn open(
        service: ServiceName,
        owner: u64,
        routes: &OwnedFd,
        ledger: &OwnedFd,
        slots_max: usize,
    ) -> io::Result<Self> {
        let routes = Mapping::attach(routes.as_fd(), Access::Read)?;
        let routes = RouteReader::attach(routes).map_err(io::Error::other)?;
        let ledger = Mapping::attach(ledger.as_fd(), Access::Write)?;
        let (names, capacity) = {
            let ledger = waystation_segment::Ledger::attach(&ledger).map_err(io::Error::other)?;
            (ledger.names(), ledger.capacity())
        };
        if names != routes.names() || names.0 != service_hash(service.as_str()) {
            return Err(io::Error::other(AttachError::Mismatch));
        }
        let slots = routes.capacity().max(capacity) as usize;
        if slots > slots_max {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let mut hosts = vec![None; routes.capacity() as usize];
        for (route, _) in routes.hosts().unwrap_or_default() {
            let address = match route.place {
                Place::Ip(address) => Some(Address::from(address)),
                Place::Unix(_) => {
                    let path = routes.path(route.slot, route.generation);
                    path.map(|path| Address::Unix(path.into()))
                }
            };
            hosts[route.slot as usize] = address.map(|address| address.to_string().into());
        }
        // Last: from here on nobody else counts it.
        let watch = LedgerWatch::take_over(ledger, owner).map_err(io::Error::other)?;
        Ok(Self {
            service,
            watch,
            hosts,
        })
    }
}

impl Desk {
    /// A caller hands over what the agent before this one gave to it.
    pub(super) fn inherit(&mut self, now: Moment, service: ServiceName, held: &mut Held) -> Reply {
        let Ok([routes, ledger]) = <[OwnedFd; 2]>::try_from(held.take_files()) else {
            return Reply::refused(Code::BadRequest, "no memory came with it");
        };
        if self.inherited.by_id.len() >= INHERITED_MAX || held.is_full_of_inherited() {
            return Reply::refused(Code::Busy, "too many ledgers were handed over");
        }
        let slots_max = INHERITED_SLOTS_MAX - self.inherited.slots;
        let mut one = match One::open(service, self.owner, &routes, &ledger, slots_max) {
            Ok(one) => one,
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                return Reply::refused(Code::Busy, "ledgers for too many hosts were handed over");
            }
            Err(error) => return Reply::refused(Code::BadRequest, error.to_string()),
        };
        if !self.is_reporting() {
            one.watch.let_go();
            return Reply::of(Answer::TakenOver);
        }
        self.count_all(now, &mut one);
        self.inherited.slots += one.slots();
        self.inherited.last_id += 1;
        let id = self.inherited.last_id;
        self.inherited.by_id.insert(id, one);
        held.add_inherited(id);
        Reply::of(Answer::TakenOver)
    }

    /// Adds what callers did with ledgers of agents before this one. Cost: O(such
    /// ledgers × hosts / 64).
    pub(super) fn collect_inherited(&mut self, now: Moment) {
        let mut by_id = std::mem::take(&mut self.inherited.by_id);
        let mut slots = Vec::new();
        for one in by_id.values_mut() {
            one.watch.take_marks(|slot| slots.push(slot));
            for slot in slots.drain(..) {
                self.count(now, one, slot);
            }
        }
        self.inherited.by_id = by_id;
    }

    /// What was collected is about to be told. Cost: O(ledgers × hosts / 64).
    pub(crate) fn note_told(&mut self) {
        for service in self.services.values_mut() {
            service.note_told();
        }
        for one in self.inherited.by_id.values_mut() {
            one.watch.note_told();
        }
        for watch in self.inherited.left.drain(..) {
            watch.let_go();
        }
    }

    /// The connection of a ledger ended, and all that is in it was seen.
    pub(super) fn leave(&mut self, watch: LedgerWatch<Mapping>) {
        if self.is_reporting() && self.inherited.left.len() < LEFT_MAX {
            self.inherited.left.push(watch);
        } else {
            watch.let_go();
        }
    }

    /// The same, of a ledger that was handed over.
    pub(super) fn leave_inherited(&mut self, now: Moment, id: u64) {
        if let Some(mut one) = self.inherited.by_id.remove(&id) {
            self.inherited.slots -= one.slots();
            self.count_all(now, &mut one);
            self.leave(one.watch);
        }
    }

    fn count_all(&mut self, now: Moment, one: &mut One) {
        for slot in 0..one.watch.capacity() {
            self.count(now, one, slot);
        }
    }

    fn count(&mut self, now: Moment, one: &mut One, slot: u32) {
        let added = one.watch.look(slot);
        self.past.dropped = self.past.dropped.saturating_add(added.dropped);
        let counts = added.ok_and_failed();
        if counts == (0, 0) {
            return;
        }
        match one.hosts.get(slot as usize) {
            Some(Some(host)) => self.totals.add(now, &one.service, host, counts, None),
            // It left shortly before its agent was killed.
            _ => self.totals.add_uncounted(counts.0 + counts.1),
        }
    }
}
