//! One request from its admission to its one answer, whatever wire it came by.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use waystation_net::limits::SHORT_ANSWER_BYTES;
use waystation_net::native::Started;
use waystation_net::{CloseReason, Conn, Shard};
use waystation_wire::Status as Code;

use crate::caller::caller_of;
use crate::contexts::{Admitted, Contexts, Outcome};
use crate::ctx::{Ctx, Opening};
use crate::endpoint::{Answering, Endpoint};
use crate::method::Format;
use crate::status::Status;

/// Whether an answer finds room in any case, so that it need not wait behind
/// large ones of others on the same connection.
pub(crate) fn is_short(conn: &Conn, body: &[u8]) -> bool {
    // What a wire puts around a body is far below half of what is short.
    conn.is_accepted() && body.len() <= SHORT_ANSWER_BYTES / 2
}

/// An encoded answer, or why there is none.
pub(crate) type Answer = Result<Vec<u8>, Status>;

/// What a wire does with requests that came by it.
pub(crate) trait Wire: 'static {
    /// The request is admitted under this context.
    fn handle_begin(&self, ctx: &Ctx) {
        let _ = ctx;
    }

    /// The request ends so. Called exactly once for each; `ctx` is missing
    /// when it was not admitted.
    fn handle_answer(self, contexts: &Contexts, ctx: Option<&Ctx>, answer: Answer);

    /// Whether the request is answered at all. How long one takes that is not
    /// says nothing of how long a caller waits.
    fn is_answered(&self) -> bool {
        true
    }

    /// The connection whose output takes the answer, where the framework has
    /// to wait for room in it.
    fn conn(&self) -> Option<&Conn> {
        None
    }

    /// What it means that the request was dropped while it ran.
    fn dropped(&self) -> Status {
        Status::internal("the request was dropped without an answer")
    }
}

/// A request as it came.
pub(crate) struct Incoming<'a> {
    pub(crate) endpoint: &'a dyn Endpoint,
    pub(crate) opening: Opening,
    pub(crate) format: Format,
    pub(crate) body: &'a [u8],
}

/// Admits a request and starts its handler. `None` when it is answered
/// already.
pub(crate) fn begin(
    shard: &Shard,
    contexts: &Rc<Contexts>,
    incoming: Incoming<'_>,
    wire: impl Wire,
) -> Started {
    let Incoming {
        endpoint,
        opening,
        format,
        body,
    } = incoming;
    let caller = opening.conn.as_ref().map(caller_of).unwrap_or_default();
    let admitted = match contexts.admit(caller) {
        Ok(admitted) => admitted,
        Err(status) => {
            wire.handle_answer(contexts, None, Err(status));
            return None;
        }
    };
    let ctx = Ctx::open(shard, contexts, opening, Some(admitted.caller().clone()));
    wire.handle_begin(&ctx);
    let mut exchange = Exchange {
        ctx,
        contexts: contexts.clone(),
        admitted: Some(admitted),
        wire: Some(wire),
    };
    let started = AssertUnwindSafe(|| endpoint.start(&exchange.ctx, format, body));
    let started = catch_unwind(started).unwrap_or_else(|_| Err(exchange.ctx.panicked()));
    match started {
        Ok(answering) => Some(Box::pin(exchange.run(answering))),
        Err(status) => {
            exchange.end(Err(status));
            None
        }
    }
}

/// A request in progress. However it ends, it is counted once and its wire
/// gets one answer.
struct Exchange<W: Wire> {
    ctx: Ctx,
    contexts: Rc<Contexts>,
    admitted: Option<Admitted>,
    wire: Option<W>,
}

impl<W: Wire> Exchange<W> {
    async fn run(mut self, answering: Answering) {
        let answer = answering.await;
        let answer = self.with_room(answer).await;
        self.end(answer);
    }

    /// An answer waits, as far as the request has time, until the peer has
    /// taken what is before it. What waits counts as the connection's memory.
    /// A refusal and a short answer need no room.
    async fn with_room(&self, answer: Answer) -> Answer {
        let conn = self.wire.as_ref().and_then(Wire::conn);
        let (Some(conn), Ok(body)) = (conn, &answer) else {
            return answer;
        };
        let waiting = conn.waiting_bytes();
        if is_short(conn, body) || waiting == 0 && !conn.is_behind() {
            return answer;
        }
        let most = self.contexts.answers_waiting();
        if waiting > 0 && waiting.saturating_add(body.len()) > most {
            return Err(Status::overloaded(format!(
                "{waiting} bytes of answers wait for this peer to read"
            )));
        }
        let _held = conn.hold_answer(body.len());
        self.ctx.set_state("answering");
        let room = self.ctx.run(async {
            if !conn.is_behind() {
                // Those that came before are on their way to the room.
                tokio::task::yield_now().await;
            }
            // On a connection that has ended meanwhile nobody waits.
            let _ = conn.writable().await;
            Ok(())
        });
        room.await.and(answer)
    }

    fn end(&mut self, answer: Answer) {
        let Some(wire) = self.wire.take() else { return };
        self.ctx.leave();
        let answer = answer.map_err(Status::shortened);
        let outcome = match &answer {
            _ if self.ctx.is_cancelled() => Outcome::Cancelled,
            Ok(_) => Outcome::Answered,
            Err(status) => {
                let sid = self.ctx.sid();
                tracing::debug!(%sid, method = self.ctx.method(), %status, "a request failed");
                Outcome::Failed(status.code())
            }
        };
        let took = wire.is_answered().then(|| self.ctx.age());
        self.contexts.ended(took, outcome);
        // The answer tells of the requests that stay.
        drop(self.admitted.take());
        let last = wire.conn().filter(|_| self.ctx.closes()).cloned();
        wire.handle_answer(&self.contexts, Some(&self.ctx), answer);
        if let Some(conn) = last {
            conn.close(CloseReason::Local);
        }
    }
}

impl<W: Wire> Drop for Exchange<W> {
    fn drop(&mut self) {
        if let Some(wire) = &self.wire {
            let status = wire.dropped();
            if status.code() == Code::Cancelled {
                self.ctx.cancel();
            }
            self.end(Err(status));
        }
    }
}
