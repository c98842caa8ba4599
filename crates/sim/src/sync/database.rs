//! A site's database, as it is after a crash.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use waystation_base::{Seq, SiteId};
use waystation_replica::{
    Ahead, ApplyBatch, Chunk, Cursor, Entry, Holding, LifeId, Position, StoreChunk, Touches,
    Verdict,
};

/// Keys 0.. of all rows. The last ones are written by one capturing site only each:
/// see [`own_keys`].
pub(super) const KEYS: usize = 24;
pub(super) const OWN_KEYS: usize = 4;
/// Sites that may capture what is written to them: the first ones.
pub(super) const WRITERS: usize = 2;
/// Keys that only clients write.
pub(super) const SHARED_KEYS: usize = KEYS - WRITERS * OWN_KEYS;

/// The keys that a capturing site writes.
pub(super) fn own_keys(writer: usize) -> Range<usize> {
    let start = SHARED_KEYS + writer * OWN_KEYS;
    start..start + OWN_KEYS
}
/// Rows of a chunk.
const CHUNK_ROWS: usize = 3;

/// All rows. A value is a hash of every write to it in order, so that a write that
/// is missing, doubled or out of order shows; zero is no row.
pub(super) type Rows = [u64; KEYS];

/// One write: some keys, and a number that no other write has.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) keys: Vec<u8>,
    pub(super) nonce: u64,
}

impl Write {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = self.nonce.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.keys);
        bytes.into()
    }

    pub(super) fn decode(payload: &[u8]) -> Self {
        let (nonce, keys) = payload.split_at(8);
        Self {
            keys: keys.to_vec(),
            nonce: u64::from_le_bytes(nonce.try_into().expect("eight bytes")),
        }
    }

    /// Applies the write to rows with keys below `below`.
    pub(super) fn apply(&self, rows: &mut Rows, below: usize) {
        for &key in &self.keys {
            let key = usize::from(key);
            if key < below {
                let is_delete = self.nonce.is_multiple_of(11);
                rows[key] = if is_delete {
                    0
                } else {
                    mix(rows[key], self.nonce)
                };
            }
        }
    }
}

fn mix(value: u64, nonce: u64) -> u64 {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.extend_from_slice(&nonce.to_le_bytes());
    waystation_base::hash64(&bytes)
}

pub(super) fn touches(entry: &Entry) -> Touches {
    let keys = Write::decode(&entry.payload).keys;
    Touches::Keys(keys.into_iter().map(u64::from).collect())
}

/// The key below which rows are there.
pub(super) fn key_of(cursor: &Cursor) -> usize {
    cursor.as_bytes().first().map_or(0, |key| usize::from(*key))
}

/// What a site's database holds durably.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) life: LifeId,
    pub(super) holding: Holding,
    pub(super) rows: Rows,
    pub(super) parked: BTreeMap<Seq, Arc<Entry>>,
    /// Captured changes that are not erased, by number.
    pub(super) outbox: BTreeMap<u64, Bytes>,
    pub(super) captured: u64,
    /// The last own change that came back through the log.
    pub(super) returned: u64,
    pub(super) snapshots: BTreeMap<u64, (Rows, Position)>,
}

impl Copy {
    pub(super) fn new(life: u128) -> Self {
        Self {
            life: LifeId(life),
            holding: Holding::Fresh,
            rows: [0; KEYS],
            parked: BTreeMap::new(),
            outbox: BTreeMap::new(),
            captured: 0,
            returned: 0,
            snapshots: BTreeMap::new(),
        }
    }

    /// Up to which key rows are there.
    pub(super) fn reach(&self) -> usize {
        match &self.holding {
            Holding::Fresh => 0,
            Holding::Restoring(part) => key_of(&part.cursor),
            Holding::At { .. } => KEYS,
        }
    }

    /// One transaction: the entries and the position.
    pub(super) fn apply(&mut self, batch: &ApplyBatch, site: Option<SiteId>) {
        let below = batch.below.as_ref().map_or(KEYS, key_of);
        for (entry, verdict) in &batch.entries {
            if let waystation_replica::Origin::Site {
                site: origin,
                life,
                source,
            } = entry.origin
                && Some(origin) == site
                && life == self.life
            {
                self.returned = source;
            }
            match verdict {
                Verdict::Apply => Write::decode(&entry.payload).apply(&mut self.rows, below),
                Verdict::Park => {
                    self.parked.insert(entry.position.seq, Arc::clone(entry));
                }
                Verdict::Contained | Verdict::Skip => {}
            }
        }
        self.move_to(batch.position, batch.ahead);
    }

    pub(super) fn move_to(&mut self, position: Position, ahead: Option<Ahead>) {
        match &mut self.holding {
            Holding::Restoring(part) => part.position = position,
            holding => *holding = Holding::At { position, ahead },
        }
    }

    /// One transaction: the chunk's rows and what the copy then holds.
    pub(super) fn store(&mut self, store: &StoreChunk, life: LifeId) {
        if store.chunk.index == 0 {
            *self = Self::new(life.0);
        }
        for pair in store.chunk.data.chunks_exact(9) {
            let (key, value) = pair.split_at(1);
            let value = value.try_into().expect("eight bytes");
            self.rows[usize::from(key[0])] = u64::from_le_bytes(value);
        }
        self.holding = store.holding.clone();
    }

    pub(super) fn read_chunk(&self, snapshot: u64, index: u64, from: &Cursor) -> Option<Chunk> {
        let (rows, _) = self.snapshots.get(&snapshot)?;
        let start = key_of(from);
        let end = (start + CHUNK_ROWS).min(KEYS);
        let mut data = Vec::new();
        for (key, value) in rows.iter().enumerate().take(end).skip(start) {
            data.push(u8::try_from(key).expect("few keys"));
            data.extend_from_slice(&value.to_le_bytes());
        }
        let end = u8::try_from(end).expect("few keys");
        let to = (usize::from(end) < KEYS).then(|| Cursor::new(&[end]));
        let rows = data.len() as u64 / 9;
        Some(Chunk::new(index, from.clone(), to, rows, data.into()))
    }

    /// A change by the site's own application: its row and its outbox row in one
    /// transaction.
    pub(super) fn capture(&mut self, write: &Write) {
        write.apply(&mut self.rows, KEYS);
        self.captured += 1;
        self.outbox.insert(self.captured, write.encode());
    }
}
