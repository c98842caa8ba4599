//! Two areas that take turns: one is read while the other is written.
//!
//! A sequence word counts. Even: the area `(sequence / 2) % 2` is valid. Odd: the
//! other one is being written. A reader of a valid area is not disturbed by one
//! writing; only one that is overtaken by a second must read again. So a writer
//! that is killed at any instruction leaves a valid area behind, whatever became
//! of the other one, and whoever writes next begins that one anew.
//!
//! After Hans-J. Boehm, "Can Seqlocks Get Along With Programming Language Memory
//! Models?", MSPC 2012, section 4, with two areas.

use crate::memory::{Word, store};
use crate::sync::{Ordering, fence};

/// The reader's side of one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    began: u64,
}

impl Look {
    /// Begins to read under `sequence`.
    #[inline]
    pub(crate) fn begin(sequence: &Word) -> Self {
        let began = sequence.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Self { began }
    }

    /// Which area to read: 0 or 1.
    #[inline]
    pub(crate) const fn area(self) -> usize {
        ((self.began >> 1) & 1) as usize
    }

    /// Which content was read; equal numbers mean equal contents.
    #[inline]
    pub(crate) const fn content(self) -> u64 {
        self.began >> 1
    }

    /// Whether what was read since [`Look::begin`] is one content.
    #[inline]
    pub(crate) fn is_whole(self, sequence: &Word) -> bool {
        fence(Ordering::Acquire);
        let now = sequence.load(Ordering::Relaxed);
        now.wrapping_sub(self.began & !1) <= 2
    }
}

/// The writer's side. There is one writer.
#[derive(Debug)]
pub(crate) struct Turns {
    sequence: u64,
}

impl Turns {
    /// Goes on where the last writer was, in the middle of a content or not.
    pub(crate) fn adopt(sequence: &Word) -> Self {
        let sequence = sequence.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Self { sequence }
    }

    /// Begins a content and says in which area: 0 or 1.
    pub(crate) fn begin(&mut self, sequence: &Word) -> usize {
        // Odd already: the last writer died here. Nobody reads that area, so it
        // is begun anew under the same number.
        self.sequence |= 1;
        // Release: who reads this number reads the area that became valid before.
        store(sequence, self.sequence, Ordering::Release);
        // And no word of the new content is seen before it.
        fence(Ordering::Release);
        (((self.sequence >> 1) + 1) & 1) as usize
    }

    /// The content is whole.
    pub(crate) fn end(&mut self, sequence: &Word) {
        self.sequence = self.sequence.wrapping_add(1);
        store(sequence, self.sequence, Ordering::Release);
    }
}
