//! Hashes of ranges of rows, for the proof that copies are equal.

use twox_hash::{XxHash3_64, XxHash3_128};
use waystation_replica::Cursor;

use crate::limits::RANGE_ROWS;

/// What a range of rows amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeHash {
    /// The range's last key: the next one begins after it.
    pub last: Cursor,
    /// How many rows it has.
    pub rows: u64,
    /// XXH3 of 128 bits over keys and rows in order, chained row by row.
    pub hash: u128,
}

/// Whether a range ends after the row with this key. The key alone decides, one of
/// [`RANGE_ROWS`] on average: so a row that is missing in one copy moves the bounds
/// of its own range only. The idea is that of content-defined chunks: Athicha
/// Muthitacharoen, Benjie Chen, David Mazières, "A Low-bandwidth Network File
/// System", 2001, section 3.1; here keys take the place of its window of bytes.
pub fn ends_range(key: &Cursor) -> bool {
    XxHash3_64::oneshot(key.as_bytes()).is_multiple_of(RANGE_ROWS)
}

/// Hashes one range, row by row: the hash of each row is taken over the hash so far
/// and the row, so that its order counts.
#[derive(Default)]
pub struct RangeHasher {
    hash: u128,
    last: Option<Cursor>,
    rows: u64,
    buffer: Vec<u8>,
}

impl RangeHasher {
    /// Takes in the next row, its columns in one unambiguous encoding. True when
    /// the range ends with it. Cost: O(bytes).
    pub fn push(&mut self, key: Cursor, row: &[u8]) -> bool {
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.hash.to_le_bytes());
        let key_bytes = key.as_bytes();
        let length = key_bytes.len() as u64;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(key_bytes);
        self.buffer.extend_from_slice(row);
        self.hash = XxHash3_128::oneshot(&self.buffer);
        self.rows += 1;
        let is_end = ends_range(&key);
        self.last = Some(key);
        is_end
    }

    /// The range; none if it has no row.
    pub fn finish(self) -> Option<RangeHash> {
        Some(RangeHash {
            last: self.last?,
            rows: self.rows,
            hash: self.hash,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(rows: impl Iterator<Item = u32>) -> Vec<RangeHash> {
        let mut all = Vec::new();
        let mut hasher = RangeHasher::default();
        for row in rows {
            let key = row.to_be_bytes();
            if hasher.push(Cursor::new(&key), &key) {
                all.extend(std::mem::take(&mut hasher).finish());
            }
        }
        all.extend(hasher.finish());
        all
    }

    #[test]
    fn a_row_that_is_missing_changes_its_own_range_only() {
        let whole = ranges(0..20_000);
        assert!(whole.len() > 5, "{} ranges", whole.len());
        let rows: u64 = whole.iter().map(|one| one.rows).sum();
        assert_eq!(rows, 20_000);
        let missing = ranges((0..20_000).filter(|row| *row != 7_777));
        let differing = whole.iter().filter(|one| !missing.contains(one)).count();
        assert_eq!(differing, 1);
    }

    #[test]
    fn where_a_key_ends_and_its_row_begins_counts() {
        let hash = |key: &[u8], row: &[u8]| {
            let mut hasher = RangeHasher::default();
            hasher.push(Cursor::new(key), row);
            hasher.finish().map(|range| range.hash)
        };
        assert_ne!(hash(b"ab", b"c"), hash(b"a", b"bc"));
        assert_eq!(RangeHasher::default().finish(), None);
    }
}
