//! Das' methods: each is one operation of the store.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use waystation_base::{Clock, Gate};
use waystation_net::{MonotonicClock, WaitsFor, unix_time, waiting};
use waystation_service::limits::{LOG_LINES, LOG_PERIOD};
use waystation_service::{Ctx, Status};

use super::arrivals::Watchers;
use crate::im::das::Das;
use crate::im::{
    AppendReply, AppendRequest, Conversation, ConversationsReply, GroupReply, HistoryReply,
    HomeReply, HomeRequest, MarkReadReply, Message, Pushed, UserConversations, UserCreateGroup,
    UserGroup, UserHistory, UserMarkRead, UserMembers, UserRemoveMember, WatchRequest,
};
use crate::ousted::Ousted;
use crate::store::{
    AddMembers, Append, ConversationsQuery, CreateGroup, HistoryPage, HistoryQuery, MarkRead,
    RemoveMember, StoreError, StoreHandle, limits,
};

/// Messages in a page of history when the asker does not say.
const HISTORY_PAGE: u32 = 100;

thread_local! {
    /// A disk that is full fails every write: it is told a few times, since
    /// the log may be on the same disk.
    static FAILURES: RefCell<Gate> = const { RefCell::new(Gate::new(LOG_LINES, LOG_PERIOD)) };
}

/// Lists of contexts show these: under load it is here that a request waits.
const COMMIT: WaitsFor = WaitsFor::plain("a commit of the store");
/// See [`COMMIT`].
const READER: WaitsFor = WaitsFor::plain("a reader of the store");

/// Awaits a read; lists of contexts say so.
async fn read<T>(
    ctx: &Ctx,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Status> {
    ctx.set_state("reading");
    Ok(waiting(READER, operation).await?)
}

/// The methods over one store.
pub(super) struct DataAccess {
    store: StoreHandle,
    /// Who is told what arrives, where there are other sites.
    watchers: Option<Rc<Watchers>>,
    ousted: Ousted,
}

impl DataAccess {
    pub(super) fn new(store: StoreHandle, watchers: Option<Rc<Watchers>>, ousted: Ousted) -> Self {
        Self {
            store,
            watchers,
            ousted,
        }
    }

    /// Begins a write and awaits it; lists of contexts say so.
    async fn write<T, F>(&self, ctx: &Ctx, operation: impl FnOnce() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        if self.ousted.is_true() {
            return Err(Status::unavailable("another node has this one's place"));
        }
        ctx.set_state("writing");
        Ok(waiting(COMMIT, operation()).await?)
    }
}

fn no_sites() -> Status {
    Status::invalid_request("this chat has one site")
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::InvalidName { .. } => Self::invalid_request(text),
            StoreError::NotMember { .. } => Self::permission_denied(text),
            StoreError::NoSuchConversation { .. } => Self::not_found(text),
            StoreError::TooLarge { .. } => Self::too_large(text),
            StoreError::AlreadyExists { .. } => Self::conflict(text),
            StoreError::Overloaded => Self::overloaded(text),
            // The home may change, and the copy comes.
            StoreError::Closed | StoreError::OtherHome { .. } | StoreError::NotWhole => {
                Self::unavailable(text)
            }
            // The disk or the file is at fault, and may recover: nothing was
            // acknowledged, so it may be tried again.
            other => {
                let now = MonotonicClock.now();
                if let Some(unsaid) = FAILURES.with_borrow_mut(|gate| gate.pass(now)) {
                    let error = &other as &dyn std::error::Error;
                    tracing::error!(error, unsaid, "the store failed");
                }
                Self::unavailable(text)
            }
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX)
}

fn page_size(asked: u32, default: u32, most: usize) -> usize {
    let asked = if asked == 0 { default } else { asked };
    usize::try_from(asked).unwrap_or(most).min(most)
}

impl Das for DataAccess {
    async fn home(&self, ctx: &Ctx, request: HomeRequest) -> Result<HomeReply, Status> {
        if self.watchers.is_none() {
            return Err(no_sites());
        }
        let site = read(ctx, self.store.home(request.conversation)).await?;
        Ok(HomeReply { site })
    }

    async fn watch(&self, ctx: &Ctx, _: WatchRequest) -> Result<Pushed, Status> {
        let watchers = self.watchers.as_ref().ok_or_else(no_sites)?;
        let peer = ctx
            .peer()
            .ok_or_else(|| Status::internal("the request has no connection"))?;
        watchers.add(&peer)?;
        Ok(Pushed {})
    }

