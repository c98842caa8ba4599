//! The pick, in the caller's process.

use std::time::Duration;

use waystation_balance::limits::TIERS;
use waystation_balance::{CallEnd, Load, Reason};
use waystation_base::{Moment, Rng};

use crate::error::{AttachError, Miss};
use crate::ledger::Ledger;
use crate::limits::{PICKS_MAX, RETRIES_MAX, WARM_UP_TRIES_MAX};
use crate::memory::Memory;
use crate::pool::TierPool;
use crate::route::{Place, RouteReader, SegmentState, Summary};

/// A segment whose agent has been silent for so long is not used.
pub const STALE_AFTER: Duration = Duration::from_secs(2);

/// A host for one call. Hand it back with [`Picker::report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its slot.
    pub slot: u32,
    /// Which host of the slot.
    pub generation: u32,
    /// Where to call it.
    pub place: Place,
    /// What decided.
    pub reason: Reason,
}

/// A host for one call, whose place its picker still has: [`Picker::place`].
///
/// Each move of a [`Place`], which is as large as an IPv6 address and laid out as an
/// enumeration, is loads that span the stores before them and wait for all of them. Four
/// such moves were 20 of the 67 ns of a pick on Zen 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its slot.
    pub slot: u32,
    /// Which host of the slot.
    pub generation: u32,
    /// What decided.
    pub reason: Reason,
    at: At,
}

/// Where the place of a seat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the pool of a tier.
    Pool { tier: u8, at: u8 },
    /// Read for this pick.
    Met,
}

/// A host of one tier, which a farther one may replace.
#[derive(Clone, Copy)]
struct Candidate {
    seat: Seat,
    /// Requests on it, without this call.
    work: u32,
}

/// Picks hosts from a route segment and counts calls in a ledger.
///
/// A picker is used by one thread at a time; each thread has its own, over the
/// same memory. It keeps a copy of the pool of hosts that are compared, with the
/// calls that were sent since it was read, and reads it again when the agent
/// wrote another. Cost of a pick: O(1), no system call and no clock read; it does
/// not allocate.
#[derive(Clone, Debug)]
pub struct Picker<R, L> {
    routes: RouteReader<R>,
    ledger: Ledger<L>,
    rng: Rng,
    /// The contents of which the copies are.
    contents: (u64, u64),
    is_read: bool,
    summary: Summary,
    pools: [TierPool; TIERS],
    /// The place of the last host that comes from no pool.
    met: Option<Place>,
}

impl<R: Memory, L: Memory> Picker<R, L> {
    /// Picks from `routes` and counts in `ledger`.
    ///
    /// # Errors
    /// [`AttachError::Mismatch`] when they are not for each other.
    pub fn new(routes: RouteReader<R>, ledger: Ledger<L>, seed: u64) -> Result<Self, AttachError> {
        if routes.names() != ledger.names() || routes.capacity() > ledger.capacity() {
            return Err(AttachError::Mismatch);
        }
        Ok(Self {
            routes,
            ledger,
            rng: Rng::from_seed(seed),
            contents: (0, 0),
            is_read: false,
            summary: Summary::default(),
            pools: [TierPool::default(); TIERS],
            met: None,
        })
    }

    /// The segment.
    pub const fn routes(&self) -> &RouteReader<R> {
        &self.routes
    }

    /// The host for the next call, which counts as sent from here on. `now` may
    /// be coarse: it only tells whether the agent lives.
    ///
    /// # Errors
    /// [`Miss`] says why there is none, and what to do instead.
    #[inline]
    pub fn pick(&mut self, now: Moment) -> Result<Chosen, Miss> {
        let seat = self.take_seat(now)?;
        let place = *self.place(&seat).ok_or(Miss::Unreadable)?;
        Ok(Chosen {
            slot: seat.slot,
            generation: seat.generation,
            place,
            reason: seat.reason,
        })
    }

    /// Where a seat's host is to be called: of the last seat that was taken always.
    #[inline]
    pub fn place(&self, seat: &Seat) -> Option<&Place> {
        match seat.at {
            At::Pool { tier, at } => self.pools.get(usize::from(tier))?.place(at.into()),
            At::Met => self.met.as_ref(),
        }
    }

