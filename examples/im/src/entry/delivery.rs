//! Brings messages to sessions: by push, or by fetching what is missing.

use std::rc::Rc;
use std::time::Duration;

use waystation_net::Label;
use waystation_service::{Ctx, Peer, Push, PushError, Retry, Status};

use super::session::{Missing, Offer, Session};
use super::shard::EntryShard;
use crate::im::client::method::Deliver;
use crate::im::{Message, UserHistory};

/// Messages asked for by one step of a fetch.
const PAGE: u32 = 100;

/// Time for one step of a fetch, retries included.
const STEP: Duration = Duration::from_secs(5);

/// The pause after a step that failed grows by this with each failure, up to
/// [`PAUSE_MAX`]. A fetch goes on for as long as its connection lives.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two steps of a fetch.
const PAUSE_MAX: Duration = Duration::from_secs(5);

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

    /// Starts a task that delivers what is missing of a conversation. The
    /// session is marked as fetching already.
    pub(super) fn start_fetch(&self, session: &Rc<Session>, conversation: String) {
        let Some(state) = self.strong() else { return };
        let session = session.clone();
        self.shard().spawn(Label::of("fetch missed messages"), async move {
            waystation_net::describe_task(format!("{} {conversation}", session.uid()));
            let mut pause = Duration::ZERO;
            while let Some(missing) = session.fetch_from(&conversation) {
                match fetch(&state, &session, &conversation, missing).await {
                    Ok(()) => pause = Duration::ZERO,
                    Err(status) => {
                        tracing::debug!(uid = session.uid(), conversation, %status, "fetch failed");
                        pause = (pause + PAUSE).min(PAUSE_MAX);
                        state.shard().sleep(pause).await;
                    }
                }
            }
        });
    }
}

/// Fetches one page and delivers it, as fast as the peer reads.
async fn fetch(
    state: &Rc<EntryShard>,
    session: &Rc<Session>,
    conversation: &str,
    missing: Missing,
) -> Result<(), Status> {
    let ctx = Ctx::background(state.shard(), "fetch missed messages", STEP);
    let request = UserHistory {
        uid: session.uid().to_owned(),
        conversation: conversation.to_owned(),
        after_seq: missing.after,
        before_seq: None,
        limit: PAGE,
    };
    let page = ctx
        .retry(&Retry::idempotent(), async || {
            state.logic(conversation)?.history(&ctx, &request).await
        })
        .await?;
    if page.messages.is_empty() {
        session.fetch_found_none(conversation, missing);
    }
    for message in &page.messages {
        let gone = |_| Status::cancelled("the connection has ended");
        let Ok(conn) = state.shard().connection(session.conn()) else {
            session.end();
            return Ok(());
        };
        conn.writable().await.map_err(gone)?;
        match Peer::new(conn).push::<Deliver>(message) {
            Ok(()) => session.delivered(conversation, message.seq),
            // It filled up meanwhile: this page's rest is fetched again.
            Err(PushError::Full(_)) => return Ok(()),
            Err(error) => return Err(Status::cancelled(error.to_string())),
        }
    }
    Ok(())
}
