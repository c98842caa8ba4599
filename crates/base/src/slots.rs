//! The table of connections: slots with generations, released by their owner.

use thiserror::Error;

use crate::ids::{ConnName, ShardId};

/// A table of slots whose names carry a generation, released in two steps.
///
/// The hazard it removes: a peer closes while messages of it still wait to be
/// handled, the slot goes to a new peer, and the answer to the old one reaches
/// the new one. So [`Slots::close`] takes the value out (its socket and buffers
/// go) and leaves the slot marked; only [`Slots::release`], called by the owner
/// when it has consumed the close, gives the slot back under a new generation.
///
/// Slots are reused last-in first-out, which keeps a lightly used table in few
/// cache lines. A name comes back only after 2^32 - 1 reuses of its slot. The
/// table grows on demand and never shrinks. Every operation is O(1) unless it
/// says otherwise.
#[derive(Debug)]
pub struct Slots<T> {
    shard: ShardId,
    capacity: u32,
    first_generation: u32,
    table: Vec<Slot<T>>,
    free_head: Option<u32>,
    open: u32,
    closing: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Open(T),
    Closing,
    Free { next: Option<u32> },
}

/// Every slot is open or waits for its owner to release it. Refuse the newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("all {capacity} slots are in use")]
pub struct SlotsFull {
    /// How many slots the table may have.
    pub capacity: u32,
}

/// Why a name does not lead to an open slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Stale {
    /// The name belongs to another shard: send it there.
    #[error("the connection belongs to another shard")]
    WrongShard,
    /// No such name was ever handed out.
    #[error("no connection ever had this name")]
    NoSuchSlot,
    /// The connection is gone and its slot was released, perhaps to a new one.
    #[error("the connection is gone and its slot was released")]
    Reused,
    /// The connection is closed; its owner has not released the slot yet.
    #[error("the connection is closed")]
    Closed,
    /// Only from [`Slots::release`]: the slot was not closed before.
    #[error("the connection is still open")]
    StillOpen,
}

impl<T> Slots<T> {
    /// An empty table of `shard` for at most `capacity` values, open and closing
    /// together. Allocates nothing yet.
    pub const fn new(shard: ShardId, capacity: u32) -> Self {
        Self::with_first_generation(shard, capacity, 1)
    }

    /// As [`Slots::new`], with the generation that each slot starts at. Tests
    /// start just before `u32::MAX`, so that the wrap happens early. Zero is
    /// never handed out; it counts as 1.
    pub const fn with_first_generation(
        shard: ShardId,
        capacity: u32,
        first_generation: u32,
    ) -> Self {
        Self {
            shard,
            capacity,
            first_generation: if first_generation == 0 {
                1
            } else {
                first_generation
            },
            table: Vec::new(),
            free_head: None,
            open: 0,
            closing: 0,
        }
    }

    /// Puts `value` into a free slot and returns its name.
    ///
    /// # Errors
    /// [`SlotsFull`] at capacity; `value` is dropped then. Where that costs
    /// something, use [`Slots::insert_with`].
    pub fn insert(&mut self, value: T) -> Result<ConnName, SlotsFull> {
        self.insert_with(|_| value)
    }

    /// Puts `make(name)` into a free slot and returns the name.
    ///
    /// # Errors
    /// [`SlotsFull`] at capacity; `make` is not called then.
    pub fn insert_with(&mut self, make: impl FnOnce(ConnName) -> T) -> Result<ConnName, SlotsFull> {
        let slot = match self.free_head {
            Some(slot) => slot,
            None => self.grow()?,
        };
        let entry = &mut self.table[slot as usize];
        let State::Free { next } = entry.state else {
            unreachable!("slot {slot} is on the free list but not free");
        };
        let name = ConnName {
            shard: self.shard,
            slot,
            generation: entry.generation,
        };
        // A panic in `make` leaves the slot free and on its list.
        entry.state = State::Open(make(name));
        self.free_head = next;
        self.open += 1;
        Ok(name)
    }

    /// Adds a free slot at the end and puts it on the (empty) free list.
    fn grow(&mut self) -> Result<u32, SlotsFull> {
        let full = SlotsFull {
            capacity: self.capacity,
        };
        let slot = u32::try_from(self.table.len()).map_err(|_| full)?;
        if slot >= self.capacity {
            return Err(full);
        }
        let generation = self.first_generation;
        self.table.push(Slot {
            generation,
            state: State::Free { next: None },
        });
        self.free_head = Some(slot);
        Ok(slot)
    }

