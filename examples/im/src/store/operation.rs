//! What the store can be asked, what it answers, and the traits between.

use std::collections::BTreeSet;

use super::error::StoreError;
use super::limits::{BODY_BYTES_MAX, CLIENT_ID_BYTES_MAX, GROUP_MEMBERS_MAX};
use super::name::{ConversationName, check_uid, group_conversation};

/// The writing side of a store; one thread owns it.
pub trait ChatStore: Send {
    /// Performs a batch in one transaction, in order, and returns when it is
    /// durable: one result for each operation, in the same order.
    ///
    /// An operation that is refused leaves no trace and does not affect the others;
    /// later operations see what earlier ones did. If the commit fails, every
    /// operation reports [`StoreError::Storage`].
    fn write(&mut self, batch: Vec<WriteOperation>) -> Vec<Result<WriteOutcome, StoreError>>;

    /// A connection of its own for reading; sees every batch that has returned.
    ///
    /// # Errors
    /// [`StoreError::Storage`] if the connection cannot be opened.
    fn reader(&self) -> Result<Box<dyn ChatReader>, StoreError>;
}

/// The reading side of a store. Each call sees one consistent state.
pub trait ChatReader: Send {
    /// A page of a user's conversations by name, in byte order. O(page).
    ///
    /// # Errors
    /// [`StoreError::InvalidName`], [`StoreError::TooLarge`], [`StoreError::Storage`].
    fn conversations(
        &mut self,
        query: &ConversationsQuery,
    ) -> Result<Vec<ConversationState>, StoreError>;

    /// A page of messages, ascending by number. O(page).
    ///
    /// # Errors
    /// [`StoreError::NotMember`], [`StoreError::NoSuchConversation`],
    /// [`StoreError::InvalidName`], [`StoreError::TooLarge`], [`StoreError::Storage`].
    fn history(&mut self, query: &HistoryQuery) -> Result<MessagePage, StoreError>;

    /// The uids of a conversation's members, in byte order. O(members).
    ///
    /// # Errors
    /// [`StoreError::NoSuchConversation`], [`StoreError::InvalidName`],
    /// [`StoreError::Storage`].
    fn members(&mut self, conversation: &str) -> Result<Vec<String>, StoreError>;

    /// The site at which a conversation is written, or would be if it existed, where
    /// several sites keep copies. O(1).
    ///
    /// # Errors
    /// [`StoreError::NotWhole`], [`StoreError::InvalidName`], [`StoreError::Storage`].
    fn home(&mut self, conversation: &str) -> Result<String, StoreError>;

    /// Whom messages of the conversation with this id are for; none for an id that
    /// nothing has. O(members).
    ///
    /// # Errors
    /// [`StoreError::NotWhole`], [`StoreError::Storage`].
    fn addressees(&mut self, id: i64) -> Result<Option<Addressees>, StoreError>;
}

/// Whom messages of a conversation are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressees {
    /// Its name.
    pub conversation: String,
    /// Its members, in byte order.
    pub members: Vec<String>,
}

/// One write; each variant is answered by the [`WriteOutcome`] of the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOperation {
    /// Store a message.
    Append(Append),
    /// Make a group.
    CreateGroup(CreateGroup),
    /// Let users into a group.
    AddMembers(AddMembers),
    /// Take a user out of a group.
    RemoveMember(RemoveMember),
    /// Note how far a user has read.
    MarkRead(MarkRead),
}

/// The answer to a [`WriteOperation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Answers [`WriteOperation::Append`].
    Appended(Appended),
    /// Answers [`WriteOperation::CreateGroup`].
    GroupCreated(GroupCreated),
    /// Answers [`WriteOperation::AddMembers`].
    MembersAdded(MembersAdded),
    /// Answers [`WriteOperation::RemoveMember`].
    MemberRemoved(MemberRemoved),
    /// Answers [`WriteOperation::MarkRead`].
    ReadMarked(ReadMarked),
}

