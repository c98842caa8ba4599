//! Entries and records as bytes: `docs/formats/sync-log.md`.

use std::sync::Arc;

use bytes::Bytes;
use waystation_base::{Epoch, Seq};
use waystation_replica::limits::CLIENT_KEY_BYTES_MAX;
use waystation_replica::{ClientKey, Entry, Origin, Phase, Position, Record, SiteRecord};

use crate::parts::{Reader, put_bytes, put_life, put_site, put_u64};

const CLIENT: u8 = 1;
const CLIENT_WITH_KEY: u8 = 2;
const CAPTURED: u8 = 3;
const SITE: u8 = 16;
const FORGOTTEN: u8 = 17;
const START: u8 = 18;

/// Bytes of the item that [`put_start`] puts.
pub(super) const START_BYTES: u64 = 9;

/// One item of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Entry(Arc<Entry>),
    Record(Record),
    /// What comes before this may be gone: it was trimmed.
    Start(Seq),
}

pub(super) fn put_start(out: &mut Vec<u8>, start: Seq) {
    out.push(START);
    put_u64(out, start.0);
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    match &entry.origin {
        Origin::Client { key: None } => out.push(CLIENT),
        Origin::Client { key: Some(key) } => {
            out.push(CLIENT_WITH_KEY);
            put_bytes(out, &key.0);
        }
        Origin::Site { site, life, source } => {
            out.push(CAPTURED);
            put_site(out, *site);
            put_life(out, *life);
            put_u64(out, *source);
        }
    }
    put_bytes(out, &entry.payload);
}

pub(crate) fn put_record(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Site(record) => {
            out.push(SITE);
            put_site(out, record.site);
            put_bytes(out, record.name.as_str().as_bytes());
            put_life(out, record.life);
            out.push(match record.phase {
                Phase::Fresh => 0,
                Phase::Restoring => 1,
                Phase::Live => 2,
                Phase::Evicted => 3,
                Phase::Beyond => 4,
            });
            put_u64(out, record.at.0);
            put_u64(out, record.token.0);
            out.push(flags(record));
            put_u64(out, record.source);
        }
        Record::Forgotten(site) => {
            out.push(FORGOTTEN);
            put_site(out, *site);
        }
    }
}

/// What a site may and is, in one byte. One of a release that did not tell whether there
/// are rows says that there are.
fn flags(record: &SiteRecord) -> u8 {
    u8::from(record.may_write) | u8::from(!record.has_rows) << 1
}

fn read_site(reader: &mut Reader) -> Option<SiteRecord> {
    let flags;
    Some(SiteRecord {
        site: reader.site()?,
        name: reader.name()?,
        life: reader.life()?,
        phase: match reader.u8()? {
            0 => Phase::Fresh,
            1 => Phase::Restoring,
            2 => Phase::Live,
            3 => Phase::Evicted,
            4 => Phase::Beyond,
            _ => return None,
        },
        at: reader.seq()?,
        token: reader.token()?,
        may_write: {
            flags = reader.u8().filter(|flags| *flags < 4)?;
            flags & 1 != 0
        },
        source: reader.u64()?,
        has_rows: flags & 2 == 0,
    })
}

/// Bytes that are no items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads a batch's body, one item after the other.
pub(crate) struct Items {
    reader: Reader,
    epoch: Epoch,
    /// The next entry's.
    seq: Seq,
}

impl Items {
    /// A body whose first entry has the sequence `first`.
    pub(crate) fn new(body: Bytes, epoch: Epoch, first: Seq) -> Self {
        let reader = Reader::new(body);
        Self {
            reader,
            epoch,
            seq: first,
        }
    }

