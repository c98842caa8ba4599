//! Makes copies for others: opens snapshots and reads them in chunks.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Moment, SiteId};

use crate::entry::{Chunk, SnapshotSize};
use crate::ids::{Ahead, Cursor, Position, SnapshotId};
use crate::limits::{CHUNK_BYTES, SNAPSHOTS_OPEN_MAX};
use crate::message::{Pull, ToHub};

/// What a donor wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Send(ToHub),
    Open(SnapshotId),
    Read {
        snapshot: SnapshotId,
        joiner: SiteId,
        index: u64,
        from: Cursor,
        bytes_max: usize,
    },
    Close(SnapshotId),
}

/// A joiner's place in a snapshot.
#[derive(Debug)]
struct Reader {
    index: u64,
    from: Cursor,
    until: u64,
    is_done: bool,
}

#[derive(Debug, Default)]
struct Open {
    is_open: bool,
    readers: BTreeMap<SiteId, Reader>,
}

/// Open snapshots and who reads them. One chunk is read at a time, joiners take
/// turns, and the rate is bounded.
#[derive(Debug)]
pub(super) struct Donor {
    bytes_per_second: Option<u64>,
    snapshots: BTreeMap<SnapshotId, Open>,
    reading: Option<(SnapshotId, SiteId)>,
    /// Whom to serve after whom.
    last_served: (SnapshotId, SiteId),
    next_at: Moment,
    wishes: VecDeque<Wish>,
}

impl Donor {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            snapshots: BTreeMap::new(),
            reading: None,
            last_served: (SnapshotId(0), SiteId(0)),
            next_at: Moment::ZERO,
            wishes: VecDeque::new(),
        }
    }

    pub(super) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When the rate allows the next chunk, if one is wanted.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        (self.reading.is_none() && self.next_reader().is_some()).then_some(self.next_at)
    }

    pub(super) fn open(&mut self, snapshot: SnapshotId) {
        if self.snapshots.len() >= SNAPSHOTS_OPEN_MAX {
            let error = "too many snapshots are open".into();
            return self.say(ToHub::SnapshotFailed { snapshot, error });
        }
        self.snapshots.insert(snapshot, Open::default());
        self.wishes.push_back(Wish::Open(snapshot));
    }

    pub(super) fn opened(
        &mut self,
        snapshot: SnapshotId,
        position: Position,
        ahead: Option<Ahead>,
        size: SnapshotSize,
    ) {
        match self.snapshots.get_mut(&snapshot) {
            Some(open) => {
                open.is_open = true;
                self.say(ToHub::SnapshotOpened {
                    snapshot,
                    position,
                    ahead,
                    size,
                });
            }
            // Closed while it was opening.
            None => self.wishes.push_back(Wish::Close(snapshot)),
        }
    }

    /// The snapshot could not be opened, or not be read on.
    pub(super) fn failed(&mut self, now: Moment, snapshot: SnapshotId, error: &str) {
        let Some(open) = self.snapshots.remove(&snapshot) else {
            return;
        };
        if self.reading.is_some_and(|(one, _)| one == snapshot) {
            self.reading = None;
        }
        if open.is_open {
            self.wishes.push_back(Wish::Close(snapshot));
        }
        let error = Arc::from(error);
        self.say(ToHub::SnapshotFailed { snapshot, error });
        self.advance(now);
    }

    pub(super) fn pull(&mut self, now: Moment, joiner: SiteId, pull: Pull) {
        let Some(open) = self.snapshots.get_mut(&pull.snapshot) else {
            let snapshot = pull.snapshot;
            let error = "the snapshot is not open".into();
            return self.say(ToHub::SnapshotFailed { snapshot, error });
        };
        if pull.is_first {
            let reader = Reader {
                index: pull.index,
                from: pull.from,
                until: pull.until,
                is_done: false,
            };
            open.readers.insert(joiner, reader);
        } else if let Some(reader) = open.readers.get_mut(&joiner) {
            reader.until = reader.until.max(pull.until);
        }
        self.advance(now);
    }

    pub(super) fn close(&mut self, now: Moment, snapshot: SnapshotId) {
        if let Some(open) = self.snapshots.remove(&snapshot) {
            if open.is_open {
                self.wishes.push_back(Wish::Close(snapshot));
            }
            self.forget_reading(snapshot);
        }
        self.advance(now);
    }

    /// The hub is gone: so is everyone who reads.
    pub(super) fn disconnected(&mut self) {
        for (snapshot, open) in std::mem::take(&mut self.snapshots) {
            if open.is_open {
                self.wishes.push_back(Wish::Close(snapshot));
            }
        }
        self.reading = None;
    }

    fn forget_reading(&mut self, snapshot: SnapshotId) {
        if self.reading.is_some_and(|(one, _)| one == snapshot) {
            self.reading = None;
        }
    }

    /// A chunk was read. One that nobody wants any more goes nowhere.
    pub(super) fn read(&mut self, now: Moment, snapshot: SnapshotId, joiner: SiteId, chunk: Chunk) {
        if self.reading != Some((snapshot, joiner)) {
            return;
        }
        self.reading = None;
        let bytes = chunk.data.len() as u64;
        if let Some(rate) = self.bytes_per_second {
            let nanos = bytes.saturating_mul(1_000_000_000) / rate.max(1);
            self.next_at = now.max(self.next_at) + Duration::from_nanos(nanos);
        }
        let open = self.snapshots.get_mut(&snapshot);
        let reader = open.and_then(|open| open.readers.get_mut(&joiner));
        if let Some(reader) = reader.filter(|reader| reader.index == chunk.index) {
            reader.index += 1;
            match &chunk.to {
                Some(to) => reader.from = to.clone(),
                None => reader.is_done = true,
            }
            let chunk = Arc::new(chunk);
            self.say(ToHub::Chunk {
                snapshot,
                joiner,
                chunk,
            });
        }
        self.advance(now);
    }

    /// Asks for the next chunk that is wanted, if the rate allows.
    pub(super) fn advance(&mut self, now: Moment) {
        if self.reading.is_some() || now < self.next_at {
            return;
        }
        let Some((snapshot, joiner)) = self.next_reader() else {
            return;
        };
        let open = self.snapshots.get(&snapshot);
        let Some(reader) = open.and_then(|open| open.readers.get(&joiner)) else {
            return;
        };
        let wish = Wish::Read {
            snapshot,
            joiner,
            index: reader.index,
            from: reader.from.clone(),
            bytes_max: CHUNK_BYTES,
        };
        self.reading = Some((snapshot, joiner));
        self.last_served = (snapshot, joiner);
        self.wishes.push_back(wish);
    }

    /// The next one in turn who wants a chunk.
    fn next_reader(&self) -> Option<(SnapshotId, SiteId)> {
        let wants = |reader: &Reader| !reader.is_done && reader.index < reader.until;
        let all = self.snapshots.iter().flat_map(|(snapshot, open)| {
            let readers = open.readers.iter();
            readers.map(move |(joiner, reader)| ((*snapshot, *joiner), wants(reader)))
        });
        let waiting: Vec<_> = all
            .filter(|(_, wants)| *wants)
            .map(|(one, _)| one)
            .collect();
        let after = waiting.iter().find(|one| **one > self.last_served);
        after.or_else(|| waiting.first()).copied()
    }

    fn say(&mut self, message: ToHub) {
        self.wishes.push_back(Wish::Send(message));
    }
}
