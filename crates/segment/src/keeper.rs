//! The agent's side of one service, without I/O: a balancer that learns from
//! ledgers and writes what picks need.

use std::sync::Arc;
use std::time::Duration;

use waystation_balance::limits::TIERS;
use waystation_balance::{Balancer, CallEnd, GoneHost, HostName, Merged, Outcome, Standing};
use waystation_base::Moment;
use waystation_membership::{Address, CallersWord, InstanceId, Verdict, View};

use crate::error::AttachError;
use crate::layout::PATH_BYTES_MAX;
use crate::ledger::{Added, ENDS, LedgerWatch};
use crate::limits::{HOSTS_MAX, LEDGERS_MAX, PATHS_MAX, POOL_MAX, SWEEP_MAX};
use crate::memory::Memory;
use crate::route::{Entry, Note, Place, Route, RouteWriter, Routes, SegmentState, Spill, WARM};
use crate::tally::{HostEnds, Tally};

/// How often a service in use gets a turn. Picks are made from costs that are so
/// old at most.
pub const TURN_EVERY: Duration = Duration::from_millis(2);

/// What picks need is written so often when nothing happens, since costs change
/// with time.
pub const WRITE_EVERY: Duration = Duration::from_millis(10);

/// The name of a ledger while it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerId(pub u64);

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeeperCounters {
    /// Turns made.
    pub turns: u64,
    /// How often the routes were written.
    pub routes: u64,
    /// Calls that callers sent.
    pub sent: u64,
    /// Ends of calls, in the order of [`ENDS`].
    pub ended: [u64; ENDS.len()],
    /// Calls of callers that are gone, which have no end.
    pub abandoned: u64,
    /// How often replies told a load.
    pub told: u64,
    /// Results for hosts that were gone.
    pub stale: u64,
    /// Hosts that callers cannot be told of: beyond the capacity, or at more
    /// Unix sockets than [`PATHS_MAX`].
    pub left_out: u64,
}

/// Keeps the route segment of a service.
///
/// Calling order: [`Keeper::handle_view`] and [`Keeper::handle_verdict`] as they
/// come, [`Keeper::attach`] and [`Keeper::detach`] for callers' ledgers,
/// [`Keeper::handle_turn`] every [`TURN_EVERY`] while calls are made and at least
/// twice a second. Answers to probes go to [`Keeper::balancer_mut`]. Cost of a turn:
/// O(ledgers × (hosts / 64 + hosts that were called)).
#[derive(Debug)]
pub struct Keeper<M, L> {
    balancer: Balancer,
    writer: RouteWriter<M>,
    ledgers: Vec<(LedgerId, LedgerWatch<L>)>,
    next_id: u64,
    pools: [Vec<Entry>; TIERS],
    standings: Vec<Standing>,
    /// The slots of the present pools and of those before.
    pooled: Vec<u32>,
    /// The candidates that were written, by version.
    written: Option<u64>,
    view_version: u64,
    /// Calls in flight to earlier hosts of a slot.
    orphans: Vec<u32>,
    /// Slots with news in this turn.
    touched: Vec<u32>,
    sweep: u32,
    tally: Tally,
    /// Something is known that was not written yet.
    has_news: bool,
    written_at: Moment,
    counters: KeeperCounters,
}

impl<M: Memory, L: Memory> Keeper<M, L> {
    /// Keeps `writer`'s segment with `balancer`'s rules, which must be those of
    /// `fresh` or `p2c` for callers to pick by themselves.
    pub fn new(balancer: Balancer, writer: RouteWriter<M>) -> Self {
        writer.set_state(state_for(&balancer));
        Self {
            balancer,
            writer,
            ledgers: Vec::new(),
            next_id: 1,
            pools: Default::default(),
            standings: Vec::new(),
            pooled: Vec::new(),
            written: None,
            view_version: 0,
            orphans: Vec::new(),
            touched: Vec::new(),
            sweep: 0,
            tally: Tally::default(),
            has_news: true,
            written_at: Moment::ZERO,
            counters: KeeperCounters::default(),
        }
    }

