//! Counts that wait for the store, by bucket of history.

use std::collections::{HashMap, VecDeque};

use crate::batch::Told;
use crate::totals::Totals;

/// What one key adds to one bucket, and what it was told as of then: both are
/// stored together, so that counts and what they go on from agree after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) entry: u32,
    pub(super) added: Totals,
    pub(super) told: Told,
}

/// Cells of one bucket, each of another key.
#[derive(Debug, Default)]
struct Piece {
    start: u64,
    cells: Vec<Cell>,
}

/// Pieces in the order in which they are written. Their starts never fall, unless all
/// begin anew.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    closed: VecDeque<Piece>,
    open: Piece,
    /// Tells cells of the open piece from those of earlier ones; 0 for none.
    number: u64,
    closed_cells: usize,
}

impl Pieces {
    /// Nothing goes before `start` from here on.
    pub(super) fn begin_after(&mut self, start: u64) {
        for piece in self.closed.iter_mut().chain([&mut self.open]) {
            piece.start = piece.start.max(start);
        }
    }

    /// All goes to the bucket of `start`, earlier than before.
    pub(super) fn begin_anew(&mut self, start: u64) {
        for piece in self.closed.iter_mut().chain([&mut self.open]) {
            piece.start = start;
        }
    }

    pub(super) const fn open_start(&self) -> u64 {
        self.open.start
    }

    /// The bucket of now begins at `start`, unless the clock went back. Returns
    /// how many buckets became one with the next, for want of room.
    pub(super) fn begin(&mut self, start: u64, cells_max: usize) -> u64 {
        if self.number == 0 {
            self.number = 1;
        }
        if start <= self.open.start {
            return 0;
        }
        if !self.open.cells.is_empty() {
            self.close();
        }
        self.open.start = start;
        let mut merged = 0;
        while self.closed_cells > cells_max && self.merge_oldest() {
            merged += 1;
        }
        merged
    }

    /// Adds to the cell that `at` names, or to a new one; returns its name.
    pub(super) fn add(&mut self, at: (u64, u32), cell: Cell) -> (u64, u32) {
        let (number, index) = at;
        if number == self.number
            && let Some(known) = self.open.cells.get_mut(index as usize)
        {
            known.added += cell.added;
            known.told = cell.told;
            return at;
        }
        let index = u32::try_from(self.open.cells.len()).unwrap_or(u32::MAX);
        self.open.cells.push(cell);
        (self.number, index)
    }

    /// Adds to the first closed cell of each entry, taking what was added out of
    /// `more`. Cost: O(cells).
    pub(super) fn add_to_first(&mut self, more: &mut HashMap<u32, Totals>) {
        for cell in self.closed.iter_mut().flat_map(|piece| &mut piece.cells) {
            if more.is_empty() {
                return;
            }
            if let Some(added) = more.remove(&cell.entry) {
                cell.added += added;
            }
        }
    }

    /// At most `cells_max` cells of the oldest bucket, with its start.
    pub(super) fn take(&mut self, cells_max: usize) -> Option<(u64, Vec<Cell>)> {
        if self.closed.is_empty() {
            if self.open.cells.is_empty() {
                return None;
            }
            let start = self.open.start;
            self.close();
            self.open.start = start;
        }
        let first = self.closed.front_mut()?;
        let start = first.start;
        let left = first.cells.len().saturating_sub(cells_max.max(1));
        let taken = first.cells.split_off(left);
        if left == 0 {
            self.closed.pop_front();
        }
        self.closed_cells -= taken.len();
        Some((start, taken))
    }

    /// Where the oldest that waits begins: nothing will come before it.
    pub(super) fn first_start(&self) -> u64 {
        let first = self.closed.front();
        first.map_or(self.open.start, |piece| piece.start)
    }

    /// Whether anything waits beside the open piece.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    pub(super) fn cells(&self) -> usize {
        self.closed_cells + self.open.cells.len()
    }

    /// The entries that the open piece names.
    pub(super) fn open_entries(&self) -> impl Iterator<Item = u32> {
        self.open.cells.iter().map(|cell| cell.entry)
    }

    fn close(&mut self) {
        let piece = std::mem::take(&mut self.open);
        self.number += 1;
        self.closed_cells += piece.cells.len();
        // Parts of one bucket are one piece again, so that a store that is down
        // costs a cell a key and bucket.
        match self.closed.back_mut() {
            Some(last) if last.start == piece.start => merge(&mut self.closed_cells, last, piece),
            _ => self.closed.push_back(piece),
        }
    }

    /// Puts the oldest bucket into the next; false when there is no next.
    fn merge_oldest(&mut self) -> bool {
        if self.closed.len() < 2 {
            return false;
        }
        let (Some(mut older), Some(newer)) = (self.closed.pop_front(), self.closed.pop_front())
        else {
            return false;
        };
        older.start = newer.start;
        merge(&mut self.closed_cells, &mut older, newer);
        self.closed.push_front(older);
        true
    }
}

/// Adds the cells of the later piece `more`.
fn merge(cells: &mut usize, into: &mut Piece, more: Piece) {
    let known = into.cells.iter().enumerate();
    let known: HashMap<u32, usize> = known.map(|(at, cell)| (cell.entry, at)).collect();
    for cell in more.cells {
        match known.get(&cell.entry) {
            Some(&at) => {
                let one = &mut into.cells[at];
                one.added += cell.added;
                one.told = cell.told;
                *cells -= 1;
            }
            None => into.cells.push(cell),
        }
    }
}