    /// As [`Picker::pick`], without the host's place.
    ///
    /// # Errors
    /// As [`Picker::pick`].
    #[inline]
    pub fn take_seat(&mut self, now: Moment) -> Result<Seat, Miss> {
        if now.saturating_since(self.routes.beat()) > STALE_AFTER {
            return Err(Miss::Stale);
        }
        for _ in 0..PICKS_MAX {
            match self.routes.state() {
                SegmentState::Live => {}
                SegmentState::AskAgent => return Err(Miss::AskAgent),
                SegmentState::New | SegmentState::Retired => return Err(Miss::Retired),
            }
            if self.routes.contents() != self.contents || !self.is_read {
                self.read()?;
            }
            let Some(seat) = self.choose()? else {
                self.is_read = false;
                continue;
            };
            self.ledger.handle_sent(seat.slot);
            // Who left in the meantime is not called any more.
            if self.routes.contents().0 == self.contents.0 {
                return Ok(seat);
            }
            let nothing = Load::default();
            let end = CallEnd::Cancelled;
            self.ledger.handle_ended(seat.slot, end, None, nothing);
        }
        Err(Miss::Unreadable)
    }

    /// A call ended. `latency_ns` from the pick to the end, when it was timed,
    /// and the load that the reply carried.
    #[inline]
    pub fn report(&self, chosen: &Chosen, end: CallEnd, latency_ns: Option<u64>, load: Load) {
        let place = (chosen.slot, chosen.generation);
        self.report_at(place, end, latency_ns, load);
    }

    /// As [`Picker::report`], of the host that had this slot in this generation.
    #[inline]
    pub fn report_at(&self, place: (u32, u32), end: CallEnd, latency_ns: Option<u64>, load: Load) {
        report(&self.routes, &self.ledger, place, end, latency_ns, load);
    }

    /// Reads what picks need, when it is no longer what it was.
    #[cold]
    fn read(&mut self) -> Result<(), Miss> {
        self.is_read = false;
        for _ in 0..RETRIES_MAX {
            let summary = self.routes.summary().ok_or(Miss::Unreadable)?;
            let pools = self.routes.pools().ok_or(Miss::Unreadable)?;
            if self.routes.contents().0 != summary.content {
                continue;
            }
            // Places are those of the routes from which they were read.
            let is_same = self.contents.0 == summary.content;
            for (tier, pool) in self.pools.iter_mut().enumerate() {
                pool.fill(&pools.entries[tier][..pools.counts[tier]], is_same);
            }
            self.summary = summary;
            self.contents = (summary.content, pools.content);
            self.is_read = true;
            return Ok(());
        }
        Err(Miss::Unreadable)
    }

    /// A host; `None` when the routes changed on the way.
    #[inline]
    fn choose(&mut self) -> Result<Option<Seat>, Miss> {
        let tier = self.draw_tier()?;
        let near = self.choose_in(tier);
        let spill = self.summary.spill;
        match near {
            Some(near) if spill.asks(near.work) => Ok(Some(self.choose_beyond(tier, near))),
            near => Ok(near.map(|near| near.seat)),
        }
    }

    /// The near host, or one of the next tier if that has far less to do.
    #[cold]
    fn choose_beyond(&mut self, tier: usize, near: Candidate) -> Seat {
        let mut farther = tier + 1..TIERS;
        let Some(far_tier) = farther.find(|&tier| self.summary.counts[tier] > 0) else {
            return near.seat;
        };
        let met = self.met;
        let Some(far) = self.choose_in(far_tier) else {
            self.met = met;
            return near.seat;
        };
        let (taken, left) = if self.summary.spill.goes(near.work, far.work) {
            (far.seat, near.seat)
        } else {
            // Where it is, if the far one was met, too.
            self.met = met;
            (near.seat, far.seat)
        };
        if let At::Pool { tier, at } = left.at {
            self.pools[usize::from(tier)].give_back(at.into());
        }
        taken
    }