    /// The value that `name` names.
    ///
    /// # Errors
    /// Why the name leads to no open slot.
    pub fn get(&self, name: ConnName) -> Result<&T, Stale> {
        if name.shard != self.shard {
            return Err(Stale::WrongShard);
        }
        match self.table.get(name.slot as usize) {
            Some(Slot {
                generation,
                state: State::Open(value),
            }) if *generation == name.generation => Ok(value),
            slot => Err(why_stale(slot, name)),
        }
    }

    /// The value that `name` names, to be changed.
    ///
    /// # Errors
    /// Why the name leads to no open slot.
    pub fn get_mut(&mut self, name: ConnName) -> Result<&mut T, Stale> {
        match &mut self.named(name)?.state {
            State::Open(value) => Ok(value),
            _ => Err(Stale::Closed),
        }
    }

    /// First step of the end: takes the value out and marks the slot. The name
    /// is stale from here on, and the slot stays taken until
    /// [`Slots::release`].
    ///
    /// # Errors
    /// Why the name leads to no open slot; [`Stale::Closed`] the second time.
    pub fn close(&mut self, name: ConnName) -> Result<T, Stale> {
        let slot = self.named(name)?;
        match std::mem::replace(&mut slot.state, State::Closing) {
            State::Open(value) => {
                self.open -= 1;
                self.closing += 1;
                Ok(value)
            }
            _ => Err(Stale::Closed),
        }
    }

    /// Second step of the end, for the owner when it has consumed the close: the
    /// slot gets a new generation and returns to the pool.
    ///
    /// # Errors
    /// [`Stale::StillOpen`] before [`Slots::close`], [`Stale::Reused`] the second
    /// time; nothing changes then.
    pub fn release(&mut self, name: ConnName) -> Result<(), Stale> {
        let next = self.free_head;
        let slot = self.named(name)?;
        if !matches!(slot.state, State::Closing) {
            return Err(Stale::StillOpen);
        }
        slot.generation = generation_after(slot.generation);
        slot.state = State::Free { next };
        self.free_head = Some(name.slot);
        self.closing -= 1;
        Ok(())
    }

    /// How many slots hold a value.
    pub const fn len_open(&self) -> usize {
        self.open as usize
    }

    /// How many slots are closed and wait for their owner's release. One that
    /// stays above zero on an idle shard is a leak.
    pub const fn len_closing(&self) -> usize {
        self.closing as usize
    }

    /// How many values the table may hold, open and closing together.
    pub const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The open slots with their names, in slot order. Cost: O(most slots ever
    /// used at once).
    pub fn iter(&self) -> impl Iterator<Item = (ConnName, &T)> {
        let shard = self.shard;
        (0..)
            .zip(&self.table)
            .filter_map(move |(slot, entry)| match &entry.state {
                State::Open(value) => Some((
                    ConnName {
                        shard,
                        slot,
                        generation: entry.generation,
                    },
                    value,
                )),
                _ => None,
            })
    }

    /// As [`Slots::iter`], with values to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnName, &mut T)> {
        let shard = self.shard;
        (0..)
            .zip(&mut self.table)
            .filter_map(move |(slot, entry)| match &mut entry.state {
                State::Open(value) => Some((
                    ConnName {
                        shard,
                        slot,
                        generation: entry.generation,
                    },
                    value,
                )),
                _ => None,
            })
    }

    /// The slot that is open or closing under exactly this name.
    fn named(&mut self, name: ConnName) -> Result<&mut Slot<T>, Stale> {
        if name.shard != self.shard {
            return Err(Stale::WrongShard);
        }
        match self.table.get_mut(name.slot as usize) {
            Some(slot)
                if slot.generation == name.generation
                    && !matches!(slot.state, State::Free { .. }) =>
            {
                Ok(slot)
            }
            slot => Err(why_stale(slot.as_deref(), name)),
        }
    }
}

/// Why `name`, which belongs to this shard, does not lead to an open slot.
#[cold]
fn why_stale<T>(slot: Option<&Slot<T>>, name: ConnName) -> Stale {
    match slot {
        Some(slot) if slot.generation != name.generation => Stale::Reused,
        Some(slot) if !matches!(slot.state, State::Free { .. }) => Stale::Closed,
        _ => Stale::NoSuchSlot,
    }
}

/// Generations run 1, 2, … `u32::MAX`, 1: zero names nothing.
const fn generation_after(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
