//! HTTP/1.1 on a native port, by hyper, and its upgrade to WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::rt::{ReadBufCursor, Sleep, Timer};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::ReadBuf;
use waystation_base::Moment;
use waystation_wire::Status;

use super::router::Router;
use super::upgrade::upgrade;
use crate::conn::{CloseReason, Conn, Transport};
use crate::io::Stream;
use crate::limits::{HTTP_BODY_BYTES, HTTP_HEAD_BYTES, HTTP_HEADERS};
use crate::protocol::Slot;
use crate::shard::{WaitsFor, until, waiting};

/// What hyper holds while it reads and writes, about.
const HTTP_BUFFERS: usize = 16 * 1024;

/// Handles HTTP requests whose body has been read whole.
pub trait HttpHandler: 'static {
    /// Answers one request.
    fn handle(
        &self,
        conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>>;
}

/// The whole answer to a connection above the limit.
pub(crate) fn refusal() -> Vec<u8> {
    let body = fault_body(Status::Overloaded, "too many connections");
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Serves HTTP until the connection ends (false) or has become WebSocket
/// (true), its transport put back then.
///
/// hyper's buffers live while a request does: between requests the connection
/// waits without them.
pub(crate) async fn serve(router: &Rc<Router>, slot: &mut Slot) -> Result<bool, CloseReason> {
    let transport = slot.take().ok_or(CloseReason::Reset)?;
    let (conn, mut stream, mut input) = transport.into_parts().ok_or(CloseReason::Reset)?;
    let mut head = input.take();
    let mut limit = Limit::new(&conn);
    let ended = loop {
        let burst = Box::pin(burst(router, &mut limit, stream, head)).await;
        (stream, head) = (burst.stream, burst.rest);
        match burst.ended {
            Ok(After::Waits) if head.is_empty() => match limit.request_begins(&mut *stream).await {
                Ok(true) => {}
                other => break other,
            },
            Ok(After::Waits) => {}
            Ok(end) => break Ok(end == After::Upgraded),
            Err(reason) => break Err(reason),
        }
    };
    if ended == Ok(true) {
        // The answer to the handshake is out; messages begin here.
        stream.mark_whole();
    }
    slot.put(Transport::new(conn, stream, head));
    ended
}

/// What came of some requests in a row.
struct Burst {
    stream: Box<dyn Stream>,
    /// Bytes that were read and belong to what follows.
    rest: Vec<u8>,
    ended: Result<After, CloseReason>,
}

/// What follows some requests in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// All were answered, and the peer may send another.
    Waits,
    /// The connection is now WebSocket.
    Upgraded,
    /// HTTP is over.
    Over,
}

/// Serves requests until none is left to answer.
async fn burst(
    router: &Rc<Router>,
    limit: &mut Limit<'_>,
    stream: Box<dyn Stream>,
    head: Vec<u8>,
) -> Burst {
    let conn = limit.conn.clone();
    let config = conn.shard().config().clone();
    let state = limit.state.clone();
    state.begin_burst();
    conn.hold_received(HTTP_BUFFERS);
    let io = HttpStream {
        stream,
        head,
        start: 0,
        conn: conn.clone(),
        state: state.clone(),
    };
    let parts = (router.clone(), conn.clone(), state.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, conn, state) = parts.clone();
        let answered = async move {
            state.begun.set(state.begun.get() + 1);
            let response = answer(&router, &conn, request, &state).await;
            state.answered();
            Ok::<_, Infallible>(response)
        };
        Box::pin(answered) as LocalBoxFuture<'static, _>
    });
    let mut served = http1::Builder::new()
        .timer(LoopTimer)
        .header_read_timeout(config.connection.frame_wait.min(config.connection.idle))
        .max_headers(HTTP_HEADERS)
        .max_buf_size(HTTP_HEAD_BYTES)
        .half_close(config.http_half_close)
        .serve_connection(io, service);
    let run = poll_fn(|cx| {
        if let Poll::Ready(result) = served.poll_without_shutdown(cx) {
            let ended = result.map(|()| After::Over);
            return Poll::Ready(ended.map_err(|_| CloseReason::Http));
        }
        if state.is_idle() {
            return Poll::Ready(Ok(After::Waits));
        }
        if limit.drain_begins(cx) {
            Pin::new(&mut served).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        limit.poll(cx).map(Err)
    });
    let mut ended = waiting(WaitsFor::plain("HTTP"), run).await;
    if ended.is_err() && state.begun.get() > state.ended.get() {
        conn.shard().counters().callers_left.add(1);
    }
    if ended == Ok(After::Over) && state.upgraded.get() {
        ended = Ok(After::Upgraded);
    }
    conn.hold_received(0);
    let parts = served.into_parts();
    let mut rest = parts.read_buf.to_vec();
    rest.extend_from_slice(&parts.io.head[parts.io.start..]);
    Burst {
        stream: parts.io.stream,
        rest,
        ended,
    }
}

