//! The messages of a proof of equality, which passes the cores by.

use std::sync::Arc;

use waystation_base::Seq;
use waystation_replica::Position;

use super::refusals::{put_text, take_text};
use super::{put_cursor, put_option, take_cursor, take_option};
use crate::adapter::RangeHash;
use crate::parts::{Reader, put_u64};

/// The first byte of messages of a proof, in both directions.
pub(super) const KIND: u8 = 64;

/// The first byte of the message that tells of copies that were found equal.
pub(super) const KIND_EQUAL: u8 = 65;

/// The hub wants the hashes of a copy as it is at a sequence. What is sent before
/// this brings the copy there at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The proof's number at this hub.
    pub proof: u64,
    /// The sequence. None first: the site shall hold still, so that a sequence can be
    /// found at which the copy has no write that the log has not.
    pub at: Option<Seq>,
}

/// A site answers a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofAnswer {
    /// The proof's number.
    pub proof: u64,
    /// What the site says.
    pub said: ProofSaid,
}

/// What a site says of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofSaid {
    /// Some of its ranges, in order.
    Ranges(Vec<RangeHash>),
    /// That was all of them.
    Done {
        /// The exact position of the copy that was hashed.
        position: Position,
        /// The last captured write that it contains and that has not come back
        /// through the log: such a copy cannot equal the others.
        captured: Option<u64>,
    },
    /// There are no hashes.
    Failed(Arc<str>),
    /// There are no rows: nothing to compare.
    NoRows,
    /// It holds still.
    Still {
        /// Whether it keeps writers out, and the log has what they wrote. A site
        /// that captures nothing has none to keep out, and one that may not publish
        /// cannot.
        is_held: bool,
    },
}

pub(super) fn put(out: &mut Vec<u8>, proof: &Proof) {
    out.push(KIND);
    put_u64(out, proof.proof);
    put_option(out, proof.at, |out, at| put_u64(out, at.0));
}

pub(super) fn take(reader: &mut Reader) -> Option<Proof> {
    Some(Proof {
        proof: reader.u64()?,
        at: take_option(reader, Reader::seq)?,
    })
}

pub(super) fn put_answer(out: &mut Vec<u8>, answer: &ProofAnswer) {
    out.push(KIND);
    put_u64(out, answer.proof);
    match &answer.said {
        ProofSaid::Ranges(ranges) => {
            out.push(0);
            for range in ranges {
                put_cursor(out, &range.last);
                put_u64(out, range.rows);
                out.extend_from_slice(&range.hash.to_le_bytes());
            }
        }
        ProofSaid::Done { position, captured } => {
            out.push(1);
            put_u64(out, position.epoch.0);
            put_u64(out, position.seq.0);
            put_option(out, *captured, put_u64);
        }
        ProofSaid::Failed(error) => {
            out.push(2);
            put_text(out, error);
        }
        ProofSaid::NoRows => out.push(3),
        ProofSaid::Still { is_held } => out.extend([4, u8::from(*is_held)]),
    }
}

pub(super) fn take_answer(reader: &mut Reader) -> Option<ProofAnswer> {
    let proof = reader.u64()?;
    let said = match reader.u8()? {
        0 => {
            let mut ranges = Vec::new();
            while !reader.is_empty() {
                ranges.push(RangeHash {
                    last: take_cursor(reader)?,
                    rows: reader.u64()?,
                    hash: reader.u128()?,
                });
            }
            ProofSaid::Ranges(ranges)
        }
        1 => ProofSaid::Done {
            position: reader.position()?,
            captured: take_option(reader, Reader::u64)?,
        },
        2 => ProofSaid::Failed(take_text(reader)?),
        3 => ProofSaid::NoRows,
        4 => ProofSaid::Still {
            is_held: reader.flag()?,
        },
        _ => return None,
    };
    Some(ProofAnswer { proof, said })
}
