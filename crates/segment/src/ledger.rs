//! What one caller's process did, host by host.
//!
//! All numbers only rise, so that a process which is killed at any instruction
//! leaves nothing half done: what it sent and did not end is what was in flight.

use waystation_balance::{CallEnd, Load};

use crate::error::AttachError;
use crate::layout::{
    CAPACITY, COUNTED_BY, LAYOUT_VERSION, LEDGER_MAGIC, LedgerLayout, MAGIC, OWNER, SERVICE,
    TOLD_WORDS, VERSION, capacity_of,
};
use crate::limits::{CALLS_PER_LOOK_MAX, HOSTS_MAX};
use crate::memory::{Memory, Word, add, get, high, low, pair, set, store};
use crate::sync::{Ordering, fence};

/// Places in a host's record.
const SENT: usize = 0;
/// The count in the upper 24 bits, the sum of times below: one addition, so that
/// none is ever seen without the other. What runs over is lost in differences.
const OK_TIMED: usize = 1;
const FAILED_OVERLOADED: usize = 3;
const REFUSED_TIMED_OUT: usize = 4;
const OK_CANCELLED: usize = 5;
const LOAD: usize = 6;
const LOADS: usize = 7;

/// The words that count ends, in the order in which it is noted what was told.
const TOLD: [usize; TOLD_WORDS] = [OK_TIMED, FAILED_OVERLOADED, REFUSED_TIMED_OUT, OK_CANCELLED];

/// Bits of the sum of times.
const TIME_BITS: u32 = 40;

/// Times are summed in these, and each counts for a minute at most, so that the
/// sum between two looks keeps within its bits.
const TIME_UNIT_NS: u64 = 128;
const TIME_NS_MAX: u64 = 60_000_000_000;

/// Makes a ledger in zeroed memory, for the segment with these names.
///
/// # Errors
/// [`AttachError::BadCapacity`] and [`AttachError::TooShort`].
pub fn create_ledger<M: Memory>(
    memory: &M,
    capacity: u32,
    (service, owner): (u64, u64),
) -> Result<(), AttachError> {
    if capacity == 0 || capacity > HOSTS_MAX {
        return Err(AttachError::BadCapacity(capacity.into()));
    }
    let (words, needed) = (memory.words(), ledger_words(capacity));
    if words.len() < needed {
        return Err(AttachError::TooShort {
            words: words.len(),
            needed,
        });
    }
    set(words, VERSION, LAYOUT_VERSION);
    set(words, CAPACITY, capacity.into());
    set(words, SERVICE, service);
    set(words, OWNER, owner);
    set(words, COUNTED_BY, owner);
    store(&words[MAGIC], LEDGER_MAGIC, Ordering::Release);
    Ok(())
}

/// Words of a ledger for so many hosts.
pub const fn ledger_words(capacity: u32) -> usize {
    LedgerLayout::new(capacity).words()
}

/// The caller's side of a ledger; any number of threads may use it.
#[derive(Clone, Debug)]
pub struct Ledger<M> {
    memory: M,
    layout: LedgerLayout,
}

impl<M: Memory> Ledger<M> {
    /// Uses the ledger in `memory`.
    ///
    /// # Errors
    /// [`AttachError`]: it is none, or of another version.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        let capacity = capacity_of(memory.words(), LEDGER_MAGIC, ledger_words)?;
        fence(Ordering::Acquire);
        Ok(Self {
            memory,
            layout: LedgerLayout::new(capacity),
        })
    }

    /// For how many hosts it is.
    pub const fn capacity(&self) -> u32 {
        self.layout.capacity
    }

    /// The numbers of the service and of the segment's maker.
    pub fn names(&self) -> (u64, u64) {
        let words = self.memory.words();
        (get(words, SERVICE), get(words, OWNER))
    }

    /// A call to `slot` is on its way. Nothing beyond the capacity.
    #[inline]
    pub fn handle_sent(&self, slot: u32) {
        self.add(slot, SENT, 1);
    }

    /// A call to `slot` ended, after `latency_ns` if it was timed, and told this
    /// load if it is reported.
    #[inline]
    pub fn handle_ended(&self, slot: u32, end: CallEnd, latency_ns: Option<u64>, load: Load) {
        // What is told beside the end comes first: who sees the end sees it.
        if load.is_reported()
            && let Some(word) = self.word(slot, LOAD)
        {
            store(
                word,
                pair(load.in_flight, load.latency_us),
                Ordering::Relaxed,
            );
            self.add(slot, LOADS, 1);
        }
        let timed = latency_ns.filter(|_| end == CallEnd::Ok);
        let (place, step) = match (end, timed) {
            (CallEnd::Ok, Some(latency_ns)) => {
                let units = (latency_ns.min(TIME_NS_MAX) + TIME_UNIT_NS / 2) / TIME_UNIT_NS;
                (OK_TIMED, 1 << TIME_BITS | units)
            }
            (CallEnd::Ok, None) => (OK_CANCELLED, 1 << 32),
            (CallEnd::Failed, _) => (FAILED_OVERLOADED, 1 << 32),
            (CallEnd::Overloaded, _) => (FAILED_OVERLOADED, 1),
            (CallEnd::Refused, _) => (REFUSED_TIMED_OUT, 1 << 32),
            (CallEnd::TimedOut, _) => (REFUSED_TIMED_OUT, 1),
            (CallEnd::Cancelled, _) => (OK_CANCELLED, 1),
        };
        self.add(slot, place, step);
        self.mark(slot);
    }

    /// Says that something happened at `slot`, so that the agent looks there.
    #[inline]
    pub fn mark(&self, slot: u32) {
        if slot < self.layout.capacity
            && let Some(word) = self.memory.words().get(LedgerLayout::mark(slot))
        {
            // Release: who takes the mark sees what it stands for. Always
            // written, since a mark that is seen may be one that is being taken.
            word.fetch_or(1 << (slot % 64), Ordering::Release);
        }
    }

    #[inline]
    fn add(&self, slot: u32, place: usize, step: u64) {
        if let Some(word) = self.word(slot, place) {
            // Release: an end is not seen before what was sent and told.
            add(word, step, Ordering::Release);
        }
    }

    #[inline]
    fn word(&self, slot: u32, place: usize) -> Option<&Word> {
        if slot >= self.layout.capacity {
            return None;
        }
        self.memory.words().get(self.layout.record(slot) + place)
    }
}

