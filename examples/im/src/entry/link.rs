//! The connections to each Logic: what it pushes, and what is told to it when
//! a connection was made.

use std::rc::{Rc, Weak};

use futures_util::stream::{self, StreamExt};
use waystation_base::line_passes;
use waystation_net::native::{Upstream, UpstreamEvents};
use waystation_net::{Address, Conn, Label};
use waystation_service::{Channel, Ctx, Peer, Push, Retry, Router, Status};

use super::limits::{ATTACH, LOOK, LOOK_PAUSE, LOOKS_AT_ONCE};
use super::session::Session;
use super::shard::EntryShard;
use crate::im::client::method::PresenceChanged;
use crate::im::link::{self, Link};
use crate::im::logic::LogicClient;
use crate::im::{
    AttachRequest, Conversation, FanoutMessage, Pushed, UserConversations, UserPresence,
};

/// A channel to one Logic that handles what it pushes.
pub(super) fn logic_channel(state: &Rc<EntryShard>, address: Address) -> Channel {
    let mut pushes = Router::new(state.shard());
    // One after another, in the order in which Logic sent them.
    pushes.concurrency(1);
    let from = address.to_string();
    let handlers = FromLogic {
        state: Rc::downgrade(state),
        from,
    };
    link::register(&mut pushes, Rc::new(handlers))
        .expect("the methods of one service are distinct");
    let events = Rc::new(Events {
        state: Rc::downgrade(state),
    });
    Channel::with_pushes(state.shard(), address, pushes.into_native(), events)
}

/// What a Logic pushes.
struct FromLogic {
    state: Weak<EntryShard>,
    from: String,
}

impl Link for FromLogic {
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
        let group = state.logics();
        let owner = group.by_key(request.uid.as_bytes())?;
        if owner.upstream().address().to_string() == self.from {
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
}

impl UpstreamEvents for Events {
    fn on_up(&self, upstream: &Upstream, _: &Conn) {
        if let Some(state) = self.state.upgrade() {
            attach(&state, upstream.address().clone());
        }
    }
}

/// Has a Logic told who is here, once more if that is under way already, and
/// what was missed looked for.
pub(super) fn attach(state: &Rc<EntryShard>, address: Address) {
    if !state.begin_attach(&address) {
        return;
    }
    let (shard, state) = (state.shard().clone(), state.clone());
    shard.spawn(Label::of("attach to Logic"), async move {
        let group = state.logics();
        let mut channels = group.channels();
        let Some(channel) = channels.find(|channel| *channel.upstream().address() == address)
        else {
            return;
        };
        while state.goes_on_attaching(&address, channel.is_connected()) {
            if let Err(status) = tell(&state, channel).await {
                tracing::warn!(logic = %address, %status, "not attached");
                state.attach_again(&address);
                state.shard().sleep(LOOK_PAUSE).await;
            }
        }
        look_at_all(&state, channel).await;
    });
}

/// Tells a Logic who is here.
async fn tell(state: &Rc<EntryShard>, channel: &Channel) -> Result<(), Status> {
    let ctx = Ctx::background(state.shard(), "attach to Logic", ATTACH);
    // The list is that of this moment: who comes later is told beside it.
    let request = AttachRequest { uids: state.uids() };
    let reply = LogicClient::new(channel.clone())
        .attach(&ctx, &request)
        .await?;
    let logic = channel.upstream().address();
    tracing::info!(%logic, users = reply.users, "attached");
    Ok(())
}

/// Looks for missed messages of every session, for as long as it takes or the
/// connection lives: the next one begins anew.
async fn look_at_all(state: &Rc<EntryShard>, channel: &Channel) {
    let mut sessions = state.sessions();
    while channel.is_up() && !sessions.is_empty() {
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
                    self.logic(uid)?.conversations(ctx, &request).await
                })
                .await?;
            all.extend(page.conversations);
            if !page.more {
                return Ok(all);
            }
        }
    }
}