/// How far hyper has come with the requests of a connection.
struct State {
    /// When bytes last moved.
    progress: Cell<Moment>,
    upgraded: Cell<bool>,
    /// Requests whose handling has begun, and has ended.
    begun: Cell<u64>,
    ended: Cell<u64>,
    /// Nothing was written since the last answer was given.
    silent: Cell<bool>,
    /// Something was written that may not have left.
    unsent: Cell<bool>,
    /// A body was not read to its end: where the next request begins, only
    /// hyper knows.
    astray: Cell<bool>,
}

impl State {
    fn begin_burst(&self) {
        self.begun.set(0);
        self.ended.set(0);
        self.silent.set(true);
        self.unsent.set(false);
        self.astray.set(false);
    }

    fn answered(&self) {
        self.ended.set(self.ended.get() + 1);
        self.silent.set(true);
    }

    /// All that was asked is answered, and every byte of it has left. hyper
    /// gives an answer to the stream in the same turn, head and body at once,
    /// and flushes behind it.
    fn is_idle(&self) -> bool {
        self.begun.get() > 0
            && self.begun.get() == self.ended.get()
            && !self.silent.get()
            && !self.unsent.get()
            && !self.astray.get()
            && !self.upgraded.get()
    }
}

/// The limits of a connection that hyper drives.
struct Limit<'a> {
    conn: &'a Conn,
    state: Rc<State>,
    idle: Duration,
    sleep: Option<crate::shard::Sleep>,
    told: bool,
}

impl<'a> Limit<'a> {
    fn new(conn: &'a Conn) -> Self {
        let shard = conn.shard();
        Self {
            conn,
            state: Rc::new(State {
                progress: Cell::new(shard.now()),
                upgraded: Cell::new(false),
                begun: Cell::new(0),
                ended: Cell::new(0),
                silent: Cell::new(true),
                unsent: Cell::new(false),
                astray: Cell::new(false),
            }),
            idle: shard.config().connection.idle,
            sleep: None,
            told: false,
        }
    }

    /// Waits without a buffer for the next request; false when none comes,
    /// since the process goes away.
    async fn request_begins(&mut self, stream: &mut dyn Stream) -> Result<bool, CloseReason> {
        let begins = poll_fn(|cx| {
            if self.drain_begins(cx) || self.told {
                return Poll::Ready(Ok(false));
            }
            match stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(true)),
                Poll::Ready(Err(_)) => Poll::Ready(Err(CloseReason::Reset)),
                Poll::Pending => self.poll(cx).map(Err),
            }
        });
        waiting(WaitsFor::plain("HTTP"), begins).await
    }

    /// True once, when the process begins to go away.
    fn drain_begins(&mut self, cx: &Context<'_>) -> bool {
        self.conn.register_driver(cx);
        !self.told && self.conn.is_draining() && {
            self.told = true;
            true
        }
    }

    /// Ready when the connection was closed, or no byte moved for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if let Some(reason) = self.conn.close_reason() {
            return Poll::Ready(reason);
        }
        loop {
            let shard = self.conn.shard();
            if self.conn.handlers() > 0 {
                // It waits for us, not we for it.
                self.state.progress.set(shard.now());
            }
            let at = self.state.progress.get() + self.idle;
            if shard.now() >= at {
                return Poll::Ready(CloseReason::Idle);
            }
            let sleep = self.sleep.get_or_insert_with(|| shard.sleep_until(at));
            if Pin::new(sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }
}

