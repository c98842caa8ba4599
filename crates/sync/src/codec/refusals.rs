//! Refusals as bytes.

use std::sync::Arc;

use waystation_base::Epoch;
use waystation_replica::limits::ERROR_BYTES_MAX;
use waystation_replica::{JoinError, PublishRefusal, Refusal, Violation};

use crate::parts::{Reader, put_bytes, put_life, put_u64};

/// A text, cut where it is too long.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, cut(text).as_bytes());
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(super) fn take_text(reader: &mut Reader) -> Option<Arc<str>> {
    reader.text_within(ERROR_BYTES_MAX)
}

fn put_two(out: &mut Vec<u8>, kind: u8, first: u64, second: u64) {
    out.push(kind);
    put_u64(out, first);
    put_u64(out, second);
}

fn put_told(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    put_text(out, text);
}

pub(super) fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    match refusal {
        Refusal::SecondMaster { life } => {
            out.push(1);
            put_life(out, *life);
        }
        Refusal::OtherEpoch { ours, theirs } => put_two(out, 2, ours.0, theirs.0),
        Refusal::PastEnd { claimed, end } => put_two(out, 3, claimed.0, end.0),
        Refusal::MustReseed { at, start } => put_two(out, 4, at.0, start.0),
        Refusal::UnknownSite { name } => put_told(out, 5, name.as_str()),
        Refusal::OtherLife { name, life } => {
            put_told(out, 6, name.as_str());
            put_life(out, *life);
        }
        Refusal::Superseded => out.push(7),
        Refusal::Silent => out.push(8),
        Refusal::SitesFull => out.push(9),
        Refusal::LogFailed => out.push(10),
        Refusal::WasPastEnd { claimed } => {
            out.push(12);
            put_u64(out, claimed.0);
        }
        Refusal::OlderCopy {
            at,
            acked,
            captured,
            published,
        } => {
            put_two(out, 13, at.0, acked.0);
            put_u64(out, *captured);
            put_u64(out, *published);
        }
        other => put_told(out, 11, &other.to_string()),
    }
}

pub(super) fn take_refusal(reader: &mut Reader) -> Option<Refusal> {
    Some(match reader.u8()? {
        1 => Refusal::SecondMaster {
            life: reader.life()?,
        },
        2 => Refusal::OtherEpoch {
            ours: Epoch(reader.u64()?),
            theirs: Epoch(reader.u64()?),
        },
        3 => Refusal::PastEnd {
            claimed: reader.seq()?,
            end: reader.seq()?,
        },
        4 => Refusal::MustReseed {
            at: reader.seq()?,
            start: reader.seq()?,
        },
        5 => Refusal::UnknownSite {
            name: reader.name()?,
        },
        6 => Refusal::OtherLife {
            name: reader.name()?,
            life: reader.life()?,
        },
        7 => Refusal::Superseded,
        8 => Refusal::Silent,
        9 => Refusal::SitesFull,
        10 => Refusal::LogFailed,
        11 => Refusal::Violation(Violation::Told {
            text: take_text(reader)?,
        }),
        12 => Refusal::WasPastEnd {
            claimed: reader.seq()?,
        },
        13 => Refusal::OlderCopy {
            at: reader.seq()?,
            acked: reader.seq()?,
            captured: reader.u64()?,
            published: reader.u64()?,
        },
        _ => return None,
    })
}

pub(super) fn put_join_error(out: &mut Vec<u8>, error: &JoinError) {
    match error {
        JoinError::UnknownDonor { name } => put_told(out, 1, name.as_str()),
        JoinError::DonorNotLive { name } => put_told(out, 2, name.as_str()),
        JoinError::NoDonor => out.push(3),
        JoinError::DumpFailed { error } => put_told(out, 4, error),
        JoinError::MustReseed { at, start } => put_two(out, 5, at.0, start.0),
        JoinError::LogFailed => out.push(6),
        other => put_told(out, 4, &other.to_string()),
    }
}

pub(super) fn take_join_error(reader: &mut Reader) -> Option<JoinError> {
    Some(match reader.u8()? {
        1 => JoinError::UnknownDonor {
            name: reader.name()?,
        },
        2 => JoinError::DonorNotLive {
            name: reader.name()?,
        },
        3 => JoinError::NoDonor,
        4 => JoinError::DumpFailed {
            error: take_text(reader)?,
        },
        5 => JoinError::MustReseed {
            at: reader.seq()?,
            start: reader.seq()?,
        },
        6 => JoinError::LogFailed,
        _ => return None,
    })
}

pub(super) fn put_publish_refusal(out: &mut Vec<u8>, refusal: &PublishRefusal) {
    match refusal {
        PublishRefusal::TooLarge { found, bytes_max } => {
            put_two(out, 1, *found as u64, *bytes_max as u64);
        }
        PublishRefusal::KeyTooLong { found, bytes_max } => {
            put_two(out, 2, *found as u64, *bytes_max as u64);
        }
        PublishRefusal::Busy => out.push(3),
        PublishRefusal::Full => out.push(4),
        PublishRefusal::NotStored { error } => put_told(out, 5, error),
        PublishRefusal::Fenced { token } => {
            out.push(7);
            put_u64(out, token.0);
        }
        PublishRefusal::SourceGap { expected, found } => put_two(out, 8, *expected, *found),
        PublishRefusal::Unknown { error } => put_told(out, 6, error),
        // Whatever else it is, the entry may be stored for all the reader knows.
        other => put_told(out, 6, &other.to_string()),
    }
}

pub(super) fn take_publish_refusal(reader: &mut Reader) -> Option<PublishRefusal> {
    let kind = reader.u8()?;
    let mut size = || usize::try_from(reader.u64()?).ok();
    Some(match kind {
        1 => PublishRefusal::TooLarge {
            found: size()?,
            bytes_max: size()?,
        },
        2 => PublishRefusal::KeyTooLong {
            found: size()?,
            bytes_max: size()?,
        },
        3 => PublishRefusal::Busy,
        4 => PublishRefusal::Full,
        5 => PublishRefusal::NotStored {
            error: take_text(reader)?,
        },
        6 => PublishRefusal::Unknown {
            error: take_text(reader)?,
        },
        7 => PublishRefusal::Fenced {
            token: reader.token()?,
        },
        8 => PublishRefusal::SourceGap {
            expected: reader.u64()?,
            found: reader.u64()?,
        },
        _ => return None,
    })
}
