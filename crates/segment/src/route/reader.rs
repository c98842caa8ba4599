//! The caller's side of a route segment. Whatever stands there, nothing loops
//! and nothing is read beside it.

use waystation_balance::limits::TIERS;
use waystation_base::Moment;

use super::{Entry, Note, Place, SegmentState, Spill, unpack_place};
use crate::error::AttachError;
use crate::layout::{
    BEAT, OWNER, PATH_WORDS, POOL_SEQUENCE, ROUTE_MAGIC, ROUTES_SEQUENCE, RouteLayout, SERVICE,
    STATE, capacity_of,
};
use crate::limits::{PATHS_MAX, POOL_MAX, RETRIES_MAX};
use crate::memory::{Memory, get, high, low};
use crate::sync::{Ordering, fence};
use crate::turns::Look;

/// Reads a route segment.
#[derive(Clone, Debug)]
pub struct RouteReader<M> {
    memory: M,
    layout: RouteLayout,
}

/// The entries of each tier's pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pools {
    /// Which content it is.
    pub(crate) content: u64,
    pub(crate) counts: [usize; TIERS],
    pub(crate) entries: [[Entry; POOL_MAX]; TIERS],
}

/// Who may be picked, without the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Which content it is.
    pub(crate) content: u64,
    /// Up to which number of 32 bits a call begins in the first tier, and in
    /// the second.
    pub(crate) until: [u32; 2],
    pub(crate) counts: [u32; TIERS],
    pub(crate) spill: Spill,
}