/// An error in the shape that all have: `{"code":"…","message":"…"}`.
/// `message` needs no escapes.
pub(super) fn fault(code: StatusCode, status: Status, message: &str) -> Response<Bytes> {
    let mut response = Response::new(fault_body(status, message).into());
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn fault_body(status: Status, message: &str) -> String {
    format!(r#"{{"code":"{}","message":"{message}"}}"#, status.name()) + "\n"
}

async fn answer(
    router: &Rc<Router>,
    conn: &Conn,
    request: Request<Incoming>,
    state: &State,
) -> Response<Full<Bytes>> {
    let counters = conn.shard().counters();
    counters.messages_in.add(1);
    let websocket = router.websocket_path.as_deref() == Some(request.uri().path());
    let response = if websocket {
        // Its body is not read.
        state.astray.set(true);
        let response = upgrade(&request, &router.origins);
        if response.status() == StatusCode::FORBIDDEN {
            counters.origins_refused.add(1);
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        state.upgraded.set(upgraded);
        response
    } else {
        match whole_body(conn, request).await {
            Err(refusal) => {
                state.astray.set(true);
                refusal
            }
            Ok(request) => match &router.http {
                Some(handler) => {
                    let guard = conn.handler_guard();
                    let response = handler.handle(conn, request).await;
                    drop(guard);
                    response
                }
                None => fault(
                    StatusCode::NOT_FOUND,
                    Status::NotFound,
                    "nothing is served over HTTP here",
                ),
            },
        }
    };
    conn.hold_received(HTTP_BUFFERS);
    conn.shard().counters().messages_out.add(1);
    response.map(Full::new)
}

/// Reads the body, within its bounds of size and time. The connection holds
/// its bytes until the answer.
async fn whole_body(
    conn: &Conn,
    request: Request<Incoming>,
) -> Result<Request<Bytes>, Response<Bytes>> {
    let (head, body) = request.into_parts();
    let mut body = Limited::new(body, HTTP_BODY_BYTES);
    let collected = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
                conn.hold_received(HTTP_BUFFERS + bytes.capacity());
            }
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(bytes.freeze())
    };
    let shard = conn.shard();
    let deadline = shard.now() + shard.config().connection.frame_wait;
    match until(shard, deadline, collected).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body)),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(fault(
            StatusCode::PAYLOAD_TOO_LARGE,
            Status::TooLarge,
            "the body is larger than 1 MiB",
        )),
        Ok(Err(_)) => Err(fault(
            StatusCode::BAD_REQUEST,
            Status::InvalidRequest,
            "the body is broken",
        )),
        Err(_) => Err(fault(
            StatusCode::REQUEST_TIMEOUT,
            Status::DeadlineExceeded,
            "the body did not come in time",
        )),
    }
}

/// A stream as hyper wants it, with the bytes that were read before.
struct HttpStream {
    stream: Box<dyn Stream>,
    head: Vec<u8>,
    start: usize,
    conn: Conn,
    state: Rc<State>,
}

impl hyper::rt::Read for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start < this.head.len() {
            let rest = &this.head[this.start..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            this.start += count;
            return Poll::Ready(Ok(()));
        }
        if this.head.capacity() > 0 {
            let head = std::mem::take(&mut this.head);
            this.conn.shard().buffers().give(head);
        }
        this.start = 0;
        let mut bytes = [0_u8; 4096];
        let room = buffer.remaining().min(bytes.len());
        let mut read = ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(Pin::new(&mut *this.stream).poll_read(cx, &mut read))?;
        let filled = read.filled();
        if !filled.is_empty() {
            let shard = this.conn.shard();
            let counters = shard.counters();
            counters.reads.add(1);
            counters.bytes_in.add(filled.len() as u64);
            this.conn.set_received(shard.now());
            this.state.progress.set(shard.now());
        }
        buffer.put_slice(filled);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state.unsent.set(true);
        if self.state.upgraded.get() {
            // Before the peer can know.
            self.stream.begin_websocket();
        }
        let count = std::task::ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes))?;
        self.state.silent.set(false);
        let shard = self.conn.shard();
        let counters = shard.counters();
        counters.writes.add(1);
        counters.bytes_out.add(count as u64);
        self.state.progress.set(shard.now());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut *self.stream).poll_flush(cx))?;
        self.state.unsent.set(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// hyper's timer on this event loop. Its futures must be `Send`, so they use
/// the loop's own timer and not the shard's wheel.
#[derive(Clone, Debug)]
struct LoopTimer;

struct LoopSleep(Pin<Box<tokio::time::Sleep>>);

impl Future for LoopSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for LoopSleep {}

impl Timer for LoopTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(LoopSleep(Box::pin(tokio::time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let deadline = tokio::time::Instant::from_std(deadline);
        Box::pin(LoopSleep(Box::pin(tokio::time::sleep_until(deadline))))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
