//! The hosts of a service and what is known of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Moment, hash64};
use waystation_membership::{Instance, InstanceId, Label, State, Verdict, View};

use crate::average::{fading, nanos, peak};
use crate::host::{CallEnd, Host, HostName, Hosts, Load, Outcome};
use crate::limits::{HOSTS_MAX, RECENT_MAX, TIERS};

/// Where a caller stands, to tell near hosts from far ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// The caller's machine room; `None` makes all hosts near.
    pub site: Option<Label>,
    /// Its part of the room.
    pub zone: Option<Label>,
}

impl Locality {
    /// 0 for the caller's zone, 1 for its site, 2 for elsewhere. Who has no
    /// site or zone of its own does not tell hosts apart by it; a host without
    /// the label that the caller has is not near.
    pub fn tier(&self, instance: &Instance) -> u8 {
        let is_near = |mine: &Option<Label>, its: &Option<Label>| mine.is_none() || mine == its;
        match (
            is_near(&self.site, &instance.site),
            is_near(&self.zone, &instance.zone),
        ) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        }
    }
}

/// One host of a [`Table`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: HostName,
    /// The instance as its view has it.
    pub instance: Arc<Instance>,
    /// How near it is: below [`TIERS`].
    pub tier: u8,
    /// What discovery thinks of it.
    pub verdict: Verdict,
    hash: u64,
}

impl Entry {
    /// Whether it takes calls at all: it serves, has a weight, and is not gone.
    pub fn takes_calls(&self) -> bool {
        self.instance.state == State::Serving
            && self.instance.weight > 0
            && self.verdict != Verdict::Gone
    }
}

/// The weight of a free slot's record; no instance has it.
const NOBODY: u32 = u32::MAX;

/// How results enter the averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AverageConfig {
    /// How long a latency is remembered. Default 10 s.
    pub tau: Duration,
    /// How long a failure is remembered. Default 2 s.
    pub error_tau: Duration,
    /// How many results the share of errors is over, about. Default 10.
    pub calls: u32,
}

impl Default for AverageConfig {
    fn default() -> Self {
        Self {
            tau: Duration::from_secs(10),
            error_tau: Duration::from_secs(2),
            calls: 10,
        }
    }
}

/// What a view changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Hosts that are new, or stand in for another process under the same id.
    pub added: Vec<HostName>,
    /// Hosts that are gone.
    pub removed: Vec<HostName>,
    /// Instances left out, because the table is full.
    pub left_out: usize,
}

/// The hosts of one service and what is known of them, by slot.
///
/// A host keeps its slot and its history while its instance stays the same
/// process at the same address. Its slot is free once it is gone, or, where slots
/// are rested, once it is released. Cost of a result: O(1); of a view: O(hosts log
/// hosts).
#[derive(Clone, Debug)]
pub struct Table {
    config: AverageConfig,
    locality: Locality,
    slots: Vec<Option<Entry>>,
    /// What picks read, apart from the rest: one cache line a host.
    hosts: Vec<Host>,
    names: Vec<HostName>,
    free: Vec<u32>,
    /// The last hosts of slots that rest; `None` where slots do not.
    former: Option<BTreeMap<u32, Entry>>,
    by_id: BTreeMap<InstanceId, u32>,
    recent: Vec<u32>,
}

impl Table {
    /// Without hosts.
    pub fn new(config: AverageConfig, locality: Locality) -> Self {
        Self {
            config,
            locality,
            slots: Vec::new(),
            hosts: Vec::new(),
            names: Vec::new(),
            free: Vec::new(),
            former: None,
            by_id: BTreeMap::new(),
            recent: Vec::with_capacity(RECENT_MAX),
        }
    }

    /// Takes over a view: what it has is there, what it has not is gone.
    pub fn handle_view(&mut self, view: &View) -> Merged {
        let mut merged = Merged::default();
        let gone: Vec<u32> = self
            .by_id
            .iter()
            .filter(|(id, slot)| {
                let known = &self.entry_at(**slot).expect("ids lead to entries").instance;
                let found = view.instances.get(*id);
                found.is_none_or(|found| !is_same_process(known, found))
            })
            .map(|(_, &slot)| slot)
            .collect();
        merged.removed = gone.into_iter().map(|slot| self.remove(slot)).collect();
        for instance in view.instances.values() {
            if let Some(&slot) = self.by_id.get(&instance.id) {
                let tier = self.locality.tier(instance);
                let entry = self.slots[slot as usize].as_mut();
                let entry = entry.expect("ids lead to entries");
                self.hosts[slot as usize].weight = instance.weight;
                entry.tier = tier;
                entry.instance = Arc::clone(instance);
            } else if self.by_id.len() < HOSTS_MAX {
                merged.added.push(self.insert(Arc::clone(instance)));
            } else {
                merged.left_out += 1;
            }
        }
        merged
    }

