//! Buffers that are borrowed while there is something in them, so that a
//! quiet connection holds none.

use std::cell::RefCell;

use crate::limits::{POOLED_BUFFERS, READ_CHUNK_BYTES};
use crate::shard::Shard;

/// Buffers larger than this are freed rather than kept.
const KEPT_BYTES_MAX: usize = 4 * READ_CHUNK_BYTES;

/// Bytes that come in at the end and leave at the front. Boxed by whoever has
/// some, so that a connection without any has 8 bytes for it.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// So many at the front have left.
    pub(super) start: usize,
    /// So many of the rest were looked at behind the handler that runs.
    looked: usize,
}

impl Chunk {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// What has not left.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes up to `count` bytes off the front.
    pub(super) fn take_off(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
    }

    /// Frees what has left.
    pub(super) fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }
}

/// A shard's free buffers.
#[derive(Default)]
pub(crate) struct Buffers {
    #[allow(clippy::vec_box, reason = "the boxes themselves go from hand to hand")]
    free: RefCell<Vec<Box<Chunk>>>,
}

impl Buffers {
    pub(crate) fn take(&self) -> Vec<u8> {
        self.take_chunk().bytes
    }

    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if is_kept(&buffer) {
            self.give_chunk(Box::new(Chunk::new(buffer)));
        }
    }

    /// An empty one, with room for a read.
    #[allow(
        clippy::unnecessary_box_returns,
        reason = "the boxes themselves go from hand to hand"
    )]
    pub(super) fn take_chunk(&self) -> Box<Chunk> {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| Box::new(Chunk::new(Vec::with_capacity(READ_CHUNK_BYTES))))
    }

    pub(super) fn give_chunk(&self, mut chunk: Box<Chunk>) {
        let mut free = self.free.borrow_mut();
        if is_kept(&chunk.bytes) && free.len() < POOLED_BUFFERS {
            chunk.bytes.clear();
            (chunk.start, chunk.looked) = (0, 0);
            free.push(chunk);
        }
    }
}

fn is_kept(buffer: &Vec<u8>) -> bool {
    (READ_CHUNK_BYTES..=KEPT_BYTES_MAX).contains(&buffer.capacity())
}

/// Bytes that were received and not yet consumed.
#[derive(Default)]
pub struct Input {
    /// Without one nothing is there.
    chunk: Option<Box<Chunk>>,
    /// What the decoder asked for, in bytes from the start.
    wanted: usize,
    /// Something was received to its end since it was last asked.
    progressed: bool,
}

impl Input {
    pub(crate) fn with(head: Vec<u8>) -> Self {
        Self {
            chunk: (head.capacity() > 0).then(|| Box::new(Chunk::new(head))),
            ..Self::default()
        }
    }

    /// What is there.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.chunk.as_ref().map_or(&[], |chunk| chunk.rest())
    }

    /// How many bytes are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.chunk.as_ref().map_or(0, |chunk| chunk.len())
    }

    /// Bytes of memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        let chunk = self.chunk.as_ref();
        chunk.map_or(0, |chunk| chunk.bytes.capacity())
    }

    /// Whether nothing is there.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `count` bytes off the front; all of them when there are fewer.
    /// They are whole messages: the time for the next one starts anew.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        if count > 0 {
            self.mark_progress();
        }
        self.take_off(count);
    }

    /// Like [`Input::consume`], for bytes that go into the decoder's own
    /// buffer and may be any part of a message.
    #[inline]
    pub(crate) fn take_off(&mut self, count: usize) {
        if let Some(chunk) = &mut self.chunk {
            chunk.take_off(count);
        }
        self.wanted = 0;
    }

    /// Something was received to its end.
    pub(crate) fn mark_progress(&mut self) {
        self.progressed = true;
    }

    /// Whether something was received to its end since this was last asked.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// A handler begins to run, behind which nothing was looked at.
    pub(super) fn begin_look(&mut self) {
        if let Some(chunk) = &mut self.chunk {
            chunk.looked = 0;
        }
    }

    /// Whether there is more than this was asked for last.
    pub(super) fn take_look(&mut self) -> bool {
        let Some(chunk) = &mut self.chunk else {
            return false;
        };
        let grown = chunk.len() > chunk.looked;
        chunk.looked = chunk.looked.max(chunk.len());
        grown
    }

    /// Says that the decoder needs `total` bytes from the front before it can
    /// go on. It overrides the bound on queued input, so the decoder must
    /// have bounded it.
    #[inline]
    pub fn want(&mut self, total: usize) {
        self.wanted = total;
    }

    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Everything that is there, leaving nothing.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.wanted = 0;
        let Some(mut chunk) = self.chunk.take() else {
            return Vec::new();
        };
        chunk.compact();
        chunk.bytes
    }

    /// The buffer with room for at least one read.
    pub(crate) fn room(&mut self, shard: &Shard) -> &mut Vec<u8> {
        self.room_of(shard.buffers())
    }

    fn room_of(&mut self, buffers: &Buffers) -> &mut Vec<u8> {
        let chunk = self.chunk.get_or_insert_with(|| buffers.take_chunk());
        if chunk.is_empty() {
            chunk.bytes.clear();
            chunk.start = 0;
        } else if chunk.start >= READ_CHUNK_BYTES {
            chunk.compact();
        }
        let missing = self.wanted.saturating_sub(chunk.len());
        let spare = chunk.bytes.capacity() - chunk.bytes.len();
        if spare < missing.clamp(1, READ_CHUNK_BYTES / 4) {
            // What a peer announces costs it nothing: the buffer grows with
            // what has come, to about twice that.
            let grown = missing.min(chunk.len().max(4 * READ_CHUNK_BYTES));
            chunk.bytes.reserve(grown.max(READ_CHUNK_BYTES));
        }
        &mut chunk.bytes
    }

    /// Gives the buffer back when nothing is in it.
    pub(crate) fn rest(&mut self, shard: &Shard) {
        if let Some(chunk) = self.chunk.take_if(|chunk| chunk.is_empty()) {
            shard.buffers().give_chunk(chunk);
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
