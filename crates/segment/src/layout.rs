//! Where things are in a route segment: `docs/formats/segments.md`.

use waystation_balance::limits::TIERS;

use crate::error::AttachError;
use crate::limits::{HOSTS_MAX, PATHS_MAX, POOL_MAX};
use crate::memory::{Word, get, high, low};

/// Words of the header: two cache lines.
pub(crate) const HEADER_WORDS: usize = 16;

pub(crate) const MAGIC: usize = 0;
pub(crate) const VERSION: usize = 1;
pub(crate) const CAPACITY: usize = 2;
pub(crate) const SERVICE: usize = 3;
pub(crate) const OWNER: usize = 4;
/// Of a ledger: which agent counts it.
pub(crate) const COUNTED_BY: usize = 5;
/// The second line: what every pick reads.
pub(crate) const BEAT: usize = 8;
pub(crate) const STATE: usize = 9;
pub(crate) const ROUTES_SEQUENCE: usize = 10;
pub(crate) const POOL_SEQUENCE: usize = 11;

pub(crate) const ROUTE_MAGIC: u64 = u64::from_le_bytes(*b"WSROUTES");
pub(crate) const LEDGER_MAGIC: u64 = u64::from_le_bytes(*b"WSLEDGER");
/// Of both layouts. Another number is another layout: nobody guesses.
pub(crate) const LAYOUT_VERSION: u64 = 3;

/// Words of one pool entry.
pub(crate) const ENTRY_WORDS: usize = 4;
const POOL_HEADER_WORDS: usize = 8;
const POOL_WORDS: usize = POOL_HEADER_WORDS + TIERS * POOL_MAX * ENTRY_WORDS;

/// Words of one host's address.
pub(crate) const HOST_WORDS: usize = 4;
const ROUTES_HEADER_WORDS: usize = 8;
/// Words of a path: its length, and its bytes.
pub(crate) const PATH_WORDS: usize = 16;
/// Most bytes of a path; those of sockets are shorter.
pub(crate) const PATH_BYTES_MAX: usize = (PATH_WORDS - 1) * size_of::<u64>();

/// Where things are in a route segment of a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteLayout {
    pub(crate) capacity: u32,
}

impl RouteLayout {
    pub(crate) const fn new(capacity: u32) -> Self {
        Self { capacity }
    }

    const fn hosts(self) -> usize {
        self.capacity as usize
    }

    /// The counts of a pool; its entries follow.
    pub(crate) const fn pool(area: usize) -> usize {
        HEADER_WORDS + area * POOL_WORDS
    }

    /// An entry of a pool.
    pub(crate) const fn entry(area: usize, tier: usize, at: usize) -> usize {
        Self::pool(area) + POOL_HEADER_WORDS + (tier * POOL_MAX + at) * ENTRY_WORDS
    }

    /// What one call to the host in `slot` costs.
    pub(crate) const fn note(slot: u32) -> usize {
        HEADER_WORDS + 2 * POOL_WORDS + slot as usize
    }

    const fn routes_words(self) -> usize {
        ROUTES_HEADER_WORDS
            + self.hosts().div_ceil(2)
            + self.hosts() * HOST_WORDS
            + PATHS_MAX * PATH_WORDS
    }

    /// The header of the routes.
    pub(crate) const fn routes(self, area: usize) -> usize {
        Self::note(self.capacity) + area * self.routes_words()
    }

    /// The word with the eligible slots `at` and `at + 1`, for an even `at`.
    pub(crate) const fn eligible(self, area: usize, at: usize) -> usize {
        self.routes(area) + ROUTES_HEADER_WORDS + at / 2
    }

    /// The address of the host in `slot`.
    pub(crate) const fn host(self, area: usize, slot: u32) -> usize {
        self.routes(area)
            + ROUTES_HEADER_WORDS
            + self.hosts().div_ceil(2)
            + slot as usize * HOST_WORDS
    }

    /// A path of a Unix socket.
    pub(crate) const fn path(self, area: usize, at: usize) -> usize {
        self.host(area, self.capacity) + at * PATH_WORDS
    }

