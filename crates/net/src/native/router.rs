//! Which handler a message goes to.

use std::collections::HashMap;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use waystation_base::{CallId, MessageId};
use waystation_wire::{Header, MESSAGE_LEN_MAX, Status, encode_into, frames_len};

use super::http::HttpHandler;
use super::upgrade::Origins;
use crate::conn::{CloseReason, Conn, SendError, Session};
use crate::limits::HANDLERS_PER_CONNECTION;
use crate::limits::HTTP_BODY_BYTES;
use crate::protocol::Home;
use crate::shard::Label;

/// A received message: its header, and its body while the call lasts.
#[derive(Clone, Copy)]
pub struct Inbound<'a> {
    /// The header of its (last) frame.
    pub header: &'a Header,
    /// The whole body.
    pub body: &'a [u8],
}

/// What a handler left to do: nothing, or a future that finishes it. On a
/// connection with the ordering rule nothing else is handled until it ends.
///
/// A handler that is answered for later by something that runs anyway needs no
/// future: it keeps [`Conn::handler_guard`] until then, which counts the same.
pub type Started = Option<LocalBoxFuture<'static, ()>>;

/// Handles the messages of one id.
pub trait Handler: 'static {
    /// Starts on a message. The body must be decoded before this returns.
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started;

    /// The handler's name in dumps and reports.
    fn label(&self) -> Label;
}

/// Handles text messages of WebSocket peers.
pub trait TextHandler: 'static {
    /// Starts on a message.
    fn handle(&self, conn: &Conn, text: &str) -> Started;

    /// What a peer that has sent text is told when this process goes away.
    /// Without it such a peer learns it from the close frame, which follows.
    fn go_away(&self) -> Option<&str> {
        None
    }

    /// The handler's name in dumps and reports.
    fn label(&self) -> Label;
}

/// What else happens on the connections of a router.
pub trait Control: 'static {
    /// A connection has been opened.
    fn on_open(&self, conn: &Conn) {
        let _ = conn;
    }

    /// A connection has ended.
    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        let _ = (conn, reason);
    }

    /// The peer no longer wants the answer to a call.
    fn on_cancel(&self, conn: &Conn, call: CallId) {
        let _ = (conn, call);
    }

    /// The peer goes away soon.
    fn on_go_away(&self, conn: &Conn) {
        let _ = conn;
    }
}

struct NoControl;
impl Control for NoControl {}

/// Makes what serves a connection that is neither native nor HTTP.
type Foreign = Rc<dyn Fn(&Conn) -> Box<dyn Session>>;

/// Decides a connection's shard by its first bytes.
type HomeRule = Rc<dyn Fn(&[u8]) -> Home>;

/// Two handlers want the same message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{new}` and `{old}` have the same message id {id}; rename one of them")]
pub struct RouteError {
    /// The id.
    pub id: MessageId,
    /// The handler that has it.
    pub old: &'static str,
    /// The handler that wanted it too.
    pub new: &'static str,
}

/// Routes messages by id, with a fallback. One for each shard and listener.
pub struct Router {
    pub(crate) routes: HashMap<MessageId, Rc<dyn Handler>>,
    pub(crate) fallback: Option<Rc<dyn Handler>>,
    pub(crate) text: Option<Rc<dyn TextHandler>>,
    pub(crate) http: Option<Rc<dyn HttpHandler>>,
    pub(crate) http_body_bytes: usize,
    pub(crate) websocket_path: Option<String>,
    pub(crate) origins: Origins,
    pub(crate) control: Rc<dyn Control>,
    pub(crate) home: Option<HomeRule>,
    pub(crate) foreign: Option<Foreign>,
    pub(crate) concurrency: u32,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            routes: HashMap::new(),
            fallback: None,
            text: None,
            http: None,
            http_body_bytes: HTTP_BODY_BYTES,
            websocket_path: None,
            origins: Origins::Same,
            control: Rc::new(NoControl),
            home: None,
            foreign: None,
            concurrency: 1,
        }
    }
}

impl Router {
    /// A router that knows nothing yet, and handles the messages of each
    /// connection one after another.
    pub fn new() -> Self {
        Self::default()
    }

