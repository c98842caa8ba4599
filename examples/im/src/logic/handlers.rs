//! Logic's methods.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use waystation_base::{ConnName, ShardId, hash64};
use waystation_net::{CloseReason, Shard, WaitsFor, waiting};
use waystation_service::{Ctx, Group, Locks, Peer, Push, Retry, Status};

use super::counts::Counts;
use super::fanout::fan_out;
use super::limits::PRESENCE_MAX;
use super::others::Others;
use super::presence::{Change, Presence};
use super::siblings::Siblings;
use super::sites::Sites;
use crate::im::das::DasClient;
use crate::im::link::method as push;
use crate::im::logic::{Logic, LogicClient};
use crate::im::{
    AppendReply, AppendRequest, AttachReply, AttachRequest, ConversationsReply, GroupReply,
    HistoryReply, MarkReadReply, Message, PresenceReply, PresenceRequest, Pushed, SendReply,
    UserConversations, UserCreateGroup, UserGroup, UserHistory, UserMarkRead, UserMembers,
    UserPresence, UserRemoveMember, UserRequest, UserSend,
};

/// The rules, one instance for each shard.
pub(super) struct Rules {
    pub(super) shard: Shard,
    pub(super) das: Group,
    others: Others,
    pub(super) sites: Option<Sites>,
    pub(super) siblings: Siblings,
    counts: Arc<Counts>,
    /// Of all shards, so that each can tell every Entry.
    pub(super) presence: RefCell<Presence>,
    /// Messages of one conversation are stored and fanned out one after
    /// another, so that they leave in the order of their numbers.
    conversations: Locks<String>,
}

impl Rules {
    pub(super) fn new(
        shard: &Shard,
        das: Group,
        others: Others,
        sites: Option<Sites>,
        counts: &Arc<Counts>,
    ) -> Self {
        Self {
            shard: shard.clone(),
            das,
            others,
            sites,
            siblings: Siblings::new(shard, counts.clone()),
            counts: counts.clone(),
            presence: RefCell::default(),
            conversations: Locks::default(),
        }
    }

    /// A connection of this shard has ended.
    pub(super) fn entry_left(&self, peer: &Peer) {
        let knows = self.presence.borrow().knows(peer.name());
        if knows {
            drop(self.begin_change(peer.name(), Change::Ended));
        }
    }

    /// What another shard told of its connections was lost, and what it had told
    /// to the Entries that are connected here: they are told to come again.
    pub(super) fn start_over(&self, other: ShardId) {
        let left = self.presence.borrow_mut().forget(other);
        self.announce(&left, false);
        self.lose_entries();
    }

    /// Closes the connections of this shard to Entries. Each Entry comes back,
    /// says who is there, and looks for what it missed.
    pub(super) fn lose_entries(&self) {
        let entries: Vec<_> = self.presence.borrow().entries().collect();
        // Those of other shards are not here.
        for conn in entries
            .into_iter()
            .flat_map(|name| self.shard.connection(name))
        {
            conn.close(CloseReason::Local);
        }
    }

    /// The connections that a user is known on.
    #[cfg(test)]
    pub(super) fn connections_of(&self, user: &str) -> Vec<ConnName> {
        let users = [user.to_owned()];
        let routes = self.presence.borrow().route(users.iter());
        routes.into_keys().collect()
    }

    /// Takes note of a change on a connection of this shard, here and on all
    /// others: what is given is heard of as they know it, too.
    fn begin_change(&self, entry: ConnName, change: Change) -> Vec<oneshot::Receiver<()>> {
        let change = Arc::new(change);
        self.apply(entry, &change);
        let others = self.siblings.others().map(|other| {
            let (tell, told) = oneshot::channel();
            let change = change.clone();
            self.siblings.tell(other, move |_, rules| {
                rules.apply(entry, &change);
                // Who does not wait is not told.
                let _ = tell.send(());
            });
            told
        });
        others.collect()
    }

