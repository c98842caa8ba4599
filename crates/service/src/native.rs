//! Requests and answers in native frames.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use waystation_base::{CallId, Sid};
use waystation_net::native::{Control, Handler, Inbound, Started, reply, reply_error};
use waystation_net::{CloseReason, Conn, Label};
use waystation_wire::{Header, Kind, Status as Code};

use crate::contexts::{Admitted, Contexts};
use crate::ctx::{Context, Ctx, Opening};
use crate::endpoint::{Answering, Endpoint};
use crate::method::Format;
use crate::router::Hooks;
use crate::status::Status;

/// The context of a request that came in a frame.
pub(crate) fn open(contexts: &Rc<Contexts>, conn: &Conn, label: Label, header: &Header) -> Ctx {
    let opening = Opening {
        sid: (header.sid != Sid::default()).then_some(header.sid),
        trace: header.trace,
        method: label,
        deadline_left: header.deadline_left,
        conn: Some(conn.clone()),
    };
    Ctx::open(conn.shard(), contexts, opening)
}

/// One method over native frames.
pub(crate) struct NativeGate {
    endpoint: Rc<dyn Endpoint>,
    contexts: Rc<Contexts>,
    label: Label,
}

impl NativeGate {
    pub(crate) fn new(endpoint: Rc<dyn Endpoint>, contexts: Rc<Contexts>) -> Self {
        let label = endpoint.label();
        Self {
            endpoint,
            contexts,
            label,
        }
    }
}

impl Handler for NativeGate {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let header = *message.header;
        let admitted = match self.contexts.admit() {
            Ok(admitted) => admitted,
            Err(in_flight) => {
                let reason = format!("{in_flight} requests are in progress");
                refuse(&self.contexts, conn, &header, Code::Overloaded, &reason);
                return None;
            }
        };
        let ctx = open(&self.contexts, conn, self.label, &header);
        match self.endpoint.start(&ctx, Format::Protobuf, message.body) {
            Ok(answering) => {
                let answer = Answer::expect(ctx, header, self.contexts.clone(), admitted);
                Some(Box::pin(answer.run(answering)))
            }
            Err(status) => {
                self.contexts.count(|counts| counts.failed += 1);
                refuse(
                    &self.contexts,
                    conn,
                    &header,
                    status.code(),
                    status.message(),
                );
                None
            }
        }
    }

    fn label(&self) -> Label {
        self.label
    }
}

fn refuse(contexts: &Contexts, conn: &Conn, header: &Header, code: Code, reason: &str) {
    if header.kind == Kind::Request {
        let _ = contexts;
        // A connection that is gone counts it itself.
        let _ = reply_error(conn, header, code, reason);
    }
}

/// The one answer that a request gets, whatever becomes of its handler.
struct Answer {
    ctx: Ctx,
    header: Header,
    contexts: Rc<Contexts>,
    _admitted: Admitted,
    given: bool,
}

impl Answer {
    fn expect(ctx: Ctx, header: Header, contexts: Rc<Contexts>, admitted: Admitted) -> Self {
        if let (Kind::Request, Some(conn)) = (header.kind, ctx.conn()) {
            Calls::of(conn).open(header.call, &ctx);
        }
        Self {
            ctx,
            header,
            contexts,
            _admitted: admitted,
            given: false,
        }
    }

    async fn run(mut self, answering: Answering) {
        let result = answering.await;
        self.give(&result);
    }

    fn give(&mut self, result: &Result<Vec<u8>, Status>) {
        self.given = true;
        let took = self.took();
        self.contexts.ended(took, result.is_ok());
        let Some(conn) = self.ctx.conn() else { return };
        if self.header.kind != Kind::Request {
            return;
        }
        Calls::of(conn).close(self.header.call);
        if self.ctx.is_cancelled() {
            // The caller has ended the call on its side.
            self.contexts.count(|counts| counts.cancelled += 1);
            return;
        }
        let header = Header::reply(self.header.call, self.header.message, Code::Ok)
            .with_sid(self.ctx.sid())
            .with_trace(self.ctx.trace())
            .with_load(self.contexts.load());
        // A connection that is gone, or too slow, counts it itself.
        let _ = match result {
            Ok(body) => reply(conn, &header, body),
            Err(status) => {
                let header = Header {
                    status: status.code(),
                    ..header
                };
                reply(conn, &header, status.message().as_bytes())
            }
        };
    }

    fn took(&self) -> Duration {
        let shared = &self.ctx.shared;
        self.ctx.shard().now().saturating_since(shared.started)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.given {
            self.give(&Err(Status::internal(
                "the request was dropped without an answer",
            )));
        }
    }
}

/// The requests of one connection in progress, for cancellation.
#[derive(Default)]
struct Calls {
    open: RefCell<HashMap<CallId, Weak<Context>>>,
}

impl Calls {
    fn of(conn: &Conn) -> Rc<Self> {
        conn.property::<Self>().unwrap_or_else(|| {
            let calls = Rc::<Self>::default();
            conn.set_property(calls.clone());
            calls
        })
    }

    fn open(&self, call: CallId, ctx: &Ctx) {
        self.open
            .borrow_mut()
            .insert(call, Rc::downgrade(&ctx.shared));
    }

    fn close(&self, call: CallId) {
        let mut open = self.open.borrow_mut();
        open.remove(&call);
        if open.is_empty() {
            open.shrink_to(16);
        }
    }
}

/// Ends requests that their caller cancels, and passes the rest to hooks.
pub(crate) struct CancelControl {
    hooks: Hooks,
}

impl CancelControl {
    pub(crate) fn new(hooks: Hooks) -> Self {
        Self { hooks }
    }
}

impl Control for CancelControl {
    fn on_open(&self, conn: &Conn) {
        self.hooks.on_open(conn);
    }

    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        self.hooks.on_close(conn, reason);
    }

    fn on_cancel(&self, conn: &Conn, call: CallId) {
        let Some(calls) = conn.property::<Calls>() else {
            return;
        };
        let context = calls.open.borrow().get(&call).and_then(Weak::upgrade);
        if let Some(shared) = context {
            Ctx { shared }.cancel();
        }
    }
}
