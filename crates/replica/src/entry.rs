//! What the log holds, and what travels in chunks.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use twox_hash::XxHash3_128;
use waystation_base::SiteId;

use crate::ids::{Ahead, Cursor, LifeId, Position};

/// The key under which a client publishes, so that the same publish sent twice
/// becomes one entry: at most
/// [`CLIENT_KEY_BYTES_MAX`](crate::limits::CLIENT_KEY_BYTES_MAX) bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub Arc<[u8]>);

impl ClientKey {
    /// The key with these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// Where an entry comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client that published at the hub.
    Client {
        /// Its key, if it gave one.
        key: Option<ClientKey>,
    },
    /// A site whose writes are captured.
    Site {
        /// The site.
        site: SiteId,
        /// The life of its copy.
        life: LifeId,
        /// Its own number of the change; counts up by one.
        source: u64,
    },
}

impl Origin {
    /// Whether a copy that contains `ahead` contains this entry.
    pub fn is_within(&self, ahead: &Ahead) -> bool {
        matches!(*self, Self::Site { site, life, source }
            if site == ahead.site && life == ahead.life && source <= ahead.source)
    }
}

/// One write, at its place in the total order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// Where it comes from.
    pub origin: Origin,
    /// What to apply; opaque here.
    pub payload: Bytes,
}

/// What an entry touches, as far as its payload tells. The adapter computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touches {
    /// Rows with these keys, hashed.
    Keys(Vec<u64>),
    /// It cannot be told: a plain statement, for instance.
    Anything,
}

/// Tells what entries touch. Clones share what it goes by.
#[derive(Clone)]
pub struct TouchesOf(Arc<dyn Fn(&Entry) -> Touches + Send + Sync>);

impl TouchesOf {
    /// Tells it by a function.
    pub fn new(of: impl Fn(&Entry) -> Touches + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    /// What an entry touches. Cost: the function's.
    pub fn of(&self, entry: &Entry) -> Touches {
        (self.0)(entry)
    }
}

impl Default for TouchesOf {
    /// Any entry may touch anything.
    fn default() -> Self {
        Self::new(|_| Touches::Anything)
    }
}

impl fmt::Debug for TouchesOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TouchesOf")
    }
}

/// About how large a snapshot is, for whoever waits for it. Zero where nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSize {
    /// Bytes of its rows.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
}

/// A piece of a snapshot: the rows with keys in `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The chunks before it, from the start of the copy.
    pub index: u64,
    /// Its first key at the earliest.
    pub from: Cursor,
    /// The first key after it; `None` for the last chunk.
    pub to: Option<Cursor>,
    /// How many rows it has.
    pub rows: u64,
    /// The rows; opaque here.
    pub data: Bytes,
    /// [`chunk_hash`] of the whole.
    pub hash: u128,
}

impl Chunk {
    /// A chunk with its hash.
    pub fn new(index: u64, from: Cursor, to: Option<Cursor>, rows: u64, data: Bytes) -> Self {
        let hash = chunk_hash(index, &from, to.as_ref(), &data);
        Self {
            index,
            from,
            to,
            rows,
            data,
            hash,
        }
    }

    /// Whether its content has the hash that it carries. Cost: O(bytes).
    pub fn is_intact(&self) -> bool {
        self.hash == chunk_hash(self.index, &self.from, self.to.as_ref(), &self.data)
    }
}

/// The hash of a chunk: XXH3 of 128 bits over its data and its bounds. It finds
/// bytes that were damaged, not bytes that an attacker chose. Cost: O(bytes).
pub fn chunk_hash(index: u64, from: &Cursor, to: Option<&Cursor>, data: &[u8]) -> u128 {
    let mut bounds = Vec::with_capacity(64);
    bounds.extend_from_slice(&index.to_le_bytes());
    bounds.extend_from_slice(&(from.as_bytes().len() as u64).to_le_bytes());
    bounds.extend_from_slice(from.as_bytes());
    if let Some(to) = to {
        bounds.push(1);
        bounds.extend_from_slice(to.as_bytes());
    }
    XxHash3_128::oneshot(data) ^ XxHash3_128::oneshot(&bounds).rotate_left(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_was_damaged_anywhere_is_found() {
        let to = Some(Cursor::new(b"m"));
        let chunk = Chunk::new(3, Cursor::new(b"c"), to, 2, Bytes::from_static(b"rows"));
        assert!(chunk.is_intact());
        let damaged = [
            Chunk {
                index: 4,
                ..chunk.clone()
            },
            Chunk {
                from: Cursor::new(b"d"),
                ..chunk.clone()
            },
            Chunk {
                to: None,
                ..chunk.clone()
            },
            Chunk {
                data: Bytes::from_static(b"rowt"),
                ..chunk.clone()
            },
        ];
        assert!(damaged.iter().all(|one| !one.is_intact()));
    }

    #[test]
    fn an_entry_is_within_what_its_own_writer_holds() {
        let (site, life) = (SiteId(1), LifeId(7));
        let ahead = Ahead {
            site,
            life,
            source: 5,
        };
        let origin = |source| Origin::Site { site, life, source };
        assert!(origin(5).is_within(&ahead));
        assert!(!origin(6).is_within(&ahead));
        let other_life = Origin::Site {
            site,
            life: LifeId(8),
            source: 1,
        };
        assert!(!other_life.is_within(&ahead));
        assert!(!Origin::Client { key: None }.is_within(&ahead));
    }
}
