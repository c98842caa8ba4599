//! Segments and batches as bytes: `docs/formats/sync-log.md`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use twox_hash::XxHash3_64;
use waystation_base::{Epoch, Seq};

use super::files::LogFile;

pub(super) const SEGMENT_HEADER_BYTES: u64 = 64;
pub(super) const BATCH_HEADER_BYTES: u64 = 32;
const SEGMENT_MAGIC: [u8; 8] = *b"WSLOG\x00\x00\x01";
const BATCH_MAGIC: [u8; 4] = [0xb7, 0x57, 0x4c, 0x42];

/// The name of a segment's file.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:020}.segment")
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

pub(super) fn spare_name_of(name: &str) -> String {
    format!("{}.spare", name.trim_end_matches(".segment"))
}

pub(super) fn is_spare(name: &str) -> bool {
    name.strip_suffix(".spare").is_some()
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: Epoch,
    /// The segment has what comes after this.
    pub(super) after: Seq,
    /// Drawn at random: no client can put bytes into a payload that pass for a
    /// batch of this segment.
    pub(super) salt: u64,
    /// How long the file is: it never gets shorter.
    pub(super) length: u64,
}

impl Head {
    pub(super) fn encode(&self, number: u64) -> Vec<u8> {
        let mut out = SEGMENT_MAGIC.to_vec();
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.after.0.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.resize(56, 0);
        let hash = XxHash3_64::oneshot(&out);
        out.extend_from_slice(&hash.to_le_bytes());
        out
    }

    pub(super) fn decode(data: &[u8], number: u64) -> Option<Self> {
        let head = Self {
            epoch: Epoch(u64_at(data, 16)?),
            after: Seq(u64_at(data, 24)?),
            salt: u64_at(data, 32)?,
            length: u64_at(data, 40)?,
        };
        let is_whole = data.get(..64)? == head.encode(number);
        is_whole.then_some(head)
    }
}

/// The number that a segment's header carries, if it is whole.
pub(super) fn number_in(data: &[u8]) -> Option<u64> {
    let number = u64_at(data, 8)?;
    Head::decode(data, number).map(|_| number)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// Appends a batch of the segment with this salt, whose first entry has the
/// sequence `first`.
pub(super) fn put_batch(out: &mut Vec<u8>, salt: u64, first: Seq, body: &[u8]) {
    let begin = out.len();
    begin_batch(out);
    out.extend_from_slice(body);
    end_batch(&mut out[begin..], salt, first);
}

/// Leaves room for the header of a batch whose body follows.
pub(super) fn begin_batch(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 32]);
}

/// Puts the header of a batch of the segment with this salt in front of its body,
/// where [`begin_batch`] has left room.
pub(super) fn end_batch(batch: &mut [u8], salt: u64, first: Seq) {
    let (head, body) = batch.split_at_mut(32);
    head[..4].copy_from_slice(&BATCH_MAGIC);
    head[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
    head[16..24].copy_from_slice(&first.0.to_le_bytes());
    let hash = hash(salt, &head[..24], body);
    head[24..].copy_from_slice(&hash.to_le_bytes());
}

/// XXH3 of 64 bits over the body, seeded with that of the header, which is seeded
/// with the salt.
fn hash(salt: u64, head: &[u8], body: &[u8]) -> u64 {
    let head = XxHash3_64::oneshot_with_seed(salt, head);
    XxHash3_64::oneshot_with_seed(head, body)
}

/// The batch of the segment with this salt at `offset`, if there is a whole one.
fn batch_at(data: &Bytes, offset: usize, salt: u64) -> Option<(Seq, Bytes)> {
    let head = data.get(offset..offset.checked_add(24)?)?;
    if head[..4] != BATCH_MAGIC || head[4..8] != [0; 4] {
        return None;
    }
    let length = usize::try_from(u64_at(head, 8)?).ok()?;
    let begin = offset + 32;
    let end = begin.checked_add(length)?;
    if end > data.len() {
        return None;
    }
    let body = data.slice(begin..end);
    let is_whole = u64_at(data, offset + 24)? == hash(salt, head, &body);
    is_whole.then(|| Some((Seq(u64_at(head, 16)?), body)))?
}

/// Whether a whole batch of the segment with this salt begins anywhere from `from` on. What
/// comes after a torn batch was never written, so that there is none.
pub(super) fn has_batch(data: &Bytes, from: u64, salt: u64) -> bool {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(data.len());
    let starts = data[from..].windows(4).enumerate();
    starts
        .filter(|(_, four)| **four == BATCH_MAGIC)
        .any(|(at, _)| batch_at(data, from + at, salt).is_some())
}

/// Goes over the batches of a segment, up to the first that is not whole.
pub(super) struct Scan<'a> {
    data: &'a Bytes,
    salt: u64,
    offset: u64,
}

impl<'a> Scan<'a> {
    pub(super) fn new(data: &'a Bytes, salt: u64) -> Self {
        Self {
            data,
            salt,
            offset: SEGMENT_HEADER_BYTES,
        }
    }

    /// Where the next batch begins, or would.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next batch: where it begins, its first sequence, its body.
    pub(super) fn next_batch(&mut self) -> Option<(u64, Seq, Bytes)> {
        let offset = self.offset;
        let (first, body) = batch_at(self.data, usize::try_from(offset).ok()?, self.salt)?;
        self.offset += BATCH_HEADER_BYTES + body.len() as u64;
        Some((offset, first, body))
    }
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment<T> {
    pub(super) number: u64,
    pub(super) salt: u64,
    /// It has what comes after this.
    pub(super) after: Seq,
    pub(super) last: Seq,
    /// Bytes up to the end of its last batch.
    pub(super) used: u64,
    /// How long its file is, at least.
    pub(super) length: u64,
    pub(super) file: Arc<T>,
    /// Some batches, in order: their first sequence and where they begin.
    index: Vec<(Seq, u64)>,
}

impl<T> Segment<T> {
    pub(super) fn new(number: u64, head: &Head, file: T) -> Self {
        Self {
            number,
            salt: head.salt,
            after: head.after,
            last: head.after,
            used: SEGMENT_HEADER_BYTES,
            length: head.length,
            file: Arc::new(file),
            index: Vec::new(),
        }
    }

    /// Remembers where a batch begins, if the last one remembered is far away.
    pub(super) fn note(&mut self, offset: u64, first: Seq, every_bytes: u64) {
        let last = self.index.last().map(|(_, offset)| *offset);
        if last.is_none_or(|last| offset - last >= every_bytes) {
            self.index.push((first, offset));
        }
    }

    /// Where to begin to look for an entry.
    pub(super) fn offset_of(&self, seq: Seq) -> u64 {
        let after = self.index.partition_point(|(first, _)| *first <= seq);
        match after.checked_sub(1) {
            Some(at) => self.index[at].1,
            None => SEGMENT_HEADER_BYTES,
        }
    }
}

/// Reads the batch at `offset`, which is known to begin there, of a segment with
/// this salt that is used up to `used`.
pub(super) fn read_batch(
    file: &impl LogFile,
    salt: u64,
    offset: u64,
    used: u64,
) -> io::Result<(Seq, Bytes)> {
    let damaged = || io::Error::other("a batch is damaged");
    let mut head = [0; 32];
    file.read_at(offset, &mut head)?;
    let length = u64_at(&head, 8).filter(|length| *length <= used - offset);
    let length = length.and_then(|length| usize::try_from(length).ok());
    let mut data = vec![0; 32 + length.ok_or_else(damaged)?];
    file.read_at(offset, &mut data)?;
    batch_at(&data.into(), 0, salt).ok_or_else(damaged)
}
