//! The conversations that the transaction at hand has touched.
//!
//! The write lock is held from a transaction's first read to its commit, so what was
//! read stays true until then; nothing is kept beyond it. An append to a
//! conversation that the batch has met before costs one statement instead of five,
//! and does not read the members again: with 256 appends a batch that makes a group of
//! 500 five times faster, direct conversations by a tenth.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::home::Writer;
use super::{to_integer, to_number};
use crate::store::error::StoreError;
use crate::store::limits::CONVERSATIONS_MAX;
use crate::store::name::ConversationName;

/// Conversations by name; sorted, so that the same batch writes in the same order.
pub(super) struct Rooms {
    writer: Writer,
    rooms: BTreeMap<String, Room>,
}

/// A conversation, its members, and what of it is not in the file yet.
pub(super) struct Room {
    pub(super) id: i64,
    pub(super) last_seq: u64,
    /// In byte order of their uids.
    members: Vec<Member>,
    last_seq_changed: bool,
}

struct Member {
    uid: String,
    read_seq: u64,
    read_seq_changed: bool,
}

/// A conversation's row.
pub(super) struct Conversation {
    pub(super) id: i64,
    pub(super) last_seq: u64,
    /// The number of the site that writes it.
    pub(super) home: i64,
}

impl Rooms {
    /// None yet, for whoever writes in the transaction at hand.
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer,
            rooms: BTreeMap::new(),
        }
    }

    /// Who writes.
    pub(super) fn writer(&self) -> Writer {
        self.writer
    }

    /// A conversation that exists and may be written here.
    ///
    /// # Errors
    /// [`StoreError::NoSuchConversation`], [`StoreError::OtherHome`].
    pub(super) fn existing(
        &mut self,
        connection: &Connection,
        name: &str,
    ) -> Result<&mut Room, StoreError> {
        match self.rooms.entry(name.to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let Some(found) = find(connection, name)? else {
                    self.writer.check_birth(connection, name)?;
                    return Err(StoreError::no_such_conversation(name));
                };
                self.writer.check_home(connection, name, found.home)?;
                Ok(unknown.insert(Room::load(connection, &found)?))
            }
        }
    }

    /// A conversation to write to; a direct one exists from its first message.
    ///
    /// # Errors
    /// [`StoreError::NoSuchConversation`] for a group that was not created;
    /// [`StoreError::OtherHome`].
    pub(super) fn for_append(
        &mut self,
        connection: &Connection,
        name: &str,
        parts: ConversationName<'_>,
    ) -> Result<&mut Room, StoreError> {
        let ConversationName::Direct { first, second } = parts else {
            return self.existing(connection, name);
        };
        match self.rooms.entry(name.to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let conversation = match find(connection, name)? {
                    Some(found) => {
                        self.writer.check_home(connection, name, found.home)?;
                        found
                    }
                    None => create_direct(connection, self.writer, name, [first, second])?,
                };
                Ok(unknown.insert(Room::load(connection, &conversation)?))
            }
        }
    }

    /// Writes what has changed and forgets everything: before the commit, and before
    /// an operation that works on the tables themselves.
    pub(super) fn write_back(&mut self, connection: &Connection) -> Result<(), StoreError> {
        for room in std::mem::take(&mut self.rooms).into_values() {
            room.write_back(connection)?;
        }
        Ok(())
    }
}

impl Room {
    fn load(connection: &Connection, conversation: &Conversation) -> Result<Self, StoreError> {
        let mut statement = connection.prepare_cached(
            "SELECT uid, read_seq FROM member WHERE conversation_id = ?1 ORDER BY uid",
        )?;
        let members = statement.query_map([conversation.id], |row| {
            Ok(Member {
                uid: row.get(0)?,
                read_seq: to_number(row, 1)?,
                read_seq_changed: false,
            })
        })?;
        Ok(Self {
            id: conversation.id,
            last_seq: conversation.last_seq,
            members: members.collect::<Result<_, _>>()?,
            last_seq_changed: false,
        })
    }

    pub(super) fn members(&self) -> Vec<String> {
        let uids = self.members.iter().map(|member| member.uid.clone());
        uids.collect()
    }

    /// A member's place in this room, if they are one.
    pub(super) fn place_of(&self, uid: &str) -> Option<usize> {
        self.members
            .binary_search_by(|member| member.uid.as_str().cmp(uid))
            .ok()
    }