    /// A host of one tier.
    #[inline]
    fn choose_in(&mut self, tier: usize) -> Option<Candidate> {
        let mut discarded = 0;
        while let Some(at) = self.pools[tier].lowest() {
            let entry = &self.pools[tier].entries[at];
            let is_last = discarded + 1 >= WARM_UP_TRIES_MAX;
            if !entry.is_warm() && !is_last && !entry.warm_draw(&mut self.rng) {
                self.pools[tier].pass(at);
                discarded += 1;
                continue;
            }
            if !self.pools[tier].find_place(at, &self.routes) {
                // It left, and the pool is yet to be written anew.
                self.pools[tier].drop_entry(at);
                continue;
            }
            let entry = &self.pools[tier].entries[at];
            let work = entry.work;
            #[expect(clippy::cast_possible_truncation, reason = "tiers and pools are small")]
            let seat = Seat {
                slot: entry.slot,
                generation: entry.generation,
                reason: Reason::LowestReported,
                at: At::Pool {
                    tier: tier as u8,
                    at: at as u8,
                },
            };
            self.pools[tier].take(at);
            return Some(Candidate { seat, work });
        }
        self.choose_of_two(tier)
    }

    /// The tier in which this call begins, one with hosts.
    #[inline]
    fn draw_tier(&mut self) -> Result<usize, Miss> {
        let [first, second] = self.summary.until;
        if first == u32::MAX && self.summary.counts[0] > 0 {
            return Ok(0);
        }
        let drawn = (self.rng.next_u64() >> 32) as u32;
        let tier = usize::from(drawn >= first) + usize::from(drawn >= first.max(second));
        let counts = &self.summary.counts;
        let order = [tier, 0, 1, 2];
        let found = order.into_iter().find(|&tier| counts[tier] > 0);
        found.ok_or(Miss::NoHosts)
    }

    /// Without enough reports: the better of two drawn at random, by what
    /// callers of this machine met.
    fn choose_of_two(&mut self, tier: usize) -> Option<Candidate> {
        let counts = self.summary.counts;
        let before: u32 = counts[..tier].iter().sum();
        let count = counts[tier];
        let first = self.below(count);
        let second = if count == 1 {
            first
        } else {
            let second = self.below(count - 1);
            second + u32::from(second >= first)
        };
        let places = [before + first, before + second];
        let slots = self.routes.eligible(self.summary.content, places)?;
        let notes = slots.map(|slot| self.routes.note(slot));
        // One that never answered counts as fast as the other.
        let unknown = notes[0].unit.or(notes[1].unit).unwrap_or(1.0);
        #[expect(clippy::cast_precision_loss, reason = "24 bits")]
        let costs = notes.map(|note| note.unit.unwrap_or(unknown) * (note.in_flight as f32 + 1.0));
        let mut at = usize::from(costs[1] < costs[0]);
        let warm = notes[at].warm;
        if warm < u8::MAX && self.below(u8::MAX.into()) >= warm.into() {
            at = 1 - at;
        }
        let (generation, place) = self.routes.host(slots[at])?;
        self.ledger.mark(slots[at]);
        self.met = Some(place);
        let seat = Seat {
            slot: slots[at],
            generation,
            reason: if count == 1 {
                Reason::Only
            } else {
                Reason::LowerOfTwo
            },
            at: At::Met,
        };
        Some(Candidate {
            seat,
            work: notes[at].in_flight,
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
    fn below(&mut self, n: u32) -> u32 {
        self.rng.below(n.into()) as u32
    }
}

/// Counts the end of a call to the host that had this slot in this generation; for
/// those who have the two sides but no picker.
#[inline]
pub fn report<R: Memory, L: Memory>(
    routes: &RouteReader<R>,
    ledger: &Ledger<L>,
    (slot, generation): (u32, u32),
    end: CallEnd,
    latency_ns: Option<u64>,
    load: Load,
) {
    if routes.generation(slot) == generation {
        ledger.handle_ended(slot, end, latency_ns, load);
    } else {
        // The slot has another host by now, which this says nothing about.
        let nothing = Load::default();
        ledger.handle_ended(slot, CallEnd::Cancelled, None, nothing);
    }
}
