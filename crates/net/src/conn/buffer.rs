//! Buffers that are borrowed while there is something in them, so that a
//! quiet connection holds none.

use std::cell::RefCell;

use crate::limits::{POOLED_BUFFERS, READ_CHUNK_BYTES};
use crate::shard::Shard;

/// Buffers larger than this are freed rather than kept.
const KEPT_BYTES_MAX: usize = 4 * READ_CHUNK_BYTES;

/// A shard's free buffers.
#[derive(Default)]
pub(crate) struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    pub(crate) fn take(&self) -> Vec<u8> {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| Vec::with_capacity(READ_CHUNK_BYTES))
    }

    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        let keep = (READ_CHUNK_BYTES..=KEPT_BYTES_MAX).contains(&buffer.capacity());
        if keep && free.len() < POOLED_BUFFERS {
            buffer.clear();
            free.push(buffer);
        }
    }
}

/// Bytes that were received and not yet consumed.
#[derive(Default)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    /// What the decoder asked for, in bytes from the start.
    wanted: usize,
    /// Changes whenever something was received to its end.
    progress: u64,
}

impl Input {
    pub(crate) fn with(head: Vec<u8>) -> Self {
        Self {
            buffer: head,
            start: 0,
            wanted: 0,
            progress: 0,
        }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// How many bytes are there.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes of memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `count` bytes off the front; all of them when there are fewer.
    /// They are whole messages: the time for the next one starts anew.
    pub fn consume(&mut self, count: usize) {
        if count > 0 {
            self.mark_progress();
        }
        self.take_off(count);
    }

    /// Like [`Input::consume`], for bytes that go into the decoder's own
    /// buffer and may be any part of a message.
    pub(crate) fn take_off(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.buffer.len());
        self.wanted = 0;
    }

    /// Something was received to its end.
    pub(crate) fn mark_progress(&mut self) {
        self.progress = self.progress.wrapping_add(1);
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    /// Says that the decoder needs `total` bytes from the front before it can
    /// go on. It overrides the bound on queued input, so the decoder must
    /// have bounded it.
    pub fn want(&mut self, total: usize) {
        self.wanted = total;
    }

    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Everything that is there, leaving nothing.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.drain(..self.start);
        self.start = 0;
        self.wanted = 0;
        buffer
    }

    /// The buffer with room for at least one read.
    pub(crate) fn room(&mut self, shard: &Shard) -> &mut Vec<u8> {
        self.room_of(shard.buffers())
    }

    fn room_of(&mut self, buffers: &Buffers) -> &mut Vec<u8> {
        if self.buffer.capacity() == 0 {
            self.buffer = buffers.take();
        }
        if self.is_empty() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start >= READ_CHUNK_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let missing = self.wanted.saturating_sub(self.len());
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < missing.clamp(1, READ_CHUNK_BYTES / 4) {
            // What a peer announces costs it nothing: the buffer grows with
            // what has come, to about twice that.
            let grown = missing.min(self.len().max(4 * READ_CHUNK_BYTES));
            self.buffer.reserve(grown.max(READ_CHUNK_BYTES));
        }
        &mut self.buffer
    }

    /// Gives the buffer back when nothing is in it.
    pub(crate) fn rest(&mut self, shard: &Shard) {
        if self.is_empty() && self.buffer.capacity() > 0 {
            self.start = 0;
            shard.buffers().give(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consume_never_passes_the_end() {
        let mut input = Input::with(vec![1, 2, 3]);
        input.want(10);
        input.consume(2);
        assert_eq!((input.bytes(), input.wanted()), (&[3][..], 0));
        input.consume(9);
        assert!(input.is_empty());
    }

    /// Eighty bytes that announced a frame of 1 MiB took 1 MiB.
    #[test]
    fn the_buffer_grows_with_what_has_come() {
        let mut input = Input::with(vec![0; 80]);
        while input.len() < 1 << 20 {
            input.want(1 << 20);
            let held = input.len();
            let buffer = input.room_of(&Buffers::default());
            assert!(buffer.capacity() > held);
            assert!(buffer.capacity() <= 2 * held + 6 * READ_CHUNK_BYTES);
            let full = buffer.capacity();
            buffer.resize(full, 0);
        }
    }

    #[test]
    fn pool_is_bounded_and_keeps_no_giants() {
        let buffers = Buffers::default();
        buffers.give(Vec::with_capacity(KEPT_BYTES_MAX * 2));
        assert!(buffers.free.borrow().is_empty());
        for _ in 0..2 * POOLED_BUFFERS {
            buffers.give(Vec::with_capacity(READ_CHUNK_BYTES));
        }
        assert_eq!(buffers.free.borrow().len(), POOLED_BUFFERS);
    }
}
