//! Storing messages, and marks of how far they are read.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rooms::Rooms;
use super::{check_access, to_integer, to_number};
use crate::store::error::StoreError;
use crate::store::operation::{Append, Appended, MarkRead, ReadMarked};

pub(super) fn append(
    connection: &Connection,
    rooms: &mut Rooms,
    append: &Append,
) -> Result<Appended, StoreError> {
    let name = append.validate()?;
    let room = rooms.for_append(connection, &append.conversation, name)?;
    // Only a member's message may be stored, but a message stored before its sender
    // left is still answered with its number.
    if let Some(place) = room.place_of(&append.sender)
        && insert(connection, room.id, room.last_seq + 1, append)?
    {
        room.advance(place);
        return Ok(Appended {
            seq: room.last_seq,
            at_ms: append.at_ms,
            duplicate: false,
            members: room.members(),
        });
    }
    let (seq, at_ms) = first_copy(connection, room.id, append)?
        .ok_or_else(|| StoreError::not_member(&append.sender, &append.conversation))?;
    Ok(Appended {
        seq,
        at_ms,
        duplicate: true,
        members: room.members(),
    })
}

pub(super) fn mark_read(
    connection: &Connection,
    rooms: &mut Rooms,
    mark: &MarkRead,
) -> Result<ReadMarked, StoreError> {
    check_access(&mark.conversation, &mark.uid)?;
    let room = rooms.existing(connection, &mark.conversation)?;
    let place = room
        .place_of(&mark.uid)
        .ok_or_else(|| StoreError::not_member(&mark.uid, &mark.conversation))?;
    Ok(ReadMarked {
        read_seq: room.mark_read(place, mark.seq),
        last_seq: room.last_seq,
    })
}

/// Stores a message under a number; returns false if it was stored before.
fn insert(connection: &Connection, id: i64, seq: u64, append: &Append) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO message (conversation_id, seq, at_ms, sender, client_id, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (conversation_id, sender, client_id) DO NOTHING",
    )?;
    let changed = statement.execute(params![
        id,
        to_integer(seq),
        to_integer(append.at_ms),
        append.sender,
        append.client_id,
        append.body,
    ])?;
    Ok(changed == 1)
}

/// Number and time under which a message was stored before.
fn first_copy(
    connection: &Connection,
    id: i64,
    append: &Append,
) -> Result<Option<(u64, u64)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, at_ms FROM message
         WHERE conversation_id = ?1 AND sender = ?2 AND client_id = ?3",
    )?;
    let found = statement.query_row(params![id, append.sender, append.client_id], |row| {
        Ok((to_number(row, 0)?, to_number(row, 1)?))
    });
    Ok(found.optional()?)
}
