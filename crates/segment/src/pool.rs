//! A picker's copy of the hosts that are compared, with what it sent since.

use waystation_base::Rng;

use crate::limits::POOL_MAX;
use crate::memory::Memory;
use crate::route::{Entry, Place, RouteReader, WARM};

/// Lanes in which the lowest is looked for side by side.
const LANES: usize = if POOL_MAX.is_multiple_of(4) { 4 } else { 1 };

/// Nothing to compare at this place.
const NOBODY: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Copied {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    unit: f32,
    level: f32,
    step: f32,
    warm: u32,
    pub(crate) work: u32,
    place: Option<Place>,
}

impl Copied {
    #[inline]
    pub(crate) const fn is_warm(&self) -> bool {
        self.warm == WARM
    }

    /// Whether a host that warms up gets this call.
    pub(crate) fn warm_draw(&self, rng: &mut Rng) -> bool {
        rng.below(WARM.into()) < u64::from(self.warm)
    }

    /// Cost and place in one number: costs are not negative, so that their bits
    /// are ordered as they are.
    #[inline]
    fn key(&self, at: usize) -> u64 {
        let cost = self.unit * self.level * self.level * self.level;
        // A cost that is none, which only a broken writer makes, comes last.
        let bits = if cost >= 0.0 {
            cost.to_bits()
        } else {
            u32::MAX
        };
        u64::from(bits) << 32 | at as u64
    }
}

/// One tier's hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TierPool {
    keys: [u64; POOL_MAX],
    pub(crate) entries: [Copied; POOL_MAX],
}

impl Default for TierPool {
    fn default() -> Self {
        Self {
            keys: [NOBODY; POOL_MAX],
            entries: [Copied::default(); POOL_MAX],
        }
    }
}

impl TierPool {
    /// Takes over what the agent wrote; places too if the routes are the same.
    pub(crate) fn fill(&mut self, entries: &[Entry], with_places: bool) {
        self.keys = [NOBODY; POOL_MAX];
        for (at, entry) in entries.iter().take(POOL_MAX).enumerate() {
            let before = &self.entries[at];
            let is_same = (before.slot, before.generation) == (entry.slot, entry.generation);
            let copied = Copied {
                slot: entry.slot,
                generation: entry.generation,
                unit: entry.unit,
                level: entry.level,
                step: entry.step,
                warm: entry.warm,
                work: entry.work,
                place: before.place.filter(|_| is_same && with_places),
            };
            self.entries[at] = copied;
            self.keys[at] = copied.key(at);
        }
    }

    /// The place of the host with the lowest cost.
    #[inline]
    pub(crate) fn lowest(&self) -> Option<usize> {
        let mut lanes = [NOBODY; LANES];
        // By places: an iterator over pairs is made by a call that is not
        // inlined, a tenth of a pick.
        for chunk in self.keys.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                lanes[lane] = lanes[lane].min(chunk[lane]);
            }
        }
        let least = lanes.into_iter().fold(NOBODY, u64::min);
        if least == NOBODY {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are a place")]
        let at = (least as u32) as usize;
        Some(at)
    }

    /// Counts a call to the host at `at`.
    #[inline]
    pub(crate) fn take(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        entry.level += entry.step;
        entry.work = entry.work.saturating_add(1);
        self.keys[at] = entry.key(at);
    }

    /// The call to the host at `at` goes elsewhere.
    pub(crate) fn give_back(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        entry.level -= entry.step;
        entry.work = entry.work.saturating_sub(1);
        self.keys[at] = entry.key(at);
    }

    /// Leaves the host at `at` out for now: its cost counts as if it had been
    /// sent a call.
    pub(crate) fn pass(&mut self, at: usize) {
        self.take(at);
    }

    /// Leaves the host at `at` out until the pool is read again.
    pub(crate) fn drop_entry(&mut self, at: usize) {
        self.keys[at] = NOBODY;
    }

    /// Whether the place of the host at `at` is known; reads it if that host is still
    /// the one in its slot.
    #[inline]
    pub(crate) fn find_place<M: Memory>(&mut self, at: usize, routes: &RouteReader<M>) -> bool {
        self.entries[at].place.is_some() || self.read_place(at, routes)
    }

    #[cold]
    fn read_place<M: Memory>(&mut self, at: usize, routes: &RouteReader<M>) -> bool {
        let entry = &mut self.entries[at];
        let host = routes.host(entry.slot);
        entry.place = host
            .filter(|(generation, _)| *generation == entry.generation)
            .map(|(_, place)| place);
        entry.place.is_some()
    }

    /// The place of the host at `at`, once it was found.
    #[inline]
    pub(crate) fn place(&self, at: usize) -> Option<&Place> {
        self.entries.get(at)?.place.as_ref()
    }
}
