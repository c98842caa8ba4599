//! What a connection still has to write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use super::buffer::Chunk;
use crate::io::Stream;
use crate::shard::Shard;

/// Shared messages up to this size are copied: cheaper than an entry.
const COPY_BYTES_MAX: usize = 2048;

/// Pieces given to one vectored write.
const PIECES: usize = 32;

/// Written bytes at the front of the tail that are worth moving the rest.
const COMPACT_BYTES: usize = 16 * 1024;

/// Bytes in order: whole pieces first, then the tail that grows. Both are
/// boxed and there only while they have some: most connections never have
/// pieces, a quiet one has nothing to write, and all hold the places.
#[derive(Default)]
pub(crate) struct Output {
    pieces: Option<Box<Pieces>>,
    tail: Option<Box<Chunk>>,
}

#[derive(Default)]
struct Pieces {
    list: VecDeque<Bytes>,
    /// Bytes of all.
    len: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.list.push_back(piece);
    }

    /// Takes up to `count` bytes off the front; answers how many are left to
    /// take.
    fn consume(&mut self, mut count: usize) -> usize {
        while count > 0
            && let Some(first) = self.list.front_mut()
        {
            let step = count.min(first.len());
            first.advance(step);
            self.len -= step;
            count -= step;
            if first.is_empty() {
                self.list.pop_front();
            }
        }
        count
    }
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        let pieces = self.pieces.as_ref().map_or(0, |pieces| pieces.len);
        pieces + self.tail.as_ref().map_or(0, |tail| tail.len())
    }

    /// Nothing is in it, and it holds no buffer.
    pub(crate) fn is_resting(&self) -> bool {
        self.tail.is_none() && self.pieces.is_none()
    }

    /// Where the next bytes go.
    pub(crate) fn tail(&mut self, shard: &Shard) -> &mut Vec<u8> {
        let tail = &mut self.tail;
        &mut tail
            .get_or_insert_with(|| shard.buffers().take_chunk())
            .bytes
    }

    pub(crate) fn push_bytes(&mut self, shard: &Shard, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.tail(shard).extend_from_slice(bytes);
            return;
        }
        self.seal();
        self.pieces.get_or_insert_default().push(bytes.clone());
    }

    /// Turns the tail into a piece.
    fn seal(&mut self) {
        let Some(tail) = self.tail.as_mut().filter(|tail| !tail.is_empty()) else {
            return;
        };
        let pieces = self.pieces.get_or_insert_default();
        if tail.len() < tail.bytes.capacity() / 2 {
            // A few bytes must not hold on to a whole buffer.
            pieces.push(Bytes::copy_from_slice(tail.rest()));
            tail.bytes.clear();
            tail.start = 0;
        } else if let Some(tail) = self.tail.take() {
            let mut piece = Bytes::from(tail.bytes);
            piece.advance(tail.start);
            pieces.push(piece);
        }
    }

    fn consume(&mut self, count: usize) {
        let mut count = count;
        if let Some(pieces) = &mut self.pieces {
            count = pieces.consume(count);
            if pieces.list.is_empty() {
                self.pieces = None;
            }
        }
        if let Some(tail) = &mut self.tail {
            tail.take_off(count);
            // Frees what has left. A tail that is never quite empty would
            // otherwise grow for ever. Each byte is moved at most once for one
            // that left.
            if tail.start >= COMPACT_BYTES && tail.start >= tail.bytes.len() / 2 {
                tail.compact();
            }
        }
    }

    /// Writes once. Ready with the number of bytes that left.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut dyn Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let tail = self.tail.as_ref().map_or(&[][..], |tail| tail.rest());
        let count = if let Some(pieces) = &self.pieces {
            let mut parts = [IoSlice::new(&[]); PIECES + 1];
            let mut used = 0;
            for piece in pieces.list.iter().take(PIECES) {
                parts[used] = IoSlice::new(piece);
                used += 1;
            }
            if pieces.list.len() <= PIECES {
                parts[used] = IoSlice::new(tail);
                used += 1;
            }
            ready!(Pin::new(stream).poll_write_vectored(cx, &parts[..used]))?
        } else {
            ready!(Pin::new(stream).poll_write(cx, tail))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.consume(count);
        Poll::Ready(Ok(count))
    }

    /// Gives the buffer back when everything is written.
    pub(crate) fn rest(&mut self, shard: &Shard) {
        if self.len() == 0
            && let Some(tail) = self.tail.take()
        {
            shard.buffers().give_chunk(tail);
        }
    }

    pub(crate) fn clear(&mut self, shard: &Shard) {
        self.pieces = None;
        if let Some(tail) = self.tail.take() {
            shard.buffers().give_chunk(tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(output: &mut Output) -> &mut Vec<u8> {
        &mut output.tail.get_or_insert_default().bytes
    }

    /// A peer that read steadily, but never all, kept the output from ever
    /// being empty; what had left stayed in the buffer, without bound.
    #[test]
    fn written_bytes_are_freed_though_the_output_never_empties() {
        let mut output = Output::default();
        tail(&mut output).extend_from_slice(&[0; 100]);
        for _ in 0..10_000 {
            tail(&mut output).extend_from_slice(&[0; 1000]);
            output.consume(1000);
            assert_eq!(output.len(), 100);
        }
        assert!(tail(&mut output).capacity() <= 4 * COMPACT_BYTES);
    }

    /// Each small message before a large shared one kept a buffer of 16 KiB,
    /// nine times the bytes that the bound on the output counted.
    #[test]
    fn small_pieces_hold_no_large_buffers() {
        let mut output = Output::default();
        tail(&mut output).reserve(COMPACT_BYTES);
        let buffer = tail(&mut output).as_ptr();
        for _ in 0..3 {
            tail(&mut output).extend_from_slice(b"head");
            output.seal();
        }
        assert_eq!(tail(&mut output).as_ptr(), buffer);
        let pieces = output.pieces.as_ref().unwrap();
        assert_eq!((output.len(), pieces.list.len()), (12, 3));
    }
}
