//! The agent's side of a route segment.

use waystation_balance::limits::TIERS;
use waystation_base::Moment;

use super::{Entry, Note, Routes, SegmentState, pack_place};
use crate::error::AttachError;
use crate::layout::{
    BEAT, CAPACITY, HOST_WORDS, LAYOUT_VERSION, MAGIC, OWNER, PATH_BYTES_MAX, POOL_SEQUENCE,
    ROUTE_MAGIC, ROUTES_SEQUENCE, RouteLayout, SERVICE, STATE, VERSION, capacity_of,
};
use crate::limits::{HOSTS_MAX, PATHS_MAX, POOL_MAX};
use crate::memory::{Memory, Word, pair, set, store};
use crate::sync::{Ordering, fence};
use crate::turns::Turns;

/// Writes a route segment. There is one writer of a segment at a time.
#[derive(Debug)]
pub struct RouteWriter<M> {
    memory: M,
    layout: RouteLayout,
    routes: Turns,
    pool: Turns,
}

impl<M: Memory> RouteWriter<M> {
    /// Words of a segment for so many hosts.
    pub const fn words(capacity: u32) -> usize {
        RouteLayout::new(capacity).words()
    }

    /// Makes a segment in zeroed memory. `service` and `owner` tell it from the
    /// segments of others; a ledger repeats them.
    ///
    /// # Errors
    /// [`AttachError::BadCapacity`] for no host or too many,
    /// [`AttachError::TooShort`] when the memory does not suffice.
    pub fn create(memory: M, capacity: u32, service: u64, owner: u64) -> Result<Self, AttachError> {
        if capacity == 0 || capacity > HOSTS_MAX {
            return Err(AttachError::BadCapacity(capacity.into()));
        }
        let words = memory.words();
        let needed = Self::words(capacity);
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
        // The magic comes last: before it the memory is no segment.
        store(&words[MAGIC], ROUTE_MAGIC, Ordering::Release);
        Self::adopt(memory)
    }

    /// Goes on with a segment whose writer is gone, wherever that was.
    ///
    /// # Errors
    /// [`AttachError`]: it is none.
    pub fn adopt(memory: M) -> Result<Self, AttachError> {
        let words = memory.words();
        let capacity = capacity_of(words, ROUTE_MAGIC, Self::words)?;
        let routes = Turns::adopt(&words[ROUTES_SEQUENCE]);
        let pool = Turns::adopt(&words[POOL_SEQUENCE]);
        Ok(Self {
            memory,
            layout: RouteLayout::new(capacity),
            routes,
            pool,
        })
    }

    /// For how many hosts it is.
    pub const fn capacity(&self) -> u32 {
        self.layout.capacity
    }

    /// The memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// Says that the agent lives.
    pub fn beat(&self, now: Moment) {
        set(self.words_now(), BEAT, now.as_nanos());
    }

    /// Says whether callers may pick from it.
    pub fn set_state(&self, state: SegmentState) {
        set(self.words_now(), STATE, state.code());
    }

    /// Replaces hosts and who of them may be picked. Hosts beyond the capacity
    /// are left out, and their number is returned. Cost: O(capacity).
    pub fn publish_routes(&mut self, routes: &Routes) -> usize {
        let words = self.memory.words();
        let layout = self.layout;
        let area = self.routes.begin(&words[ROUTES_SEQUENCE]);
        let header = layout.routes(area);
        let is_known = |slot: &&u32| **slot < layout.capacity;
        let counts = routes.eligible.each_ref().map(|slots| {
            let count = slots.iter().filter(is_known).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        });
        set(words, header, routes.version);
        set(words, header + 1, pair(counts[0], counts[1]));
        set(words, header + 2, pair(counts[2], 0));
        let first = share(routes.shares[0]);
        let second = share(routes.shares[0] + routes.shares[1]);
        set(words, header + 3, pair(first, second));
        set(
            words,
            header + 4,
            pair(routes.spill.from, routes.spill.ratio),
        );
        let mut slots = routes.eligible.iter().flatten().filter(is_known);
        let mut at = 0;
        while at < layout.capacity as usize {
            let Some(&one) = slots.next() else { break };
            let two = slots.next().copied().unwrap_or(0);
            set(words, layout.eligible(area, at), pair(two, one));
            at += 2;
        }
        for slot in 0..layout.capacity {
            set(words, layout.host(area, slot) + 1, 0);
        }
        for &(slot, generation) in routes.former.iter().filter(|one| is_known(&&one.0)) {
            set(words, layout.host(area, slot), generation.into());
        }
        let mut left_out = 0;
        for host in &routes.hosts {
            if host.slot >= layout.capacity {
                left_out += 1;
                continue;
            }
            let at = layout.host(area, host.slot);
            let (kind, halves) = pack_place(host.place);
            const { assert!(HOST_WORDS == 4, "a host is these words") };
            set(words, at, host.generation.into());
            set(words, at + 1, kind.into());
            set(words, at + 2, halves[0]);
            set(words, at + 3, halves[1]);
        }
        for (path, at) in routes.paths.iter().take(PATHS_MAX).zip(0..) {
            let at = layout.path(area, at);
            // One that is too long is none: it names another file.
            let bytes = if path.len() <= PATH_BYTES_MAX {
                path.as_bytes()
            } else {
                b""
            };
            set(words, at, bytes.len() as u64);
            for (part, at) in bytes.chunks(size_of::<u64>()).zip(at + 1..) {
                let mut word = [0; size_of::<u64>()];
                word[..part.len()].copy_from_slice(part);
                set(words, at, u64::from_le_bytes(word));
            }
        }
        self.routes.end(&words[ROUTES_SEQUENCE]);
        left_out
    }

    /// Replaces the hosts that picks compare; entries beyond [`POOL_MAX`] are
    /// left out. Cost: O(entries).
    pub fn publish_pools(&mut self, pools: &[Vec<Entry>; TIERS]) {
        let words = self.memory.words();
        let area = self.pool.begin(&words[POOL_SEQUENCE]);
        let mut counts = 0;
        for (tier, pool) in pools.iter().enumerate() {
            let count = pool.len().min(POOL_MAX);
            counts |= (count as u64) << (8 * tier);
            for (at, entry) in pool[..count].iter().enumerate() {
                let place = RouteLayout::entry(area, tier, at);
                set(words, place, pair(entry.generation, entry.slot));
                set(
                    words,
                    place + 1,
                    pair(entry.unit.to_bits(), entry.level.to_bits()),
                );
                set(words, place + 2, pair(entry.step.to_bits(), entry.warm));
                set(words, place + 3, pair(entry.work, 0));
            }
        }
        set(words, RouteLayout::pool(area), counts);
        self.pool.end(&words[POOL_SEQUENCE]);
    }

    /// Replaces what is known of one host.
    ///
    /// # Panics
    /// Beyond the capacity.
    pub fn publish_note(&self, slot: u32, note: Note) {
        assert!(slot < self.layout.capacity, "slots are below the capacity");
        set(self.memory.words(), RouteLayout::note(slot), note.pack());
    }

    fn words_now(&self) -> &[Word] {
        // What was published before is seen by who sees what comes now.
        fence(Ordering::Release);
        self.memory.words()
    }
}

/// A share as a number of 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what fits"
)]
fn share(part: f64) -> u32 {
    (part.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32
}
