//! Datagrams that wait to be sent, in one buffer.

use std::collections::VecDeque;

use crate::io::{Address, Outgoing};

/// Sent bytes at the front that are worth moving the rest.
const COMPACT_BYTES: usize = 64 * 1024;

struct Entry {
    to: Option<Address>,
    length: usize,
}

/// Datagrams in the order in which they are sent. Pure.
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    bytes: Vec<u8>,
    /// Bytes of the buffer that were sent.
    start: usize,
    most: usize,
}

impl Queue {
    /// A queue of at most so many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: Vec::new(),
            start: 0,
            most,
        }
    }

    /// Bytes that wait. A datagram counts at least 64: many empty ones are
    /// not for nothing.
    pub(crate) fn weight(&self) -> usize {
        (self.bytes.len() - self.start).max(self.entries.len() * 64)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a datagram; false when it would pass the bound.
    pub(crate) fn push(&mut self, to: Option<&Address>, datagram: &[u8]) -> bool {
        if self.weight().saturating_add(datagram.len().max(64)) > self.most {
            return false;
        }
        self.bytes.extend_from_slice(datagram);
        self.entries.push_back(Entry {
            to: to.cloned(),
            length: datagram.len(),
        });
        true
    }

    /// The first ones.
    pub(crate) fn front(&self, most: usize) -> Vec<Outgoing<'_>> {
        let mut rest = &self.bytes[self.start..];
        let entries = self.entries.iter().take(most);
        entries
            .map(|entry| {
                let (bytes, behind) = rest.split_at(entry.length);
                rest = behind;
                Outgoing {
                    to: entry.to.as_ref(),
                    bytes,
                }
            })
            .collect()
    }

    /// Takes the first `count` off. Gives the buffer back with the last.
    pub(crate) fn pop(&mut self, count: usize) {
        for entry in self.entries.drain(..count.min(self.entries.len())) {
            self.start += entry.length;
        }
        if self.entries.is_empty() {
            self.start = 0;
            self.bytes.clear();
            self.bytes.shrink_to(COMPACT_BYTES);
        } else if self.start >= COMPACT_BYTES && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_leave_as_they_came_and_within_the_bound() {
        let mut queue = Queue::new(200_000);
        let mut accepted = 0;
        while queue.push(None, &[u8::try_from(accepted % 251).unwrap(); 1000]) {
            accepted += 1;
        }
        assert_eq!(accepted, 200);
        let mut seen = 0;
        while !queue.is_empty() {
            let count = {
                let front = queue.front(7);
                for outgoing in &front {
                    assert_eq!(outgoing.bytes, [u8::try_from(seen % 251).unwrap(); 1000]);
                    seen += 1;
                }
                front.len()
            };
            queue.pop(count);
        }
        assert_eq!(seen, 200);
        assert!(queue.bytes.capacity() <= COMPACT_BYTES);
    }

    /// Empty datagrams cost no bytes, so a queue of them had no end.
    #[test]
    fn empty_datagrams_count_too() {
        let mut queue = Queue::new(6400);
        let accepted = std::iter::repeat_with(|| queue.push(None, b"")).take_while(|ok| *ok);
        assert_eq!(accepted.count(), 100);
    }
}
