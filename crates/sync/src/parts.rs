//! Numbers, texts and byte strings as bytes, little-endian, for the log and for the
//! wire.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use waystation_base::{Epoch, FencingToken, Seq, SiteId};
use waystation_replica::{LifeId, Position, SiteName};

/// Appends a byte string with its length in front, in four bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("bounded by the protocol");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(crate) fn put_site(out: &mut Vec<u8>, site: SiteId) {
    out.extend_from_slice(&site.0.to_le_bytes());
}

pub(crate) fn put_life(out: &mut Vec<u8>, life: LifeId) {
    out.extend_from_slice(&life.0.to_le_bytes());
}

/// Reads bytes that may be anything: `None` where they make no sense.
pub(crate) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whatever is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    /// Goes past so many bytes.
    fn skip(&mut self, count: usize) -> Option<()> {
        let is_there = count <= self.bytes.len();
        is_there.then(|| self.bytes.advance(count))
    }

    fn take(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.bytes.len()).then(|| self.bytes.split_to(count))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        // Copied, not split off: that would count references for each number.
        let array = *self.bytes.first_chunk()?;
        self.bytes.advance(N);
        Some(array)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn site(&mut self) -> Option<SiteId> {
        self.u16().map(SiteId)
    }

    pub(crate) fn life(&mut self) -> Option<LifeId> {
        self.u128().map(LifeId)
    }

    pub(crate) fn seq(&mut self) -> Option<Seq> {
        self.u64().map(Seq)
    }

    pub(crate) fn token(&mut self) -> Option<FencingToken> {
        self.u64().map(FencingToken)
    }

    pub(crate) fn position(&mut self) -> Option<Position> {
        let epoch = Epoch(self.u64()?);
        let seq = self.seq()?;
        Some(Position { epoch, seq })
    }

    pub(crate) fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// Goes past a byte string.
    pub(crate) fn skip_bytes(&mut self) -> Option<()> {
        let length = self.u32()?;
        self.skip(usize::try_from(length).ok()?)
    }

    /// A byte string of at most so many bytes.
    pub(crate) fn bytes_within(&mut self, bytes_max: usize) -> Option<Bytes> {
        self.bytes().filter(|bytes| bytes.len() <= bytes_max)
    }

    pub(crate) fn text_within(&mut self, bytes_max: usize) -> Option<Arc<str>> {
        let bytes = self.bytes_within(bytes_max)?;
        std::str::from_utf8(&bytes).ok().map(Arc::from)
    }

    pub(crate) fn name(&mut self) -> Option<SiteName> {
        SiteName::new(std::str::from_utf8(&self.bytes()?).ok()?).ok()
    }
}
