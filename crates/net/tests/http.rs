//! HTTP on a native port: one connection for many requests, bounds on what a
//! peer may send, and the way to WebSocket.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::{Memory, NAME, Peer, Setup, closed, connect, eventually, on_shard, run, start_tcp};
use futures_util::future::LocalBoxFuture;
use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use waystation_net::native::{HttpHandler, Origins, Router};
use waystation_net::{Conn, NetConfig, SendError};

/// Answers with what it was asked; `/slow` after a minute.
struct Says;

impl HttpHandler for Says {
    fn handle(
        &self,
        conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let conn = conn.clone();
        Box::pin(async move {
            // A native message would break the stream.
            assert_eq!(conn.send(b"native"), Err(SendError::Mute(conn.name())));
            if request.uri().path() == "/slow" {
                conn.shard().sleep(Duration::from_secs(200)).await;
            }
            assert!(request.uri().path() != "/panic", "a handler with a fault");
            let (method, path) = (request.method(), request.uri().path());
            let length = request.body().len();
            let text = format!("{method} {path} {length}\n");
            let body = if request.method() == Method::HEAD {
                String::new()
            } else {
                text
            };
            Response::new(Bytes::from(body))
        })
    }
}

fn router() -> Router {
    let mut router = common::echo_router();
    router.set_http(Rc::new(Says));
    router.set_websocket_path("/ws");
    router
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

/// Status line and body of the next response, by its content-length.
async fn response<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>) -> (u16, String) {
    let head = String::from_utf8(peer.until(b"\r\n\r\n").await).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.unwrap_or("0").parse().unwrap();
    while peer.received.len() < length {
        assert!(peer.read().await, "the body is cut");
    }
    let rest = peer.received.split_off(length);
    let body = std::mem::replace(&mut peer.received, rest);
    (status, String::from_utf8(body).unwrap())
}

#[test]
fn one_connection_serves_many_requests() {
    let (server, address) = start_tcp(NetConfig::default(), |_| router());
    run(async {
        let mut peer = connect(address).await;
        for round in 0..3 {
            peer.write(get("/a").as_bytes()).await;
            assert_eq!(
                response(&mut peer).await,
                (200, "GET /a 0\n".into()),
                "{round}"
            );
        }
        // Pipelined, with bodies, cut anywhere.
        let post = "POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
        let chunked = "PUT /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let all = [post, chunked, &get("/d")].concat();
        for part in all.as_bytes().chunks(7) {
            peer.write(part).await;
        }
        for expected in ["POST /b 5\n", "PUT /c 5\n", "GET /d 0\n"] {
            assert_eq!(response(&mut peer).await, (200, expected.into()));
        }
        peer.write(b"HEAD /e HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(response(&mut peer).await.0, 200);
        assert_eq!(peer.received, b"", "a HEAD has no body");
        peer.write(b"GET /f HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        assert_eq!(response(&mut peer).await, (200, "GET /f 0\n".into()));
        assert_eq!(peer.rest().await, b"");
    });
    eventually("it is counted", || closed(&server, "http") == 1);
    assert_eq!(server.counters()[0].panics.get(), 0);
}

#[test]
fn refusals_keep_the_connection_where_they_can() {
    let memory = Setup::default().start(|_| {
        let mut router = common::echo_router();
        router.set_websocket_path("/ws");
        router
    });
    run(async {
        let mut peer = memory.dial();
        let handshake = "host: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for (request, status) in [
            (get("/nothing"), 404),
            (get("/ws"), 426),
            (
                format!("GET /ws HTTP/1.1\r\n{handshake}sec-websocket-version: 8\r\n\r\n"),
                426,
            ),
            (
                format!("POST /ws HTTP/1.1\r\n{handshake}content-length: 0\r\n\r\n"),
                405,
            ),
            (
                "GET /ws HTTP/1.1\r\nhost: x\r\nsec-websocket-version: 13\r\n\r\n".into(),
                400,
            ),
            (get("/nothing"), 404),
        ] {
            peer.write(request.as_bytes()).await;
            let (code, body) = response(&mut peer).await;
            assert_eq!(code, status, "{request}");
            // Callers of methods read one shape of errors only.
            assert!(
                body.starts_with(r#"{"code":""#) && body.ends_with("\"}\n"),
                "{body}"
            );
        }
        peer.write(b"NONSENSE\r\n\r\n").await;
        assert_eq!(response(&mut peer).await.0, 400);
        assert_eq!(peer.rest().await, b"");
    });
    eventually("it is counted", || closed(&memory.server, "http") == 1);
}

/// The peer that sent too much was reset while it was still sending, and never
/// learnt why.
#[test]
fn what_is_too_large_is_said_to_be() {
    let (server, address) = start_tcp(NetConfig::default(), |_| router());
    run(async {
        let length = 3 << 20;
        let sized = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        let chunk = format!("{length:x}\r\n");
        let chunked =
            format!("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
        for head in [sized, chunked] {
            let peer = connect(address).await;
            let (read, mut write) = peer.stream.into_split();
            let mut peer = Peer::new(tokio::io::join(read, tokio::io::sink()));
            let sender = tokio::task::spawn_local(async move {
                write.write_all(head.as_bytes()).await.unwrap();
                // It may be cut off once the answer is out.
                let _ = write.write_all(&vec![b'x'; length]).await;
                write
            });
            let (status, text) = response(&mut peer).await;
            assert_eq!(
                (status, text.trim_end()),
                (
                    413,
                    r#"{"code":"too_large","message":"the body is larger than 1 MiB"}"#
                )
            );
            drop(sender.await);
        }
        for head in [
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000)),
            format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(100_000)),
            format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100)),
        ] {
            let mut peer = connect(address).await;
            let _ = peer.stream.write_all(head.as_bytes()).await;
            let status = response(&mut peer).await.0;
            assert!([431, 414].contains(&status), "{status}");
            assert_eq!(peer.rest().await, b"");
        }
        connect(address).await.check_echo().await;
    });
    assert_eq!(server.counters()[0].panics.get(), 0);
}

