//! What clients ask of Entry.

use std::rc::Rc;

use futures_util::future::join_all;
use waystation_net::{CloseReason, Conn, Label};
use waystation_service::{Ctx, Peer, PushError, Retry, Status};

use super::limits::{CURSORS_MAX, DEVICE_BYTES_MAX, LOGIN_PAGE, PRESENCE_MAX, TRY, WATCHED_MAX};
use super::link::{attach, tell_online};
use super::session::Session;
use super::shard::{EntryShard, session};
use crate::im::client::method::Conversations;
use crate::im::entry::Entry;
use crate::im::logic::LogicClient;
use crate::im::{
    Conversation, ConversationsReply, ConversationsRequest, CreateGroupRequest, GroupReply,
    GroupRequest, HistoryReply, HistoryRequest, LoginReply, LoginRequest, MarkReadReply,
    MarkReadRequest, MembersRequest, PresenceReply, PresenceRequest, RemoveMemberRequest,
    SendReply, SendRequest, UserConversations, UserCreateGroup, UserGroup, UserHistory,
    UserMarkRead, UserMembers, UserRemoveMember, UserSend,
};
use crate::store::{ConversationName, check_uid, direct_conversation};

/// The methods, one instance for each listener and shard.
pub(super) struct Front {
    state: Rc<EntryShard>,
}

impl Front {
    pub(super) fn new(state: Rc<EntryShard>) -> Self {
        Self { state }
    }

    /// Who asks: the connection's user; over HTTP, where there is none, the
    /// one that the request names.
    fn user(ctx: &Ctx, named: String) -> Result<String, Status> {
        if let Some(session) = ctx.peer().as_ref().and_then(session) {
            return Ok(session.uid().to_owned());
        }
        if named.is_empty() {
            return Err(Status::unauthenticated("log in first, or name your `uid`"));
        }
        valid_uid(&named)?;
        Ok(named)
    }

    /// Asks the Logic that `key` belongs to, and another one when it dies.
    async fn ask<T>(
        &self,
        ctx: &Ctx,
        key: &str,
        mut question: impl AsyncFnMut(LogicClient, &Ctx) -> Result<T, Status>,
    ) -> Result<T, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            let part = ctx.within(TRY);
            question(self.state.logic(&part, key).await?, &part).await
        })
        .await
    }

    /// Asks a Logic for what any of them knows, since Das does.
    async fn look<T>(
        &self,
        ctx: &Ctx,
        mut question: impl AsyncFnMut(LogicClient, &Ctx) -> Result<T, Status>,
    ) -> Result<T, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            let part = ctx.within(TRY);
            question(self.state.any_logic(&part).await?, &part).await
        })
        .await
    }

    /// Tells every Logic that a user is here. One that does not answer is told
    /// when it does, and nobody waits for that.
    async fn announce(&self, ctx: &Ctx, uid: &str) {
        let part = &ctx.within(TRY);
        // Also those that the registry does not list for the moment: they keep
        // their connections, and who is here.
        let callees = self.state.logics().callees();
        let told = callees.iter().map(|callee| async move {
            let Some(channel) = callee.opened() else {
                return;
            };
            let tell = tell_online(&self.state, channel, part, uid.to_owned());
            let answers = channel.is_up() && tell.await.is_ok();
            if !answers && channel.is_connected() {
                attach(&self.state, callee.id());
            }
        });
        join_all(told).await;
    }
}

fn valid_uid(uid: &str) -> Result<(), Status> {
    check_uid(uid).map_err(|error| Status::invalid_request(error.to_string()))
}

/// Checks the users that someone asks for: how many, and each name.
fn check_watched(uids: &[String]) -> Result<(), Status> {
    if uids.len() > PRESENCE_MAX {
        return Err(Status::too_large(format!(
            "at most {PRESENCE_MAX} users at once"
        )));
    }
    uids.iter().try_for_each(|uid| valid_uid(uid))
}

/// The conversation that a message goes to.
fn conversation(uid: &str, request: &SendRequest) -> Result<String, Status> {
    let invalid = |error: crate::store::StoreError| Status::invalid_request(error.to_string());
    match (request.to.as_str(), request.conversation.as_str()) {
        ("", "") => Err(Status::invalid_request(
            "name a user in `to`, or a `conversation`",
        )),
        ("", name) => {
            let parsed = ConversationName::parse(name).map_err(invalid)?;
            if parsed.excludes(uid) {
                return Err(Status::permission_denied(format!(
                    "{uid} is not a member of {name}"
                )));
            }
            Ok(name.to_owned())
        }
        (to, "") => direct_conversation(uid, to).map_err(invalid),
        _ => Err(Status::invalid_request(
            "give either `to` or `conversation`, not both",
        )),
    }
}

