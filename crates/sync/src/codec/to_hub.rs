//! Messages of sites as bytes.

use std::sync::Arc;

use bytes::Bytes;
use waystation_base::{Epoch, SiteId};
use waystation_replica::limits::SITE_NAME_BYTES_MAX;
use waystation_replica::{
    ApplyState, Chunk, Donor, Hello, Holding, Position, Restoring, SnapshotId, ToHub, Vitals,
};

use super::refusals::{put_text, take_text};
use super::{
    DecodeError, SYNC_VERSION, put_ahead, put_cursor, put_option, put_pull, put_size, take_ahead,
    take_cursor, take_option, take_pull, take_size,
};
use crate::parts::{Reader, put_bytes, put_life, put_site, put_u64};

pub(super) fn put(out: &mut Vec<u8>, message: &ToHub) {
    match message {
        ToHub::Hello(hello) => put_hello(out, hello),
        ToHub::Join {
            donor,
            except,
            have,
        } => put_join(out, donor, *except, have.as_ref()),
        ToHub::Ack { epoch, seq } => {
            out.push(3);
            put_u64(out, epoch.0);
            put_u64(out, seq.0);
        }
        ToHub::Heartbeat(vitals) => put_vitals(out, vitals),
        ToHub::SnapshotOpened {
            snapshot,
            position,
            ahead,
            size,
        } => {
            out.push(5);
            put_u64(out, snapshot.0);
            put_position(out, *position);
            put_ahead(out, *ahead);
            put_size(out, *size);
        }
        ToHub::SnapshotPrepared { snapshot, is_held } => {
            out.push(12);
            put_u64(out, snapshot.0);
            out.push(u8::from(*is_held));
        }
        ToHub::SnapshotFailed { snapshot, error } => {
            out.push(6);
            put_u64(out, snapshot.0);
            put_text(out, error);
        }
        ToHub::CatchUp { after } => {
            out.push(7);
            put_u64(out, after.0);
        }
        ToHub::Pull(pull) => {
            out.push(8);
            put_pull(out, pull);
        }
        ToHub::Chunk {
            snapshot,
            joiner,
            chunk,
        } => {
            out.push(9);
            put_u64(out, snapshot.0);
            put_site(out, *joiner);
            put_chunk(out, chunk);
        }
        ToHub::Joined { position } => {
            out.push(10);
            put_position(out, *position);
        }
        ToHub::Publish {
            token,
            first,
            payloads,
        } => {
            out.push(11);
            put_u64(out, token.0);
            put_u64(out, *first);
            for payload in payloads {
                put_bytes(out, payload);
            }
        }
    }
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    put_u64(out, position.epoch.0);
    put_u64(out, position.seq.0);
}

fn put_join(out: &mut Vec<u8>, donor: &Donor, except: Option<SiteId>, have: Option<&Restoring>) {
    out.push(2);
    put_option(out, named(donor), |out, name| {
        put_bytes(out, name.as_str().as_bytes());
    });
    put_option(out, except, put_site);
    put_option(out, have, put_restoring);
}

