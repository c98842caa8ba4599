//! Datagram sockets behind a trait, many datagrams a call.

use std::io;
use std::task::{Context, Poll};

use super::Address;

/// A bound datagram socket, not yet on an event loop.
pub trait DetachedDatagrams: Send {
    /// Where it receives, with the port that was given.
    fn address(&self) -> Address;

    /// Puts the socket on the calling thread's event loop.
    ///
    /// # Errors
    /// What the event loop answers.
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Datagrams>>;
}

/// A datagram socket on one event loop.
pub trait Datagrams: 'static {
    /// Ready when datagrams were put into `batch`, which is empty: at least
    /// one, at most as many as it holds.
    ///
    /// # Errors
    /// What the system answers, also for a datagram that was sent before and
    /// found nobody. The socket goes on.
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>>;

    /// Sends from the front of `queue`, which is not empty. Ready with how
    /// many were taken; at least one.
    ///
    /// # Errors
    /// What the system answers to the first of them. The socket goes on.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &[Outgoing<'_>],
    ) -> Poll<io::Result<usize>>;
}

/// How many datagrams move at once, and how much may wait on the way.
#[derive(Debug, Clone, Copy)]
pub struct DatagramBounds {
    /// Bytes of the largest datagram that is received.
    pub datagram_max: usize,
    /// Datagrams of one [`Batch`].
    pub batch: usize,
    /// Bytes that wait in one direction.
    pub queue_bytes: usize,
}

/// A datagram on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where it goes; a connected socket knows.
    pub to: Option<&'a Address>,
    /// What it says.
    pub bytes: &'a [u8],
}

/// Datagrams received in one call, in one buffer.
pub struct Batch {
    buffer: Vec<u8>,
    size: usize,
    most: usize,
    received: Vec<Incoming>,
}

struct Incoming {
    from: Address,
    length: usize,
    whole: bool,
}

impl Batch {
    /// Room for `most` datagrams of `size` bytes each.
    ///
    /// Cost: address space for all; memory only for what was ever received.
    pub fn new(most: usize, size: usize) -> Self {
        let (most, size) = (most.max(1), size.max(1));
        Self {
            buffer: vec![0; most * size],
            size,
            most,
            received: Vec::with_capacity(most),
        }
    }

    /// Takes a datagram in; false when the batch is full. What does not fit
    /// its place makes it one that is not whole.
    pub fn push(&mut self, from: Address, bytes: &[u8]) -> bool {
        let Some(place) = self
            .buffer
            .chunks_exact_mut(self.size)
            .nth(self.received.len())
        else {
            return false;
        };
        let length = bytes.len().min(self.size);
        place[..length].copy_from_slice(&bytes[..length]);
        self.note(from, length, length == bytes.len());
        true
    }

    /// How many datagrams are in it.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Who sent what, in order; nothing in place of what was too large.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, Option<&[u8]>)> {
        let places = self.buffer.chunks_exact(self.size);
        self.received.iter().zip(places).map(|(incoming, place)| {
            let bytes = incoming.whole.then(|| &place[..incoming.length]);
            (&incoming.from, bytes)
        })
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The places of all datagrams, for the system to fill in order.
    pub(super) fn places(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buffer.chunks_exact_mut(self.size)
    }

    /// Says what the system put into the next place.
    pub(super) fn note(&mut self, from: Address, length: usize, whole: bool) {
        self.received.push(Incoming {
            from,
            length: length.min(self.size),
            whole,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.received.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_so_many_and_no_part_of_one() {
        let mut batch = Batch::new(2, 4);
        let from = || Address::Memory("peer".into());
        assert!(batch.push(from(), b"long one"));
        assert!(batch.push(from(), b"four"));
        assert!(!batch.push(from(), b""));
        let bytes: Vec<_> = batch.iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(bytes, [None, Some(b"four".as_slice())]);
        batch.clear();
        assert!(batch.is_empty());
    }
}
