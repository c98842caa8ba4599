//! The other Logics: whom a conversation belongs to, and requests passed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waystation_service::{Code, Ctx, Group, Status};

use super::counts::Counts;
use super::limits::RELAY;
use crate::im::logic::LogicClient;
use crate::im::{SendReply, UserSend};

/// All Logics, this one among them. Connections to them are made when the first
/// request is passed on.
pub(super) struct Others {
    own: String,
    logics: Group,
    counts: Arc<Counts>,
}

impl Others {
    pub(super) fn new(own: String, logics: Group, counts: Arc<Counts>) -> Self {
        Self {
            own,
            logics,
            counts,
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
        self.counts.relayed.fetch_add(1, Ordering::Relaxed);
        let part = ctx.within(RELAY.min(ctx.time_left() / 2));
        let answer = logic.send(&part, &request).await;
        if answer.as_ref().is_err_and(may_serve_here) {
            self.counts.relays_failed.fetch_add(1, Ordering::Relaxed);
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