impl Entry for Front {
    async fn login(&self, ctx: &Ctx, request: LoginRequest) -> Result<LoginReply, Status> {
        let peer = ctx
            .peer()
            .ok_or_else(|| Status::internal("the request has no connection"))?;
        valid_uid(&request.uid)?;
        if request.cursors.len() > CURSORS_MAX || request.device.len() > DEVICE_BYTES_MAX {
            return Err(Status::too_large(
                "too many cursors, or too long a device name",
            ));
        }
        if let Some(session) = session(&peer) {
            return Err(Status::conflict(format!(
                "this connection is {} already",
                session.uid()
            )));
        }
        let uid = request.uid;
        let session = Rc::new(Session::new(uid.clone(), request.device, peer.name()));
        peer.set(session.clone());
        // All devices of a user have one share.
        peer.set_caller(&uid);
        self.state.add(&uid, peer.name());
        ctx.set_state("announcing");
        self.announce(ctx, &uid).await;
        // From here on every new message is told to us; what is older is in
        // the list that we ask for now.
        ctx.set_state("reading conversations");
        let mut conversations = match self.state.conversations(ctx, &uid).await {
            Ok(conversations) => conversations,
            Err(status) => {
                // Half a login would miss messages: the client starts anew,
                // when it has heard why.
                ctx.close_after_answer();
                return Err(status);
            }
        };
        for known in &conversations {
            let seen = match request.cursors.get(&known.conversation) {
                _ if !request.resume => known.last_seq,
                Some(seen) => *seen,
                None => known.joined_seq.saturating_sub(1),
            };
            session.start_after(&known.conversation, seen.min(known.last_seq));
            session.exists(&known.conversation, known.last_seq);
        }
        tracing::debug!(uid, device = session.device(), conn = %peer.name(), "logged in");
        let rest = conversations.split_off(conversations.len().min(LOGIN_PAGE));
        let more = !rest.is_empty();
        self.start(&peer, &session, rest);
        Ok(LoginReply {
            uid,
            conversations,
            more,
        })
    }

    async fn send(&self, ctx: &Ctx, mut request: SendRequest) -> Result<SendReply, Status> {
        let uid = Self::user(ctx, std::mem::take(&mut request.uid))?;
        let conversation = conversation(&uid, &request)?;
        let name = ctx.conn().map(Conn::name).unwrap_or_default();
        let _turn = self.state.sends.lock(&(name, conversation.clone())).await?;
        let send = UserSend {
            uid,
            conversation,
            client_id: request.client_id,
            body: request.body,
            here: false,
            members: false,
            forwarded: false,
        };
        ctx.retry(&Retry::idempotent(), async || {
            let part = ctx.within(TRY);
            let pick = self.state.pick(&part, &send.conversation).await?;
            let request = UserSend {
                here: !pick.is_home,
                ..send.clone()
            };
            LogicClient::new(pick.channel).send(&part, &request).await
        })
        .await
    }

    async fn history(&self, ctx: &Ctx, request: HistoryRequest) -> Result<HistoryReply, Status> {
        let query = UserHistory {
            uid: Self::user(ctx, request.uid)?,
            conversation: request.conversation,
            after_seq: request.after_seq,
            before_seq: request.before_seq,
            limit: request.limit,
        };
        self.look(ctx, async |logic, ctx| logic.history(ctx, &query).await)
            .await
    }

    async fn conversations(
        &self,
        ctx: &Ctx,
        request: ConversationsRequest,
    ) -> Result<ConversationsReply, Status> {
        let query = UserConversations {
            uid: Self::user(ctx, request.uid)?,
            after: request.after,
            limit: request.limit,
        };
        self.look(ctx, async |logic, ctx| {
            logic.conversations(ctx, &query).await
        })
        .await
    }

    async fn mark_read(
        &self,
        ctx: &Ctx,
        request: MarkReadRequest,
    ) -> Result<MarkReadReply, Status> {
        let mark = UserMarkRead {
            uid: Self::user(ctx, request.uid)?,
            conversation: request.conversation,
            seq: request.seq,
            forwarded: false,
        };
        self.ask(ctx, &mark.conversation, async |logic, ctx| {
            logic.mark_read(ctx, &mark).await
        })
        .await
    }

