//! Storing messages, and marks of how far they are read.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{to_integer, to_number};
use crate::store::error::StoreError;
use crate::store::name::ConversationName;
use crate::store::operation::{Append, Appended, MarkRead, ReadMarked};

/// A conversation's row.
pub(super) struct Conversation {
    pub(super) id: i64,
    pub(super) last_seq: u64,
}

/// A member's row, as far as an append needs it.
struct Member {
    uid: String,
    read_seq: u64,
}

pub(super) fn append(connection: &Connection, append: &Append) -> Result<Appended, StoreError> {
    let name = append.validate()?;
    let conversation = match find(connection, &append.conversation)? {
        Some(conversation) => conversation,
        None => create_direct(connection, name, &append.conversation)?,
    };
    let members = members_with_marks(connection, conversation.id)?;
    let sender_read_seq = members
        .iter()
        .find(|member| member.uid == append.sender)
        .map(|member| member.read_seq);
    let seq = conversation.last_seq + 1;
    // Only a member's message may be stored, but a message stored before its sender
    // left is still answered with its number.
    let stored = match sender_read_seq {
        Some(_) => insert(connection, conversation.id, seq, append)?,
        None => false,
    };
    let (seq, at_ms) = if stored {
        (seq, append.at_ms)
    } else {
        first_copy(connection, conversation.id, append)?
            .ok_or_else(|| StoreError::not_member(&append.sender, &append.conversation))?
    };
    if stored {
        set_last_seq(connection, conversation.id, seq)?;
        // Who had read everything has also read what they wrote themselves; else
        // one's own messages would count as unread.
        if sender_read_seq == Some(conversation.last_seq) {
            set_read_seq(connection, conversation.id, &append.sender, seq)?;
        }
    }
    Ok(Appended {
        seq,
        at_ms,
        duplicate: !stored,
        members: members.into_iter().map(|member| member.uid).collect(),
    })
}

pub(super) fn mark_read(
    connection: &Connection,
    mark: &MarkRead,
) -> Result<ReadMarked, StoreError> {
    let conversation = find_for_member(connection, &mark.conversation, &mark.uid)?;
    let before = read_seq(connection, conversation.id, &mark.uid)?
        .ok_or_else(|| StoreError::not_member(&mark.uid, &mark.conversation))?;
    let last_seq = conversation.last_seq;
    let after = mark.seq.min(last_seq).max(before);
    if after > before {
        set_read_seq(connection, conversation.id, &mark.uid, after)?;
    }
    Ok(ReadMarked {
        read_seq: after,
        last_seq,
    })
}

/// Looks a conversation up by its name.
pub(super) fn find(
    connection: &Connection,
    name: &str,
) -> Result<Option<Conversation>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT id, last_seq FROM conversation WHERE name = ?1")?;
    let found = statement.query_row([name], |row| {
        Ok(Conversation {
            id: row.get(0)?,
            last_seq: to_number(row, 1)?,
        })
    });
    Ok(found.optional()?)
}

/// Looks up the conversation that `uid` asks for; refuses invalid names, unknown
/// groups, and other people's direct conversations whether they exist or not.
pub(super) fn find_for_member(
    connection: &Connection,
    conversation: &str,
    uid: &str,
) -> Result<Conversation, StoreError> {
    let name = ConversationName::parse(conversation)?;
    crate::store::name::check_uid(uid)?;
    if name.excludes(uid) {
        return Err(StoreError::not_member(uid, conversation));
    }
    find(connection, conversation)?.ok_or_else(|| StoreError::no_such_conversation(conversation))
}

/// Adds a conversation; a duplicate name is the caller's fault and fails.
pub(super) fn insert_conversation(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    let mut statement =
        connection.prepare_cached("INSERT INTO conversation (name, last_seq) VALUES (?1, 0)")?;
    Ok(statement.insert([name])?)
}

/// Adds a member who sees what comes after `last_seq`; returns whether they are new.
pub(super) fn insert_member(
    connection: &Connection,
    conversation: &Conversation,
    name: &str,
    uid: &str,
) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO member (conversation_id, uid, joined_seq, read_seq, conversation)
         VALUES (?1, ?2, ?3 + 1, ?3, ?4) ON CONFLICT (conversation_id, uid) DO NOTHING",
    )?;
    let last_seq = to_integer(conversation.last_seq);
    Ok(statement.execute(params![conversation.id, uid, last_seq, name])? == 1)
}

/// A direct conversation exists from its first message; its name says who is in it.
fn create_direct(
    connection: &Connection,
    name: ConversationName<'_>,
    conversation: &str,
) -> Result<Conversation, StoreError> {
    let ConversationName::Direct { first, second } = name else {
        return Err(StoreError::no_such_conversation(conversation));
    };
    let created = Conversation {
        id: insert_conversation(connection, conversation)?,
        last_seq: 0,
    };
    insert_member(connection, &created, conversation, first)?;
    if second != first {
        insert_member(connection, &created, conversation, second)?;
    }
    Ok(created)
}

fn members_with_marks(connection: &Connection, id: i64) -> Result<Vec<Member>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT uid, read_seq FROM member WHERE conversation_id = ?1 ORDER BY uid",
    )?;
    let members = statement.query_map([id], |row| {
        Ok(Member {
            uid: row.get(0)?,
            read_seq: to_number(row, 1)?,
        })
    })?;
    Ok(members.collect::<Result<_, _>>()?)
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

fn set_last_seq(connection: &Connection, id: i64, seq: u64) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE conversation SET last_seq = ?2 WHERE id = ?1")?
        .execute(params![id, to_integer(seq)])?;
    Ok(())
}

fn read_seq(connection: &Connection, id: i64, uid: &str) -> Result<Option<u64>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT read_seq FROM member WHERE conversation_id = ?1 AND uid = ?2")?;
    Ok(statement
        .query_row(params![id, uid], |row| to_number(row, 0))
        .optional()?)
}

fn set_read_seq(connection: &Connection, id: i64, uid: &str, seq: u64) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE member SET read_seq = ?3 WHERE conversation_id = ?1 AND uid = ?2")?
        .execute(params![id, uid, to_integer(seq)])?;
    Ok(())
}
