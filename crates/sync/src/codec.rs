//! What hub and sites say to each other, as bytes: `docs/formats/sync-wire.md`.
//!
//! Messages are of any length up to [`SYNC_MESSAGE_BYTES_MAX`]; they travel in
//! [pieces](Pieces), each the body of one native frame. Decoders are total: any
//! bytes yield a message or [`DecodeError`].

mod pieces;
mod proof;
mod refusals;
#[cfg(test)]
mod tests;
mod to_hub;
mod to_site;

use bytes::Bytes;
use thiserror::Error;

use waystation_base::Seq;
use waystation_replica::limits::CURSOR_BYTES_MAX;
use waystation_replica::{Ahead, Cursor, Pull, SnapshotId, SnapshotSize, ToHub, ToSite};

pub use pieces::{PieceError, Pieces, for_each_piece};
pub use proof::{Proof, ProofAnswer, ProofSaid};

#[cfg(doc)]
use crate::limits::SYNC_MESSAGE_BYTES_MAX;
use crate::parts::{Reader, put_bytes, put_life, put_site, put_u64};

/// The protocol's version, which a hello carries. A hub refuses sites of any other:
/// it and its sites are of one release.
pub const SYNC_VERSION: u16 = 2;

/// Message ids of the native frames of sync. Each has the version of its own body;
/// what is said in pieces has that of the hello.
pub mod id {
    use waystation_base::MessageId;

    /// A piece of a message from a site: a push.
    pub const TO_HUB: MessageId = MessageId::of("waystation.sync.v1/ToHub");
    /// A piece of a message to a site: a push.
    pub const TO_SITE: MessageId = MessageId::of("waystation.sync.v1/ToSite");
    /// A piece of a large payload that is about to be published: a push.
    pub const PUBLISH_PART: MessageId = MessageId::of("waystation.sync.v1/PublishPart");
    /// Publishes: a request.
    pub const PUBLISH: MessageId = MessageId::of("waystation.sync.v2/Publish");
    /// Publishes, as version 1 said it: a request, which is refused.
    pub const PUBLISH_1: MessageId = MessageId::of("waystation.sync.v1/Publish");
    /// Asks for an operation, in JSON: a request.
    pub const OPERATE: MessageId = MessageId::of("waystation.sync.v1/Operate");
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The other side speaks another version: run one release at the hub and at all
    /// sites.
    #[error(
        "version {found} of the sync protocol, but the hub speaks version {SYNC_VERSION}: \
         run the same release here and there"
    )]
    Version {
        /// Its version.
        found: u16,
    },
    /// They make no sense.
    #[error("bytes that are no message of sync")]
    Malformed,
}

/// What comes from a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSite {
    /// For the cores.
    Core(ToHub),
    /// Part of a proof of equality.
    Proof(ProofAnswer),
}

/// What comes from the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromHub {
    /// For the core.
    Core(ToSite),
    /// Wants a proof of equality.
    Proof(Proof),
    /// A proof found all copies equal at this sequence: what this one skipped up to
    /// there is repaired.
    Equal(Seq),
}

impl FromSite {
    /// The message as bytes. Cost: O(bytes).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Core(message) => to_hub::put(&mut out, message),
            Self::Proof(answer) => proof::put_answer(&mut out, answer),
        }
        out
    }

    /// Reads a message; byte strings in it share its bytes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8().ok_or(DecodeError::Malformed)?;
        let message = if kind == proof::KIND {
            proof::take_answer(&mut reader).map(Self::Proof)
        } else {
            to_hub::take(&mut reader, kind)?.map(Self::Core)
        };
        whole(message, &reader)
    }
}

impl FromHub {
    /// The message as bytes. Cost: O(bytes).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Core(message) => to_site::put(&mut out, message),
            Self::Proof(wanted) => proof::put(&mut out, wanted),
            Self::Equal(at) => {
                out.push(proof::KIND_EQUAL);
                put_u64(&mut out, at.0);
            }
        }
        out
    }

    /// Reads a message; byte strings in it share its bytes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8().ok_or(DecodeError::Malformed)?;
        let message = match kind {
            proof::KIND => proof::take(&mut reader).map(Self::Proof),
            proof::KIND_EQUAL => reader.seq().map(Self::Equal),
            _ => to_site::take(&mut reader, kind).map(Self::Core),
        };
        whole(message, &reader)
    }
}

/// A message with nothing behind it.
fn whole<T>(message: Option<T>, reader: &Reader) -> Result<T, DecodeError> {
    message
        .filter(|_| reader.is_empty())
        .ok_or(DecodeError::Malformed)
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// The outer `None` for bytes that make no sense.
#[allow(
    clippy::option_option,
    reason = "every `take_*` answers an option of what it takes"
)]
fn take_option<T>(
    reader: &mut Reader,
    take: impl FnOnce(&mut Reader) -> Option<T>,
) -> Option<Option<T>> {
    if reader.flag()? {
        take(reader).map(Some)
    } else {
        Some(None)
    }
}

fn put_ahead(out: &mut Vec<u8>, ahead: Option<Ahead>) {
    put_option(out, ahead, |out, ahead| {
        put_site(out, ahead.site);
        put_life(out, ahead.life);
        put_u64(out, ahead.source);
    });
}

#[allow(clippy::option_option, reason = "as in `take_option`")]
fn take_ahead(reader: &mut Reader) -> Option<Option<Ahead>> {
    take_option(reader, |reader| {
        Some(Ahead {
            site: reader.site()?,
            life: reader.life()?,
            source: reader.u64()?,
        })
    })
}

fn put_size(out: &mut Vec<u8>, size: SnapshotSize) {
    put_u64(out, size.bytes);
    put_u64(out, size.rows);
}

fn take_size(reader: &mut Reader) -> Option<SnapshotSize> {
    let (bytes, rows) = (reader.u64()?, reader.u64()?);
    Some(SnapshotSize { bytes, rows })
}

fn put_cursor(out: &mut Vec<u8>, cursor: &Cursor) {
    put_bytes(out, cursor.as_bytes());
}

fn take_cursor(reader: &mut Reader) -> Option<Cursor> {
    let bytes = reader.bytes_within(CURSOR_BYTES_MAX)?;
    Some(Cursor::new(&bytes))
}

fn put_pull(out: &mut Vec<u8>, pull: &Pull) {
    put_u64(out, pull.snapshot.0);
    put_u64(out, pull.index);
    put_cursor(out, &pull.from);
    put_u64(out, pull.until);
    out.push(u8::from(pull.is_first));
}

fn take_pull(reader: &mut Reader) -> Option<Pull> {
    Some(Pull {
        snapshot: SnapshotId(reader.u64()?),
        index: reader.u64()?,
        from: take_cursor(reader)?,
        until: reader.u64()?,
        is_first: reader.flag()?,
    })
}
