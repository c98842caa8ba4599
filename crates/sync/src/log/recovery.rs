//! Opening a log: what is whole, what a crash has torn, what is damaged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;

use bytes::Bytes;
use waystation_base::{Epoch, Moment, Seq, SiteId};
use waystation_replica::limits::KEYS_REMEMBERED_MAX;
use waystation_replica::{ClientKey, Mark, Origin, SiteRecord, entry_bytes};

use super::reader::{LogReader, View};
use super::record::{Item, decode};
use super::segment::{self, Head, SEGMENT_HEADER_BYTES, Scan, Segment};
use super::{Files, Log, LogConfig, LogError, LogFile, note_record};

/// What a hub wants to know of the entries that are there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The last keys of clients, in order.
    pub(super) keys: VecDeque<(ClientKey, Seq)>,
    /// A mark for each batch.
    pub(super) marks: Vec<Mark>,
}

impl Found {
    fn note(&mut self, key: &ClientKey, seq: Seq) {
        if self.keys.len() >= KEYS_REMEMBERED_MAX {
            self.keys.pop_front();
        }
        self.keys.push_back((key.clone(), seq));
    }
}

/// What is read so far.
struct Recovery<F: Files> {
    files: F,
    config: LogConfig,
    epoch: Option<Epoch>,
    segments: VecDeque<Segment<F::File>>,
    end: Seq,
    bytes: u64,
    /// What comes before this may have been trimmed.
    trimmed: Seq,
    sites: BTreeMap<SiteId, SiteRecord>,
    found: Found,
}

/// The log, and up to where it says itself that it was trimmed.
pub(super) fn open<F: Files>(
    files: F,
    config: LogConfig,
    fresh: Epoch,
) -> Result<(Log<F>, Seq), LogError> {
    let (mut numbers, mut spare) = (Vec::new(), Vec::new());
    for name in files.list()? {
        match segment::number_of(&name) {
            Some(number) => numbers.push(number),
            None if segment::is_spare(&name) => spare.push(name),
            None => {}
        }
    }
    numbers.sort_unstable();
    let mut recovery = Recovery {
        files,
        config,
        epoch: None,
        segments: VecDeque::new(),
        end: Seq(0),
        bytes: 0,
        trimmed: Seq(0),
        sites: BTreeMap::new(),
        found: Found::default(),
    };
    let last = numbers.last().copied();
    for number in numbers {
        recovery.open_segment(number, Some(number) == last)?;
    }
    let start = recovery.start()?;
    // A crash may have come between a change of names and its sync.
    recovery.files.sync_folder()?;
    let view = View {
        epoch: recovery.epoch.unwrap_or(fresh),
        segments: recovery.segments,
        end: recovery.end,
    };
    let log = Log {
        files: recovery.files,
        config: recovery.config,
        reader: LogReader::new(view),
        sites: recovery.sites,
        found: recovery.found,
        trimmed: recovery.trimmed.max(start),
        buffer: Vec::new(),
        spare,
        prepared: 0,
        are_names_synced: true,
        is_begun_in_vain: false,
        is_failed: false,
    };
    Ok((log, recovery.trimmed))
}

impl<F: Files> Recovery<F> {
    fn open_segment(&mut self, number: u64, is_last: bool) -> Result<(), LogError> {
        let corrupt = |offset, what| LogError::Corrupt {
            segment: number,
            offset,
            what,
        };
        let name = segment::name_of(number);
        let file = self.files.open(&name)?;
        let mut data = vec![0; usize::try_from(file.length()?).unwrap_or(usize::MAX)];
        file.read_at(0, &mut data)?;
        let data = Bytes::from(data);
        let head =
            Head::decode(&data, number).ok_or_else(|| corrupt(0, "its header is damaged"))?;
        let expected = *self.epoch.get_or_insert(head.epoch);
        if head.epoch != expected {
            let found = head.epoch;
            return Err(LogError::OtherEpoch { expected, found });
        }
        if head.length > data.len() as u64 {
            return Err(corrupt(data.len() as u64, "it is cut short"));
        }
        let before = self.segments.back();
        if before.is_some_and(|one| one.number + 1 != number || head.after != self.end) {
            return Err(corrupt(0, "what comes before it is missing"));
        }
        self.end = head.after;
        let mut opened = Segment::new(number, &head, file);
        let last_batch = self.take_batches(&mut opened, &data, &head)?;
        opened.used = last_batch.end;
        opened.last = self.end;
        if segment::has_batch(&data, opened.used, head.salt) {
            return Err(corrupt(opened.used, "a batch is damaged"));
        }
        if is_last {
            make_durable(&*opened.file, &data, last_batch)?;
        }
        self.segments.push_back(opened);
        Ok(())
    }