    /// The next record, or entry at `from` or later; those before are passed over,
    /// which costs a few reads of numbers. `Ok(None)` at the end.
    ///
    /// # Errors
    /// The bytes make no sense; whatever they are, this ends.
    pub(crate) fn next_from(&mut self, from: Seq) -> Result<Option<Item>, Malformed> {
        while !self.reader.is_empty() {
            if let Some(item) = self.item(from)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// The item, or none for an entry that was passed over.
    fn item(&mut self, from: Seq) -> Result<Option<Item>, Malformed> {
        let is_wanted = self.seq >= from;
        match take_kind(&mut self.reader).ok_or(Malformed)? {
            Kind::Record(record) => return Ok(Some(Item::Record(record))),
            Kind::Start(start) => return Ok(Some(Item::Start(start))),
            Kind::Entry(_) if !is_wanted => self.reader.skip_bytes().ok_or(Malformed)?,
            Kind::Entry(origin) => {
                let payload = self.reader.bytes().ok_or(Malformed)?;
                let position = Position {
                    epoch: self.epoch,
                    seq: self.seq,
                };
                let entry = Entry {
                    position,
                    origin,
                    payload,
                };
                self.count()?;
                return Ok(Some(Item::Entry(Arc::new(entry))));
            }
        }
        self.count()?;
        Ok(None)
    }

    /// An entry is behind.
    fn count(&mut self) -> Result<(), Malformed> {
        self.seq = Seq(self.seq.0.checked_add(1).ok_or(Malformed)?);
        Ok(())
    }
}

/// A record, or what stands before an entry's payload.
enum Kind {
    Record(Record),
    Start(Seq),
    Entry(Origin),
}

fn take_kind(reader: &mut Reader) -> Option<Kind> {
    Some(match reader.u8()? {
        SITE => Kind::Record(Record::Site(read_site(reader)?)),
        FORGOTTEN => Kind::Record(Record::Forgotten(reader.site()?)),
        START => Kind::Start(reader.seq()?),
        CLIENT => Kind::Entry(Origin::Client { key: None }),
        CLIENT_WITH_KEY => Kind::Entry(Origin::Client {
            key: Some(ClientKey::new(&reader.bytes_within(CLIENT_KEY_BYTES_MAX)?)),
        }),
        CAPTURED => Kind::Entry(Origin::Site {
            site: reader.site()?,
            life: reader.life()?,
            source: reader.u64()?,
        }),
        _ => return None,
    })
}

/// Reads a batch's body whose first entry has the sequence `first`. Total: any
/// bytes yield items or `None`. Payloads share the body's bytes.
pub(crate) fn decode(body: Bytes, epoch: Epoch, first: Seq) -> Option<Vec<Item>> {
    let mut read = Items::new(body, epoch, first);
    let mut items = Vec::new();
    while let Some(item) = read.next_from(first).ok()? {
        items.push(item);
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use waystation_base::{FencingToken, SiteId};
    use waystation_replica::{LifeId, SiteName};

    use super::*;

    fn items() -> Vec<Item> {
        let origins = [
            Origin::Client { key: None },
            Origin::Client {
                key: Some(ClientKey::new(b"key")),
            },
            Origin::Site {
                site: SiteId(3),
                life: LifeId(9),
                source: 4,
            },
        ];
        let entries = origins.into_iter().zip(5..).map(|(origin, seq)| {
            Item::Entry(Arc::new(Entry {
                position: Position::new(1, seq),
                origin,
                payload: Bytes::from_static(b"payload"),
            }))
        });
        let record = SiteRecord {
            site: SiteId(3),
            name: SiteName::new("room-b").unwrap(),
            life: LifeId(7),
            phase: Phase::Live,
            at: Seq(4),
            token: FencingToken(2),
            may_write: true,
            source: 8,
            has_rows: true,
        };
        let handler = SiteRecord {
            has_rows: false,
            ..record.clone()
        };
        let sites = [record, handler].map(Record::Site).into_iter();
        let records = sites.chain([Record::Forgotten(SiteId(4))]);
        let records = records.map(Item::Record);
        entries
            .chain(records)
            .chain([Item::Start(Seq(2))])
            .collect()
    }

    fn encode(items: &[Item]) -> Bytes {
        let mut out = Vec::new();
        for item in items {
            match item {
                Item::Entry(entry) => put_entry(&mut out, entry),
                Item::Start(start) => put_start(&mut out, *start),
                Item::Record(record) => put_record(&mut out, record),
            }
        }
        out.into()
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let body = encode(&items());
        assert_eq!(decode(body, Epoch(1), Seq(5)), Some(items()));
    }

    #[test]
    fn entries_before_the_first_that_is_wanted_are_passed_over() {
        let mut read = Items::new(encode(&items()), Epoch(1), Seq(5));
        let mut found = Vec::new();
        while let Some(item) = read.next_from(Seq(7)).unwrap() {
            found.push(item);
        }
        assert_eq!(found, items()[2..]);
    }

    #[test]
    fn bytes_that_are_cut_or_changed_never_panic() {
        let body = encode(&items());
        for cut in 0..body.len() {
            let _ = decode(body.slice(..cut), Epoch(1), Seq(5));
            let mut changed = body.to_vec();
            changed[cut] ^= 0x55;
            let _ = decode(changed.into(), Epoch(1), Seq(5));
        }
        let huge = Bytes::from_static(&[CLIENT, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(decode(huge, Epoch(1), Seq(5)), None);
        assert_eq!(decode(encode(&items()), Epoch(1), Seq(u64::MAX)), None);
    }
}