    /// Takes note of a change on the connection that a request came by. From
    /// its end on all shards go by it.
    async fn change(&self, ctx: &Ctx, change: Change) -> Result<ConnName, Status> {
        let peer = ctx.peer();
        let peer = peer.ok_or_else(|| Status::internal("the request has no connection"))?;
        let entry = peer.name();
        if self.shard.connection(entry).is_err() {
            return Err(Status::cancelled("the connection has ended"));
        }
        for told in self.begin_change(entry, change) {
            let told = waiting(WaitsFor::plain("the other shards"), told).await;
            told.map_err(|_| Status::unavailable("a shard of this Logic takes nothing"))?;
        }
        Ok(entry)
    }

    /// Takes note of a change on a connection, of whichever shard, and tells the
    /// Entries that are connected to this one.
    fn apply(&self, entry: ConnName, change: &Change) {
        let moved = self.presence.borrow_mut().change(entry, change);
        self.announce(&moved.left, false);
        self.announce(&moved.came, true);
    }

    /// The users on a connection, for an answer.
    fn attached(&self, entry: ConnName) -> AttachReply {
        let users = self.presence.borrow().count(entry);
        let users = u32::try_from(users).unwrap_or(u32::MAX);
        AttachReply { users }
    }

    /// Gives a stored message to every Entry that has a member on it, as fast
    /// as they take it.
    pub(super) async fn fan_out(&self, ctx: &Ctx, message: Message, members: &[String]) {
        let routes = self.presence.borrow().route(members.iter());
        fan_out(ctx, &self.siblings, &Arc::new(message), routes).await;
    }

    /// Tells the Entries that are connected to this shard that users came or
    /// left.
    fn announce(&self, users: &[String], online: bool) {
        if users.is_empty() {
            return;
        }
        let entries: Vec<_> = self.presence.borrow().entries().collect();
        for user in users {
            let change = UserPresence {
                uid: user.clone(),
                online,
            };
            let change = Push::<push::PresenceChanged>::new(&change);
            for entry in &entries {
                // Other shards tell those of theirs.
                if let Ok(conn) = self.shard.connection(*entry) {
                    // As in a fan-out.
                    let _ = Peer::new(conn).push_shared(&change);
                }
            }
        }
    }

    /// The stored message of that number.
    async fn stored(&self, ctx: &Ctx, sent: &AppendRequest, seq: u64) -> Result<Message, Status> {
        let query = UserHistory {
            uid: sent.uid.clone(),
            conversation: sent.conversation.clone(),
            after_seq: seq.saturating_sub(1),
            before_seq: None,
            limit: 1,
        };
        let retry = Retry::idempotent();
        let page = ctx
            .retry(&retry, async || {
                self.das(ctx).await?.history(ctx, &query).await
            })
            .await?;
        page.messages
            .into_iter()
            .next()
            .filter(|message| message.seq == seq)
            .ok_or_else(|| Status::internal(format!("message {seq} is stored but not readable")))
    }

    /// The Das: all Logics go to the same one.
    pub(super) async fn das(&self, ctx: &Ctx) -> Result<DasClient, Status> {
        let pick = self.das.wait(ctx, b"").await?;
        Ok(DasClient::new(pick.channel))
    }

    /// The Logic that a message belongs to has stored it, and told the Entries
    /// that it knows. Tells those that this one knows: an Entry that asks the
    /// wrong Logic may not know the right one yet.
    async fn tell_own(
        &self,
        ctx: &Ctx,
        request: &UserSend,
        mut reply: SendReply,
    ) -> Result<SendReply, Status> {
        let members = std::mem::take(&mut reply.members);
        let sent = AppendRequest {
            uid: request.uid.clone(),
            conversation: request.conversation.clone(),
            client_id: request.client_id.clone(),
            body: request.body.clone(),
        };
        let message = if reply.duplicate {
            self.stored(ctx, &sent, reply.seq).await?
        } else {
            Message {
                conversation: sent.conversation,
                seq: reply.seq,
                sender: sent.uid,
                client_id: sent.client_id,
                body: sent.body,
                at_ms: reply.at_ms,
            }
        };
        self.fan_out(ctx, message, &members).await;
        Ok(reply)
    }

