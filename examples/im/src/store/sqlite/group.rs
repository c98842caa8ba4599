//! Groups and their members.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::check_access;
use super::home::Writer;
use super::read::members_of;
use super::rooms::{Conversation, check_place_for, find, insert_conversation, insert_member};
use crate::store::error::StoreError;
use crate::store::limits::GROUP_MEMBERS_MAX;
use crate::store::operation::{
    AddMembers, CreateGroup, GroupCreated, MemberRemoved, MembersAdded, RemoveMember,
};

pub(super) fn create(
    connection: &Connection,
    writer: Writer,
    create: &CreateGroup,
) -> Result<GroupCreated, StoreError> {
    let (conversation, members) = create.validate()?;
    let founders = members.iter().copied().collect::<Vec<_>>().join(",");
    if let Some(existing) = find(connection, &conversation)? {
        writer.check_home(connection, &conversation, existing.home)?;
        if !was_founded_by(connection, existing.id, &create.creator, &founders)? {
            return Err(StoreError::AlreadyExists { conversation });
        }
        return Ok(GroupCreated {
            conversation,
            created: false,
            members: members_of(connection, existing.id)?,
        });
    }
    writer.check_birth(connection, &conversation)?;
    for uid in &members {
        check_place_for(connection, uid)?;
    }
    let group = insert_conversation(connection, writer, &conversation)?;
    connection
        .prepare_cached(
            "INSERT INTO founding (conversation_id, creator, members) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![group.id, create.creator, founders])?;
    for uid in &members {
        insert_member(connection, &group, &conversation, uid)?;
    }
    Ok(GroupCreated {
        conversation,
        created: true,
        members: members.into_iter().map(str::to_owned).collect(),
    })
}

pub(super) fn add_members(
    connection: &Connection,
    writer: Writer,
    add: &AddMembers,
) -> Result<MembersAdded, StoreError> {
    let wanted = add.validate()?;
    let (group, before) = group_of(connection, writer, &add.conversation, &add.actor)?;
    let before = before.into_iter().collect::<BTreeSet<_>>();
    let added: Vec<String> = wanted
        .into_iter()
        .filter(|uid| !before.contains(*uid))
        .map(str::to_owned)
        .collect();
    let size = before.len() + added.len();
    StoreError::check_size("group in members", size, GROUP_MEMBERS_MAX)?;
    for uid in &added {
        check_place_for(connection, uid)?;
    }
    for uid in &added {
        insert_member(connection, &group, &add.conversation, uid)?;
    }
    let mut members = before;
    members.extend(added.iter().cloned());
    Ok(MembersAdded {
        added,
        members: members.into_iter().collect(),
    })
}

pub(super) fn remove_member(
    connection: &Connection,
    writer: Writer,
    remove: &RemoveMember,
) -> Result<MemberRemoved, StoreError> {
    remove.validate()?;
    let (group, mut members) = group_of(connection, writer, &remove.conversation, &remove.actor)?;
    let removed = connection
        .prepare_cached("DELETE FROM member WHERE conversation_id = ?1 AND uid = ?2")?
        .execute(params![group.id, remove.uid])?
        == 1;
    members.retain(|uid| *uid != remove.uid);
    Ok(MemberRemoved { removed, members })
}

/// The group and its members, if `actor` is one of them and its home is here.
fn group_of(
    connection: &Connection,
    writer: Writer,
    conversation: &str,
    actor: &str,
) -> Result<(Conversation, Vec<String>), StoreError> {
    check_access(conversation, actor)?;
    let Some(group) = find(connection, conversation)? else {
        writer.check_birth(connection, conversation)?;
        return Err(StoreError::no_such_conversation(conversation));
    };
    writer.check_home(connection, conversation, group.home)?;
    let members = members_of(connection, group.id)?;
    if members.iter().any(|uid| uid == actor) {
        return Ok((group, members));
    }
    Err(StoreError::not_member(actor, conversation))
}

fn was_founded_by(
    connection: &Connection,
    id: i64,
    creator: &str,
    founders: &str,
) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT creator = ?2 AND members = ?3 FROM founding WHERE conversation_id = ?1",
    )?;
    let same = statement.query_row(params![id, creator, founders], |row| row.get(0));
    Ok(same.optional()?.unwrap_or(false))
}
