//! What the connections of a shard hold, and who goes when it is too much.

use std::cell::Cell;

use waystation_base::line_passes;

use super::Shard;
use crate::conn::{CloseReason, Conn};

/// Bytes that the connections of a shard hold.
#[derive(Default)]
pub(crate) struct Memory {
    received: Cell<usize>,
    queued: Cell<usize>,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Received and not handled, messages that came in part included.
    Received,
    /// To be written.
    Queued,
}

impl Memory {
    fn sum(&self) -> usize {
        self.received.get() + self.queued.get()
    }

    fn cell(&self, held: Held) -> &Cell<usize> {
        match held {
            Held::Received => &self.received,
            Held::Queued => &self.queued,
        }
    }
}

impl Shard {
    /// A connection holds `now` bytes and no longer `before`.
    pub(crate) fn held_changes(&self, held: Held, before: usize, now: usize) {
        if before == now {
            return;
        }
        let cell = self.memory().cell(held);
        // Each connection takes back no more than it added.
        cell.set(cell.get() - before + now);
        let counter = match held {
            Held::Received => &self.counters().received_bytes,
            Held::Queued => &self.counters().queued_bytes,
        };
        counter.add(now as u64);
        counter.sub(before as u64);
        if now > before {
            self.make_room(0);
        }
    }

    /// Bytes that the shard's connections hold, received and to be written.
    pub fn held_bytes(&self) -> usize {
        self.memory().sum()
    }

    /// Closes connections until `more` bytes fit the shard's bound: first
    /// those that hold most. Bytes of connections that are closing count as
    /// gone.
    ///
    /// Cost: linear in the connections, only at the bound; each time it frees
    /// at least the average of what they hold.
    pub(crate) fn make_room(&self, more: usize) {
        let most = self.config().shard_bytes_max;
        if self.memory().sum().saturating_add(more) <= most {
            return;
        }
        let mut holders: Vec<(usize, Conn)> = self
            .connections()
            .into_iter()
            .filter(Conn::is_open)
            .map(|conn| (conn.held_bytes(), conn))
            .filter(|(held, _)| *held > 0)
            .collect();
        let mut sum = holders.iter().map(|(held, _)| held).sum::<usize>();
        holders.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        for (held, conn) in holders {
            if sum.saturating_add(more) <= most {
                return;
            }
            sum -= held;
            if let Some(unsaid) = line_passes!(self.now()) {
                tracing::warn!(
                    conn = %conn.name(), peer = %conn.peer(), held, unsaid,
                    "the shard's bound on memory is reached; the connection that holds most is closed"
                );
            }
            conn.close(CloseReason::Memory);
        }
    }
}
