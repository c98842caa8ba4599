//! What a connection still has to write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use crate::io::Stream;
use crate::shard::Shard;

/// Shared messages up to this size are copied: cheaper than an entry.
const COPY_BYTES_MAX: usize = 2048;

/// Pieces given to one vectored write.
const PIECES: usize = 32;

/// Written bytes at the front of the tail that are worth moving the rest.
const COMPACT_BYTES: usize = 16 * 1024;

/// Bytes in order: whole pieces first, then the tail that grows.
#[derive(Default)]
pub(crate) struct Output {
    /// Boxed and there only while there are some: most connections never
    /// have any, and all hold the place.
    pieces: Option<Box<Pieces>>,
    tail: Vec<u8>,
    tail_start: usize,
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
        pieces + self.tail.len() - self.tail_start
    }

    /// Nothing is in it, and it holds no buffer.
    pub(crate) fn is_resting(&self) -> bool {
        self.tail.capacity() == 0 && self.pieces.is_none()
    }

    /// Where the next bytes go.
    pub(crate) fn tail(&mut self, shard: &Shard) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = shard.buffers().take();
        }
        &mut self.tail
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
        let bytes = &self.tail[self.tail_start..];
        if bytes.is_empty() {
            return;
        }
        let pieces = self.pieces.get_or_insert_default();
        if bytes.len() < self.tail.capacity() / 2 {
            // A few bytes must not hold on to a whole buffer.
            pieces.push(Bytes::copy_from_slice(bytes));
            self.tail.clear();
        } else {
            let mut piece = Bytes::from(std::mem::take(&mut self.tail));
            piece.advance(self.tail_start);
            pieces.push(piece);
        }
        self.tail_start = 0;
    }

    fn consume(&mut self, count: usize) {
        let mut count = count;
        if let Some(pieces) = &mut self.pieces {
            count = pieces.consume(count);
            if pieces.list.is_empty() {
                self.pieces = None;
            }
        }
        if count > 0 {
            self.tail_start += count;
            self.compact();
        }
    }

    /// Frees what has left. A tail that is never quite empty would otherwise
    /// grow for ever. Each byte is moved at most once for one that left.
    fn compact(&mut self) {
        if self.tail_start >= COMPACT_BYTES && self.tail_start >= self.tail.len() / 2 {
            self.tail.drain(..self.tail_start);
            self.tail_start = 0;
        }
    }

    /// Writes once. Ready with the number of bytes that left.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut dyn Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let tail = &self.tail[self.tail_start..];
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
        if self.len() == 0 && self.tail.capacity() > 0 {
            self.tail_start = 0;
            shard.buffers().give(std::mem::take(&mut self.tail));
        }
    }

    pub(crate) fn clear(&mut self, shard: &Shard) {
        self.pieces = None;
        self.tail_start = self.tail.len();
        self.rest(shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that read steadily, but never all, kept the output from ever
    /// being empty; what had left stayed in the buffer, without bound.
    #[test]
    fn written_bytes_are_freed_though_the_output_never_empties() {
        let mut output = Output::default();
        output.tail.extend_from_slice(&[0; 100]);
        for _ in 0..10_000 {
            output.tail.extend_from_slice(&[0; 1000]);
            output.consume(1000);
            assert_eq!(output.len(), 100);
        }
        assert!(output.tail.capacity() <= 4 * COMPACT_BYTES);
    }

    /// Each small message before a large shared one kept a buffer of 16 KiB,
    /// nine times the bytes that the bound on the output counted.
    #[test]
    fn small_pieces_hold_no_large_buffers() {
        let mut output = Output::default();
        output.tail.reserve(COMPACT_BYTES);
        let buffer = output.tail.as_ptr();
        for _ in 0..3 {
            output.tail.extend_from_slice(b"head");
            output.seal();
        }
        assert_eq!(output.tail.as_ptr(), buffer);
        let pieces = output.pieces.as_ref().unwrap();
        assert_eq!((output.len(), pieces.list.len()), (12, 3));
    }
}