/// A panic ends its own connection.
#[test]
fn a_panic_in_a_handler_keeps_the_process() {
    let memory = Setup::default().start(|_| router());
    let baseline = common::figures(&memory.server);
    run(async {
        let mut peer = memory.dial();
        peer.write(get("/panic").as_bytes()).await;
        assert_eq!(peer.rest().await, b"");
        let mut other = memory.dial();
        other.write(get("/a").as_bytes()).await;
        assert_eq!(response(&mut other).await.0, 200);
    });
    assert_eq!(memory.counters().panics.get(), 1);
    common::back_at(&memory.server, &baseline);
    assert_eq!(closed(&memory.server, "handler_panic"), 1);
}

/// A handler that took longer than the idle limit was cut off, though it was
/// the peer that waited; and a peer that says nothing must still go.
#[test]
fn who_waits_for_us_is_not_idle() {
    let Memory { io, server } = Setup::paused().start(|_| router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.write(get("/slow").as_bytes()).await;
            assert_eq!(response(&mut peer).await, (200, "GET /slow 0\n".into()));
            let answered = shard.now();
            assert_eq!(peer.rest().await, b"");
            assert!(shard.now() > answered);

            // A head and a body that never end.
            for begun in ["GET / HT", "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx"] {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.write(begun.as_bytes()).await;
                let answer = String::from_utf8(peer.rest().await).unwrap();
                assert!(
                    answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
                    "{answer}"
                );
            }
        })
    });
    server.drain();
}

/// A message to everyone was written into the stream of whoever spoke HTTP, or
/// had not spoken yet.
#[test]
fn messages_to_everyone_do_not_reach_http() {
    let memory = Setup::default().start(|_| router());
    run(async {
        let mut native = memory.dial();
        native.check_echo().await;
        let mut silent = memory.dial();
        let mut http = memory.dial();
        http.write(get("/a").as_bytes()).await;
        response(&mut http).await;
        let open = &memory.counters().connections_open;
        eventually("all are open", || open.get() == 3);
        memory
            .server
            .remote()
            .send_to_all(&Bytes::from_static(b"to all"))
            .unwrap();
        assert_eq!(native.until(b"to all").await, b"to all");
        http.write(get("/b").as_bytes()).await;
        assert_eq!(response(&mut http).await, (200, "GET /b 0\n".into()));
        silent.write(get("/c").as_bytes()).await;
        assert_eq!(response(&mut silent).await, (200, "GET /c 0\n".into()));
    });
}

