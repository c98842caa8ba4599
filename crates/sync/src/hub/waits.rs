//! Who waits for answers of the desk, by a number of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use tokio::sync::oneshot;
use waystation_base::{Epoch, Seq};
use waystation_net::{Conn, HandlerGuard};
use waystation_replica::PublishRefusal;
use waystation_wire::Header;

use super::letters::Unable;

/// Who waits for an answer of the desk.
pub(super) enum Waiter {
    Task(oneshot::Sender<Answer>),
    /// A publish that came in a frame is answered where the desk's letter is read:
    /// a task for each costs more than all else that the hub does for it.
    Frame(FromFrame),
}

pub(super) struct FromFrame {
    pub(super) conn: Conn,
    pub(super) header: Header,
    /// The connection has a handler running until the answer is there.
    #[expect(dead_code, reason = "it counts until it is dropped")]
    pub(super) running: HandlerGuard,
}

/// An answer of the desk.
pub(super) enum Answer {
    Published(Result<(Epoch, Seq), PublishRefusal>),
    Operated(Result<Bytes, Unable>),
}

/// Those who wait, on one shard. Each has a number that was nobody's before.
pub(super) struct Waits<T> {
    of: RefCell<HashMap<u64, T, BuildHasherDefault<Spread>>>,
    last: Cell<u64>,
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Self {
            of: RefCell::default(),
            last: Cell::new(0),
        }
    }
}

impl<T> Waits<T> {
    /// Someone waits; the number of the wait.
    pub(super) fn add(&self, waiter: T) -> u64 {
        let wait = self.last.get() + 1;
        self.last.set(wait);
        self.of.borrow_mut().insert(wait, waiter);
        wait
    }

    /// Takes who waits off the list, if it is there.
    pub(super) fn take(&self, wait: u64) -> Option<T> {
        self.of.borrow_mut().remove(&wait)
    }
}

/// Spreads the numbers of waits over a table by a multiplication: nobody outside
/// chooses them, so that nobody can choose them to collide.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio of 64 bits: both the low bits, which name the place, and
        // the high ones, which tell neighbours apart, depend on the whole number.
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_has_a_number_of_its_own_and_ends_once() {
        let waits = Waits::default();
        let numbers: Vec<u64> = (0..1000).map(|one| waits.add(one)).collect();
        for (one, number) in numbers.iter().enumerate().rev() {
            assert_eq!(waits.take(*number), Some(one));
            assert_eq!(waits.take(*number), None);
        }
        let later = waits.add(7);
        assert!(!numbers.contains(&later));
    }
}
