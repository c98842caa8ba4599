//! How a client's connection becomes a session: a login on each, with the whole
//! list of the user's conversations.

use std::collections::BTreeMap;
use std::rc::Rc;

use waystation_net::{CloseReason, Label, WaitsFor, until, waiting};
use waystation_service::{Ctx, Method, Status};

use super::limits::LOGIN_WAIT;
use super::{Login, SessionEvent, Shared, may_mend};
use crate::im::{ConversationsReply, LoginReply, LoginRequest, entry};

impl Shared {
    /// A connection is up: say who we are.
    pub(super) fn on_up(self: &Rc<Self>) {
        let session = self.session.get() + 1;
        self.session.set(session);
        self.listing.take();
        let shared = self.clone();
        let login = async move { shared.log_in(session).await };
        self.shard.spawn(Label::of("im login"), login);
    }

    pub(super) fn on_down(&self, reason: CloseReason) {
        let before = match &mut *self.login.borrow_mut() {
            Login::Refused(_) => return,
            login => std::mem::replace(login, Login::Absent),
        };
        if before == Login::Done {
            self.events.on_session(SessionEvent::Down { reason });
        }
    }

    async fn log_in(&self, session: u32) {
        if self.session.get() != session || !self.channel.is_connected() {
            return;
        }
        let resumed = self.resumable.get();
        let cursors = if resumed {
            self.cursors.borrow().snapshot()
        } else {
            BTreeMap::default()
        };
        let request = LoginRequest {
            uid: self.config.uid.clone(),
            device: self.config.device.clone(),
            cursors,
            resume: resumed,
        };
        let ctx = Ctx::background(&self.shard, entry::method::Login::NAME, LOGIN_WAIT);
        let result = self.whole_login(session, &ctx, &request).await;
        if self.session.get() != session || *self.login.borrow() != Login::Absent {
            return;
        }
        match result {
            Ok(reply) => self.on_login(session, resumed, reply),
            Err(status) if may_mend(status.code()) => {
                tracing::debug!(uid = self.config.uid, %status, "login failed; will connect anew");
                // One login for each connection: the next comes after a pause.
                if let Some(conn) = self.channel.upstream().conn() {
                    conn.close(CloseReason::Local);
                }
            }
            Err(status) => {
                self.end(status.clone());
                self.events.on_session(SessionEvent::Refused(status));
            }
        }
    }

    /// Logs in, and waits for all pages of the user's conversations.
    async fn whole_login(
        &self,
        session: u32,
        ctx: &Ctx,
        request: &LoginRequest,
    ) -> Result<LoginReply, Status> {
        let login = self.channel.call::<entry::method::Login>(ctx, request);
        let mut reply = login.await?;
        let whole = async {
            // The list of a later connection is not ours.
            while self.session.get() == session && !self.listing.borrow().is_whole() {
                // Nothing else runs between the check and this wait.
                waiting(WaitsFor::plain("conversations"), self.changed.notified()).await;
            }
        };
        if reply.more {
            let listed = until(&self.shard, ctx.deadline(), whole).await;
            listed.map_err(|_| Status::deadline_exceeded("not all conversations came"))?;
            if self.session.get() != session {
                return Err(Status::cancelled("the connection has ended"));
            }
            reply.conversations.extend(self.listing.take().into_rest());
        }
        Ok(reply)
    }

    /// One more page of the user's conversations. It may be here before the
    /// task that logs in has seen the answer.
    pub(super) fn on_conversations(&self, page: ConversationsReply) {
        if self.listing.borrow_mut().add(page) {
            self.changed.notify_waiters();
        } else if let Some(conn) = self.channel.upstream().conn() {
            conn.close(CloseReason::Protocol("too_many_conversations"));
        }
    }

    fn on_login(&self, session: u32, resumed: bool, reply: LoginReply) {
        if !resumed {
            // "From now on" begins where the reply says that each stands.
            let mut cursors = self.cursors.borrow_mut();
            for conversation in &reply.conversations {
                cursors.advance(&conversation.conversation, conversation.last_seq);
            }
        }
        self.resumable.set(true);
        *self.login.borrow_mut() = Login::Done;
        self.count(|stats| stats.sessions += 1);
        self.changed.notify_waiters();
        self.events.on_session(SessionEvent::Up {
            session,
            resumed,
            conversations: reply.conversations,
        });
    }
}