impl<M: Memory> RouteReader<M> {
    /// Reads the segment in `memory`.
    ///
    /// # Errors
    /// [`AttachError`]: it is none, or of another version.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        let words_of = |capacity| RouteLayout::new(capacity).words();
        let capacity = capacity_of(memory.words(), ROUTE_MAGIC, words_of)?;
        fence(Ordering::Acquire);
        Ok(Self {
            memory,
            layout: RouteLayout::new(capacity),
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

    /// When the agent last said that it lives.
    #[inline]
    pub fn beat(&self) -> Moment {
        Moment::from_nanos(get(self.memory.words(), BEAT))
    }

    /// Whether it may be used.
    #[inline]
    pub fn state(&self) -> SegmentState {
        SegmentState::of(get(self.memory.words(), STATE))
    }

    /// The contents that are valid now: of the routes and of the pools.
    #[inline]
    pub(crate) fn contents(&self) -> (u64, u64) {
        let words = self.memory.words();
        let contents = (
            get(words, ROUTES_SEQUENCE) >> 1,
            get(words, POOL_SEQUENCE) >> 1,
        );
        fence(Ordering::Acquire);
        contents
    }

    /// What is known of the host in `slot`.
    #[inline]
    pub(crate) fn note(&self, slot: u32) -> Note {
        if slot >= self.layout.capacity {
            return Note::unpack(0);
        }
        Note::unpack(get(self.memory.words(), RouteLayout::note(slot)))
    }

    /// A number that changes whenever the hosts, or who of them may be picked,
    /// are written anew. Cost: a load.
    #[inline]
    pub fn content(&self) -> u64 {
        self.contents().0
    }

    /// The version of the view that the routes come from.
    pub fn view_version(&self) -> Option<u64> {
        self.look(|words, area, _| get(words, self.layout.routes(area)))
    }

    /// The hosts that picks compare; `None` when the memory never came to rest.
    pub(crate) fn pools(&self) -> Option<Pools> {
        self.look_at(POOL_SEQUENCE, |words, area, content| {
            let counts = get(words, RouteLayout::pool(area));
            let mut pools = Pools {
                content,
                counts: [0; TIERS],
                entries: [[Entry::default(); POOL_MAX]; TIERS],
            };
            for tier in 0..TIERS {
                let count = usize::from(counts.to_le_bytes()[tier]).min(POOL_MAX);
                pools.counts[tier] = count;
                for at in 0..count {
                    let place = RouteLayout::entry(area, tier, at);
                    let (name, cost) = (get(words, place), get(words, place + 1));
                    let rest = get(words, place + 2);
                    pools.entries[tier][at] = Entry {
                        slot: low(name),
                        generation: high(name),
                        unit: f32::from_bits(high(cost)),
                        level: f32::from_bits(low(cost)),
                        step: f32::from_bits(high(rest)),
                        warm: low(rest),
                        work: high(get(words, place + 3)),
                    };
                }
            }
            pools
        })
    }

    /// Who may be picked, without the list.
    pub(crate) fn summary(&self) -> Option<Summary> {
        self.look(|words, area, content| {
            let header = self.layout.routes(area);
            let (two, third) = (get(words, header + 1), get(words, header + 2));
            let until = get(words, header + 3);
            let spill = get(words, header + 4);
            let capacity = self.layout.capacity;
            let mut left = capacity;
            let counts = [high(two), low(two), high(third)].map(|count| {
                let count = count.min(left);
                left -= count;
                count
            });
            Summary {
                content,
                until: [high(until), low(until)],
                counts,
                spill: Spill {
                    from: high(spill),
                    ratio: low(spill),
                },
            }
        })
    }

    /// The slots at `places` of the list of who may be picked, if the routes are
    /// still those of `content`.
    #[inline]
    pub(crate) fn eligible<const N: usize>(
        &self,
        content: u64,
        places: [u32; N],
    ) -> Option<[u32; N]> {
        let words = self.memory.words();
        let look = Look::begin(words.get(ROUTES_SEQUENCE)?);
        let slots = places.map(|at| {
            let word = get(words, self.layout.eligible(look.area(), at as usize));
            if at % 2 == 0 { low(word) } else { high(word) }
        });
        let is_same = look.content() == content && look.is_whole(words.get(ROUTES_SEQUENCE)?);
        is_same.then_some(slots)
    }

    /// The path of the host in `slot`, if it is still that of this generation and
    /// has one. Cost: an allocation.
    pub fn path(&self, slot: u32, generation: u32) -> Option<String> {
        if slot >= self.layout.capacity {
            return None;
        }
        let words = self.look(|words, area, _| {
            let at = self.layout.host(area, slot);
            let halves = [get(words, at + 2), get(words, at + 3)];
            let place = unpack_place(low(get(words, at + 1)), halves)?;
            let Place::Unix(path) = place else {
                return None;
            };
            let is_same = low(get(words, at)) == generation && (path as usize) < PATHS_MAX;
            is_same.then(|| {
                let from = self.layout.path(area, path as usize);
                std::array::from_fn::<u64, PATH_WORDS, _>(|word| get(words, from + word))
            })
        })??;
        let bytes: Vec<u8> = words[1..]
            .iter()
            .copied()
            .flat_map(u64::to_le_bytes)
            .collect();
        let length = usize::try_from(words[0]).ok()?;
        String::from_utf8(bytes.get(..length)?.to_vec()).ok()
    }

    /// The present host in `slot`: its generation and place; `None` when there
    /// is none, or the memory never came to rest.
    #[inline]
    pub fn host(&self, slot: u32) -> Option<(u32, Place)> {
        if slot >= self.layout.capacity {
            return None;
        }
        self.look(|words, area, _| {
            let at = self.layout.host(area, slot);
            let halves = [get(words, at + 2), get(words, at + 3)];
            let place = unpack_place(low(get(words, at + 1)), halves)?;
            Some((low(get(words, at)), place))
        })?
    }

    /// The generation of the present or last host in `slot`, without care for a
    /// writer at work: near enough to tell an old result by.
    #[inline]
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        let words = self.memory.words();
        let area = ((get(words, ROUTES_SEQUENCE) >> 1) & 1) as usize;
        fence(Ordering::Acquire);
        if slot >= self.layout.capacity {
            return 0;
        }
        low(get(words, self.layout.host(area, slot)))
    }

    /// All hosts and whether each may be picked, for those who want a list.
    /// `None` when the memory never came to rest. Cost: O(capacity).
    pub fn hosts(&self) -> Option<Vec<(super::Route, bool)>> {
        self.look(|words, area, _| {
            let header = self.layout.routes(area);
            let two = get(words, header + 1);
            let third = get(words, header + 2);
            let sum = u64::from(high(two)) + u64::from(low(two)) + u64::from(high(third));
            let count = sum.min(self.layout.capacity.into());
            let mut may_be_picked = vec![false; self.layout.capacity as usize];
            for at in 0..usize::try_from(count).unwrap_or(0) {
                let word = get(words, self.layout.eligible(area, at));
                let slot = if at % 2 == 0 { low(word) } else { high(word) };
                if let Some(one) = may_be_picked.get_mut(slot as usize) {
                    *one = true;
                }
            }
            let host = |slot: u32| {
                let at = self.layout.host(area, slot);
                let halves = [get(words, at + 2), get(words, at + 3)];
                let place = unpack_place(low(get(words, at + 1)), halves)?;
                let generation = low(get(words, at));
                let route = super::Route {
                    slot,
                    generation,
                    place,
                };
                Some((route, may_be_picked[slot as usize]))
            };
            (0..self.layout.capacity).filter_map(host).collect()
        })
    }

    fn look<T>(&self, read: impl Fn(&[crate::memory::Word], usize, u64) -> T) -> Option<T> {
        self.look_at(ROUTES_SEQUENCE, read)
    }

    #[inline]
    fn look_at<T>(
        &self,
        sequence: usize,
        read: impl Fn(&[crate::memory::Word], usize, u64) -> T,
    ) -> Option<T> {
        let words = self.memory.words();
        let sequence = words.get(sequence)?;
        for _ in 0..RETRIES_MAX {
            let look = Look::begin(sequence);
            let found = read(words, look.area(), look.content());
            if look.is_whole(sequence) {
                return Some(found);
            }
        }
        None
    }
}
