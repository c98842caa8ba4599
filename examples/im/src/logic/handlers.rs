//! Logic's methods.

use std::cell::RefCell;
use std::collections::HashMap;

use waystation_base::ConnName;
use waystation_net::{CloseReason, Shard, until};
use waystation_service::{Ctx, Group, Locks, Peer, Push, PushError, Retry, Status};

use super::limits::{FANOUT_BEHIND_BYTES, FANOUT_WAIT, PRESENCE_MAX};
use super::others::Others;
use super::presence::Presence;
use crate::im::das::DasClient;
use crate::im::link::method as push;
use crate::im::logic::Logic;
use crate::im::{
    AppendReply, AppendRequest, AttachReply, AttachRequest, ConversationsReply, FanoutMessage,
    GroupReply, HistoryReply, MarkReadReply, Message, PresenceReply, PresenceRequest, Pushed,
    SendReply, UserConversations, UserCreateGroup, UserGroup, UserHistory, UserMarkRead,
    UserMembers, UserPresence, UserRemoveMember, UserRequest, UserSend,
};

/// The rules, one instance for each shard.
pub(super) struct Rules {
    das: Group,
    others: Others,
    presence: RefCell<Presence>,
    /// Messages of one conversation are stored and fanned out one after
    /// another, so that they leave in the order of their numbers.
    conversations: Locks<String>,
}

impl Rules {
    pub(super) fn new(das: Group, others: Others) -> Self {
        Self {
            das,
            others,
            presence: RefCell::default(),
            conversations: Locks::default(),
        }
    }

    /// An Entry's connection has ended.
    pub(super) fn entry_left(&self, peer: &Peer) {
        let left = self.presence.borrow_mut().detach(peer.name());
        self.announce(peer, &left, false);
    }

    /// Gives a stored message to every Entry that has a member on it, as fast
    /// as they take it. The message is stored: however this ends, they are
    /// told.
    async fn fan_out(&self, ctx: &Ctx, message: &Message, members: &[String]) {
        let routes = self.presence.borrow().route(members.iter());
        let fan_out = FanOut {
            shard: ctx.shard(),
            message,
            routes,
        };
        let deadline = ctx.deadline().min(ctx.shard().now() + FANOUT_WAIT);
        // One that has no room by then is disconnected when it is told.
        let _ = until(ctx.shard(), deadline, fan_out.room()).await;
    }

    /// Tells every Entry that users came or left.
    fn announce(&self, near: &Peer, users: &[String], online: bool) {
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
                if let Ok(conn) = near.conn().shard().connection(*entry) {
                    // As in `fan_out`.
                    let _ = Peer::new(conn).push_shared(&change);
                }
            }
        }
    }

    fn peer(ctx: &Ctx) -> Result<Peer, Status> {
        ctx.peer()
            .ok_or_else(|| Status::internal("the request has no connection"))
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
    async fn das(&self, ctx: &Ctx) -> Result<DasClient, Status> {
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
        self.fan_out(ctx, &message, &members).await;
        Ok(reply)
    }

    async fn append(&self, ctx: &Ctx, request: &AppendRequest) -> Result<AppendReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.append(ctx, request).await
        })
        .await
    }
}

/// A stored message on its way to the Entries that are to be told of it, which
/// happens when this is dropped.
struct FanOut<'a> {
    shard: &'a Shard,
    message: &'a Message,
    routes: HashMap<ConnName, Vec<String>>,
}

impl FanOut<'_> {
    /// Waits until no Entry is far behind.
    async fn room(&self) {
        for entry in self.routes.keys() {
            if let Ok(conn) = self.shard.connection(*entry)
                && conn.output_len() >= FANOUT_BEHIND_BYTES
            {
                // One that ends meanwhile is told nothing.
                let _ = conn.writable().await;
            }
        }
    }
}

impl Drop for FanOut<'_> {
    fn drop(&mut self) {
        for (entry, recipients) in self.routes.drain() {
            let Ok(conn) = self.shard.connection(entry) else {
                continue;
            };
            let fanout = FanoutMessage {
                message: Some(self.message.clone()),
                recipients,
            };
            let peer = Peer::new(conn);
            if let Err(PushError::Full(_)) = peer.push::<push::Fanout>(&fanout) {
                // It would miss the message. When it is back it looks for
                // what it missed.
                peer.conn().close(CloseReason::SlowReader);
            }
        }
    }
}

impl Logic for Rules {
    async fn attach(&self, ctx: &Ctx, request: AttachRequest) -> Result<AttachReply, Status> {
        let peer = Self::peer(ctx)?;
        let users = request.uids.into_iter().collect();
        let (came, left) = self.presence.borrow_mut().attach(peer.name(), users);
        self.announce(&peer, &left, false);
        self.announce(&peer, &came, true);
        let users = u32::try_from(self.presence.borrow().count(peer.name())).unwrap_or(u32::MAX);
        Ok(AttachReply { users })
    }

    async fn online(&self, ctx: &Ctx, request: UserRequest) -> Result<AttachReply, Status> {
        let peer = Self::peer(ctx)?;
        let came = self.presence.borrow_mut().online(peer.name(), &request.uid);
        if came {
            self.announce(&peer, &[request.uid], true);
        }
        let users = u32::try_from(self.presence.borrow().count(peer.name())).unwrap_or(u32::MAX);
        Ok(AttachReply { users })
    }

    async fn offline(&self, ctx: &Ctx, request: UserRequest) -> Result<Pushed, Status> {
        let peer = Self::peer(ctx)?;
        let left = self
            .presence
            .borrow_mut()
            .offline(peer.name(), &request.uid);
        if left {
            self.announce(&peer, &[request.uid], false);
        }
        Ok(Pushed {})
    }

    async fn send(&self, ctx: &Ctx, request: UserSend) -> Result<SendReply, Status> {
        if let Some(answer) = self.others.relay(ctx, &request).await {
            return self.tell_own(ctx, &request, answer?).await;
        }
        let wants_members = request.members;
        ctx.set_state("waiting for its turn");
        let _turn = self.conversations.lock(&request.conversation).await?;
        ctx.set_state("storing");
        let append = AppendRequest {
            uid: request.uid,
            conversation: request.conversation,
            client_id: request.client_id,
            body: request.body,
        };
        let stored = self.append(ctx, &append).await?;
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
        self.fan_out(ctx, &message, &stored.members).await;
        Ok(SendReply {
            conversation: message.conversation,
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
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.mark_read(ctx, &request).await
        })
        .await
    }

    async fn create_group(
        &self,
        ctx: &Ctx,
        request: UserCreateGroup,
    ) -> Result<GroupReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.create_group(ctx, &request).await
        })
        .await
    }

    async fn add_members(&self, ctx: &Ctx, request: UserMembers) -> Result<GroupReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.add_members(ctx, &request).await
        })
        .await
    }

    async fn remove_member(
        &self,
        ctx: &Ctx,
        request: UserRemoveMember,
    ) -> Result<GroupReply, Status> {
        ctx.retry(&Retry::idempotent(), async || {
            self.das(ctx).await?.remove_member(ctx, &request).await
        })
        .await
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