    /// A capacity for so many hosts, with room for some more; the most there is
    /// when they are too many.
    pub const fn capacity_for(hosts: usize) -> u32 {
        let wanted = hosts.saturating_add(hosts / 4).next_power_of_two();
        if wanted >= HOSTS_MAX as usize {
            return HOSTS_MAX;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below the bound")]
        let wanted = wanted as u32;
        if wanted < 64 { 64 } else { wanted }
    }

    /// The balancer: for explanations, picks of callers that ask, and probes.
    pub const fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The same, to pick for callers that ask and to hear of probes. What it
    /// learns is written in the next turn.
    pub const fn balancer_mut(&mut self) -> &mut Balancer {
        self.has_news = true;
        &mut self.balancer
    }

    /// A host to probe now; see [`Balancer::poll_probe`].
    pub fn poll_probe(&mut self, now: Moment) -> Option<HostName> {
        self.balancer.poll_probe(now)
    }

    /// The writer of the segment.
    pub const fn writer(&self) -> &RouteWriter<M> {
        &self.writer
    }

    /// What was counted.
    pub const fn counters(&self) -> &KeeperCounters {
        &self.counters
    }

    /// How many ledgers are watched.
    pub const fn ledgers(&self) -> usize {
        self.ledgers.len()
    }

    /// The service's hosts are these, from now on: written at once.
    pub fn handle_view(&mut self, now: Moment, view: &View) -> Merged {
        self.collect(now);
        let merged = self.balancer.handle_view(now, view);
        self.view_version = view.at.number;
        self.orphans.resize(self.balancer.table().names().len(), 0);
        for name in &merged.removed {
            let held = self.ledgers.iter().map(|(_, one)| one.in_flight(name.slot));
            self.orphans[name.slot as usize] = held.sum();
        }
        self.written = None;
        self.publish(now);
        merged
    }

    /// Discovery's verdict on an instance, written at once when it changes who
    /// may be picked.
    pub fn handle_verdict(&mut self, now: Moment, id: &InstanceId, verdict: Verdict) {
        self.balancer.handle_verdict(now, id, verdict);
        if self.written != Some(self.balancer.candidates_version()) {
            self.publish(now);
        }
    }

    /// Watches a caller's ledger.
    ///
    /// # Errors
    /// [`AttachError::Mismatch`] when it is too small for the segment or there
    /// are [`LEDGERS_MAX`], else as [`LedgerWatch::attach`].
    pub fn attach(&mut self, memory: L) -> Result<LedgerId, AttachError> {
        let watch = LedgerWatch::attach(memory)?;
        if self.ledgers.len() >= LEDGERS_MAX {
            // Those of earlier segments that calls may end in stand back.
            let capacity = self.writer.capacity();
            self.ledgers
                .retain(|(_, one)| one.capacity() >= capacity || !one.is_idle());
        }
        if watch.capacity() < self.writer.capacity() || self.ledgers.len() >= LEDGERS_MAX {
            return Err(AttachError::Mismatch);
        }
        let id = LedgerId(self.next_id);
        self.next_id += 1;
        self.ledgers.push((id, watch));
        Ok(id)
    }

    /// A caller is gone: what it did still counts, what it left unfinished is
    /// given up. Cost: O(hosts).
    pub fn detach(&mut self, now: Moment, id: LedgerId) {
        let Some(at) = self.ledgers.iter().position(|(one, _)| *one == id) else {
            return;
        };
        let (_, mut watch) = self.ledgers.swap_remove(at);
        for slot in 0..watch.capacity() {
            let added = watch.look(slot);
            self.apply(now, slot, &added);
            let left = watch.in_flight(slot);
            if left == 0 {
                continue;
            }
            self.counters.abandoned += u64::from(left);
            let left = left - self.take_orphans(slot, left);
            if let Some(entry) = self.balancer.table().entry_at(slot) {
                let name = entry.name;
                self.balancer.handle_abandoned(now, name, left);
            }
        }
    }

    /// Takes in what callers did and writes what picks need. Returns whether
    /// calls were made.
    pub fn handle_turn(&mut self, now: Moment) -> bool {
        let before = self.counters.sent;
        self.counters.turns += 1;
        self.collect(now);
        self.balancer.handle_timeout(now);
        let is_due = now.saturating_since(self.written_at) >= WRITE_EVERY;
        if self.has_news || is_due || self.written != Some(self.balancer.candidates_version()) {
            self.publish(now);
        } else {
            self.writer.beat(now);
        }
        self.counters.sent != before
    }

    /// A call that was picked for a caller who asked ended so.
    ///
    /// # Errors
    /// [`GoneHost`] when its host is in the view no longer; the result is dropped.
    pub fn report(
        &mut self,
        now: Moment,
        name: HostName,
        outcome: &Outcome,
    ) -> Result<(), GoneHost> {
        self.has_news = true;
        self.balancer.report(now, name, outcome)?;
        if let Some(entry) = self.balancer.table().entry(name) {
            self.tally.add(now, entry, outcome.end, 1);
        }
        Ok(())
    }

    /// Ends of calls since this was asked for last, of each host that was called.
    /// Cost: O(hosts).
    pub fn drain_ends(&mut self, visit: impl FnMut(&HostEnds)) {
        self.tally.drain(visit);
    }

    /// What calls to a host met lately, of all callers together.
    pub fn callers(&self, now: Moment, name: HostName) -> CallersWord {
        self.tally.callers(now, name)
    }

    /// Nothing more is written here; callers attach elsewhere.
    pub fn retire(&self) {
        self.writer.set_state(SegmentState::Retired);
    }

    /// Goes on in another segment, which callers attach to anew. Their ledgers
    /// stay watched until they detach.
    pub fn handle_moved(&mut self, now: Moment, writer: RouteWriter<M>) {
        self.retire();
        writer.set_state(state_for(&self.balancer));
        self.writer = writer;
        self.written = None;
        self.publish(now);
    }

    fn collect(&mut self, now: Moment) {
        let mut ledgers = std::mem::take(&mut self.ledgers);
        for (_, watch) in &mut ledgers {
            let start = self.touched.len();
            // Picks from the pool leave no mark, nor those from the one before it
            // that were under way.
            self.touched.extend_from_slice(&self.pooled);
            watch.take_marks(|slot| self.touched.push(slot));
            for at in start..self.touched.len() {
                let slot = self.touched[at];
                let added = watch.look(slot);
                self.apply(now, slot, &added);
            }
        }
        self.ledgers = ledgers;
        self.touched.sort_unstable();
        self.touched.dedup();
    }

    fn apply(&mut self, now: Moment, slot: u32, added: &Added) {
        if added.is_nothing() {
            return;
        }
        self.has_news = true;
        self.counters.sent += u64::from(added.sent);
        for (sum, &count) in self.counters.ended.iter_mut().zip(&added.ended) {
            *sum += u64::from(count);
        }
        let Some(entry) = self.balancer.table().entry_at(slot) else {
            self.counters.stale += added.ended.iter().copied().map(u64::from).sum::<u64>();
            return;
        };
        let name = entry.name;
        self.balancer.handle_sent(now, name, added.sent);
        let load = added.load.unwrap_or_default();
        let mean = added.latency_ns.checked_div(added.timed.into());
        for (end, &count) in ENDS.into_iter().zip(&added.ended) {
            let mut count = count;
            if end == CallEnd::Cancelled {
                count -= self.take_orphans(slot, count);
            }
            let mut outcome = Outcome::of(end);
            if end == CallEnd::Ok {
                outcome.latency = mean.map(Duration::from_nanos);
            }
            self.balancer.report_many(now, name, &outcome, count);
            if let Some(entry) = self.balancer.table().entry_at(slot) {
                self.tally.add(now, entry, end, count);
            }
        }
        if load.is_reported() {
            self.counters.told += 1;
            self.balancer.handle_told_load(now, name, load);
        }
    }

    /// Of ends of calls to earlier hosts of a slot, how many there were.
    fn take_orphans(&mut self, slot: u32, count: u32) -> u32 {
        let Some(orphans) = self.orphans.get_mut(slot as usize) else {
            return 0;
        };
        let taken = count.min(*orphans);
        *orphans -= taken;
        taken
    }

    fn publish(&mut self, now: Moment) {
        let version = self.balancer.candidates_version();
        if self.written != Some(version) {
            self.publish_routes();
            self.written = Some(version);
        }
        let had_pool = self.pools.iter().any(|pool| !pool.is_empty());
        self.pooled.clear();
        self.pooled
            .extend(self.pools.iter().flatten().map(|one| one.slot));
        for (tier, pool) in (0_u8..).zip(&mut self.pools) {
            self.standings.clear();
            pool.clear();
            self.balancer.standings(now, tier, &mut self.standings);
            for standing in self.standings.iter().take(POOL_MAX) {
                pool.extend(entry_of(
                    &self.balancer,
                    now,
                    standing,
                    self.writer.capacity(),
                ));
            }
        }
        self.pooled
            .extend(self.pools.iter().flatten().map(|one| one.slot));
        if had_pool || self.pools.iter().any(|pool| !pool.is_empty()) {
            self.writer.publish_pools(&self.pools);
        }
        self.publish_notes(now);
        self.has_news = false;
        self.written_at = now;
        self.writer.beat(now);
    }

    fn publish_notes(&mut self, now: Moment) {
        let hosts = self.balancer.table().names().len();
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
        let count = hosts.min(self.writer.capacity());
        for _ in 0..SWEEP_MAX.min(count) {
            self.sweep = if self.sweep + 1 < count {
                self.sweep + 1
            } else {
                0
            };
            self.touched.push(self.sweep);
        }
        for slot in self.touched.drain(..).filter(|slot| *slot < count) {
            let (unit, in_flight) = self.balancer.local_standing(now, slot);
            let warm = self.balancer.warm_share(now, slot) * f64::from(u8::MAX);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of 255"
            )]
            let warm = warm as u8;
            let note = Note {
                unit,
                in_flight,
                warm,
            };
            self.writer.publish_note(slot, note);
        }
    }

    fn publish_routes(&mut self) {
        let table = self.balancer.table();
        let capacity = self.writer.capacity();
        let mut routes = Routes {
            version: self.view_version,
            shares: self.balancer.tier_shares(),
            spill: self
                .balancer
                .spill_rule()
                .map_or_else(Spill::default, |(from, ratio)| Spill { from, ratio }),
            ..Routes::default()
        };
        let mut is_told = vec![false; capacity as usize];
        let mut left_out = 0;
        for entry in table.entries() {
            let Some(is_told) = is_told.get_mut(entry.name.slot as usize) else {
                left_out += 1;
                continue;
            };
            let Some(place) = place_of(&entry.instance.address, &mut routes.paths) else {
                left_out += 1;
                continue;
            };
            *is_told = true;
            routes.hosts.push(Route {
                slot: entry.name.slot,
                generation: entry.name.generation,
                place,
            });
        }
        let candidates = &self.balancer.candidates().tiers;
        for (told, all) in routes.eligible.iter_mut().zip(candidates) {
            let is_told = |slot: &u32| is_told.get(*slot as usize) == Some(&true);
            told.extend(all.iter().copied().filter(is_told));
        }
        self.counters.left_out = left_out;
        self.counters.routes += 1;
        self.writer.publish_routes(&routes);
    }
}