/// What was added to a host's record since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Calls that were sent.
    pub sent: u32,
    /// Calls that ended, in the order of [`ENDS`].
    pub ended: [u32; ENDS.len()],
    /// Sum of the times of those that ended well and were timed.
    pub latency_ns: u64,
    /// How many were timed.
    pub timed: u32,
    /// A load that was told.
    pub load: Option<Load>,
    /// Calls that were dropped because no process makes so many at once.
    pub dropped: u64,
}

/// All ends, in the order in which they are counted.
pub const ENDS: [CallEnd; 6] = [
    CallEnd::Ok,
    CallEnd::Failed,
    CallEnd::Overloaded,
    CallEnd::Refused,
    CallEnd::TimedOut,
    CallEnd::Cancelled,
];

impl Added {
    /// Whether nothing happened.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Added {
    /// How many calls went well, and how many failed; those that were given up are
    /// in neither.
    pub fn ok_and_failed(&self) -> (u64, u64) {
        let (mut ok, mut failed) = (0, 0);
        for (end, &count) in ENDS.into_iter().zip(&self.ended) {
            if end.is_error() {
                failed += u64::from(count);
            } else if end != CallEnd::Cancelled {
                ok += u64::from(count);
            }
        }
        (ok, failed)
    }
}

/// A record as it was seen.
type Record = [u64; 8];

/// The agent's side of a ledger: what is new in it, and what its process left
/// unfinished.
///
/// Before an agent tells others what it saw, it notes that in the ledger, see
/// [`LedgerWatch::note_told`]. When it is killed, its callers hand their ledgers to
/// the next agent, which counts what was not noted: each end once, and those not at
/// all that the first one noted and could not tell any more.
#[derive(Debug)]
pub struct LedgerWatch<M> {
    memory: M,
    layout: LedgerLayout,
    seen: Vec<Record>,
    in_flight: Vec<u32>,
    /// A bit for each slot of which more was seen than noted.
    unnoted: Vec<u64>,
}