/// A message to store. The first append to a direct conversation creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Where to: `d:UID:UID` or `g:GROUP`.
    pub conversation: String,
    /// Who sends it; a member.
    pub sender: String,
    /// The sender's own id of the message, 1 to 64 bytes. The same id by the same
    /// sender in the same conversation is the same message, for ever.
    pub client_id: String,
    /// The text, up to 32 KiB; may be empty.
    pub body: String,
    /// When it was sent, in milliseconds since 1970 (UTC); kept as given.
    pub at_ms: u64,
}

/// A stored message's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Its number in the conversation: 1, 2, 3 … without gaps.
    pub seq: u64,
    /// Its time: the first one given for this client message id.
    pub at_ms: u64,
    /// Whether it had been stored before; then nothing was written, and a body that
    /// differs from the first one was ignored.
    pub duplicate: bool,
    /// The members now, in byte order: to whom it is to be delivered.
    pub members: Vec<String>,
}

/// A group to make. The same creator may repeat it with the same members, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateGroup {
    /// The group's name without the `g:`.
    pub name: String,
    /// Who makes it; becomes a member.
    pub creator: String,
    /// The other members; the order does not matter, nor does naming one twice.
    pub members: Vec<String>,
}

/// A group that exists now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCreated {
    /// Its conversation, `g:NAME`.
    pub conversation: String,
    /// False if this repeats an earlier creation.
    pub created: bool,
    /// The members now, in byte order.
    pub members: Vec<String>,
}

/// Users to let into a group. They see what is written from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddMembers {
    /// The group's conversation, `g:NAME`.
    pub conversation: String,
    /// Who lets them in; a member.
    pub actor: String,
    /// The users; those already in stay as they are.
    pub members: Vec<String>,
}

/// A group after growing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersAdded {
    /// Who was not a member before, in byte order.
    pub added: Vec<String>,
    /// The members now, in byte order.
    pub members: Vec<String>,
}

/// A user to take out of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveMember {
    /// The group's conversation, `g:NAME`.
    pub conversation: String,
    /// Who does it; a member, perhaps the one who leaves.
    pub actor: String,
    /// Who leaves.
    pub uid: String,
}

/// A group after shrinking. The last member's leaving keeps the name taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRemoved {
    /// False if the user was no member.
    pub removed: bool,
    /// The members now, in byte order.
    pub members: Vec<String>,
}

/// How far a user has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRead {
    /// Where.
    pub conversation: String,
    /// Who; a member.
    pub uid: String,
    /// Everything up to this number is read; beyond the last it counts as the last.
    pub seq: u64,
}

/// A user's mark after [`MarkRead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMarked {
    /// The mark now; never lower than before.
    pub read_seq: u64,
    /// The conversation's last number.
    pub last_seq: u64,
}

/// Which of a user's conversations to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationsQuery {
    /// Whose.
    pub uid: String,
    /// Only names after this one: the last of the page before.
    pub after: Option<String>,
    /// Most entries, up to 500. A shorter page is the last.
    pub limit: usize,
}

/// A user's place in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationState {
    /// Its name.
    pub conversation: String,
    /// Number of its last message; 0 if there is none.
    pub last_seq: u64,
    /// Everything up to this number is read; just below `joined_seq` at first.
    pub read_seq: u64,
    /// Messages after `read_seq`.
    pub unread: u64,
    /// First number that the user may see.
    pub joined_seq: u64,
}

/// Which messages to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Who reads; a member.
    pub uid: String,
    /// Where.
    pub conversation: String,
    /// From where, in which direction.
    pub page: HistoryPage,
    /// Most messages, up to 200.
    pub limit: usize,
}

/// Messages of one conversation, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessagePage {
    /// Those asked for, or fewer when they are large: a page ends at
    /// [`HISTORY_PAGE_BYTES`](super::limits::HISTORY_PAGE_BYTES) of text.
    pub messages: Vec<StoredMessage>,
    /// There are more in the same direction.
    pub more: bool,
}

