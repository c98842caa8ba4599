//! The agent's side of one service, without I/O: a balancer that learns from
//! ledgers and writes what picks need.

mod publish;
mod rest;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use waystation_balance::limits::TIERS;
use waystation_balance::{Balancer, CallEnd, GoneHost, HostName, Merged, Outcome, Standing};
use waystation_base::Moment;
use waystation_membership::{CallersWord, InstanceId, Verdict, View};

use crate::error::AttachError;
use crate::ledger::{Added, ENDS, LedgerWatch};
use crate::limits::{HOSTS_MAX, LEDGERS_MAX};
use crate::memory::Memory;
use crate::route::{Entry, RouteWriter, SegmentState};
use crate::tally::{HostEnds, Tally};

use rest::Resting;

/// How often a service in use gets a turn. Picks are made from costs that are so
/// old at most.
pub const TURN_EVERY: Duration = Duration::from_millis(2);

/// What picks need is written so often when nothing happens, since costs change
/// with time.
pub const WRITE_EVERY: Duration = Duration::from_millis(10);

/// A ledger that is watched.
#[derive(Debug)]
struct Watched<L> {
    id: LedgerId,
    watch: LedgerWatch<L>,
    /// Whether it is of an earlier segment.
    is_earlier: bool,
    /// If so, slots that have another host than its callers see there.
    lost: BTreeSet<u32>,
}

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
    /// Ends of calls to hosts that were gone, which say nothing of others.
    pub stale: u64,
    /// Calls in ledgers that made no sense.
    pub dropped: u64,
    /// Hosts that callers cannot be told of: beyond the capacity, or at more
    /// Unix sockets than [`PATHS_MAX`](crate::limits::PATHS_MAX).
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
    ledgers: Vec<Watched<L>>,
    next_id: u64,
    pools: [Vec<Entry>; TIERS],
    standings: Vec<Standing>,
    /// The slots of the present pools and of those before.
    pooled: Vec<u32>,
    /// The candidates that were written, by version.
    written: Option<u64>,
    view_version: u64,
    /// Slots whose hosts left, in the order in which they are looked at.
    resting: VecDeque<Resting>,
    /// Calls in flight to earlier hosts of a slot that was needed.
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
    pub fn new(mut balancer: Balancer, writer: RouteWriter<M>) -> Self {
        balancer.rest_slots();
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
            resting: VecDeque::new(),
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
        self.make_room(view);
        let merged = self.balancer.handle_view(now, view);
        self.view_version = view.at.number;
        self.orphans.resize(self.balancer.table().names().len(), 0);
        for name in &merged.removed {
            self.rest(now, name.slot);
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
            let is_over = |one: &mut Watched<L>| one.is_earlier && one.watch.is_idle();
            for one in self.ledgers.extract_if(.., is_over) {
                one.watch.let_go();
            }
        }
        if watch.capacity() < self.writer.capacity() || self.ledgers.len() >= LEDGERS_MAX {
            return Err(AttachError::Mismatch);
        }
        let id = LedgerId(self.next_id);
        self.next_id += 1;
        self.ledgers.push(Watched {
            id,
            watch,
            is_earlier: false,
            lost: BTreeSet::new(),
        });
        Ok(id)
    }

    /// Whether a ledger is of an earlier segment, and no call is under way in it: its
    /// caller picks elsewhere. Takes in what is in it. Cost: O(ledgers + hosts).
    pub fn is_over(&mut self, now: Moment, id: LedgerId) -> bool {
        let Some(at) = self.ledgers.iter().position(|one| one.id == id) else {
            return true;
        };
        if !self.ledgers[at].is_earlier {
            return false;
        }
        // Calls that were sent alone are not marked.
        let mut one = self.ledgers.swap_remove(at);
        for slot in 0..one.watch.capacity() {
            self.look(now, &mut one, slot);
        }
        let is_idle = one.watch.is_idle();
        self.ledgers.push(one);
        is_idle
    }

    /// A caller is gone: what it did still counts, what it left unfinished is
    /// given up. Its ledger comes back, to be noted once what is in it was told.
    /// Cost: O(hosts).
    pub fn detach(&mut self, now: Moment, id: LedgerId) -> Option<LedgerWatch<L>> {
        let at = self.ledgers.iter().position(|one| one.id == id)?;
        let mut one = self.ledgers.swap_remove(at);
        for slot in 0..one.watch.capacity() {
            self.look(now, &mut one, slot);
            let left = one.watch.in_flight(slot);
            if left == 0 {
                continue;
            }
            self.counters.abandoned += u64::from(left);
            if one.lost.contains(&slot) {
                continue;
            }
            let left = left - self.take_orphans(slot, left);
            if let Some(entry) = self.balancer.table().entry_at(slot) {
                let name = entry.name;
                self.balancer.handle_abandoned(now, name, left);
            }
        }
        Some(one.watch)
    }

    /// What was drained by [`Keeper::drain_ends`] is being told, and is not counted
    /// again by whoever comes after this agent. Cost: O(ledgers × hosts / 64).
    pub fn note_told(&mut self) {
        for one in &mut self.ledgers {
            one.watch.note_told();
        }
    }

    /// Takes in what callers did and writes what picks need. Returns whether
    /// calls were made.
    pub fn handle_turn(&mut self, now: Moment) -> bool {
        let before = self.counters.sent;
        self.counters.turns += 1;
        self.collect(now);
        self.release_rested(now);
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
    /// [`GoneHost`] when its host is in the view no longer; the result says nothing
    /// then, and is counted among the ends for a while.
    pub fn report(
        &mut self,
        now: Moment,
        name: HostName,
        outcome: &Outcome,
    ) -> Result<(), GoneHost> {
        self.has_news = true;
        if let Err(gone) = self.balancer.report(now, name, outcome) {
            // It says nothing of who is to come, and is a call all the same.
            let former = self.balancer.table().former(name.slot);
            if let Some(former) = former.filter(|former| former.name == name) {
                self.tally.add(now, former, outcome.end, 1);
            }
            return Err(gone);
        }
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

    /// Callers pick here no longer, and attach elsewhere. What they do until they
    /// see it is still taken in.
    pub fn retire(&mut self) {
        self.writer.set_state(SegmentState::Retired);
        // Who is about to pick from it finds another content, and lets go.
        self.publish_routes();
    }

    /// Goes on in another segment, which callers attach to anew. Their ledgers
    /// stay watched until they detach.
    pub fn handle_moved(&mut self, now: Moment, writer: RouteWriter<M>) {
        self.retire();
        for one in &mut self.ledgers {
            one.is_earlier = true;
        }
        writer.set_state(state_for(&self.balancer));
        self.writer = writer;
        self.written = None;
        self.publish(now);
    }

    fn collect(&mut self, now: Moment) {
        let mut ledgers = std::mem::take(&mut self.ledgers);
        for one in &mut ledgers {
            let start = self.touched.len();
            // Picks from the pool leave no mark, nor those from the one before it
            // that were under way.
            self.touched.extend_from_slice(&self.pooled);
            one.watch.take_marks(|slot| self.touched.push(slot));
            for at in start..self.touched.len() {
                let slot = self.touched[at];
                self.look(now, one, slot);
            }
        }
        self.ledgers = ledgers;
        self.touched.sort_unstable();
        self.touched.dedup();
    }

    /// Takes in what is new at a slot of a ledger.
    fn look(&mut self, now: Moment, one: &mut Watched<L>, slot: u32) {
        let added = one.watch.look(slot);
        if !one.lost.contains(&slot) {
            self.apply(now, slot, &added);
        }
    }

    fn apply(&mut self, now: Moment, slot: u32, added: &Added) {
        if added.is_nothing() {
            return;
        }
        self.has_news = true;
        self.counters.sent += u64::from(added.sent);
        self.counters.dropped = self.counters.dropped.saturating_add(added.dropped);
        for (sum, &count) in self.counters.ended.iter_mut().zip(&added.ended) {
            *sum += u64::from(count);
        }
        let Some(entry) = self.balancer.table().entry_at(slot) else {
            self.counters.stale += added.ended.iter().copied().map(u64::from).sum::<u64>();
            // They say nothing of who is to come, and are calls all the same.
            if let Some(former) = self.balancer.table().former(slot) {
                for (end, &count) in ENDS.into_iter().zip(&added.ended) {
                    self.tally.add(now, former, end, count);
                }
            }
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
}

/// Whether callers can pick as the policy does.
fn state_for(balancer: &Balancer) -> SegmentState {
    match balancer.policy_name() {
        "fresh" | "p2c" => SegmentState::Live,
        _ => SegmentState::AskAgent,
    }
}
