//! Reading a log while it is written.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use waystation_base::{Epoch, Seq};
use waystation_replica::{Entry, entry_bytes};

use super::ReadError;
use super::files::LogFile;
use super::record::{Item, Items};
use super::segment::{self, BATCH_HEADER_BYTES, Segment};

/// What is durable, as readers see it.
#[derive(Debug)]
pub(super) struct View<T> {
    pub(super) epoch: Epoch,
    pub(super) segments: VecDeque<Segment<T>>,
    pub(super) end: Seq,
}

impl<T> View<T> {
    pub(super) fn start(&self) -> Seq {
        self.segments.front().map_or(self.end, |one| one.after)
    }
}

/// Reads a [`Log`](super::Log) from any thread. Clones read the same log. The lock
/// is held to find a place, never while a file is read or written.
#[derive(Debug)]
pub struct LogReader<T> {
    view: Arc<RwLock<View<T>>>,
}

/// A [`LogReader`] of any kind of files.
pub(crate) trait ReadLog: Send + Sync {
    /// As [`LogReader::read`].
    fn read(&self, after: Seq, through: Seq, bytes_max: u64) -> Result<Vec<Arc<Entry>>, ReadError>;
}

impl<T: LogFile + Send + Sync> ReadLog for LogReader<T> {
    fn read(&self, after: Seq, through: Seq, bytes_max: u64) -> Result<Vec<Arc<Entry>>, ReadError> {
        Self::read(self, after, through, bytes_max)
    }
}

impl<T> Clone for LogReader<T> {
    fn clone(&self) -> Self {
        Self {
            view: Arc::clone(&self.view),
        }
    }
}

/// Where a read begins.
struct Place<T> {
    file: Arc<T>,
    salt: u64,
    epoch: Epoch,
    offset: u64,
    used: u64,
}

impl<T: LogFile> LogReader<T> {
    pub(super) fn new(view: View<T>) -> Self {
        Self {
            view: Arc::new(RwLock::new(view)),
        }
    }

    pub(super) fn view(&self) -> RwLockReadGuard<'_, View<T>> {
        // Changes are whole before anything in them can panic.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view_mut(&self) -> RwLockWriteGuard<'_, View<T>> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, next: Seq) -> Result<Option<Place<T>>, ReadError> {
        let view = self.view();
        let start = view.start();
        if next <= start {
            return Err(ReadError::Trimmed { start });
        }
        let at = view.segments.partition_point(|one| one.last < next);
        let Some(segment) = view.segments.get(at) else {
            return Ok(None);
        };
        Ok(Some(Place {
            file: Arc::clone(&segment.file),
            salt: segment.salt,
            epoch: view.epoch,
            offset: segment.offset_of(next),
            used: segment.used,
        }))
    }

    /// Reads entries in `(after, through]`: at least one if there is any, and no
    /// more than `bytes_max` by [`entry_bytes`] unless the first is larger.
    ///
    /// # Errors
    /// They are trimmed, or cannot be read.
    pub fn read(
        &self,
        after: Seq,
        through: Seq,
        bytes_max: u64,
    ) -> Result<Vec<Arc<Entry>>, ReadError> {
        let through = through.min(self.view().end);
        let mut wanted = Wanted {
            next: Seq(after.0.saturating_add(1)),
            through,
            bytes_left: bytes_max,
            found: Vec::new(),
            is_full: false,
        };
        while !wanted.is_full && wanted.next <= through {
            let Some(place) = self.place(wanted.next)? else {
                break;
            };
            let before = wanted.next;
            if let Err(error) = wanted.take_from(&place) {
                // Its file may have been trimmed meanwhile, and written again.
                let start = self.view().start();
                return Err(if before <= start {
                    ReadError::Trimmed { start }
                } else {
                    error.into()
                });
            }
            if wanted.next == before {
                break;
            }
        }
        Ok(wanted.found)
    }
}

/// What a read still wants.
struct Wanted {
    next: Seq,
    through: Seq,
    bytes_left: u64,
    found: Vec<Arc<Entry>>,
    is_full: bool,
}

impl Wanted {
    fn take_from<T: LogFile>(&mut self, place: &Place<T>) -> io::Result<()> {
        let mut offset = place.offset;
        while offset < place.used && !self.is_full {
            let (first, body) = segment::read_batch(&*place.file, place.salt, offset, place.used)?;
            offset += BATCH_HEADER_BYTES + body.len() as u64;
            let damaged = || io::Error::other("a batch makes no sense");
            // A batch may be far larger than what is wanted of it.
            let mut items = Items::new(body, place.epoch, first);
            while !self.is_full
                && let Some(item) = items.next_from(self.next).map_err(|_| damaged())?
            {
                if let Item::Entry(entry) = item {
                    self.take(entry);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: Arc<Entry>) {
        let seq = entry.position.seq;
        if self.is_full || seq < self.next {
            return;
        }
        let bytes = entry_bytes(&entry);
        if seq > self.through || (bytes > self.bytes_left && !self.found.is_empty()) {
            self.is_full = true;
            return;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.next = Seq(seq.0 + 1);
        self.found.push(entry);
    }
}
