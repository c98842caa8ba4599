//! Brings messages to sessions: by push, or by fetching what is missing.

use std::rc::Rc;
use std::time::Duration;

use waystation_net::Label;
use waystation_service::{Ctx, Peer, Push, PushError, Retry, Status};

use super::limits::{FETCHERS_PER_SESSION, PAGE, PAUSE, PAUSE_MAX, STEP};
use super::session::{Missing, Offer, Session};
use super::shard::EntryShard;
use crate::im::client::method::Deliver;
use crate::im::{Message, UserHistory};

impl EntryShard {
    /// Logic tells of a message for some users here.
    pub(super) fn offer(&self, message: &Message, recipients: &[String]) {
        let push = Push::<Deliver>::new(message);
        for uid in recipients {
            for session in self.sessions_of(uid) {
                self.offer_to(&session, message, &push);
            }
        }
    }

    fn offer_to(&self, session: &Rc<Session>, message: &Message, push: &Push<'_, Deliver>) {
        let conversation = &message.conversation;
        match session.offer(conversation, message.seq) {
            Offer::Skip => {}
            Offer::Fetch => self.start_fetch(session, conversation.clone()),
            Offer::Push => {
                let Ok(conn) = self.shard().connection(session.conn()) else {
                    return;
                };
                match Peer::new(conn).push_shared(push) {
                    Ok(()) => session.delivered(conversation, message.seq),
                    Err(PushError::Closed(_)) => {}
                    // The peer reads slowly: it gets the rest from the
                    // history, at its own speed.
                    Err(_) => {
                        if session.push_failed(conversation, message.seq) {
                            self.start_fetch(session, conversation.clone());
                        }
                    }
                }
            }
        }
    }

    /// Has what is missing of a conversation delivered, beside at most
    /// [`FETCHERS_PER_SESSION`] others of this session. The conversation is
    /// marked as fetching already.
    pub(super) fn start_fetch(&self, session: &Rc<Session>, conversation: String) {
        let Some(state) = self.strong() else { return };
        if !session.enqueue(conversation, FETCHERS_PER_SESSION) {
            return;
        }
        let session = session.clone();
        let label = Label::of("fetch missed messages");
        self.shard().spawn(label, async move {
            waystation_net::describe_task(session.uid().to_owned());
            let mut pause = Duration::ZERO;
            while let Some((conversation, missing)) = session.next_fetch() {
                match fetch(&state, &session, &conversation, missing).await {
                    Ok(()) => pause = Duration::ZERO,
                    Err(status) => {
                        tracing::debug!(uid = session.uid(), conversation, %status, "fetch failed");
                        pause = (pause + PAUSE).min(PAUSE_MAX);
                        state.shard().sleep(pause).await;
                    }
                }
                session.requeue(conversation);
            }
        });
    }
}

/// Fetches one page and delivers it, when the peer has read what is before it:
/// so no page waits for a slow reader, in memory or on the way.
async fn fetch(
    state: &Rc<EntryShard>,
    session: &Rc<Session>,
    conversation: &str,
    missing: Missing,
) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the connection has ended");
    let Ok(conn) = state.shard().connection(session.conn()) else {
        session.end();
        return Ok(());
    };
    conn.writable().await.map_err(gone)?;
    let peer = Peer::new(conn);
    let ctx = Ctx::background_for(&peer, "fetch missed messages", STEP);
    let turn = state.fetches.turn(&ctx).await?;
    let request = UserHistory {
        uid: session.uid().to_owned(),
        conversation: conversation.to_owned(),
        after_seq: missing.after,
        before_seq: None,
        limit: PAGE,
    };
    let page = ctx
        .retry(&Retry::idempotent(), async || {
            let logic = state.any_logic(&ctx).await?;
            logic.history(&ctx, &request).await
        })
        .await?;
    drop(turn);
    if page.messages.is_empty() {
        session.fetch_found_none(conversation, missing);
    }
    for message in &page.messages {
        match peer.push::<Deliver>(message) {
            Ok(()) => session.delivered(conversation, message.seq),
            // Others filled it meanwhile: this page's rest is fetched again.
            Err(PushError::Full(_)) => return Ok(()),
            Err(error) => return Err(Status::cancelled(error.to_string())),
        }
    }
    Ok(())
}