    /// Routes one message id to a handler.
    ///
    /// # Errors
    /// [`RouteError`] when the id is taken.
    pub fn route(&mut self, id: MessageId, handler: Rc<dyn Handler>) -> Result<(), RouteError> {
        if let Some(old) = self.routes.get(&id) {
            let (old, new) = (old.label().name(), handler.label().name());
            return Err(RouteError { id, old, new });
        }
        self.routes.insert(id, handler);
        Ok(())
    }

    /// Handles every message that has no route.
    pub fn set_fallback(&mut self, handler: Rc<dyn Handler>) {
        self.fallback = Some(handler);
    }

    /// Handles text messages of WebSocket peers. Without it such a peer is
    /// disconnected.
    pub fn set_text(&mut self, handler: Rc<dyn TextHandler>) {
        self.text = Some(handler);
    }

    /// Handles HTTP requests. Without it they are answered 404.
    pub fn set_http(&mut self, handler: Rc<dyn HttpHandler>) {
        self.http = Some(handler);
    }

    /// Takes bodies of HTTP requests up to this many bytes; default
    /// [`HTTP_BODY_BYTES`]. A larger one is answered
    /// 413. A connection holds the whole body until its answer.
    pub fn set_http_body_bytes(&mut self, bytes_max: usize) {
        self.http_body_bytes = bytes_max;
    }

    /// Accepts WebSocket upgrades on this path.
    pub fn set_websocket_path(&mut self, path: impl Into<String>) {
        self.websocket_path = Some(path.into());
    }

    /// Says which pages may open a WebSocket here; by default those of the same
    /// host and port.
    pub fn set_origins(&mut self, origins: Origins) {
        self.origins = origins;
    }

    /// Sets what else happens on connections.
    pub fn set_control(&mut self, control: Rc<dyn Control>) {
        self.control = control;
    }

    /// Decides connections' shards by their first bytes.
    pub fn set_home(&mut self, home: impl Fn(&[u8]) -> Home + 'static) {
        self.home = Some(Rc::new(home));
    }

    /// Serves connections whose first byte begins neither a native frame nor
    /// HTTP, such as those of Lars: `make` gives what serves each. Without it
    /// they are closed.
    pub fn set_foreign(&mut self, make: impl Fn(&Conn) -> Box<dyn Session> + 'static) {
        self.foreign = Some(Rc::new(make));
    }

    /// How many messages of one connection are handled at once. With more
    /// than 1, answers may leave in another order than requests came; they
    /// carry call ids. At most
    /// [`HANDLERS_PER_CONNECTION`].
    pub fn set_concurrency(&mut self, handlers: u32) {
        self.concurrency = handlers.clamp(1, HANDLERS_PER_CONNECTION);
    }
}

/// Answers a request on its connection.
///
/// # Errors
/// [`SendError`]; a body over 64 MiB is answered as `TooLarge` instead.
pub fn reply(conn: &Conn, header: &Header, body: &[u8]) -> Result<(), SendError> {
    if body.len() > MESSAGE_LEN_MAX {
        let reason = "the answer is larger than a message may be";
        return reply_error(conn, header, Status::TooLarge, reason);
    }
    conn.send_with(frames_len(body.len()), |out| {
        // The length was checked above.
        let _ = encode_into(header, body, out);
    })
}

/// Answers a request with a refusal, which finds room in any case, see
/// [`Conn::send_short_with`].
///
/// # Errors
/// [`SendError`]; a reason over 64 MiB is left out.
pub fn refuse(conn: &Conn, header: &Header, reason: &[u8]) -> Result<(), SendError> {
    let reason = if reason.len() > MESSAGE_LEN_MAX {
        &[]
    } else {
        reason
    };
    conn.send_short_with(frames_len(reason.len()), |out| {
        // The length was checked above.
        let _ = encode_into(header, reason, out);
    })
}

/// Answers a request with an error, its reason as text.
///
/// # Errors
/// [`SendError`].
pub fn reply_error(
    conn: &Conn,
    request: &Header,
    status: Status,
    reason: &str,
) -> Result<(), SendError> {
    let header = Header::reply(request.call, request.message, status)
        .with_sid(request.sid)
        .with_trace(request.trace);
    refuse(conn, &header, reason.as_bytes())
}