/// Where a page of history lies. Both forms are answered in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryPage {
    /// The first messages with a higher number than this.
    After(u64),
    /// The last messages with a lower number than this; `u64::MAX` for the newest.
    Before(u64),
}

/// A message as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its number in the conversation.
    pub seq: u64,
    /// Who sent it.
    pub sender: String,
    /// The sender's id of it.
    pub client_id: String,
    /// The text.
    pub body: String,
    /// When it was sent, in milliseconds since 1970 (UTC).
    pub at_ms: u64,
}

impl Append {
    /// Checks everything that needs no storage; returns the name, taken apart.
    pub(super) fn validate(&self) -> Result<ConversationName<'_>, StoreError> {
        let name = ConversationName::parse(&self.conversation)?;
        check_uid(&self.sender)?;
        if self.client_id.is_empty() {
            return Err(StoreError::invalid_name("client message id", "", 0));
        }
        StoreError::check_size(
            "client message id in bytes",
            self.client_id.len(),
            CLIENT_ID_BYTES_MAX,
        )?;
        StoreError::check_size("body in bytes", self.body.len(), BODY_BYTES_MAX)?;
        if i64::try_from(self.at_ms).is_err() {
            return Err(StoreError::TooLarge {
                what: "time in milliseconds",
                size: self.at_ms,
                limit: i64::MAX.unsigned_abs(),
            });
        }
        if name.excludes(&self.sender) {
            return Err(StoreError::not_member(&self.sender, &self.conversation));
        }
        Ok(name)
    }
}

impl CreateGroup {
    /// Checks the names; returns the conversation and its first members, sorted.
    pub(super) fn validate(&self) -> Result<(String, BTreeSet<&str>), StoreError> {
        let conversation = group_conversation(&self.name)?;
        check_uid(&self.creator)?;
        let mut members = distinct(&self.members)?;
        members.insert(&self.creator);
        StoreError::check_size("group in members", members.len(), GROUP_MEMBERS_MAX)?;
        Ok((conversation, members))
    }
}

impl AddMembers {
    /// Checks the names; returns the users, sorted.
    pub(super) fn validate(&self) -> Result<BTreeSet<&str>, StoreError> {
        check_group(&self.conversation)?;
        check_uid(&self.actor)?;
        distinct(&self.members)
    }
}

impl RemoveMember {
    /// Checks the names.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        check_group(&self.conversation)?;
        check_uid(&self.actor)?;
        check_uid(&self.uid)
    }
}

impl WriteOperation {
    /// Bytes that a waiting operation holds, near enough for the queue's bound.
    pub(super) fn weight_bytes(&self) -> usize {
        let texts = |names: &[String]| names.iter().map(|name| name.len() + 24).sum::<usize>();
        let content = match self {
            Self::Append(append) => append.body.len() + append.conversation.len(),
            Self::CreateGroup(create) => texts(&create.members),
            Self::AddMembers(add) => texts(&add.members),
            Self::RemoveMember(_) | Self::MarkRead(_) => 0,
        };
        size_of::<Self>() + content
    }
}

/// Members change in groups only: who is in a direct conversation stands in its name.
fn check_group(conversation: &str) -> Result<(), StoreError> {
    match ConversationName::parse(conversation)? {
        ConversationName::Group { .. } => Ok(()),
        ConversationName::Direct { .. } => Err(StoreError::invalid_name(
            "group conversation",
            conversation,
            0,
        )),
    }
}

/// Checks a list of uids, whose length is bounded before anything is done with it.
fn distinct(uids: &[String]) -> Result<BTreeSet<&str>, StoreError> {
    StoreError::check_size("list of members", uids.len(), GROUP_MEMBERS_MAX)?;
    for uid in uids {
        check_uid(uid)?;
    }
    Ok(uids.iter().map(String::as_str).collect())
}
