//! The other Logics: whom a conversation belongs to, and requests passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waystation_net::Kind;
use waystation_service::metrics::Page;
use waystation_service::{Code, Ctx, Group, Status};

use super::limits::RELAY;
use crate::im::logic::LogicClient;
use crate::im::{SendReply, UserSend};

/// How many requests were passed on, and what became of them.
#[derive(Debug, Default)]
pub(super) struct Relays {
    relayed: AtomicU64,
    /// Served here after all.
    failed: AtomicU64,
}

impl Relays {
    pub(super) fn show(&self, page: &mut Page) {
        let rows = [
            (
                "waystation_im_relayed",
                "Requests passed on to the Logic they belong to.",
                &self.relayed,
            ),
            (
                "waystation_im_relays_failed",
                "Requests served by another Logic than the one they belong to, which did not answer.",
                &self.failed,
            ),
        ];
        for (name, help, value) in rows {
            page.family(name, Kind::Counter, help);
            page.sample(name, Kind::Counter, "", value.load(Ordering::Relaxed));
        }
    }
}

/// All Logics, this one among them. Connections to them are made when the first
/// request is passed on.
pub(super) struct Others {
    own: String,
    logics: Group,
    relays: Arc<Relays>,
}

impl Others {
    pub(super) fn new(own: String, logics: Group, relays: Arc<Relays>) -> Self {
        Self {
            own,
            logics,
            relays,
        }
    }

    /// Passes a request on to the Logic that its conversation belongs to, and
    /// gives its answer. None when it is to be served here: it belongs here, it
    /// has been passed on already, or the other one did not answer.
    pub(super) async fn relay(
        &self,
        ctx: &Ctx,
        request: &UserSend,
    ) -> Option<Result<SendReply, Status>> {
        if request.here {
            return None;
        }
        let home = self.logics.home(request.conversation.as_bytes())?;
        if home == self.own {
            return None;
        }
        let member = self.logics.member(&home)?;
        if !member.is_well() {
            return None;
        }
        let logic = LogicClient::new(self.logics.channel(&member));
        let request = UserSend {
            here: true,
            members: true,
            ..request.clone()
        };
        ctx.set_state("passing on");
        self.relays.relayed.fetch_add(1, Ordering::Relaxed);
        let part = ctx.within(RELAY.min(ctx.time_left() / 2));
        let answer = logic.send(&part, &request).await;
        if answer.as_ref().is_err_and(may_serve_here) {
            self.relays.failed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(answer)
    }
}

/// Whether a failure says nothing of the request, and is not one that the other
/// has tried to mend. It may have been served; Das knows.
fn may_serve_here(status: &Status) -> bool {
    let code = status.code();
    !status.is_retried() && (code.may_retry_idempotent() || code == Code::DeadlineExceeded)
}
