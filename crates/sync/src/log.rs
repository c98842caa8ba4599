//! The hub's log: batches in segment files, the only authority over entries and
//! positions.

mod files;
mod reader;
mod record;
#[cfg(any(test, feature = "test-support"))]
pub mod recorded;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::sync::Arc;

use thiserror::Error;
use waystation_base::{Epoch, Moment, Seq, SiteId};
use waystation_replica::{Batch, Entry, HubRestored, Record, SiteRecord};

pub use files::{Files, Folder, LogFile};
pub use reader::LogReader;
pub(crate) use reader::ReadLog;
pub(crate) use record::{Item, decode, put_entry};
use record::{START_BYTES, put_record, put_start};
use recovery::Found;
pub use recovery::{check_segment, segment_with};
use segment::{BATCH_HEADER_BYTES, Head, Segment};

/// Most bytes of memory that are kept to write the next batch.
const BUFFER_BYTES_MAX: usize = 16 << 20;

/// Bytes of the batch that notes a trim.
const START_BATCH_BYTES: u64 = BATCH_HEADER_BYTES + START_BYTES;

/// How a log behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Length of a segment in bytes. Default 64 MiB. A batch that is longer gets
    /// a segment of its length. What is trimmed goes by whole segments.
    pub segment_bytes: u64,
    /// Most trimmed segments that are kept to be written again. Default 4.
    /// Removing a large file can stall commits for tens of milliseconds.
    pub spare_max: usize,
    /// Bytes between two places that a read can start at without looking at what
    /// lies between. Default 64 KiB.
    pub index_bytes: u64,
    /// A log that begins after this entry, and does not say that it was trimmed, is
    /// opened all the same, and says so from then on. Default none.
    pub accept_start: Option<Seq>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_max: 4,
            index_bytes: 64 << 10,
            accept_start: None,
        }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// A file could not be read or written.
    #[error("the log's files cannot be used")]
    Io(#[from] io::Error),
    /// The folder holds another history than the one asked for.
    #[error("the log's history is {found}, not {expected}")]
    OtherEpoch {
        /// What was asked for.
        expected: Epoch,
        /// What is there.
        found: Epoch,
    },
    /// The first segments are missing, and nothing says that they were trimmed: put
    /// them back. Releases that noted no trims left such logs, too: then open it with
    /// [`LogConfig::accept_start`].
    #[error(
        "the log begins after entry {after}, in segment {segment}, and does not say that it \
         was trimmed: put back the segments before it, or, if a release that noted no trims \
         has trimmed it, accept {after} as its start, once, by `sync hub --accept-start {after}`"
    )]
    MissingStart {
        /// The number of the first segment that is there.
        segment: u64,
        /// It has what comes after this.
        after: Seq,
    },
    /// Something that was durable is damaged or missing: restore the folder, or
    /// begin a new history. A batch that was torn by a crash is not this.
    #[error("segment {segment} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The segment's number.
        segment: u64,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Why a batch is not durable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Nothing of it is in the log, nor will be.
    #[error("the log has no room")]
    NotStored(#[source] io::Error),
    /// It may be in the log or not: open the log anew.
    #[error("the log does not know what it holds")]
    Unknown(#[source] io::Error),
    /// An append before this one failed so.
    #[error("the log must be opened anew")]
    Failed,
}

/// Why entries cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// They are trimmed.
    #[error("the log begins after {start}")]
    Trimmed {
        /// The log has what comes after this.
        start: Seq,
    },
    /// A file could not be read, or what it holds is damaged.
    #[error("the log cannot be read")]
    Io(#[from] io::Error),
}

/// A durable, ordered log. The hub gives sequences; the log keeps them.
pub trait LogStore {
    /// Its history.
    fn epoch(&self) -> Epoch;

    /// It has what comes after this.
    fn start(&self) -> Seq;

    /// The last durable entry.
    fn end(&self) -> Seq;

    /// Makes a batch durable: all of it or, after a crash, nothing. Blocks until
    /// the disk has answered.
    ///
    /// # Errors
    /// Says whether something of it may be there.
    fn append(&mut self, batch: &Batch) -> Result<(), AppendError>;

    /// Reads entries in `(after, through]`: at least one if there is any, and no
    /// more than `bytes_max` by [`entry_bytes`](waystation_replica::entry_bytes)
    /// unless the first is larger.
    ///
    /// # Errors
    /// They are trimmed, or cannot be read.
    fn read(&self, after: Seq, through: Seq, bytes_max: u64) -> Result<Vec<Arc<Entry>>, ReadError>;

    /// Entries up to `through` may go. How many do is the log's choice.
    ///
    /// # Errors
    /// Files could not be renamed or removed; a later trim tries again.
    fn trim(&mut self, through: Seq) -> io::Result<()>;

    /// What a hub starts with, as it was when the log was opened. Only the first
    /// call gives keys and marks: they are many.
    fn restored(&mut self, now: Moment, snapshot_base: u64) -> HubRestored;
}

/// The log in segment files of its own; see `docs/formats/sync-log.md`.
///
/// A batch is written and synced before [`LogStore::append`] returns, and one is
/// on its way at a time: so after a crash at most the last batch is torn, and
/// whatever is damaged before a batch that is whole was damaged later.
#[derive(Debug)]
pub struct Log<F: Files> {
    files: F,
    config: LogConfig,
    reader: LogReader<F::File>,
    sites: BTreeMap<SiteId, SiteRecord>,
    /// What was there when the log was opened.
    found: Found,
    /// What comes before this may go, durably.
    trimmed: Seq,
    /// Holds a batch while it is written.
    buffer: Vec<u8>,
    /// Files to be written again.
    spare: Vec<String>,
    /// The last segment whose file was prepared.
    prepared: u64,
    /// Whether all changes of names are durable.
    are_names_synced: bool,
    /// Whether the next segment may have its name already, though its roll failed. What
    /// it begins with must stay true: nothing goes to the segment before it any more.
    is_begun_in_vain: bool,
    is_failed: bool,
}

impl<F: Files> Log<F> {
    /// Opens a log, or begins one with the history `fresh` in an empty folder. A
    /// batch that a crash has torn is erased. What is there is durable when this
    /// returns, also if whoever wrote it was killed before its sync, or its sync
    /// failed.
    ///
    /// Cost: reads every segment once, writes the last batch.
    ///
    /// # Errors
    /// Segments of two histories are there, something that was durable is damaged,
    /// or the disk refuses to make durable what is there.
    pub fn open(files: F, config: LogConfig, fresh: Epoch) -> Result<Self, LogError> {
        let (mut log, noted) = recovery::open(files, config, fresh)?;
        if log.trimmed > noted {
            // An accepted start. Where it cannot be noted it is to be accepted again.
            let trimmed = log.trimmed;
            log.note_start(trimmed).map_err(io::Error::other)?;
        }
        Ok(log)
    }

    /// Reads the log from any thread while it is written.
    pub fn reader(&self) -> LogReader<F::File> {
        self.reader.clone()
    }

    /// Keeps a file to be written again, or removes it. Its old batches are never
    /// taken for new ones: each segment has a salt of its own.
    fn set_aside(&mut self, name: &str) -> io::Result<()> {
        self.are_names_synced = false;
        if self.spare.len() >= self.config.spare_max {
            self.files.remove(name)?;
        } else {
            let spare = segment::spare_name_of(name);
            self.files.rename(name, &spare)?;
            self.spare.push(spare);
        }
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.files.sync_folder()?;
        self.are_names_synced = true;
        Ok(())
    }

    /// Makes a new segment with room for `bytes`, beginning with the records of
    /// all sites, since older segments may go.
    fn roll(&mut self, bytes: u64) -> io::Result<()> {
        let (number, epoch, after) = {
            let view = self.reader.view();
            let last = view.segments.back();
            (last.map_or(1, |one| one.number + 1), view.epoch, view.end)
        };
        let mut body = Vec::new();
        if self.trimmed > Seq(0) {
            put_start(&mut body, self.trimmed);
        }
        for record in self.sites.values() {
            put_record(&mut body, &Record::Site(record.clone()));
        }
        let (salt, mut records) = (random(), Vec::new());
        if !body.is_empty() {
            segment::put_batch(&mut records, salt, Seq(after.0 + 1), &body);
        }
        let used = segment::SEGMENT_HEADER_BYTES + records.len() as u64;
        let needed = used + bytes + START_BATCH_BYTES;
        let name = segment::name_of(number);
        if !self.are_names_synced {
            // A spare file that still has a segment's name on the disk would be
            // that segment after a power loss, with another content.
            self.sync_names()?;
        }
        let (spare, file) = self.take_spare(number, needed)?;
        let head = Head {
            epoch,
            after,
            salt,
            length: file.length()?,
        };
        let mut data = head.encode(number);
        data.extend_from_slice(&records);
        // Only a file whose header is durable gets a segment's name: no crash
        // leaves a segment without a whole header.
        file.write_at(0, &data)?;
        file.sync()?;
        self.is_begun_in_vain = true;
        self.files.rename(&spare, &name)?;
        self.spare.retain(|one| *one != spare);
        self.are_names_synced = false;
        if let Err(error) = self.sync_names() {
            self.put_back(&name, spare);
            return Err(error);
        }
        self.is_begun_in_vain = false;
        let mut opened = Segment::new(number, &head, file);
        opened.used = used;
        self.reader.view_mut().segments.push_back(opened);
        Ok(())
    }

    /// Keeps the file of a segment that was begun in vain for the next try: a full disk
    /// may have no room for another.
    fn put_back(&mut self, name: &str, spare: String) {
        if self.files.rename(name, &spare).is_ok() {
            // It is no longer made beside the log, but one of the spare files.
            self.prepared = 0;
            self.spare.push(spare);
        }
    }

    /// Has the next segment's file made once half of the last one is used, unless a
    /// trimmed one is at hand.
    fn prepare_next(&mut self) {
        let (next, used) = {
            let view = self.reader.view();
            let last = view.segments.back();
            last.map_or((1, 0), |one| (one.number + 1, one.used))
        };
        let bytes = self.config.segment_bytes;
        if used >= bytes / 2 && self.spare.is_empty() && self.prepared < next {
            self.prepared = next;
            let name = segment::spare_name_of(&segment::name_of(next));
            self.files.prepare(&name, bytes);
        }
    }

    /// A file of at least `needed` bytes, under the name of a spare one.
    fn take_spare(&mut self, number: u64, needed: u64) -> io::Result<(String, F::File)> {
        let mut refused = None;
        // One that was prepared is taken also when a trim has left others since.
        if self.prepared == number {
            match self.create_spare(number, needed) {
                Ok(made) => return Ok(made),
                // There was no room for it then, and there is none now.
                Err(error) => (self.prepared, refused) = (0, Some(error)),
            }
        }
        while let Some(spare) = self.spare.last() {
            let file = self.files.open(spare)?;
            if file.length()? >= needed {
                return Ok((spare.clone(), file));
            }
            self.files.remove(spare)?;
            self.spare.pop();
        }
        match refused {
            Some(error) => Err(error),
            None => self.create_spare(number, needed),
        }
    }

    fn create_spare(&self, number: u64, needed: u64) -> io::Result<(String, F::File)> {
        let spare = segment::spare_name_of(&segment::name_of(number));
        let length = needed.max(self.config.segment_bytes);
        let made = self.files.create(&spare, length);
        if made.is_err() {
            // A part of it would only take room.
            let _ = self.files.remove(&spare);
        }
        Ok((spare, made?))
    }

    /// Where a batch of `bytes` goes, if the last segment has room for it and
    /// `reserve` more, and is still the last one.
    fn place(&self, bytes: u64, reserve: u64) -> Option<Place<F::File>> {
        if self.is_begun_in_vain {
            return None;
        }
        let view = self.reader.view();
        let last = view.segments.back()?;
        let has_room = last.used + bytes + reserve <= last.length;
        has_room.then(|| Place {
            file: Arc::clone(&last.file),
            salt: last.salt,
            offset: last.used,
        })
    }

    /// Where the log begins once what may go is gone, if anything may.
    fn start_after(&self, through: Seq) -> Option<Seq> {
        let view = self.reader.view();
        let pairs = view.segments.iter().zip(view.segments.iter().skip(1));
        let gone = pairs.take_while(|(one, _)| one.last <= through);
        gone.last().map(|(_, next)| next.after)
    }

    /// Notes durably that what comes before `start` may go: a segment that is missing
    /// is told from one that was trimmed.
    fn note_start(&mut self, start: Seq) -> Result<(), AppendError> {
        let mut data = Vec::new();
        segment::begin_batch(&mut data);
        put_start(&mut data, start);
        let (offset, bytes) = self.store(&mut data, 0)?;
        self.note(&Batch::default(), offset, bytes);
        self.trimmed = start;
        Ok(())
    }

    /// Writes and syncs a batch that leaves `reserve` bytes of its segment; where it
    /// is, and its bytes. `data` is its body behind room for its header.
    fn store(&mut self, data: &mut [u8], reserve: u64) -> Result<(u64, u64), AppendError> {
        if self.is_failed {
            return Err(AppendError::Failed);
        }
        let bytes = data.len() as u64;
        let mut place = self.place(bytes, reserve);
        if place.is_none() {
            // A segment that was begun in vain holds no entries, and the next try
            // takes its number again, however small its batch is.
            self.roll(bytes).map_err(AppendError::NotStored)?;
            place = self.place(bytes, reserve);
        }
        let Place { file, salt, offset } = place.expect("a new segment has room");
        let first = Seq(self.end().0 + 1);
        segment::end_batch(data, salt, first);
        if let Err(error) = file.write_durable(offset, data) {
            self.is_failed = true;
            return Err(AppendError::Unknown(error));
        }
        Ok((offset, bytes))
    }

    /// The first segment, if it may go. The last one stays: it is written.
    fn trimmable(&self, through: Seq) -> Option<String> {
        let view = self.reader.view();
        let first = view.segments.front().filter(|_| view.segments.len() > 1)?;
        (first.last <= through).then(|| segment::name_of(first.number))
    }

    fn check(&self, batch: &Batch) {
        let view = self.reader.view();
        for (next, entry) in (view.end.0 + 1..).zip(&batch.entries) {
            let position = entry.position;
            assert_eq!(
                (position.epoch, position.seq.0),
                (view.epoch, next),
                "the hub gives sequences without a gap"
            );
        }
    }

    /// A batch is durable.
    fn note(&mut self, batch: &Batch, offset: u64, bytes: u64) {
        let mut view = self.reader.view_mut();
        let first = Seq(view.end.0 + 1);
        let last = batch.entries.last().map(|one| one.position.seq);
        view.end = last.unwrap_or(view.end);
        if let Some(segment) = view.segments.back_mut() {
            segment.note(offset, first, self.config.index_bytes);
            segment.used = offset + bytes;
            segment.last = last.unwrap_or(segment.last);
        }
        drop(view);
        for record in &batch.records {
            note_record(&mut self.sites, record.clone());
        }
    }
}

/// Where a batch goes.
struct Place<T> {
    file: Arc<T>,
    salt: u64,
    offset: u64,
}

fn note_record(sites: &mut BTreeMap<SiteId, SiteRecord>, record: Record) {
    match record {
        Record::Site(record) => {
            sites.insert(record.site, record);
        }
        Record::Forgotten(site) => {
            sites.remove(&site);
        }
    }
}

/// A random number: the standard library's hash keys come from the system.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl<F: Files> LogStore for Log<F> {
    fn epoch(&self) -> Epoch {
        self.reader.view().epoch
    }

    fn start(&self) -> Seq {
        self.reader.view().start()
    }

    fn end(&self) -> Seq {
        self.reader.view().end
    }

    fn append(&mut self, batch: &Batch) -> Result<(), AppendError> {
        if self.is_failed {
            return Err(AppendError::Failed);
        }
        self.check(batch);
        let mut data = std::mem::take(&mut self.buffer);
        data.clear();
        segment::begin_batch(&mut data);
        for entry in &batch.entries {
            put_entry(&mut data, entry);
        }
        for record in &batch.records {
            put_record(&mut data, record);
        }
        // The last room is for the note of a trim: a full disk must not refuse what
        // makes room.
        let stored = self.store(&mut data, START_BATCH_BYTES);
        if data.capacity() <= BUFFER_BYTES_MAX {
            self.buffer = data;
        }
        let (offset, bytes) = stored?;
        self.note(batch, offset, bytes);
        self.prepare_next();
        Ok(())
    }

    fn read(&self, after: Seq, through: Seq, bytes_max: u64) -> Result<Vec<Arc<Entry>>, ReadError> {
        self.reader.read(after, through, bytes_max)
    }

    fn trim(&mut self, through: Seq) -> io::Result<()> {
        if let Some(start) = self.start_after(through).filter(|one| *one > self.trimmed) {
            self.note_start(start).map_err(|error| match error {
                AppendError::NotStored(error) | AppendError::Unknown(error) => error,
                AppendError::Failed => io::Error::other(error.to_string()),
            })?;
        }
        while let Some(name) = self.trimmable(through.min(self.trimmed)) {
            self.set_aside(&name)?;
            self.reader.view_mut().segments.pop_front();
        }
        // Should the power be lost before this, the segments are there again.
        if !self.are_names_synced {
            self.sync_names()?;
        }
        Ok(())
    }

    fn restored(&mut self, now: Moment, snapshot_base: u64) -> HubRestored {
        let mut restored = HubRestored::empty(self.epoch());
        restored.start = self.start();
        restored.end = self.end();
        restored.sites = self.sites.values().cloned().collect();
        restored.snapshot_base = snapshot_base;
        let found = std::mem::take(&mut self.found);
        restored.keys = found.keys.into();
        restored.marks = found.marks;
        for mark in &mut restored.marks {
            mark.at = now;
        }
        restored
    }
}
