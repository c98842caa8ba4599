//! A binary heap whose cancel only marks: the usual timer of programs without a wheel.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use waystation_base::Moment;

use super::{Setting, Timer};
use crate::timing;

/// An entry's place, and the generation of the place that the entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// That of the entry which is pending here, or of the next one.
    generation: u32,
    value: u64,
}

pub(super) struct Heap {
    origin: Moment,
    entries: BinaryHeap<Reverse<(Moment, Key)>>,
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Heap {
    /// Makes the place free; `None` when the entry that `key` names has gone before.
    fn take(&mut self, key: Key) -> Option<u64> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(place.value)
    }
}

impl Timer for Heap {
    type Deadline = Moment;
    type Key = Key;

    const NAME: &'static str = "heap";

    fn new(setting: &Setting) -> Self {
        Self {
            origin: setting.origin.moment,
            entries: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    fn deadline(&self, after: Duration) -> Moment {
        self.origin + after
    }

    fn insert(&mut self, at: Moment, value: u64) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.places.len()).expect("fewer than 2^32 entries");
            self.places.push(Place {
                generation: 0,
                value: 0,
            });
            index
        });
        let place = &mut self.places[index as usize];
        place.value = value;
        let key = Key {
            index,
            generation: place.generation,
        };
        self.entries.push(Reverse((at, key)));
        key
    }

    fn cancel(&mut self, key: Key) {
        self.take(key);
    }

    fn expire(&mut self) -> Option<usize> {
        let now = timing::now();
        let mut count = 0;
        while let Some(&Reverse((at, key))) = self.entries.peek() {
            if at > now {
                break;
            }
            self.entries.pop();
            if let Some(value) = self.take(key) {
                std::hint::black_box(value);
                count += 1;
            }
        }
        Some(count)
    }

    fn pending(&self, _keys: &[Key]) -> usize {
        self.places.len() - self.free.len()
    }
}
