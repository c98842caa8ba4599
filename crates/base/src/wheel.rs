//! The deadline wheel: many deadlines, most of them cancelled before they come.

mod slab;

use crate::limits::WHEEL_TICK_NS_LOG2;
use crate::moment::Moment;
use slab::{List, Slab};

pub use slab::DeadlineKey;

/// Slots in a level as a power of two: 64, so that a level's occupancy is one
/// machine word.
const SLOTS_LOG2: u32 = 6;
const SLOTS: usize = 1 << SLOTS_LOG2;
const SLOT_MASK: u64 = SLOTS as u64 - 1;

/// Levels: ticks have 44 bits (one more when rounded up), and 8 levels of 6
/// bits hold them all. So no deadline is too far for the wheel, and no overflow
/// list is needed.
const LEVELS: u32 = 8;

const PLACES: usize = LEVELS as usize * SLOTS;

/// A hierarchical timing wheel: deadlines with a value each.
///
/// After George Varghese and Tony Lauck, "Hashed and Hierarchical Timing
/// Wheels", SOSP 1987, scheme 7. Differences: levels are aligned to absolute
/// time, so that an entry's place follows from the bits in which its tick
/// differs from the present one; occupancy bitmaps skip empty time at once; and
/// an entry can be cancelled by a key whose generation makes a stale one
/// harmless.
///
/// Calling order: [`Wheel::poll_expired`] until it returns `None`, then sleep
/// until [`Wheel::poll_timeout`] at the latest, and again. Entries may be
/// inserted and cancelled at any time between.
///
/// Promises: an entry is never yielded before its moment, and at the first
/// polls at or after the end of the tick (2^20 ns) in which its moment lies.
/// Entries come in the order of their ticks, those of one tick in the order of
/// their insertion. One whose moment has passed already comes with the next
/// poll. Time that goes backwards counts as standing still.
///
/// Cost: insert and cancel O(1), and an entry is moved at most once per level
/// (seven times) before it comes; a short deadline never. Entries that share a
/// slot move in one poll: at a million with random deadlines within 30 s that
/// is up to 140,000, about 30 ms. Memory: 4 KiB, and for the most entries
/// pending at once their values with 40 bytes each; it does not shrink.
///
/// ```
/// use std::time::Duration;
/// use waystation_base::{Moment, Wheel};
///
/// let start = Moment::ZERO;
/// let mut wheel = Wheel::new(start);
/// let lunch = wheel.insert(start + Duration::from_secs(3), "lunch");
/// wheel.insert(start + Duration::from_secs(1), "tea");
///
/// let wake_at = wheel.poll_timeout().unwrap();
/// assert!(wake_at <= start + Duration::from_millis(1002));
///
/// assert_eq!(wheel.poll_expired(start + Duration::from_secs(2)), Some("tea"));
/// assert_eq!(wheel.poll_expired(start + Duration::from_secs(2)), None);
/// assert_eq!(wheel.cancel(lunch), Some("lunch"));
/// assert_eq!(wheel.cancel(lunch), None);
/// assert!(wheel.is_empty());
/// ```
#[derive(Debug)]
pub struct Wheel<T> {
    /// The tick that is being drained. Every entry of an earlier tick has been
    /// yielded; every other entry lies where `place_of` puts it from here.
    current: u64,
    /// The latest tick that a caller has seen the end of; never before
    /// `current`.
    horizon: u64,
    /// One bit per slot and level: whether the slot's list has entries.
    occupied: [u64; LEVELS as usize],
    lists: [List; PLACES],
    slab: Slab<T>,
}

impl<T> Wheel<T> {
    /// An empty wheel that stands at `origin`. Allocates nothing for entries
    /// yet; the wheel itself has about 4 KiB.
    pub fn new(origin: Moment) -> Self {
        let current = origin.as_nanos() >> WHEEL_TICK_NS_LOG2;
        Self {
            current,
            horizon: current,
            occupied: [0; LEVELS as usize],
            lists: [List::EMPTY; PLACES],
            slab: Slab::new(0),
        }
    }

    /// Adds a deadline: `value` is yielded once `at` has come, unless the
    /// returned key cancels it. [`Moment::FAR_FUTURE`] never comes.
    ///
    /// # Panics
    /// At [`WHEEL_PENDING_MAX`](crate::limits::WHEEL_PENDING_MAX) entries.
    #[inline]
    pub fn insert(&mut self, at: Moment, value: T) -> DeadlineKey {
        let tick = tick_ending_at_or_after(at).max(self.current);
        let place = place_of(self.current, tick);
        let key = self
            .slab
            .push_back(&mut self.lists[place], tick, place, value);
        self.mark(place);
        key
    }

    /// Removes an entry and returns its value; `None` when it was yielded or
    /// cancelled before.
    #[inline]
    pub fn cancel(&mut self, key: DeadlineKey) -> Option<T> {
        let (place, value) = self.slab.remove(key, &mut self.lists)?;
        if self.lists[place].is_empty() {
            self.unmark(place);
        }
        Some(value)
    }

