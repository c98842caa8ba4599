//! The wheel's entries: a slab of nodes in doubly linked lists, the links apart
//! from the contents.
//!
//! What else was measured, and how much it took, stands in
//! `bench/results/timers.md`.

use std::num::NonZeroU32;

use crate::limits::WHEEL_PENDING_MAX;

/// No node: the end of a list.
const NIL: u32 = u32::MAX;

/// Names one entry of a [`Wheel`](crate::Wheel), from its insertion until it is
/// yielded or cancelled; after that it names nothing, ever. Keys of another
/// wheel must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeadlineKey {
    index: u32,
    generation: u32,
}

/// First and last node of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };

    pub(super) const fn is_empty(self) -> bool {
        self.head == NIL
    }
}

/// A node's neighbours in its list. A cancel touches those of three nodes at
/// random places in memory, so its cost is that of the cache misses: at a
/// million nodes all links are 8 MB, which caches hold, with the contents
/// between them they were 32.
#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
}

/// What a node holds: 24 bytes and the value.
#[derive(Debug)]
struct Node<T> {
    pending: Option<Pending<T>>,
    /// Grows when the entry goes, so that keys of it become stale.
    generation: u32,
}

#[derive(Debug)]
struct Pending<T> {
    value: T,
    tick: u64,
    /// Which list the node is in, plus one. That it is never zero lets the
    /// `Option` around this take no room.
    place_plus_one: NonZeroU32,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    nodes: Vec<Node<T>>,
    /// As many as nodes.
    links: Vec<Links>,
    /// The keys that the free nodes will have next. Kept apart from the nodes,
    /// so that an insert only writes to its node: a free list through the nodes
    /// costs a cache miss per insert once they are scattered.
    free: Vec<DeadlineKey>,
    first_generation: u32,
    len: usize,
}

impl<T> Slab<T> {
    /// No nodes. Their generations begin at `first_generation`, which tests set
    /// just before the end.
    pub(super) const fn new(first_generation: u32) -> Self {
        Self {
            nodes: Vec::new(),
            links: Vec::new(),
            free: Vec::new(),
            first_generation,
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// How many nodes were ever needed at once.
    #[cfg(test)]
    pub(super) const fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Adds an entry at the end of `list`, which is the list at `place`.
    #[inline]
    pub(super) fn push_back(
        &mut self,
        list: &mut List,
        tick: u64,
        place: usize,
        value: T,
    ) -> DeadlineKey {
        let prev = list.tail;
        let key = match self.free.pop() {
            Some(key) => key,
            None => self.grow(),
        };
        self.nodes[key.index as usize] = Node {
            pending: Some(Pending {
                value,
                tick,
                place_plus_one: encode_place(place),
            }),
            generation: key.generation,
        };
        self.links[key.index as usize] = Links { prev, next: NIL };
        self.len += 1;
        self.set_next(prev, list, key.index);
        list.tail = key.index;
        key
    }

    /// Adds a node at the end of the slab.
    #[cold]
    fn grow(&mut self) -> DeadlineKey {
        let index = self.nodes.len();
        assert!(
            index < WHEEL_PENDING_MAX,
            "a wheel holds at most {WHEEL_PENDING_MAX} deadlines"
        );
        let generation = self.first_generation;
        self.nodes.push(Node {
            pending: None,
            generation,
        });
        self.links.push(Links {
            prev: NIL,
            next: NIL,
        });
        #[expect(clippy::cast_possible_truncation, reason = "compared just above")]
        DeadlineKey {
            index: index as u32,
            generation,
        }
    }

    /// Takes an entry out of the list it is in; `None` for a stale key. Returns
    /// the place of that list, too.
    #[inline]
    pub(super) fn remove(&mut self, key: DeadlineKey, lists: &mut [List]) -> Option<(usize, T)> {
        let node = self.nodes.get_mut(key.index as usize)?;
        if node.generation != key.generation {
            return None;
        }
        let pending = node.pending.take()?;
        let Links { prev, next } = self.links[key.index as usize];
        self.free(key);
        let place = decode_place(pending.place_plus_one);
        let list = &mut lists[place];
        self.set_next(prev, list, next);
        self.set_prev(next, list, prev);
        Some((place, pending.value))
    }

    /// Takes the first entry out of `list` and the slab.
    #[inline]
    pub(super) fn pop_front(&mut self, list: &mut List) -> Option<T> {
        let index = list.head;
        let node = self.nodes.get_mut(index as usize)?;
        let pending = node.pending.take()?;
        let generation = node.generation;
        let next = self.links[index as usize].next;
        self.free(DeadlineKey { index, generation });
        list.head = next;
        self.set_prev(next, list, NIL);
        Some(pending.value)
    }

    /// Takes the first node off `list` and keeps its entry, to be linked again.
    /// Returns the entry's tick, too.
    #[inline]
    pub(super) fn unlink_front(&mut self, list: &mut List) -> Option<(u32, u64)> {
        let index = list.head;
        let node = self.nodes.get(index as usize)?;
        // The next node's `prev` is written when that one is linked again.
        list.head = self.links[index as usize].next;
        Some((index, node.pending.as_ref()?.tick))
    }

    /// Links a node that `unlink_front` took off to the end of `list`.
    #[inline]
    pub(super) fn link_back(&mut self, list: &mut List, index: u32, place: usize) {
        let prev = list.tail;
        if let Some(pending) = &mut self.nodes[index as usize].pending {
            pending.place_plus_one = encode_place(place);
        }
        self.links[index as usize] = Links { prev, next: NIL };
        self.set_next(prev, list, index);
        list.tail = index;
    }

    /// Gives a node, whose entry was taken, back.
    #[inline]
    fn free(&mut self, key: DeadlineKey) {
        self.len -= 1;
        // A node whose generations are used up is not used again: 40 bytes lost
        // in 2^32 uses, so that a stale key never fits again.
        if let Some(generation) = key.generation.checked_add(1) {
            self.nodes[key.index as usize].generation = generation;
            self.free.push(DeadlineKey { generation, ..key });
        }
    }

    /// Makes `next` follow the node `prev`, or head `list` when there is none.
    #[inline]
    fn set_next(&mut self, prev: u32, list: &mut List, next: u32) {
        match self.links.get_mut(prev as usize) {
            Some(links) => links.next = next,
            None => list.head = next,
        }
    }

    /// Makes `prev` precede the node `next`, or end `list` when there is none.
    #[inline]
    fn set_prev(&mut self, next: u32, list: &mut List, prev: u32) {
        match self.links.get_mut(next as usize) {
            Some(links) => links.prev = prev,
            None => list.tail = prev,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "places are below 512")]
const fn encode_place(place: usize) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(place as u32)
}

const fn decode_place(place_plus_one: NonZeroU32) -> usize {
    place_plus_one.get() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_adds_32_bytes_to_its_value() {
        assert_eq!(size_of::<Node<u64>>() + size_of::<Links>(), 40);
        assert_eq!(size_of::<Node<std::task::Waker>>() + size_of::<Links>(), 48);
    }

    #[test]
    fn a_node_without_generations_left_is_not_used_again() {
        let mut slab = Slab::new(u32::MAX - 1);
        let mut lists = [List::EMPTY];
        let keys = [1, 2, 3].map(|value| {
            let key = slab.push_back(&mut lists[0], 0, 0, value);
            assert_eq!(slab.remove(key, &mut lists), Some((0, value)));
            key
        });
        assert_eq!(keys.map(|key| key.index), [0, 0, 1]);
        assert!(
            keys.iter()
                .all(|&key| slab.remove(key, &mut lists).is_none())
        );
    }
}
