//! Messages of the hub as bytes.

use std::sync::Arc;

use waystation_base::{Epoch, Seq};
use waystation_replica::{Entry, SnapshotId, ToSite, Welcome};

use super::refusals::{
    put_join_error, put_publish_refusal, put_refusal, take_join_error, take_publish_refusal,
    take_refusal,
};
use super::to_hub::{put_chunk, take_chunk};
use super::{
    put_ahead, put_option, put_pull, put_size, take_ahead, take_option, take_pull, take_size,
};
use crate::log::{Item, decode, put_entry};
use crate::parts::{Reader, put_site, put_u64};

pub(super) fn put(out: &mut Vec<u8>, message: &ToSite) {
    match message {
        ToSite::Welcome(welcome) => put_welcome(out, welcome),
        ToSite::Refused(refusal) => {
            out.push(2);
            put_refusal(out, refusal);
        }
        ToSite::Entries { entries, end } => put_entries(out, entries, *end),
        ToSite::Heartbeat { sent, end, is_live } => {
            out.push(4);
            put_u64(out, sent.0);
            put_u64(out, end.0);
            out.push(u8::from(*is_live));
        }
        ToSite::PrepareSnapshot { snapshot } => put_named(out, 15, *snapshot),
        ToSite::OpenSnapshot { snapshot } => put_named(out, 5, *snapshot),
        ToSite::Pull { joiner, pull } => {
            out.push(6);
            put_site(out, *joiner);
            put_pull(out, pull);
        }
        ToSite::CloseSnapshot { snapshot } => put_named(out, 7, *snapshot),
        ToSite::JoinFrom {
            snapshot,
            donor,
            position,
            ahead,
            size,
        } => {
            put_named(out, 8, *snapshot);
            put_site(out, *donor);
            put_u64(out, position.epoch.0);
            put_u64(out, position.seq.0);
            put_ahead(out, *ahead);
            put_size(out, *size);
        }
        ToSite::Chunk { snapshot, chunk } => {
            put_named(out, 9, *snapshot);
            put_chunk(out, chunk);
        }
        ToSite::DonorLost { snapshot } => put_named(out, 10, *snapshot),
        ToSite::JoinFailed { error } => {
            out.push(11);
            put_join_error(out, error);
        }
        ToSite::Writer { token, source } => {
            out.push(12);
            put_option(out, *token, |out, token| put_u64(out, token.0));
            put_u64(out, *source);
        }
        ToSite::Published { through } => {
            out.push(13);
            put_u64(out, *through);
        }
        ToSite::PublishRefused { refusal } => {
            out.push(14);
            put_publish_refusal(out, refusal);
        }
    }
}

fn put_named(out: &mut Vec<u8>, kind: u8, snapshot: SnapshotId) {
    out.push(kind);
    put_u64(out, snapshot.0);
}

fn put_welcome(out: &mut Vec<u8>, welcome: &Welcome) {
    out.push(1);
    put_site(out, welcome.site);
    put_u64(out, welcome.epoch.0);
    put_u64(out, welcome.end.0);
    put_option(out, welcome.stream_after, |out, seq| put_u64(out, seq.0));
    put_option(out, welcome.token, |out, token| put_u64(out, token.0));
    put_u64(out, welcome.source);
    out.push(u8::from(welcome.is_first));
}

/// Entries without a gap: the first one's place, then the items of the log.
fn put_entries(out: &mut Vec<u8>, entries: &[Arc<Entry>], end: Seq) {
    out.push(3);
    put_u64(out, end.0);
    let Some(first) = entries.first().map(|one| one.position) else {
        return;
    };
    put_u64(out, first.epoch.0);
    put_u64(out, first.seq.0);
    for entry in entries {
        put_entry(out, entry);
    }
}

pub(super) fn take(reader: &mut Reader, kind: u8) -> Option<ToSite> {
    Some(match kind {
        1 => ToSite::Welcome(take_welcome(reader)?),
        2 => ToSite::Refused(take_refusal(reader)?),
        3 => take_entries(reader)?,
        4 => ToSite::Heartbeat {
            sent: reader.seq()?,
            end: reader.seq()?,
            is_live: reader.flag()?,
        },
        5 => ToSite::OpenSnapshot {
            snapshot: take_snapshot(reader)?,
        },
        6 => ToSite::Pull {
            joiner: reader.site()?,
            pull: take_pull(reader)?,
        },
        15 => ToSite::PrepareSnapshot {
            snapshot: SnapshotId(reader.u64()?),
        },
        7 => ToSite::CloseSnapshot {
            snapshot: take_snapshot(reader)?,
        },
        8 => ToSite::JoinFrom {
            snapshot: take_snapshot(reader)?,
            donor: reader.site()?,
            position: reader.position()?,
            ahead: take_ahead(reader)?,
            size: take_size(reader)?,
        },
        9 => ToSite::Chunk {
            snapshot: take_snapshot(reader)?,
            chunk: Arc::new(take_chunk(reader)?),
        },
        10 => ToSite::DonorLost {
            snapshot: take_snapshot(reader)?,
        },
        11 => ToSite::JoinFailed {
            error: take_join_error(reader)?,
        },
        12 => ToSite::Writer {
            token: take_option(reader, Reader::token)?,
            source: reader.u64()?,
        },
        13 => ToSite::Published {
            through: reader.u64()?,
        },
        14 => ToSite::PublishRefused {
            refusal: take_publish_refusal(reader)?,
        },
        _ => return None,
    })
}

fn take_snapshot(reader: &mut Reader) -> Option<SnapshotId> {
    reader.u64().map(SnapshotId)
}

fn take_welcome(reader: &mut Reader) -> Option<Welcome> {
    Some(Welcome {
        site: reader.site()?,
        epoch: Epoch(reader.u64()?),
        end: reader.seq()?,
        stream_after: take_option(reader, Reader::seq)?,
        token: take_option(reader, Reader::token)?,
        source: reader.u64()?,
        is_first: reader.flag()?,
    })
}

fn take_entries(reader: &mut Reader) -> Option<ToSite> {
    let end = reader.seq()?;
    if reader.is_empty() {
        let entries = Arc::from([]);
        return Some(ToSite::Entries { entries, end });
    }
    let first = reader.position()?;
    let items = decode(reader.rest(), first.epoch, first.seq)?;
    let entries = items.into_iter().map(|item| match item {
        Item::Entry(entry) => Some(entry),
        Item::Record(_) | Item::Start(_) => None,
    });
    let entries: Option<Arc<[Arc<Entry>]>> = entries.collect();
    let entries = entries.filter(|all| !all.is_empty())?;
    Some(ToSite::Entries { entries, end })
}