    async fn create_group(
        &self,
        ctx: &Ctx,
        request: CreateGroupRequest,
    ) -> Result<GroupReply, Status> {
        let create = UserCreateGroup {
            uid: Self::user(ctx, request.uid)?,
            name: request.name,
            members: request.members,
            forwarded: false,
        };
        self.ask(ctx, &create.name, async |logic, ctx| {
            logic.create_group(ctx, &create).await
        })
        .await
    }

    async fn add_members(&self, ctx: &Ctx, request: MembersRequest) -> Result<GroupReply, Status> {
        let add = UserMembers {
            uid: Self::user(ctx, request.uid)?,
            conversation: request.conversation,
            members: request.members,
            forwarded: false,
        };
        self.ask(ctx, &add.conversation, async |logic, ctx| {
            logic.add_members(ctx, &add).await
        })
        .await
    }

    async fn remove_member(
        &self,
        ctx: &Ctx,
        request: RemoveMemberRequest,
    ) -> Result<GroupReply, Status> {
        let remove = UserRemoveMember {
            uid: Self::user(ctx, request.uid)?,
            conversation: request.conversation,
            member: request.member,
            forwarded: false,
        };
        self.ask(ctx, &remove.conversation, async |logic, ctx| {
            logic.remove_member(ctx, &remove).await
        })
        .await
    }

    async fn members(&self, ctx: &Ctx, request: GroupRequest) -> Result<GroupReply, Status> {
        let group = UserGroup {
            uid: Self::user(ctx, request.uid)?,
            conversation: request.conversation,
        };
        self.look(ctx, async |logic, ctx| logic.members(ctx, &group).await)
            .await
    }

    async fn presence(&self, ctx: &Ctx, request: PresenceRequest) -> Result<PresenceReply, Status> {
        let uid = Self::user(ctx, request.uid)?;
        // Before anything of it is kept.
        check_watched(&request.uids)?;
        if request.watch
            && let Some(session) = ctx.peer().as_ref().and_then(session)
            && !session.watch(&request.uids, WATCHED_MAX)
        {
            return Err(Status::too_large(format!(
                "at most {WATCHED_MAX} users are watched"
            )));
        }
        let query = PresenceRequest {
            uid: String::new(),
            uids: request.uids,
            watch: false,
        };
        self.ask(ctx, &uid, async |logic, ctx| {
            logic.presence(ctx, &query).await
        })
        .await
    }
}

impl Front {
    /// Sends the rest of the user's conversations, behind the answer to the
    /// login, and then lets messages flow.
    fn start(&self, peer: &Peer, session: &Rc<Session>, rest: Vec<Conversation>) {
        let (state, session, conn) = (self.state.clone(), session.clone(), peer.name());
        self.state
            .shard()
            .spawn(Label::of("first delivery"), async move {
                let Ok(conn) = state.shard().connection(conn) else {
                    return;
                };
                if list(&conn, rest).await.is_err() {
                    // Half a list would miss messages: the client starts anew.
                    return conn.close(CloseReason::Local);
                }
                for conversation in session.make_ready() {
                    state.start_fetch(&session, conversation);
                }
            });
    }
}

/// Sends conversations page by page, each when the peer has read what is
/// before it. Holds the connection no longer than that takes: a peer that
/// reads nothing is closed.
async fn list(conn: &Conn, mut rest: Vec<Conversation>) -> Result<(), PushError> {
    let peer = Peer::new(conn.clone());
    while !rest.is_empty() {
        conn.writable().await?;
        let next = rest.split_off(rest.len().min(LOGIN_PAGE));
        let page = ConversationsReply {
            conversations: std::mem::replace(&mut rest, next),
            more: !rest.is_empty(),
        };
        peer.push::<Conversations>(&page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_service::Code;

    /// Names to watch were kept before anyone looked at them: a client made
    /// Entry hold a megabyte for each of two thousand.
    #[test]
    fn names_to_watch_are_checked_before_they_are_kept() {
        let watch = |uids: Vec<String>| check_watched(&uids).map_err(|status| status.code());
        assert_eq!(watch(vec!["ada".into(), "bob".into()]), Ok(()));
        assert_eq!(watch(vec!["x".repeat(1 << 20)]), Err(Code::InvalidRequest));
        let many = (0..=PRESENCE_MAX).map(|n| format!("u{n}")).collect();
        assert_eq!(watch(many), Err(Code::TooLarge));
    }
}