impl<M: Memory> LedgerWatch<M> {
    /// Watches the ledger in `memory`, which this process made.
    ///
    /// # Errors
    /// [`AttachError`]: it is none. Whoever maps it may have written there.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        let capacity = capacity_of(memory.words(), LEDGER_MAGIC, ledger_words)?;
        let layout = LedgerLayout::new(capacity);
        Ok(Self {
            memory,
            layout,
            seen: vec![[0; 8]; capacity as usize],
            in_flight: vec![0; capacity as usize],
            unnoted: vec![0; layout.mark_words()],
        })
    }

    /// Watches on where another agent stopped, which counts it no more: it was
    /// killed, or has let go of it. `agent` is the number of this one. What was not
    /// noted is new here, at all slots. Calls in flight are not known.
    ///
    /// # Errors
    /// [`AttachError::Counted`] when this agent counts it already, else as
    /// [`LedgerWatch::attach`].
    pub fn take_over(memory: M, agent: u64) -> Result<Self, AttachError> {
        let mut watch = Self::attach(memory)?;
        let words = watch.memory.words();
        if get(words, COUNTED_BY) == agent {
            return Err(AttachError::Counted);
        }
        set(words, COUNTED_BY, agent);
        for (slot, seen) in (0..).zip(&mut watch.seen) {
            let at = watch.layout.told(slot);
            for (word, place) in (at..).zip(TOLD) {
                seen[place] = get(words, word);
            }
            // Of all that were ever sent nothing is new.
            seen[SENT] = get(words, watch.layout.record(slot) + SENT);
        }
        Ok(watch)
    }

    /// What was seen is about to be told: who takes the ledger over does not count
    /// it again. Cost: O(hosts / 64 + hosts with news).
    pub fn note_told(&mut self) {
        for at in 0..self.unnoted.len() {
            let mut bits = std::mem::take(&mut self.unnoted[at]);
            while bits != 0 {
                #[expect(clippy::cast_possible_truncation, reason = "hosts are bounded")]
                let first = (at * 64) as u32;
                self.note(first + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        // Nothing of it is told before.
        fence(Ordering::Release);
    }

    /// As [`LedgerWatch::note_told`], of one slot.
    pub(crate) fn note_slot(&mut self, slot: u32) {
        let bit = 1 << (slot % 64);
        let unnoted = self.unnoted.get_mut(slot as usize / 64);
        if let Some(word) = unnoted.filter(|word| **word & bit != 0) {
            *word &= !bit;
            self.note(slot);
        }
    }

    fn note(&self, slot: u32) {
        let words = self.memory.words();
        if let Some(seen) = self.seen.get(slot as usize) {
            for (word, place) in (self.layout.told(slot)..).zip(TOLD) {
                set(words, word, seen[place]);
            }
        }
    }

    /// All that was seen is noted, and nobody counts it any more: any agent may
    /// take it over, this one too.
    pub fn let_go(mut self) {
        self.note_told();
        store(&self.memory.words()[COUNTED_BY], 0, Ordering::Release);
    }

    /// For how many hosts it is.
    pub const fn capacity(&self) -> u32 {
        self.layout.capacity
    }

    /// Takes the marks and tells the slots that have one. Cost: O(hosts / 64).
    pub fn take_marks(&mut self, mut told: impl FnMut(u32)) {
        let words = self.memory.words();
        for at in 0..self.layout.mark_words() {
            #[expect(clippy::cast_possible_truncation, reason = "hosts are bounded")]
            let first = (at * 64) as u32;
            let Some(word) = words.get(LedgerLayout::mark(first)) else {
                return;
            };
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut marks = word.swap(0, Ordering::Acquire);
            while marks != 0 {
                let slot = first + marks.trailing_zeros();
                marks &= marks - 1;
                if slot < self.layout.capacity {
                    told(slot);
                }
            }
        }
    }

    /// What is new at `slot`. Cost: O(1).
    pub fn look(&mut self, slot: u32) -> Added {
        let Some(seen) = self.seen.get_mut(slot as usize) else {
            return Added::default();
        };
        let now = read(self.memory.words(), self.layout.record(slot));
        let before = std::mem::replace(seen, now);
        let mut dropped = 0_u64;
        let mut count = |new: u64, old: u64| {
            let added = new.wrapping_sub(old);
            dropped = dropped.saturating_add(added.saturating_sub(CALLS_PER_LOOK_MAX));
            low(added.min(CALLS_PER_LOOK_MAX))
        };
        let mut halves = |place: usize| {
            let of = |half: fn(u64) -> u32| {
                u64::from(half(now[place]).wrapping_sub(half(before[place])))
            };
            // The lower half carries into the upper one once in 2^32 calls; that
            // call is counted twice then.
            [count(of(high), 0), count(of(low), 0)]
        };
        let [failed, overloaded] = halves(FAILED_OVERLOADED);
        let [refused, timed_out] = halves(REFUSED_TIMED_OUT);
        let [untimed, cancelled] = halves(OK_CANCELLED);
        let times = now[OK_TIMED].wrapping_sub(before[OK_TIMED]);
        let timed = count(times >> TIME_BITS, 0);
        let mut added = Added {
            sent: count(now[SENT], before[SENT]),
            ended: [
                timed.saturating_add(untimed),
                failed,
                overloaded,
                refused,
                timed_out,
                cancelled,
            ],
            latency_ns: (times & ((1 << TIME_BITS) - 1)) * TIME_UNIT_NS,
            timed,
            load: None,
            dropped: 0,
        };
        added.dropped = dropped;
        if now[LOADS] != before[LOADS] {
            let load = Load {
                in_flight: high(now[LOAD]),
                latency_us: low(now[LOAD]),
            };
            added.load = Some(load).filter(|load| load.is_reported());
        }
        let in_flight = &mut self.in_flight[slot as usize];
        let ended = added
            .ended
            .iter()
            .fold(0_u32, |sum, &one| sum.saturating_add(one));
        *in_flight = in_flight.saturating_add(added.sent).saturating_sub(ended);
        if ended > 0 {
            self.unnoted[slot as usize / 64] |= 1 << (slot % 64);
        }
        added
    }

    /// Whether no call has no end, as of the last look. Cost: O(hosts).
    pub fn is_idle(&self) -> bool {
        self.in_flight.iter().all(|&count| count == 0)
    }

    /// Calls to `slot` that were sent and have no end, as of the last look.
    pub fn in_flight(&self, slot: u32) -> u32 {
        self.in_flight.get(slot as usize).copied().unwrap_or(0)
    }
}

/// A record as it is, with no end before what was sent and told.
fn read(words: &[Word], at: usize) -> Record {
    let mut now: Record = [0; 8];
    for place in TOLD {
        now[place] = get(words, at + place);
    }
    fence(Ordering::Acquire);
    for place in [LOADS, SENT] {
        now[place] = get(words, at + place);
    }
    fence(Ordering::Acquire);
    now[LOAD] = get(words, at + LOAD);
    now
}
