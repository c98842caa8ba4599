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

/// Bytes in order: whole pieces first, then the tail that grows.
#[derive(Default)]
pub(crate) struct Output {
    pieces: VecDeque<Bytes>,
    pieces_len: usize,
    tail: Vec<u8>,
    tail_start: usize,
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        self.pieces_len + self.tail.len() - self.tail_start
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
        self.pieces_len += bytes.len();
        self.pieces.push_back(bytes.clone());
    }

    /// Turns the tail into a piece.
    fn seal(&mut self) {
        if self.tail.len() > self.tail_start {
            let mut piece = Bytes::from(std::mem::take(&mut self.tail));
            piece.advance(self.tail_start);
            self.pieces_len += piece.len();
            self.pieces.push_back(piece);
            self.tail_start = 0;
        }
    }

    fn consume(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.pieces.front_mut() else {
                self.tail_start += count;
                return;
            };
            let step = count.min(first.len());
            first.advance(step);
            self.pieces_len -= step;
            count -= step;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Writes once. Ready with the number of bytes that left.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut dyn Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let tail = &self.tail[self.tail_start..];
        let count = if self.pieces.is_empty() {
            ready!(Pin::new(stream).poll_write(cx, tail))?
        } else {
            let mut parts = [IoSlice::new(&[]); PIECES + 1];
            let mut used = 0;
            for piece in self.pieces.iter().take(PIECES) {
                parts[used] = IoSlice::new(piece);
                used += 1;
            }
            if self.pieces.len() <= PIECES {
                parts[used] = IoSlice::new(tail);
                used += 1;
            }
            ready!(Pin::new(stream).poll_write_vectored(cx, &parts[..used]))?
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
        self.pieces.clear();
        self.pieces_len = 0;
        self.tail_start = self.tail.len();
        self.rest(shard);
    }
}
