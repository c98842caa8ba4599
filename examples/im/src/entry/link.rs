//! The connections to each Logic: what it pushes, and what is told to it when
//! a connection was made.

use std::collections::HashSet;
use std::rc::{Rc, Weak};

use futures_util::stream::{self, StreamExt};
use waystation_base::line_passes;
use waystation_membership::Instance;
use waystation_net::native::{Upstream, UpstreamEvents};
use waystation_net::{CloseReason, Conn, Label, Shard};
use waystation_service::{Channel, Ctx, Peer, Push, Retry, Router, Status, address_of};

use super::limits::{ATTACH, LOOK, LOOK_PAUSE, LOOKS_AT_ONCE};
use super::session::Session;
use super::shard::EntryShard;
use crate::im::client::method::PresenceChanged;
use crate::im::link::{self, Link};
use crate::im::logic::LogicClient;
use crate::im::logic::method::Offline;
use crate::im::{
    AttachRequest, Conversation, FanoutMessage, MissedRequest, Pushed, UserConversations,
    UserPresence, UserRequest,
};

/// A channel to one Logic that handles what it pushes.
pub(super) fn logic_channel(
    shard: &Shard,
    state: &Weak<EntryShard>,
    instance: &Instance,
) -> Channel {
    let mut pushes = Router::new(shard);
    // One after another, in the order in which Logic sent them.
    pushes.concurrency(1);
    let id = instance.id.to_string();
    let handlers = FromLogic {
        state: state.clone(),
        id: id.clone(),
    };
    link::register(&mut pushes, Rc::new(handlers))
        .expect("the methods of one service are distinct");
    let events = Rc::new(Events {
        state: state.clone(),
        id,
    });
    Channel::with_pushes(shard, address_of(instance), pushes.into_native(), events)
}

/// What a Logic pushes.
struct FromLogic {
    state: Weak<EntryShard>,
    id: String,
}

impl Link for FromLogic {
    async fn missed(&self, _: &Ctx, _: MissedRequest) -> Result<Pushed, Status> {
        if let Some(state) = self.state.upgrade() {
            look_after_loss(&state);
        }
        Ok(Pushed {})
    }

    async fn fanout(&self, _: &Ctx, request: FanoutMessage) -> Result<Pushed, Status> {
        if let (Some(state), Some(message)) = (self.state.upgrade(), request.message) {
            state.offer(&message, &request.recipients);
        }
        Ok(Pushed {})
    }

    async fn presence_changed(&self, _: &Ctx, request: UserPresence) -> Result<Pushed, Status> {
        let Some(state) = self.state.upgrade() else {
            return Ok(Pushed {});
        };
        // Each Logic tells of everyone; only the one that the user belongs
        // to is believed, so that a Logic that just started, and does not
        // know everyone yet, takes nobody offline.
        if state.logics().pick(request.uid.as_bytes())?.id == self.id {
            let push = Push::<PresenceChanged>::new(&request);
            for session in state.sessions() {
                if session.watches(&request.uid)
                    && let Ok(conn) = state.shard().connection(session.conn())
                {
                    // A change that a full connection misses is not repeated:
                    // presence is a hint.
                    let _ = Peer::new(conn).push_shared(&push);
                }
            }
        }
        Ok(Pushed {})
    }
}

struct Events {
    state: Weak<EntryShard>,
    id: String,
}

impl UpstreamEvents for Events {
    fn on_up(&self, _: &Upstream, _: &Conn) {
        if let Some(state) = self.state.upgrade() {
            attach(&state, &self.id);
        }
    }

    /// That one which the registry does not list any more ends nobody else tells.
    fn on_down(&self, _: &Upstream, _: CloseReason) {
        if let Some(state) = self.state.upgrade()
            && state.logics().member(&self.id).is_none()
        {
            look_after_loss(&state);
        }
    }
}

/// Has a Logic told who is here, once more if that is under way already, and
/// what was missed looked for.
pub(super) fn attach(state: &Rc<EntryShard>, id: &str) {
    if !state.begin_attach(id) {
        return;
    }
    let (shard, state, id) = (state.shard().clone(), state.clone(), id.to_owned());
    shard.spawn(Label::of("attach to Logic"), async move {
        // The one with that id now: it may have moved meanwhile.
        let channel = || state.logics().callee(&id)?.opened().cloned();
        let is_connected = || channel().is_some_and(|channel| channel.is_connected());
        while state.goes_on_attaching(&id, is_connected()) {
            let Some(channel) = channel() else { continue };
            if let Err(status) = tell(&state, &id, &channel).await {
                tracing::warn!(logic = id, %status, "not attached");
                state.attach_again(&id);
                state.shard().sleep(LOOK_PAUSE).await;
            }
        }
        look_at_all(&state, || channel().is_some_and(|channel| channel.is_up())).await;
    });
}

