//! Brings messages to sessions: by push, or by fetching what is missing.

use std::rc::Rc;
use std::time::Duration;

use waystation_net::Label;
use waystation_service::{Ctx, Peer, Push, PushError, Retry, Status};

use super::session::{Offer, Session};
use super::shard::EntryShard;
use crate::im::client::method::Deliver;
use crate::im::{Message, UserHistory};

/// Messages asked for by one step of a fetch.
const PAGE: u32 = 100;

/// Time for one step of a fetch, retries included.
const STEP: Duration = Duration::from_secs(5);

/// Steps of a fetch that may fail one after another before it gives up.
const FAILURES: u32 = 12;

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
                let Ok(conn) = self.shard().connection(session.conn()) else { return };
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
            let mut failures = 0;
            while let Some(after) = session.fetch_from(&conversation) {
                match fetch(&state, &session, &conversation, after).await {
                    Ok(true) => failures = 0,
                    Ok(false) => return session.fetch_found_none(&conversation),
                    Err(status) => {
                        failures += 1;
                        tracing::debug!(uid = session.uid(), conversation, %status, "fetch failed");
                        if failures >= FAILURES {
                            return session.fetch_failed(&conversation);
                        }
                    }
                }
            }
        });
    }
}

/// Fetches one page and delivers it, as fast as the peer reads. False when
/// there was nothing.
async fn fetch(
    state: &Rc<EntryShard>,
    session: &Rc<Session>,
    conversation: &str,
    after: u64,
) -> Result<bool, Status> {
    let ctx = Ctx::background(state.shard(), "fetch missed messages", STEP);
    let request = UserHistory {
        uid: session.uid().to_owned(),
        conversation: conversation.to_owned(),
        after_seq: after,
        before_seq: None,
        limit: PAGE,
    };
    let page = ctx
        .retry(&Retry::idempotent(), async || {
            state.logic(conversation)?.history(&ctx, &request).await
        })
        .await?;
    let found = !page.messages.is_empty();
    for message in &page.messages {
        let gone = |_| Status::cancelled("the connection has ended");
        let Ok(conn) = state.shard().connection(session.conn()) else {
            session.end();
            return Ok(true);
        };
        conn.writable().await.map_err(gone)?;
        match Peer::new(conn).push::<Deliver>(message) {
            Ok(()) => session.delivered(conversation, message.seq),
            // It filled up meanwhile: this page's rest is fetched again.
            Err(PushError::Full(_)) => return Ok(true),
            Err(error) => return Err(Status::cancelled(error.to_string())),
        }
    }
    Ok(found)
}