fn entry_of(balancer: &Balancer, now: Moment, standing: &Standing, capacity: u32) -> Option<Entry> {
    let slot = standing.slot;
    let name = balancer.table().names().get(slot as usize)?;
    let share = balancer.warm_share(now, slot);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 32 bits"
    )]
    let warm = (share * f64::from(WARM)) as u32;
    (slot < capacity).then_some(Entry {
        slot,
        generation: name.generation,
        unit: standing.unit,
        level: standing.level,
        step: standing.step,
        warm,
        work: balancer.work(now, slot),
    })
}

/// The place that callers can be told of; a path is put among `paths`.
fn place_of(address: &Address, paths: &mut Vec<Arc<str>>) -> Option<Place> {
    match address {
        Address::V4(address) => Some(Place::Ip((*address).into())),
        Address::V6(address) => Some(Place::Ip((*address).into())),
        Address::Unix(path) if paths.len() < PATHS_MAX && path.len() <= PATH_BYTES_MAX => {
            paths.push(Arc::clone(path));
            u32::try_from(paths.len() - 1).ok().map(Place::Unix)
        }
        Address::Unix(_) => None,
    }
}

/// Whether callers can pick as the policy does.
fn state_for(balancer: &Balancer) -> SegmentState {
    match balancer.policy_name() {
        "fresh" | "p2c" => SegmentState::Live,
        _ => SegmentState::AskAgent,
    }
}