    /// Counts a message that the member at `place` wrote.
    pub(super) fn advance(&mut self, place: usize) {
        // Who had read everything has also read what they wrote themselves; else
        // one's own messages would count as unread.
        let had_read_all = self.members[place].read_seq == self.last_seq;
        self.last_seq += 1;
        self.last_seq_changed = true;
        if had_read_all {
            self.mark_read(place, self.last_seq);
        }
    }

    /// Moves a mark up, at most to the last message; returns where it is then.
    pub(super) fn mark_read(&mut self, place: usize, seq: u64) -> u64 {
        let member = &mut self.members[place];
        let target = seq.min(self.last_seq);
        if target > member.read_seq {
            member.read_seq = target;
            member.read_seq_changed = true;
        }
        member.read_seq
    }

    fn write_back(self, connection: &Connection) -> Result<(), StoreError> {
        if self.last_seq_changed {
            connection
                .prepare_cached("UPDATE conversation SET last_seq = ?2 WHERE id = ?1")?
                .execute(params![self.id, to_integer(self.last_seq)])?;
        }
        for member in self.members.iter().filter(|member| member.read_seq_changed) {
            connection
                .prepare_cached(
                    "UPDATE member SET read_seq = ?3 WHERE conversation_id = ?1 AND uid = ?2",
                )?
                .execute(params![self.id, member.uid, to_integer(member.read_seq)])?;
        }
        Ok(())
    }
}

/// Looks a conversation up by its name.
pub(super) fn find(
    connection: &Connection,
    name: &str,
) -> Result<Option<Conversation>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT id, last_seq, home FROM conversation WHERE name = ?1")?;
    let found = statement.query_row([name], |row| {
        Ok(Conversation {
            id: row.get(0)?,
            last_seq: to_number(row, 1)?,
            home: row.get(2)?,
        })
    });
    Ok(found.optional()?)
}

/// Adds a conversation, whose home is here; the name must be free.
///
/// # Errors
/// [`StoreError::OtherHome`] if another site is to make it.
pub(super) fn insert_conversation(
    connection: &Connection,
    writer: Writer,
    name: &str,
) -> Result<Conversation, StoreError> {
    writer.check_birth(connection, name)?;
    let ([below, above], home) = (writer.ids(), writer.number());
    let mut statement = connection.prepare_cached(
        "INSERT INTO conversation (id, name, last_seq, home)
         SELECT coalesce(max(id), ?2) + 1, ?1, 0, ?4 FROM conversation WHERE id > ?2 AND id < ?3",
    )?;
    Ok(Conversation {
        id: statement.insert(params![name, below, above, home])?,
        last_seq: 0,
        home,
    })
}

/// Whether a user may come into one more conversation; to be asked before
/// anything is written. Cost: linear in the user's conversations.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub(super) fn check_place_for(connection: &Connection, uid: &str) -> Result<(), StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT count(*) FROM member INDEXED BY member_by_uid WHERE uid = ?1")?;
    let count = statement.query_row([uid], |row| to_number(row, 0))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    StoreError::check_size(
        "number of a user's conversations",
        count.saturating_add(1),
        CONVERSATIONS_MAX,
    )
}

/// Adds a member, who sees what comes from now on.
pub(super) fn insert_member(
    connection: &Connection,
    conversation: &Conversation,
    name: &str,
    uid: &str,
) -> Result<(), StoreError> {
    let last_seq = to_integer(conversation.last_seq);
    connection
        .prepare_cached(
            "INSERT INTO member (conversation_id, uid, joined_seq, read_seq, conversation)
             VALUES (?1, ?2, ?3 + 1, ?3, ?4)",
        )?
        .execute(params![conversation.id, uid, last_seq, name])?;
    Ok(())
}

fn create_direct(
    connection: &Connection,
    writer: Writer,
    name: &str,
    [first, second]: [&str; 2],
) -> Result<Conversation, StoreError> {
    writer.check_birth(connection, name)?;
    for uid in [first, second] {
        check_place_for(connection, uid)?;
    }
    let created = insert_conversation(connection, writer, name)?;
    insert_member(connection, &created, name, first)?;
    if second != first {
        insert_member(connection, &created, name, second)?;
    }
    Ok(created)
}
