//! HTTP/1.1 on a native port, by hyper, and its upgrade to WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::rt::{ReadBufCursor, Sleep, Timer};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::ReadBuf;
use tungstenite::handshake::derive_accept_key;
use waystation_base::Moment;

use super::router::Router;
use crate::conn::{CloseReason, Conn, Transport};
use crate::io::Stream;
use crate::limits::{HTTP_BODY_BYTES, HTTP_HEAD_BYTES, HTTP_HEADERS};
use crate::protocol::Slot;
use crate::shard::{Shard, WaitsFor, until, waiting};

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
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
      content-type: text/plain\r\ncontent-length: 21\r\n\r\ntoo many connections\n"
        .to_vec()
}

/// Serves HTTP until the connection ends (false) or has become WebSocket
/// (true), its transport put back then.
pub(crate) async fn serve(router: &Rc<Router>, slot: &mut Slot) -> Result<bool, CloseReason> {
    let transport = slot.take().ok_or(CloseReason::Reset)?;
    let (conn, stream, mut input) = transport.into_parts().ok_or(CloseReason::Reset)?;
    let shard = conn.shard().clone();
    let progress = Rc::new(Cell::new(shard.now()));
    let io = HttpStream {
        stream,
        head: input.take(),
        start: 0,
        conn: conn.clone(),
        progress: progress.clone(),
    };
    let upgraded = Rc::new(Cell::new(false));
    let state = (router.clone(), conn.clone(), upgraded.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, conn, upgraded) = state.clone();
        let answered =
            async move { Ok::<_, Infallible>(answer(&router, &conn, request, &upgraded).await) };
        Box::pin(answered) as LocalBoxFuture<'static, _>
    });
    let idle = shard.config().connection.idle;
    let mut served = http1::Builder::new()
        .timer(LoopTimer)
        .header_read_timeout(shard.config().connection.frame_wait.min(idle))
        .max_headers(HTTP_HEADERS)
        .max_buf_size(HTTP_HEAD_BYTES)
        .half_close(true)
        .serve_connection(io, service);
    let mut limit = Limit {
        conn: &conn,
        progress: &progress,
        idle,
        sleep: None,
        told: false,
    };
    let run = poll_fn(|cx| {
        if let Poll::Ready(result) = served.poll_without_shutdown(cx) {
            return Poll::Ready(result.map_err(|_| CloseReason::Http));
        }
        if limit.drain_begins(cx) {
            Pin::new(&mut served).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        limit.poll(cx).map(Err)
    });
    let result = waiting(WaitsFor::plain("HTTP"), run).await;
    let parts = served.into_parts();
    let mut head = parts.read_buf.to_vec();
    head.extend_from_slice(&parts.io.head[parts.io.start..]);
    slot.put(Transport::new(conn, parts.io.stream, head));
    result?;
    Ok(upgraded.get())
}

/// The limits of a connection that hyper drives.
struct Limit<'a> {
    conn: &'a Conn,
    progress: &'a Cell<Moment>,
    idle: Duration,
    sleep: Option<crate::shard::Sleep>,
    told: bool,
}

impl Limit<'_> {
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
                self.progress.set(shard.now());
            }
            let at = self.progress.get() + self.idle;
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

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

async fn answer(
    router: &Rc<Router>,
    conn: &Conn,
    request: Request<Incoming>,
    upgraded: &Cell<bool>,
) -> Response<Full<Bytes>> {
    conn.shard().counters().messages_in.add(1);
    let websocket = router.websocket_path.as_deref() == Some(request.uri().path());
    let response = if websocket {
        let response = upgrade(&request);
        upgraded.set(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        response
    } else {
        match whole_body(conn.shard(), request).await {
            Err(refusal) => refusal,
            Ok(request) => match &router.http {
                Some(handler) => {
                    let guard = conn.handler_guard();
                    let response = handler.handle(conn, request).await;
                    drop(guard);
                    response
                }
                None => plain(StatusCode::NOT_FOUND, "nothing is served over HTTP here\n"),
            },
        }
    };
    conn.shard().counters().messages_out.add(1);
    response.map(Full::new)
}

/// Reads the body, within its bounds of size and time.
async fn whole_body(
    shard: &Shard,
    request: Request<Incoming>,
) -> Result<Request<Bytes>, Response<Bytes>> {
    let (head, body) = request.into_parts();
    let deadline = shard.now() + shard.config().connection.frame_wait;
    match until(
        shard,
        deadline,
        Limited::new(body, HTTP_BODY_BYTES).collect(),
    )
    .await
    {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than 1 MiB\n",
        )),
        Ok(Err(_)) => Err(plain(StatusCode::BAD_REQUEST, "the body is broken\n")),
        Err(_) => Err(plain(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time\n",
        )),
    }
}

fn has_token(headers: &HeaderMap, name: http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(token))
        })
}

/// The answer to a WebSocket handshake (RFC 6455, 4.2): 101 when it is one.
fn upgrade<B>(request: &Request<B>) -> Response<Bytes> {
    let headers = request.headers();
    if request.method() != Method::GET {
        let mut refusal = plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "a WebSocket begins with GET\n",
        );
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return refusal;
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut refusal = plain(
            StatusCode::UPGRADE_REQUIRED,
            "this port speaks WebSocket 13\n",
        );
        refusal
            .headers_mut()
            .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        refusal
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
        return refusal;
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let asked =
        has_token(headers, CONNECTION, "upgrade") && has_token(headers, UPGRADE, "websocket");
    let accept = key
        .filter(|_| asked)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    let Some(accept) = accept else {
        return plain(StatusCode::BAD_REQUEST, "this is no WebSocket handshake\n");
    };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// A stream as hyper wants it, with the bytes that were read before.
struct HttpStream {
    stream: Box<dyn Stream>,
    head: Vec<u8>,
    start: usize,
    conn: Conn,
    progress: Rc<Cell<Moment>>,
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
        this.head = Vec::new();
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
            this.progress.set(shard.now());
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
        let count = std::task::ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes))?;
        let shard = self.conn.shard();
        let counters = shard.counters();
        counters.writes.add(1);
        counters.bytes_out.add(count as u64);
        self.progress.set(shard.now());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
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