    /// Discovery's verdict on an instance; false when it is unknown or has it
    /// already.
    pub fn handle_verdict(&mut self, id: &InstanceId, verdict: Verdict) -> bool {
        let slot = self.by_id.get(id).copied();
        let Some(entry) = slot.and_then(|slot| self.slots[slot as usize].as_mut()) else {
            return false;
        };
        std::mem::replace(&mut entry.verdict, verdict) != verdict
    }

    /// A call is on its way to `slot`.
    #[inline]
    pub fn handle_sent(&mut self, now: Moment, slot: u32) {
        self.handle_sent_many(now, slot, 1);
    }

    /// So many calls are on their way to `slot`.
    #[inline]
    pub fn handle_sent_many(&mut self, now: Moment, slot: u32, count: u32) {
        if let Some(host) = self.hosts.get_mut(slot as usize)
            && count > 0
        {
            if host.in_flight == 0 {
                host.waiting_since = now;
            }
            host.in_flight = host.in_flight.saturating_add(count);
            host.sent_since = host.sent_since.saturating_add(count);
        }
    }

    /// A call to `name` ended; false when that host is gone.
    #[inline]
    pub fn handle_outcome(&mut self, now: Moment, name: HostName, outcome: &Outcome) -> bool {
        let config = self.config;
        let Some(host) = self.host_mut(name) else {
            return false;
        };
        host.in_flight = host.in_flight.saturating_sub(1);
        let is_sign_of_life = matches!(
            outcome.end,
            CallEnd::Ok | CallEnd::Failed | CallEnd::Overloaded
        );
        if is_sign_of_life {
            host.waiting_since = now;
        }
        if outcome.end != CallEnd::Cancelled {
            take_sample(host, now, outcome.end, outcome.latency, config);
        }
        true
    }

    /// Calls to `name` ended of which nothing more is told.
    pub fn handle_ended(&mut self, name: HostName, count: u32) {
        if let Some(host) = self.host_mut(name) {
            host.in_flight = host.in_flight.saturating_sub(count);
        }
    }

    /// A report of load came from `name`; false when that host is gone or
    /// nothing was reported. Only an answered probe makes it one of
    /// [`Hosts::recent`], since replies come from the hosts that are picked
    /// anyway, and an even sample is wanted.
    pub fn handle_load(&mut self, now: Moment, name: HostName, load: Load, is_probe: bool) -> bool {
        let Some(host) = self.host_mut(name) else {
            return false;
        };
        host.waiting_since = now;
        if !load.is_reported() && !is_probe {
            return false;
        }
        host.load = load;
        host.load_at = now.max(Moment(1));
        host.sent_since = 0;
        if is_probe {
            self.note_recent(name.slot);
        }
        true
    }

    /// A probe of `name` found nobody, or was not answered in time. Without an
    /// answer ever, silence says nothing: the host may not know probes. Returns
    /// whether it counted.
    pub fn handle_probe_failed(&mut self, now: Moment, name: HostName, is_refused: bool) -> bool {
        let config = self.config;
        let Some(host) = self.host_mut(name) else {
            return false;
        };
        if !is_refused && host.load_at == Moment::ZERO {
            return false;
        }
        take_sample(host, now, CallEnd::Refused, None, config);
        // Its last news is no longer true.
        host.load_at = host.load_at.min(Moment(1));
        true
    }

    fn note_recent(&mut self, slot: u32) {
        if let Some(at) = self.recent.iter().position(|&one| one == slot) {
            // Oldest first: who reports again goes to the end.
            self.recent[at..].rotate_left(1);
            return;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.rotate_left(1);
            self.recent.pop();
        }
        self.recent.push(slot);
    }

    /// The present host of this name.
    pub fn entry(&self, name: HostName) -> Option<&Entry> {
        self.entry_at(name.slot).filter(|entry| entry.name == name)
    }

    /// The present host of an instance.
    pub fn find(&self, id: &InstanceId) -> Option<&Entry> {
        self.entry_at(*self.by_id.get(id)?)
    }