/// A Logic is gone for good, and with it what it could not tell any more: has
/// that looked for, once more if it is under way already.
pub(super) fn look_after_loss(state: &Rc<EntryShard>) {
    state.looks_again.set(true);
    if state.is_looking.replace(true) {
        return;
    }
    let (shard, state) = (state.shard().clone(), state.clone());
    shard.spawn(Label::of("look after a loss"), async move {
        while state.looks_again.replace(false) {
            look_at_all(&state, || true).await;
        }
        state.is_looking.set(false);
    });
}

/// Tells a Logic who is here.
async fn tell(state: &Rc<EntryShard>, logic: &str, channel: &Channel) -> Result<(), Status> {
    let ctx = Ctx::background(state.shard(), "attach to Logic", ATTACH);
    let request = AttachRequest { uids: state.uids() };
    let client = LogicClient::new(channel.clone());
    let reply = client.attach(&ctx, &request).await?;
    tracing::info!(logic, users = reply.users, "attached");
    // The list may have waited for its turn, and what was told meanwhile have come
    // before it.
    let told: HashSet<String> = request.uids.into_iter().collect();
    for uid in told.iter().filter(|uid| !state.is_here(uid)) {
        tell_offline(channel, uid);
    }
    for uid in state.uids() {
        if !told.contains(&uid) {
            tell_online(state, channel, &ctx, uid).await?;
        }
    }
    Ok(())
}

/// Tells a Logic that a user is here, who may be gone again when it has heard it.
pub(super) async fn tell_online(
    state: &Rc<EntryShard>,
    channel: &Channel,
    ctx: &Ctx,
    uid: String,
) -> Result<(), Status> {
    let request = UserRequest { uid };
    let client = LogicClient::new(channel.clone());
    client.online(ctx, &request).await?;
    if !state.is_here(&request.uid) {
        tell_offline(channel, &request.uid);
    }
    Ok(())
}

/// Tells a Logic that a user has left.
pub(super) fn tell_offline(channel: &Channel, uid: &str) {
    let left = UserRequest {
        uid: uid.to_owned(),
    };
    // A Logic that is away is told who is here when it is back.
    let _ = channel.push::<Offline>(&left);
}

/// Looks for missed messages of every session, for as long as it takes or
/// `goes_on`: the next connection begins anew.
async fn look_at_all(state: &Rc<EntryShard>, goes_on: impl Fn() -> bool) {
    let mut sessions = state.sessions();
    while goes_on() && !sessions.is_empty() {
        let looks = stream::iter(sessions).map(|session| async move {
            let status = state.look(&session).await.err()?;
            if let Some(unsaid) = line_passes!(state.shard().now()) {
                tracing::warn!(uid = session.uid(), %status, unsaid, "cannot look for missed messages");
            }
            Some(session)
        });
        let looked = looks.buffer_unordered(LOOKS_AT_ONCE);
        sessions = looked.filter_map(std::future::ready).collect().await;
        sessions.retain(|session| state.shard().connection(session.conn()).is_ok());
        if !sessions.is_empty() {
            state.shard().sleep(LOOK_PAUSE).await;
        }
    }
}

impl EntryShard {
    /// Finds and delivers what a session missed.
    async fn look(&self, session: &Rc<Session>) -> Result<(), Status> {
        let conn = self.shard().connection(session.conn());
        let conn = conn.map_err(|_| Status::cancelled("the connection has ended"))?;
        let ctx = Ctx::background_for(&Peer::new(conn), "look for missed messages", LOOK);
        for conversation in self.conversations(&ctx, session.uid()).await? {
            if session.exists(&conversation.conversation, conversation.last_seq) {
                self.start_fetch(session, conversation.conversation);
            }
        }
        Ok(())
    }

    /// All conversations of a user, page after page.
    pub(super) async fn conversations(
        &self,
        ctx: &Ctx,
        uid: &str,
    ) -> Result<Vec<Conversation>, Status> {
        let mut all: Vec<Conversation> = Vec::new();
        loop {
            let after = all
                .last()
                .map(|last| last.conversation.clone())
                .unwrap_or_default();
            let request = UserConversations {
                uid: uid.to_owned(),
                after,
                limit: 0,
            };
            let page = ctx
                .retry(&Retry::idempotent(), async || {
                    let logic = self.any_logic(ctx).await?;
                    logic.conversations(ctx, &request).await
                })
                .await?;
            all.extend(page.conversations);
            if !page.more {
                return Ok(all);
            }
        }
    }
}
