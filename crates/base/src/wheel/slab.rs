//! The wheel's entries: a slab of nodes in doubly linked lists.

use std::num::NonZeroU32;

/// No node: the end of a list.
const NIL: u32 = u32::MAX;

/// Names one entry of a [`Wheel`](crate::Wheel), from its insertion until it is
/// yielded or cancelled. A stale key does nothing; it could name a newer entry
/// only after 2^32 reuses of its place. Keys of another wheel must not be used.
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

/// A node: 24 bytes and the value. A cancel touches three nodes at random
/// places in memory, so its cost is that of the cache misses; with a value of 8
/// bytes two nodes share a cache line and none straddles two.
#[derive(Debug)]
struct Node<T> {
    pending: Option<Pending<T>>,
    /// The next node of the list, or of the free list.
    next: u32,
    /// Grows when the entry goes, so that keys of it become stale.
    generation: u32,
}

#[derive(Debug)]
struct Pending<T> {
    value: T,
    tick: u64,
    prev: u32,
    /// Which list the node is in, plus one. That it is never zero lets the
    /// `Option` around this take no room.
    place_plus_one: NonZeroU32,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    nodes: Vec<Node<T>>,
    free_head: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free_head: NIL,
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
        let pending = Some(Pending {
            value,
            tick,
            prev,
            place_plus_one: encode_place(place),
        });
        let index = self.free_head;
        let key = if let Some(node) = self.nodes.get_mut(index as usize) {
            self.free_head = node.next;
            node.pending = pending;
            node.next = NIL;
            DeadlineKey {
                index,
                generation: node.generation,
            }
        } else {
            self.grow(pending)
        };
        self.len += 1;
        self.set_next(prev, list, key.index);
        list.tail = key.index;
        key
    }

    /// Adds a node at the end of the slab.
    fn grow(&mut self, pending: Option<Pending<T>>) -> DeadlineKey {
        let index = u32::try_from(self.nodes.len()).unwrap_or(NIL);
        assert!(
            index < NIL - 1,
            "a wheel holds at most {} deadlines",
            NIL - 1
        );
        self.nodes.push(Node {
            pending,
            next: NIL,
            generation: 0,
        });
        DeadlineKey {
            index,
            generation: 0,
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
        let Pending {
            value,
            prev,
            place_plus_one,
            ..
        } = node.pending.take()?;
        let next = node.next;
        self.free(key.index);
        let place = decode_place(place_plus_one);
        let list = &mut lists[place];
        self.set_next(prev, list, next);
        self.set_prev(next, list, prev);
        Some((place, value))
    }

    /// Takes the first entry out of `list` and the slab.
    #[inline]
    pub(super) fn pop_front(&mut self, list: &mut List) -> Option<T> {
        let index = list.head;
        let node = self.nodes.get_mut(index as usize)?;
        let pending = node.pending.take()?;
        let next = node.next;
        self.free(index);
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
        let tick = node.pending.as_ref()?.tick;
        // The next node's `prev` is written when that one is linked again.
        list.head = node.next;
        Some((index, tick))
    }

    /// Links a node that `unlink_front` took off to the end of `list`.
    #[inline]
    pub(super) fn link_back(&mut self, list: &mut List, index: u32, place: usize) {
        let prev = list.tail;
        let node = &mut self.nodes[index as usize];
        node.next = NIL;
        if let Some(pending) = &mut node.pending {
            pending.prev = prev;
            pending.place_plus_one = encode_place(place);
        }
        self.set_next(prev, list, index);
        list.tail = index;
    }

    /// Gives a node, whose entry was taken, back to the free list.
    fn free(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.wrapping_add(1);
        node.next = self.free_head;
        self.free_head = index;
        self.len -= 1;
    }

    /// Makes `next` follow the node `prev`, or head `list` when there is none.
    fn set_next(&mut self, prev: u32, list: &mut List, next: u32) {
        match self.nodes.get_mut(prev as usize) {
            Some(node) => node.next = next,
            None => list.head = next,
        }
    }

    /// Makes `prev` precede the node `next`, or end `list` when there is none.
    fn set_prev(&mut self, next: u32, list: &mut List, prev: u32) {
        match self.nodes.get_mut(next as usize) {
            Some(Node {
                pending: Some(pending),
                ..
            }) => pending.prev = prev,
            Some(_) => unreachable!("a list leads to the free node {next}"),
            None => list.tail = prev,
        }
    }
}

/// A place counts from zero to some hundreds, so nothing is lost here.
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
    fn a_node_adds_24_bytes_to_its_value() {
        assert_eq!(size_of::<Node<u64>>(), 32);
        assert_eq!(size_of::<Node<std::task::Waker>>(), 40);
    }
}