    /// Stores a message that belongs to this shard, and tells of it.
    async fn serve(&self, ctx: &Ctx, request: UserSend) -> Result<SendReply, Status> {
        self.counts.count_send(self.shard.id());
        let wants_members = request.members;
        ctx.set_state("waiting for its turn");
        let _turn = self.conversations.lock(&request.conversation).await?;
        ctx.set_state("storing");
        let append = AppendRequest {
            uid: request.uid,
            conversation: request.conversation.clone(),
            client_id: request.client_id,
            body: request.body,
        };
        let stored = self.append(ctx, &append).await;
        let stored = self.settled(&append.conversation, stored)?;
        ctx.set_state("fanning out");
        let message = if stored.duplicate {
            // It is fanned out again, since the Logic that stored it may have
            // died before it could; Entry knows what it has delivered. What
            // was stored counts, not what was sent now.
            self.stored(ctx, &append, stored.seq).await?
        } else {
            Message {
                conversation: append.conversation,
                seq: stored.seq,
                sender: append.uid,
                client_id: append.client_id,
                body: append.body,
                at_ms: stored.at_ms,
            }
        };
        self.fan_out(ctx, message, &stored.members).await;
        Ok(SendReply {
            conversation: request.conversation,
            seq: stored.seq,
            at_ms: stored.at_ms,
            duplicate: stored.duplicate,
            members: if wants_members {
                stored.members
            } else {
                Vec::new()
            },
        })
    }

    async fn append(&self, ctx: &Ctx, request: &AppendRequest) -> Result<AppendReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.append(ctx, request).await
        })
        .await
    }
}

impl Logic for Rules {
    async fn attach(&self, ctx: &Ctx, request: AttachRequest) -> Result<AttachReply, Status> {
        let users = request.uids.into_iter().collect();
        let entry = self.change(ctx, Change::Attached(users)).await?;
        Ok(self.attached(entry))
    }

    async fn online(&self, ctx: &Ctx, request: UserRequest) -> Result<AttachReply, Status> {
        let entry = self.change(ctx, Change::Online(request.uid)).await?;
        Ok(self.attached(entry))
    }

    async fn offline(&self, ctx: &Ctx, request: UserRequest) -> Result<Pushed, Status> {
        self.change(ctx, Change::Offline(request.uid)).await?;
        Ok(Pushed {})
    }

    async fn send(&self, ctx: &Ctx, request: UserSend) -> Result<SendReply, Status> {
        let away = self.away(ctx, &request.conversation, request.forwarded);
        if let Some(away) = away.await? {
            let conversation = &request.conversation;
            let asked = away.ask(ctx, conversation, async |pick, ctx| {
                let request = UserSend {
                    here: !pick.is_home,
                    members: false,
                    forwarded: true,
                    ..request.clone()
                };
                LogicClient::new(pick.channel).send(ctx, &request).await
            });
            return self.settled(conversation, asked.await);
        }
        if let Some(answer) = self.others.relay(ctx, &request).await {
            return self.tell_own(ctx, &request, answer?).await;
        }
        let key = hash64(request.conversation.as_bytes());
        let owner = self.shard.remote().shard_of(key);
        if owner == self.shard.id() {
            return self.serve(ctx, request).await;
        }
        self.counts.handed_over.fetch_add(1, Ordering::Relaxed);
        ctx.set_state("on the shard it belongs to");
        let serve = |ctx: Ctx| async move {
            let rules = ctx.shard().extension::<Self>();
            let rules = rules.ok_or_else(|| Status::internal("the shard has no rules"))?;
            rules.serve(&ctx, request).await
        };
        ctx.on_shard(owner, serve).await
    }