fn named(donor: &Donor) -> Option<&waystation_replica::SiteName> {
    match donor {
        Donor::Best => None,
        Donor::Named(name) => Some(name),
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    out.push(1);
    out.extend_from_slice(&SYNC_VERSION.to_le_bytes());
    put_bytes(out, hello.name.as_str().as_bytes());
    put_life(out, hello.life);
    match &hello.holding {
        Holding::Fresh => out.push(0),
        Holding::Restoring(part) => {
            out.push(1);
            put_restoring(out, part);
        }
        Holding::At { position, ahead } => {
            out.push(2);
            put_position(out, *position);
            put_ahead(out, *ahead);
        }
    }
    put_text(out, &hello.zone);
    out.push(u8::from(hello.has_rows));
    put_option(out, hello.captured, put_u64);
}

fn put_restoring(out: &mut Vec<u8>, part: &Restoring) {
    put_position(out, part.position);
    put_u64(out, part.chunks);
    put_cursor(out, &part.cursor);
    put_ahead(out, part.ahead);
}

fn put_vitals(out: &mut Vec<u8>, vitals: &Vitals) {
    out.push(4);
    out.extend_from_slice(&vitals.load_permille.to_le_bytes());
    out.push(match vitals.apply {
        ApplyState::Running => 0,
        ApplyState::Retrying => 1,
        ApplyState::Stopped => 2,
    });
    put_u64(out, vitals.applied_per_second);
    out.extend_from_slice(&vitals.parked.to_le_bytes());
    out.push(u8::from(vitals.is_differing));
    out.push(u8::from(vitals.is_capture_stopped));
    put_u64(out, vitals.unpublished);
    put_option(out, vitals.error.as_deref(), put_text);
}

pub(super) fn put_chunk(out: &mut Vec<u8>, chunk: &Chunk) {
    put_u64(out, chunk.index);
    put_cursor(out, &chunk.from);
    put_option(out, chunk.to.as_ref(), put_cursor);
    put_u64(out, chunk.rows);
    out.extend_from_slice(&chunk.hash.to_le_bytes());
    put_bytes(out, &chunk.data);
}

pub(super) fn take(reader: &mut Reader, kind: u8) -> Result<Option<ToHub>, DecodeError> {
    if kind == 1 {
        let found = reader.u16().ok_or(DecodeError::Malformed)?;
        if found != SYNC_VERSION {
            return Err(DecodeError::Version { found });
        }
        return Ok(take_hello(reader));
    }
    Ok(take_other(reader, kind))
}

fn take_other(reader: &mut Reader, kind: u8) -> Option<ToHub> {
    Some(match kind {
        2 => {
            let donor = take_option(reader, Reader::name)?;
            ToHub::Join {
                donor: donor.map_or(Donor::Best, Donor::Named),
                except: take_option(reader, Reader::site)?,
                have: take_option(reader, take_restoring)?,
            }
        }
        3 => ToHub::Ack {
            epoch: Epoch(reader.u64()?),
            seq: reader.seq()?,
        },
        4 => ToHub::Heartbeat(take_vitals(reader)?),
        5 => ToHub::SnapshotOpened {
            snapshot: SnapshotId(reader.u64()?),
            position: reader.position()?,
            ahead: take_ahead(reader)?,
            size: take_size(reader)?,
        },
        6 => ToHub::SnapshotFailed {
            snapshot: SnapshotId(reader.u64()?),
            error: take_text(reader)?,
        },
        7 => ToHub::CatchUp {
            after: reader.seq()?,
        },
        8 => ToHub::Pull(take_pull(reader)?),
        9 => ToHub::Chunk {
            snapshot: SnapshotId(reader.u64()?),
            joiner: reader.site()?,
            chunk: Arc::new(take_chunk(reader)?),
        },
        10 => ToHub::Joined {
            position: reader.position()?,
        },
        11 => ToHub::Publish {
            token: reader.token()?,
            first: reader.u64()?,
            payloads: take_payloads(reader)?,
        },
        12 => ToHub::SnapshotPrepared {
            snapshot: SnapshotId(reader.u64()?),
            is_held: reader.flag()?,
        },
        _ => return None,
    })
}

fn take_payloads(reader: &mut Reader) -> Option<Vec<Bytes>> {
    let mut payloads = Vec::new();
    while !reader.is_empty() {
        payloads.push(reader.bytes()?);
    }
    Some(payloads)
}

fn take_hello(reader: &mut Reader) -> Option<ToHub> {
    Some(ToHub::Hello(Hello {
        name: reader.name()?,
        life: reader.life()?,
        holding: match reader.u8()? {
            0 => Holding::Fresh,
            1 => Holding::Restoring(take_restoring(reader)?),
            2 => Holding::At {
                position: reader.position()?,
                ahead: take_ahead(reader)?,
            },
            _ => return None,
        },
        zone: reader.text_within(SITE_NAME_BYTES_MAX)?,
        has_rows: reader.flag()?,
        captured: take_option(reader, Reader::u64)?,
    }))
}

fn take_restoring(reader: &mut Reader) -> Option<Restoring> {
    Some(Restoring {
        position: reader.position()?,
        chunks: reader.u64()?,
        cursor: take_cursor(reader)?,
        ahead: take_ahead(reader)?,
    })
}

fn take_vitals(reader: &mut Reader) -> Option<Vitals> {
    Some(Vitals {
        load_permille: reader.u16()?,
        apply: match reader.u8()? {
            0 => ApplyState::Running,
            1 => ApplyState::Retrying,
            2 => ApplyState::Stopped,
            _ => return None,
        },
        applied_per_second: reader.u64()?,
        parked: reader.u32()?,
        is_differing: reader.flag()?,
        is_capture_stopped: reader.flag()?,
        unpublished: reader.u64()?,
        error: take_option(reader, take_text)?,
    })
}

pub(super) fn take_chunk(reader: &mut Reader) -> Option<Chunk> {
    Some(Chunk {
        index: reader.u64()?,
        from: take_cursor(reader)?,
        to: take_option(reader, take_cursor)?,
        rows: reader.u64()?,
        hash: reader.u128()?,
        data: reader.bytes()?,
    })
}
