//! Requests and answers in native frames.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use waystation_base::{CallId, Sid};
use waystation_net::native::{Control, Handler, Inbound, Started, refuse, reply};
use waystation_net::{CloseReason, Conn, Label, SendError};
use waystation_wire::{Flags, Header, Kind, MESSAGE_LEN_MAX};

use crate::contexts::Contexts;
use crate::ctx::{Context, Ctx, Opening};
use crate::endpoint::Endpoint;
use crate::exchange::{Answer, Incoming, Wire, begin, is_short};
use crate::method::Format;
use crate::router::Hooks;
use crate::status::Status;

/// What a frame says when its deadline has passed, since 0 says that it has
/// none.
const EXPIRED: Duration = Duration::from_micros(1);

/// One method over native frames.
pub(crate) struct NativeGate {
    endpoint: Rc<dyn Endpoint>,
    contexts: Rc<Contexts>,
}

impl NativeGate {
    pub(crate) fn new(endpoint: Rc<dyn Endpoint>, contexts: Rc<Contexts>) -> Self {
        Self { endpoint, contexts }
    }
}

impl Handler for NativeGate {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let header = *message.header;
        let wire = NativeWire {
            conn: conn.clone(),
            header,
        };
        let left = header.deadline_left;
        let opening = Opening {
            sid: (header.sid != Sid::default()).then_some(header.sid),
            trace: header.trace,
            method: self.endpoint.label(),
            deadline_left: left.map(|left| {
                if left <= EXPIRED {
                    Duration::ZERO
                } else {
                    left
                }
            }),
            conn: Some(conn.clone()),
        };
        let incoming = Incoming {
            endpoint: &*self.endpoint,
            opening,
            format: Format::Protobuf,
            body: message.body,
        };
        begin(conn.shard(), &self.contexts, incoming, wire)
    }

    fn label(&self) -> Label {
        self.endpoint.label()
    }
}

/// Refuses what has no method.
pub(crate) struct FallbackGate {
    label: Label,
}

impl FallbackGate {
    pub(crate) fn new() -> Self {
        Self {
            label: Label::of("unknown method"),
        }
    }
}

impl Handler for FallbackGate {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        let header = *message.header;
        conn.shard().counters().unrouted.add(1);
        let id = header.message;
        let answer = Err(Status::unimplemented(format!(
            "no handler has the message id {id}"
        )));
        let wire = NativeWire {
            conn: conn.clone(),
            header,
        };
        wire.send(header.sid, answer);
        None
    }

    fn label(&self) -> Label {
        self.label
    }
}

/// Where a frame came from.
struct NativeWire {
    conn: Conn,
    header: Header,
}

impl NativeWire {
    fn send(&self, sid: Sid, answer: Answer) {
        if self.header.kind != Kind::Request {
            return;
        }
        let answer = answer.and_then(|body| match body.len() {
            0..=MESSAGE_LEN_MAX => Ok(body),
            length => Err(Status::too_large(format!("the answer has {length} bytes"))),
        });
        let (code, flags, body) = match answer {
            Ok(body) => (waystation_wire::Status::Ok, Flags::NONE, body),
            Err(status) => {
                let flags = if status.is_retried() {
                    Flags::RETRIED
                } else {
                    Flags::NONE
                };
                (status.code(), flags, status.into_message().into_bytes())
            }
        };
        let header = Header::reply(self.header.call, self.header.message, code)
            .with_flags(flags)
            .with_sid(sid)
            .with_trace(self.header.trace)
            .with_load(self.conn.shard().server_load());
        let sent = if code.is_ok() && !is_short(&self.conn, &body) {
            reply(&self.conn, &header, &body)
        } else {
            refuse(&self.conn, &header, &body)
        };
        delivered(&self.conn, sent);
    }
}

/// An answer that found no room has ended its connection: its caller would
/// wait for ever. One that is gone already counts that itself.
pub(crate) fn delivered(conn: &Conn, sent: Result<(), SendError>) {
    if let Err(SendError::Full(_)) = sent {
        conn.close(CloseReason::SlowReader);
    }
}

impl Wire for NativeWire {
    fn is_answered(&self) -> bool {
        self.header.kind == Kind::Request
    }

    fn conn(&self) -> Option<&Conn> {
        (self.header.kind == Kind::Request).then_some(&self.conn)
    }

    fn handle_begin(&self, ctx: &Ctx) {
        if self.header.kind == Kind::Request {
            Calls::of(&self.conn).open(self.header.call, ctx);
        }
    }

    fn handle_answer(self, _: &Contexts, ctx: Option<&Ctx>, answer: Answer) {
        let Some(ctx) = ctx else {
            return self.send(self.header.sid, answer);
        };
        if let Some(calls) = self.conn.property::<Calls>() {
            calls.close(self.header.call, ctx);
        }
        if !ctx.is_cancelled() {
            self.send(ctx.sid(), answer);
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
        let context = Rc::downgrade(&ctx.shared);
        self.open.borrow_mut().insert(call, context);
    }

    /// Forgets a call. A peer that uses a call id twice at once has the
    /// second in its place by now, which stays.
    fn close(&self, call: CallId, ctx: &Ctx) {
        let mut open = self.open.borrow_mut();
        let same =
            |context: &Weak<Context>| std::ptr::eq(context.as_ptr(), Rc::as_ptr(&ctx.shared));
        if open.get(&call).is_some_and(same) {
            open.remove(&call);
        }
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