    /// The next entry whose moment has come at `now`. Call until `None`.
    ///
    /// Cost: O(1) for an entry, apart from entries that move to a lower level
    /// on the way, and for `None` over any stretch of empty time.
    #[inline]
    pub fn poll_expired(&mut self, now: Moment) -> Option<T> {
        self.horizon = self.horizon.max(now.as_nanos() >> WHEEL_TICK_NS_LOG2);
        loop {
            let place = slot_of(self.current, 0);
            if self.occupied[0] & (1 << place) != 0 {
                let value = self.slab.pop_front(&mut self.lists[place]);
                if self.lists[place].is_empty() {
                    self.unmark(place);
                }
                return value;
            }
            if self.current == self.horizon {
                return None;
            }
            self.advance();
        }
    }

    /// When to call [`Wheel::poll_expired`] next; `None` without entries. Never
    /// later than an entry may come, but perhaps earlier: then the poll only
    /// moves entries to a lower level and yields nothing.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let place = slot_of(self.current, 0);
        let tick = if self.occupied[0] & (1 << place) == 0 {
            self.next_occupied()?.1
        } else {
            self.current
        };
        Some(start_of(tick))
    }

    /// How many entries are pending.
    pub const fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether no entry is pending.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves `current`, whose slot is drained, to the next tick at which
    /// something is to be done, or to the horizon if that comes first.
    #[inline(never)]
    fn advance(&mut self) {
        let Some((level, tick)) = self.next_occupied() else {
            self.current = self.horizon;
            return;
        };
        if tick > self.horizon {
            self.current = self.horizon;
            return;
        }
        self.current = tick;
        // The slot's stretch of time begins now. Its entries move down before
        // anything can be inserted into the same stretch, which keeps entries
        // of one tick in the order of their insertion.
        if level > 0 {
            self.cascade(place_at(level, tick));
        }
    }

    /// The first occupied slot after the current tick: its level and the tick
    /// at which it begins. Lower levels hold earlier ticks than higher ones,
    /// since they hold the rest of the present slot of the level above.
    fn next_occupied(&self) -> Option<(u32, u64)> {
        (0..LEVELS).find_map(|level| {
            let slot_now = slot_of(self.current, level);
            let after = self.occupied[level as usize] & (!1 << slot_now);
            if after == 0 {
                return None;
            }
            let slot = u64::from(after.trailing_zeros());
            let shift = SLOTS_LOG2 * level;
            let above = self.current >> shift >> SLOTS_LOG2 << SLOTS_LOG2;
            Some((level, (above | slot) << shift))
        })
    }

    /// Moves the entries of a slot to where they belong seen from `current`.
    fn cascade(&mut self, from: usize) {
        let mut list = std::mem::replace(&mut self.lists[from], List::EMPTY);
        self.unmark(from);
        while let Some((index, tick)) = self.slab.unlink_front(&mut list) {
            let place = place_of(self.current, tick);
            self.slab.link_back(&mut self.lists[place], index, place);
            self.mark(place);
        }
    }

    fn mark(&mut self, place: usize) {
        self.occupied[place / SLOTS] |= 1 << (place % SLOTS);
    }

    fn unmark(&mut self, place: usize) {
        self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
    }
}

/// The first tick that begins at or after `at`: when it has begun, `at` has
/// come.
const fn tick_ending_at_or_after(at: Moment) -> u64 {
    let nanos = at.as_nanos();
    let whole = nanos >> WHEEL_TICK_NS_LOG2;
    whole + (whole << WHEEL_TICK_NS_LOG2 != nanos) as u64
}

/// The moment at which `tick` begins, saturating for the one past the end.
const fn start_of(tick: u64) -> Moment {
    if tick >> (u64::BITS - WHEEL_TICK_NS_LOG2) == 0 {
        Moment::from_nanos(tick << WHEEL_TICK_NS_LOG2)
    } else {
        Moment::FAR_FUTURE
    }
}

/// The slot of `tick` within `level`.
const fn slot_of(tick: u64, level: u32) -> usize {
    (tick >> (SLOTS_LOG2 * level) & SLOT_MASK) as usize
}

/// The list of the slot that `tick` lies in on `level`.
const fn place_at(level: u32, tick: u64) -> usize {
    level as usize * SLOTS + slot_of(tick, level)
}

/// The list for an entry due at `tick`, seen from `current`: the level is that
/// of the highest bit in which the two differ.
#[inline]
const fn place_of(current: u64, tick: u64) -> usize {
    let differing = (current ^ tick) | 1;
    let level = (u64::BITS - 1 - differing.leading_zeros()) / SLOTS_LOG2;
    place_at(level, tick)
}

#[cfg(test)]
#[path = "wheel/tests.rs"]
mod tests;