    /// The present host in a slot.
    pub fn entry_at(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// From now on a slot whose host is gone is nobody's until it is released.
    pub(crate) fn rest_slots(&mut self) {
        self.former.get_or_insert_default();
    }

    /// A slot that rests may have another host.
    pub(crate) fn release(&mut self, slot: u32) {
        if (self.former.as_mut()).is_some_and(|former| former.remove(&slot).is_some()) {
            self.free.push(slot);
        }
    }

    /// The last host of a slot that rests.
    pub fn former(&self, slot: u32) -> Option<&Entry> {
        self.former.as_ref()?.get(&slot)
    }

    /// The last hosts of all slots that rest.
    pub fn formers(&self) -> impl Iterator<Item = &Entry> {
        self.former.iter().flat_map(BTreeMap::values)
    }

    /// All hosts, by slot.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten()
    }

    /// The name of each slot's present host, or the last one of a free slot.
    pub fn names(&self) -> &[HostName] {
        &self.names
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// From when on `slot` warms up.
    pub(crate) fn set_warm_since(&mut self, slot: u32, since: Moment) {
        if let Some(host) = self.hosts.get_mut(slot as usize) {
            host.warm_since = since;
        }
    }

    /// Forgets failures and latencies of `slot`, whose cause is over.
    pub(crate) fn forget_failures(&mut self, now: Moment, slot: u32) {
        if let Some(host) = self.hosts.get_mut(slot as usize) {
            host.error_share = 0.0;
            host.latency_ns = 0.0;
            host.waiting_since = now;
        }
    }

    /// The record of a present host; the slots know which one is present.
    #[inline]
    fn host_mut(&mut self, name: HostName) -> Option<&mut Host> {
        let is_present = self.names.get(name.slot as usize) == Some(&name);
        let host = self.hosts.get_mut(name.slot as usize)?;
        (is_present && host.weight != NOBODY).then_some(host)
    }

    fn insert(&mut self, instance: Arc<Instance>) -> HostName {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).expect("hosts are bounded");
            self.slots.push(None);
            self.hosts.push(Host::new(NOBODY));
            self.names.push(HostName {
                slot,
                generation: 0,
            });
            slot
        });
        let name = &mut self.names[slot as usize];
        name.generation = name.generation.wrapping_add(1);
        let tier = self.locality.tier(&instance);
        debug_assert!(usize::from(tier) < TIERS, "tiers are bounded");
        self.by_id.insert(instance.id.clone(), slot);
        self.hosts[slot as usize] = Host::new(instance.weight);
        self.slots[slot as usize] = Some(Entry {
            name: *name,
            tier,
            verdict: Verdict::Use,
            hash: hash64(instance.id.as_str().as_bytes()),
            instance,
        });
        *name
    }

    fn remove(&mut self, slot: u32) -> HostName {
        let entry = self.slots[slot as usize].take().expect("it was found");
        self.by_id.remove(&entry.instance.id);
        self.hosts[slot as usize] = Host::new(NOBODY);
        self.recent.retain(|&one| one != slot);
        let name = entry.name;
        match &mut self.former {
            Some(former) => {
                former.insert(slot, entry);
            }
            None => self.free.push(slot),
        }
        name
    }
}

/// Whether results about `one` are results about `other`. Lars' routes carry no
/// owner, so that equal addresses decide there.
fn is_same_process(one: &Instance, other: &Instance) -> bool {
    one.owner == other.owner && one.address == other.address
}

fn take_sample(
    host: &mut Host,
    now: Moment,
    end: CallEnd,
    latency: Option<Duration>,
    config: AverageConfig,
) {
    let elapsed = now.saturating_since(host.latency_at);
    let kept = fading(elapsed, config.tau);
    let sample = if end.is_error() { 1.0 } else { 0.0 };
    // A refusal or silence is certain: it weighs as several answered failures.
    let calls = config.calls.max(1);
    #[expect(clippy::cast_precision_loss, reason = "a small setting")]
    let weight = match end {
        CallEnd::Refused | CallEnd::TimedOut => 0.5,
        _ => 1.0 / calls as f32,
    };
    let before = host.error_share * fading(elapsed, config.error_tau);
    host.error_share = before + (sample - before) * weight;
    // How long a failure took says nothing about answers, except when it is the
    // wait that failed.
    let is_time = matches!(end, CallEnd::Ok | CallEnd::TimedOut);
    if let (true, Some(latency)) = (is_time, latency) {
        host.latency_ns = peak(host.latency_ns, nanos(latency), kept);
    } else {
        host.latency_ns *= kept;
    }
    host.latency_at = now;
}

impl Hosts for Table {
    #[inline]
    fn host(&self, slot: u32) -> Host {
        match self.hosts.get(slot as usize) {
            Some(host) => *host,
            None => Host::new(NOBODY),
        }
    }

    fn hash(&self, slot: u32) -> u64 {
        self.entry_at(slot).map_or(0, |entry| entry.hash)
    }

    fn recent(&self) -> &[u32] {
        &self.recent
    }
}