    /// Where the log begins: segments before that are gone by a trim, or are missing.
    fn start(&self) -> Result<Seq, LogError> {
        let Some(first) = self.segments.front() else {
            return Ok(Seq(0));
        };
        let (segment, after) = (first.number, first.after);
        if after > self.trimmed && self.config.accept_start != Some(after) {
            return Err(LogError::MissingStart { segment, after });
        }
        Ok(after)
    }

    /// Takes in the batches of a segment; where the last one is.
    fn take_batches(
        &mut self,
        opened: &mut Segment<F::File>,
        data: &Bytes,
        head: &Head,
    ) -> Result<Range<u64>, LogError> {
        let segment = opened.number;
        let corrupt = |offset, what| LogError::Corrupt {
            segment,
            offset,
            what,
        };
        let mut scan = Scan::new(data, head.salt);
        let mut begin = scan.offset();
        while let Some((offset, first, body)) = scan.next_batch() {
            begin = offset;
            let items = decode(body, head.epoch, first)
                .ok_or_else(|| corrupt(offset, "a batch makes no sense"))?;
            if first.0 != self.end.0 + 1 {
                return Err(corrupt(offset, "entries are missing"));
            }
            self.take(items);
            opened.note(offset, first, self.config.index_bytes);
        }
        Ok(begin..scan.offset())
    }

    /// Takes in what a batch holds.
    fn take(&mut self, items: Vec<Item>) {
        let before = self.end;
        for item in items {
            match item {
                Item::Entry(entry) => {
                    self.end = entry.position.seq;
                    self.bytes += entry_bytes(&entry);
                    if let Origin::Client { key: Some(key) } = &entry.origin {
                        self.found.note(key, self.end);
                    }
                }
                Item::Record(record) => note_record(&mut self.sites, record),
                Item::Start(start) => self.trimmed = self.trimmed.max(start),
            }
        }
        if self.end > before {
            self.found.marks.push(Mark {
                seq: self.end,
                bytes: self.bytes,
                at: Moment::ZERO,
            });
        }
    }
}

/// Makes durable what is told of the last segment from here on.
///
/// Its last batch may never have been synced: its writer was killed before, or its
/// sync failed, and then the system holds pages that it will not write again. So the
/// batch is written again. Those before it were synced before it was written.
fn make_durable(file: &impl LogFile, data: &[u8], last_batch: Range<u64>) -> io::Result<()> {
    erase(file, data, last_batch.end)?;
    let at = |offset| {
        usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(data.len())
    };
    let batch = &data[at(last_batch.start)..at(last_batch.end)];
    if !batch.is_empty() {
        file.write_at(last_batch.start, batch)?;
    }
    file.sync()
}

/// Overwrites what a crash has left behind the last whole batch, so that nothing
/// of it is ever taken for a later batch.
fn erase(file: &impl LogFile, data: &[u8], from: u64) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(data.len());
    let rest = &data[from..];
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else {
        return Ok(());
    };
    let zeros = vec![0; PIECE];
    for at in (0..=last).step_by(PIECE) {
        let piece = &zeros[..PIECE.min(last + 1 - at)];
        file.write_at((from + at) as u64, piece)?;
    }
    Ok(())
}

/// Reads the bytes of one segment as a log that is opened reads them: how many
/// entries and records its whole batches hold, and up to which byte. None for a
/// header that is not whole. Total: for tools and for fuzzing.
pub fn check_segment(data: &Bytes) -> Option<(u64, u64, u64)> {
    let number = segment::number_in(data)?;
    let head = Head::decode(data, number)?;
    let (mut entries, mut records) = (0, 0);
    let mut scan = Scan::new(data, head.salt);
    while let Some((_, first, body)) = scan.next_batch() {
        for item in decode(body, head.epoch, first)? {
            match item {
                Item::Entry(_) => entries += 1,
                Item::Record(_) | Item::Start(_) => records += 1,
            }
        }
    }
    debug_assert!(scan.offset() >= SEGMENT_HEADER_BYTES);
    let _ = segment::has_batch(data, scan.offset(), head.salt);
    Some((entries, records, scan.offset()))
}

/// A segment of one batch with this body, whatever it is: for fuzzing.
pub fn segment_with(body: &[u8]) -> Vec<u8> {
    let head = Head {
        epoch: Epoch(1),
        after: Seq(0),
        salt: 0,
        length: 0,
    };
    let mut data = head.encode(1);
    segment::put_batch(&mut data, head.salt, Seq(1), body);
    data
}
