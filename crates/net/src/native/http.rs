//! HTTP/1.1 on a native port, by hyper, and its upgrade to WebSocket.

mod answer;
mod body;
mod limit;
mod stream;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use waystation_wire::Status;

pub(super) use self::answer::fault;
use self::answer::{answer, fault_body};
use self::limit::Limit;
use self::stream::{HttpStream, LoopTimer};
use super::router::Router;
use crate::conn::{CloseReason, Conn, Transport};
use crate::io::Stream;
use crate::limits::{HTTP_HEAD_BYTES, HTTP_HEADERS};
use crate::protocol::Slot;
use crate::shard::{WaitsFor, waiting};

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

    /// Answers one request piece by piece, as its peer reads; `None`, the default,
    /// leaves it to [`HttpHandler::handle`].
    ///
    /// A piece is asked for when those before it are on their way, so that what a
    /// slow peer has not read waits with whoever makes the pieces. The answer ends
    /// when they do, or the process goes away. A peer that reads nothing for
    /// [`write_stall`](crate::ConnectionLimits::write_stall) is closed, and one that
    /// is gone is found by what it is sent: a stream that may be silent for long
    /// says something now and then.
    fn stream(
        &self,
        _conn: &Conn,
        _request: &Request<Bytes>,
    ) -> Option<Response<LocalBoxStream<'static, Bytes>>> {
        None
    }
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
            if response.body().is_whole() {
                state.answered();
            }
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