    async fn history(&self, ctx: &Ctx, request: UserHistory) -> Result<HistoryReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.history(ctx, &request).await
        })
        .await
    }

    async fn conversations(
        &self,
        ctx: &Ctx,
        request: UserConversations,
    ) -> Result<ConversationsReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.conversations(ctx, &request).await
        })
        .await
    }

    async fn mark_read(&self, ctx: &Ctx, request: UserMarkRead) -> Result<MarkReadReply, Status> {
        let away = self.away(ctx, &request.conversation, request.forwarded);
        if let Some(away) = away.await? {
            let request = UserMarkRead {
                forwarded: true,
                ..request
            };
            let asked = away.ask(ctx, &request.conversation, async |pick, ctx| {
                LogicClient::new(pick.channel)
                    .mark_read(ctx, &request)
                    .await
            });
            return self.settled(&request.conversation, asked.await);
        }
        let retry = Retry::idempotent();
        let written = ctx.retry(&retry, async || {
            self.das(ctx).await?.mark_read(ctx, &request).await
        });
        self.settled(&request.conversation, written.await)
    }

    async fn create_group(
        &self,
        ctx: &Ctx,
        request: UserCreateGroup,
    ) -> Result<GroupReply, Status> {
        let conversation = format!("g:{}", request.name);
        let away = self.away(ctx, &conversation, request.forwarded);
        if let Some(away) = away.await? {
            let request = UserCreateGroup {
                forwarded: true,
                ..request
            };
            let asked = away.ask(ctx, &conversation, async |pick, ctx| {
                LogicClient::new(pick.channel)
                    .create_group(ctx, &request)
                    .await
            });
            return self.settled(&conversation, asked.await);
        }
        let retry = Retry::idempotent();
        let written = ctx.retry(&retry, async || {
            self.das(ctx).await?.create_group(ctx, &request).await
        });
        self.settled(&conversation, written.await)
    }

    async fn add_members(&self, ctx: &Ctx, request: UserMembers) -> Result<GroupReply, Status> {
        let away = self.away(ctx, &request.conversation, request.forwarded);
        if let Some(away) = away.await? {
            let request = UserMembers {
                forwarded: true,
                ..request
            };
            let asked = away.ask(ctx, &request.conversation, async |pick, ctx| {
                LogicClient::new(pick.channel)
                    .add_members(ctx, &request)
                    .await
            });
            return self.settled(&request.conversation, asked.await);
        }
        let retry = Retry::idempotent();
        let written = ctx.retry(&retry, async || {
            self.das(ctx).await?.add_members(ctx, &request).await
        });
        self.settled(&request.conversation, written.await)
    }

    async fn remove_member(
        &self,
        ctx: &Ctx,
        request: UserRemoveMember,
    ) -> Result<GroupReply, Status> {
        let away = self.away(ctx, &request.conversation, request.forwarded);
        if let Some(away) = away.await? {
            let request = UserRemoveMember {
                forwarded: true,
                ..request
            };
            let asked = away.ask(ctx, &request.conversation, async |pick, ctx| {
                LogicClient::new(pick.channel)
                    .remove_member(ctx, &request)
                    .await
            });
            return self.settled(&request.conversation, asked.await);
        }
        let retry = Retry::idempotent();
        let written = ctx.retry(&retry, async || {
            self.das(ctx).await?.remove_member(ctx, &request).await
        });
        self.settled(&request.conversation, written.await)
    }

    async fn members(&self, ctx: &Ctx, request: UserGroup) -> Result<GroupReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.members(ctx, &request).await
        })
        .await
    }

    async fn presence(&self, _: &Ctx, request: PresenceRequest) -> Result<PresenceReply, Status> {
        if request.uids.len() > PRESENCE_MAX {
            return Err(Status::too_large(format!(
                "at most {PRESENCE_MAX} users at once"
            )));
        }
        let presence = self.presence.borrow();
        let users = request.uids.into_iter().map(|uid| {
            let online = presence.is_online(&uid);
            UserPresence { uid, online }
        });
        Ok(PresenceReply {
            users: users.collect(),
        })
    }
}
