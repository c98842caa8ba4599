//! Reading, on a connection of its own.

use rusqlite::{Connection, OptionalExtension as _, Params, Transaction, params};

use super::home::{check_whole, home_of};
use super::rooms::find;
use super::{check_access, to_integer, to_number};
use crate::store::error::StoreError;
use crate::store::limits::{CONVERSATIONS_PAGE_MAX, HISTORY_PAGE_BYTES, HISTORY_PAGE_MAX};
use crate::store::name::{ConversationName, check_uid};
use crate::store::operation::{
    Addressees, ChatReader, ConversationState, ConversationsQuery, HistoryPage, HistoryQuery,
    MessagePage, StoredMessage,
};

/// Reads a `SQLite` file while another connection writes to it.
pub(super) struct SqliteReader {
    connection: Connection,
    /// It is a copy, of which a part may be missing.
    has_sites: bool,
}

impl SqliteReader {
    pub(super) fn new(connection: Connection, has_sites: bool) -> Self {
        Self {
            connection,
            has_sites,
        }
    }

    /// Begins to read one consistent state, of a copy that is whole.
    fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        let transaction = self.connection.transaction()?;
        if self.has_sites {
            check_whole(&transaction)?;
        }
        Ok(transaction)
    }
}

impl ChatReader for SqliteReader {
    fn conversations(
        &mut self,
        query: &ConversationsQuery,
    ) -> Result<Vec<ConversationState>, StoreError> {
        check_uid(&query.uid)?;
        let after = query.after.as_deref();
        after.map(ConversationName::parse).transpose()?;
        StoreError::check_size("page in conversations", query.limit, CONVERSATIONS_PAGE_MAX)?;
        let transaction = self.begin()?;
        let mut statement = transaction.prepare_cached(
            "SELECT member.conversation, last_seq, read_seq, joined_seq
             FROM member INDEXED BY member_by_uid JOIN conversation ON id = conversation_id
             WHERE uid = ?1 AND member.conversation > ?2
             ORDER BY member.conversation LIMIT ?3",
        )?;
        let parameters = params![query.uid, after.unwrap_or(""), limit(query.limit)];
        let states = statement.query_map(parameters, |row| {
            let (last_seq, read_seq) = (to_number(row, 1)?, to_number(row, 2)?);
            Ok(ConversationState {
                conversation: row.get(0)?,
                last_seq,
                read_seq,
                unread: last_seq.saturating_sub(read_seq),
                joined_seq: to_number(row, 3)?,
            })
        })?;
        Ok(states.collect::<Result<_, _>>()?)
    }

    fn history(&mut self, query: &HistoryQuery) -> Result<MessagePage, StoreError> {
        StoreError::check_size("page in messages", query.limit, HISTORY_PAGE_MAX)?;
        check_access(&query.conversation, &query.uid)?;
        // One transaction, so that membership and messages are of the same moment.
        let transaction = self.begin()?;
        let conversation = find(&transaction, &query.conversation)?
            .ok_or_else(|| StoreError::no_such_conversation(&query.conversation))?;
        let joined_seq = joined_seq(&transaction, conversation.id, &query.uid)?
            .ok_or_else(|| StoreError::not_member(&query.uid, &query.conversation))?;
        match query.page {
            HistoryPage::After(seq) => {
                let from = to_integer(seq.saturating_add(1).max(joined_seq));
                page(
                    &transaction,
                    "SELECT seq, sender, client_id, body, at_ms FROM message
                     WHERE conversation_id = ?1 AND seq >= ?2 ORDER BY seq LIMIT ?3",
                    params![conversation.id, from, limit(query.limit + 1)],
                    query.limit,
                )
            }
            HistoryPage::Before(seq) => {
                let mut newest_first = page(
                    &transaction,
                    "SELECT seq, sender, client_id, body, at_ms FROM message
                     WHERE conversation_id = ?1 AND seq >= ?2 AND seq < ?3
                     ORDER BY seq DESC LIMIT ?4",
                    params![
                        conversation.id,
                        to_integer(joined_seq),
                        to_integer(seq),
                        limit(query.limit + 1)
                    ],
                    query.limit,
                )?;
                newest_first.messages.reverse();
                Ok(newest_first)
            }
        }
    }

    fn members(&mut self, conversation: &str) -> Result<Vec<String>, StoreError> {
        ConversationName::parse(conversation)?;
        let transaction = self.begin()?;
        let found = find(&transaction, conversation)?
            .ok_or_else(|| StoreError::no_such_conversation(conversation))?;
        members_of(&transaction, found.id)
    }

    fn home(&mut self, conversation: &str) -> Result<String, StoreError> {
        ConversationName::parse(conversation)?;
        let transaction = self.begin()?;
        home_of(&transaction, conversation)
    }

    fn addressees(&mut self, id: i64) -> Result<Option<Addressees>, StoreError> {
        let transaction = self.begin()?;
        let mut statement =
            transaction.prepare_cached("SELECT name FROM conversation WHERE id = ?1")?;
        let name = statement.query_row([id], |row| row.get(0)).optional()?;
        let Some(conversation) = name else {
            return Ok(None);
        };
        let members = members_of(&transaction, id)?;
        Ok(Some(Addressees {
            conversation,
            members,
        }))
    }
}

/// The members' uids in byte order.
pub(super) fn members_of(connection: &Connection, id: i64) -> Result<Vec<String>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT uid FROM member WHERE conversation_id = ?1 ORDER BY uid")?;
    let members = statement.query_map([id], |row| row.get(0))?;
    Ok(members.collect::<Result<_, _>>()?)
}

fn joined_seq(connection: &Connection, id: i64, uid: &str) -> Result<Option<u64>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT joined_seq FROM member WHERE conversation_id = ?1 AND uid = ?2")?;
    Ok(statement
        .query_row(params![id, uid], |row| to_number(row, 0))
        .optional()?)
}

/// The first `most` rows, or fewer when they are large; one row beyond them
/// tells that there are more.
fn page(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    most: usize,
) -> Result<MessagePage, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut page = MessagePage::default();
    let mut bytes = 0_usize;
    while let Some(row) = rows.next()? {
        if page.messages.len() >= most || bytes >= HISTORY_PAGE_BYTES {
            page.more = true;
            break;
        }
        let message = StoredMessage {
            seq: to_number(row, 0)?,
            sender: row.get(1)?,
            client_id: row.get(2)?,
            body: row.get(3)?,
            at_ms: to_number(row, 4)?,
        };
        bytes += message.body.len();
        page.messages.push(message);
    }
    Ok(page)
}

/// A page's length, checked against its bound before.
fn limit(messages: usize) -> i64 {
    i64::try_from(messages).unwrap_or(i64::MAX)
}