    async fn append(&self, ctx: &Ctx, request: AppendRequest) -> Result<AppendReply, Status> {
        let append = Append {
            conversation: request.conversation,
            sender: request.uid,
            client_id: request.client_id,
            body: request.body,
            at_ms: now_ms(),
        };
        let appended = self.write(ctx, || self.store.append(append)).await?;
        Ok(AppendReply {
            seq: appended.seq,
            at_ms: appended.at_ms,
            duplicate: appended.duplicate,
            members: appended.members,
        })
    }

    async fn history(&self, ctx: &Ctx, request: UserHistory) -> Result<HistoryReply, Status> {
        let page = match request.before_seq {
            Some(before) => HistoryPage::Before(before),
            None => HistoryPage::After(request.after_seq),
        };
        let conversation = request.conversation;
        let query = HistoryQuery {
            uid: request.uid,
            conversation: conversation.clone(),
            page,
            limit: page_size(request.limit, HISTORY_PAGE, limits::HISTORY_PAGE_MAX),
        };
        let page = read(ctx, self.store.history(query)).await?;
        let messages = page.messages.into_iter().map(|stored| Message {
            conversation: conversation.clone(),
            seq: stored.seq,
            sender: stored.sender,
            client_id: stored.client_id,
            body: stored.body,
            at_ms: stored.at_ms,
        });
        Ok(HistoryReply {
            messages: messages.collect(),
            more: page.more,
        })
    }

    async fn conversations(
        &self,
        ctx: &Ctx,
        request: UserConversations,
    ) -> Result<ConversationsReply, Status> {
        let most = limits::CONVERSATIONS_PAGE_MAX;
        let limit = page_size(request.limit, u32::MAX, most);
        let query = ConversationsQuery {
            uid: request.uid,
            after: (!request.after.is_empty()).then_some(request.after),
            limit,
        };
        let states = read(ctx, self.store.conversations(query)).await?;
        let more = states.len() >= limit;
        let conversations = states.into_iter().map(|state| Conversation {
            conversation: state.conversation,
            last_seq: state.last_seq,
            read_seq: state.read_seq,
            unread: state.unread,
            joined_seq: state.joined_seq,
        });
        Ok(ConversationsReply {
            conversations: conversations.collect(),
            more,
        })
    }

    async fn mark_read(&self, ctx: &Ctx, request: UserMarkRead) -> Result<MarkReadReply, Status> {
        let mark = MarkRead {
            conversation: request.conversation,
            uid: request.uid,
            seq: request.seq,
        };
        let marked = self.write(ctx, || self.store.mark_read(mark)).await?;
        let unread = marked.last_seq.saturating_sub(marked.read_seq);
        Ok(MarkReadReply {
            read_seq: marked.read_seq,
            unread,
        })
    }

    async fn create_group(
        &self,
        ctx: &Ctx,
        request: UserCreateGroup,
    ) -> Result<GroupReply, Status> {
        let create = CreateGroup {
            name: request.name,
            creator: request.uid,
            members: request.members,
        };
        let group = self.write(ctx, || self.store.create_group(create)).await?;
        Ok(GroupReply {
            conversation: group.conversation,
            members: group.members,
            changed: group.created,
        })
    }

    async fn add_members(&self, ctx: &Ctx, request: UserMembers) -> Result<GroupReply, Status> {
        let conversation = request.conversation.clone();
        let add = AddMembers {
            conversation: request.conversation,
            actor: request.uid,
            members: request.members,
        };
        let added = self.write(ctx, || self.store.add_members(add)).await?;
        let changed = !added.added.is_empty();
        Ok(GroupReply {
            conversation,
            members: added.members,
            changed,
        })
    }

    async fn remove_member(
        &self,
        ctx: &Ctx,
        request: UserRemoveMember,
    ) -> Result<GroupReply, Status> {
        let conversation = request.conversation.clone();
        let remove = RemoveMember {
            conversation: request.conversation,
            actor: request.uid,
            uid: request.member,
        };
        let removed = self.write(ctx, || self.store.remove_member(remove)).await?;
        Ok(GroupReply {
            conversation,
            members: removed.members,
            changed: removed.removed,
        })
    }

    async fn members(&self, ctx: &Ctx, request: UserGroup) -> Result<GroupReply, Status> {
        let UserGroup { uid, conversation } = request;
        let members = read(ctx, self.store.members(conversation.clone())).await?;
        if !members.contains(&uid) {
            return Err(Status::permission_denied(format!(
                "{uid} is not a member of {conversation}"
            )));
        }
        Ok(GroupReply {
            conversation,
            members,
            changed: false,
        })
    }
}