    /// Words of the whole segment.
    pub(crate) const fn words(self) -> usize {
        self.routes(2)
    }
}

/// Words of a ledger's header.
pub(crate) const LEDGER_HEADER_WORDS: usize = 8;
/// Words of a host's record in a ledger: one cache line.
pub(crate) const RECORD_WORDS: usize = 8;
/// Words of what was told of a host: those of its record that count ends.
pub(crate) const TOLD_WORDS: usize = 4;

/// Where things are in a ledger of a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerLayout {
    pub(crate) capacity: u32,
}

impl LedgerLayout {
    pub(crate) const fn new(capacity: u32) -> Self {
        Self { capacity }
    }

    /// Words with a bit for each host.
    pub(crate) const fn mark_words(self) -> usize {
        // Whole cache lines, so that records begin at one.
        (self.capacity as usize).div_ceil(64).next_multiple_of(8)
    }

    /// The word with the mark of `slot`.
    pub(crate) const fn mark(slot: u32) -> usize {
        LEDGER_HEADER_WORDS + slot as usize / 64
    }

    /// The record of `slot`.
    pub(crate) const fn record(self, slot: u32) -> usize {
        LEDGER_HEADER_WORDS + self.mark_words() + slot as usize * RECORD_WORDS
    }

    /// What was told of the ends in the record of `slot`.
    pub(crate) const fn told(self, slot: u32) -> usize {
        self.record(self.capacity) + slot as usize * TOLD_WORDS
    }

    /// Words of the whole segment.
    pub(crate) const fn words(self) -> usize {
        self.told(self.capacity)
    }
}

/// The capacity that a header states, if the rest of it and the length of the
/// memory are right.
pub(crate) fn capacity_of(
    words: &[Word],
    magic: u64,
    words_of: fn(u32) -> usize,
) -> Result<u32, AttachError> {
    if get(words, MAGIC) != magic {
        return Err(AttachError::NotOurs);
    }
    let version = get(words, VERSION);
    if version != LAYOUT_VERSION {
        return Err(AttachError::OtherVersion(version));
    }
    let stated = get(words, CAPACITY);
    let capacity = low(stated);
    if high(stated) != 0 || capacity == 0 || capacity > HOSTS_MAX {
        return Err(AttachError::BadCapacity(stated));
    }
    let needed = words_of(capacity);
    if words.len() < needed {
        return Err(AttachError::TooShort {
            words: words.len(),
            needed,
        });
    }
    Ok(capacity)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The places stand in the format's page: another layout is another version.
    #[test]
    fn places_are_those_of_version_3() {
        assert_eq!(LAYOUT_VERSION, 3);
        let layout = RouteLayout::new(100);
        assert_eq!(RouteLayout::pool(0), 16);
        assert_eq!(RouteLayout::pool(1), 216);
        assert_eq!(RouteLayout::entry(0, 0, 0), 24);
        assert_eq!(RouteLayout::entry(1, 2, 15), 216 + 8 + 47 * 4);
        assert_eq!(RouteLayout::note(0), 416);
        assert_eq!(layout.routes(0), 516);
        assert_eq!(layout.eligible(0, 0), 524);
        assert_eq!(layout.host(0, 0), 574);
        assert_eq!(layout.path(0, 0), 974);
        assert_eq!(layout.path(0, 63), 974 + 63 * 16);
        assert_eq!(layout.routes(1), 1998);
        assert_eq!(layout.words(), 3480);
        let ledger = LedgerLayout::new(100);
        assert_eq!(LedgerLayout::mark(64), 9);
        assert_eq!(ledger.record(0), 16);
        assert_eq!(ledger.told(0), 816);
        assert_eq!(ledger.words(), 1216);
        let page = include_str!("../../../docs/formats/segments.md");
        for place in [
            "16 | 200 × 2",
            "416 | n",
            "416 + n | 2 ×",
            "m = ceil(n / 64)",
            "8 + m + 8n | 4n",
        ] {
            assert!(page.contains(place), "the page lacks {place}");
        }
    }
}