/// A page of any other site could open a WebSocket with its visitor's cookies.
#[test]
fn only_pages_that_may_open_a_websocket_do() {
    let ask = |origins: Origins, origin: &str| {
        let memory = Setup::default().start(move |_| {
            let mut router = router();
            router.set_origins(origins.clone());
            router
        });
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: chat.example:7080\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{origin}\r\n"
        );
        let status = run(async {
            let mut peer = memory.dial();
            peer.write(request.as_bytes()).await;
            response(&mut peer).await.0
        });
        (status, memory.counters().origins_refused.get())
    };
    let listed = Origins::parse("https://other.example").unwrap();
    assert_eq!(ask(Origins::Same, ""), (101, 0));
    assert_eq!(
        ask(Origins::Same, "origin: http://chat.example:7080\r\n"),
        (101, 0)
    );
    assert_eq!(
        ask(Origins::Same, "origin: https://other.example\r\n"),
        (403, 1)
    );
    assert_eq!(
        ask(listed.clone(), "origin: https://other.example\r\n"),
        (101, 0)
    );
    assert_eq!(ask(listed, "origin: https://evil.example\r\n"), (403, 1));
    assert_eq!(ask(Origins::Any, "origin: null\r\n"), (101, 0));
}

/// Callers went away while their requests were handled, and all of it was done
/// for nobody.
#[test]
fn a_caller_that_leaves_cancels_its_request() {
    let memory = Setup::default().start(|_| router());
    let baseline = common::figures(&memory.server);
    run(async {
        let mut peer = memory.dial();
        peer.write(get("/slow").as_bytes()).await;
        let begun = &memory.counters().messages_in;
        eventually("it is handled", || begun.get() == 1);
    });
    common::back_at(&memory.server, &baseline);
    assert_eq!(memory.counters().callers_left.get(), 1);
    assert_eq!(closed(&memory.server, "http"), 1);
}

/// Some programs close their side when they have asked, and read on.
#[test]
fn a_caller_that_only_closes_its_side_is_answered_where_that_is_allowed() {
    let mut setup = Setup::paused();
    setup.config.http_half_close = true;
    let Memory { io, server } = setup.start(|_| router());
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.write(get("/slow").as_bytes()).await;
            peer.stream.shutdown().await.unwrap();
            assert_eq!(response(&mut peer).await, (200, "GET /slow 0\n".into()));
        })
    });
    assert_eq!(server.counters()[0].callers_left.get(), 0);
}

/// Between two requests the library's buffers are freed and made anew: what
/// was read of the next request in the meantime must not be lost, wherever the
/// stream is cut.
#[test]
fn requests_are_found_wherever_the_stream_is_cut() {
    let Memory { io, server } = Setup::paused().start(|_| router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let post = "POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
            let all = [post, &get("/c"), post].concat();
            for cut in 1..all.len() {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.write(&all.as_bytes()[..cut]).await;
                shard.sleep(Duration::from_millis(5)).await;
                peer.write(&all.as_bytes()[cut..]).await;
                for expected in ["POST /b 5\n", "GET /c 0\n", "POST /b 5\n"] {
                    assert_eq!(response(&mut peer).await, (200, expected.into()), "{cut}");
                }
            }
            // A refusal that leaves a body unread: what follows is no request.
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            let smuggled = get("/smuggled");
            let head = format!(
                "POST /ws HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
                smuggled.len()
            );
            peer.write(head.as_bytes()).await;
            assert_eq!(response(&mut peer).await.0, 405);
            // The connection may be closed by now.
            let _ = peer.stream.write_all(smuggled.as_bytes()).await;
            let rest = peer.rest().await;
            assert!(!String::from_utf8_lossy(&rest).contains("/smuggled"));
        })
    });
}
