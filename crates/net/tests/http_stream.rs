//! Answers over HTTP that come piece by piece.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Memory, NAME, Peer, Setup, back_at, closed, eventually, figures, on_shard, run};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{LocalBoxStream, StreamExt as _, pending, unfold};
use http::{Request, Response};
use waystation_net::Conn;
use waystation_net::native::{HttpHandler, Router};

/// Longer than any socket here holds.
const PIECE: usize = 16 * 1024;

/// Streams on some paths, and counts the pieces it made; anything else is answered
/// whole.
#[derive(Default)]
struct Streams {
    made: Arc<AtomicUsize>,
}

impl HttpHandler for Streams {
    fn handle(
        &self,
        _conn: &Conn,
        request: Request<Bytes>,
    ) -> LocalBoxFuture<'static, Response<Bytes>> {
        let text = format!("whole {}\n", request.uri().path());
        Box::pin(async move { Response::new(Bytes::from(text)) })
    }

    fn stream(
        &self,
        conn: &Conn,
        request: &Request<Bytes>,
    ) -> Option<Response<LocalBoxStream<'static, Bytes>>> {
        let (shard, made) = (conn.shard().clone(), Arc::clone(&self.made));
        let pieces: LocalBoxStream<'static, Bytes> = match request.uri().path() {
            "/three" => Box::pin(unfold(0, move |count| {
                let shard = shard.clone();
                async move {
                    shard.sleep(Duration::from_mins(1)).await;
                    (count < 3).then(|| (Bytes::from(format!("piece {count}")), count + 1))
                }
            })),
            "/first" => {
                let first = futures_util::stream::iter([Bytes::from_static(b"first")]);
                Box::pin(first.chain(pending()))
            }
            "/flood" => Box::pin(futures_util::stream::repeat_with(move || {
                made.fetch_add(1, Ordering::Relaxed);
                Bytes::from(vec![b'x'; PIECE])
            })),
            _ => return None,
        };
        Some(Response::new(pieces))
    }
}

fn router(made: &Arc<AtomicUsize>) -> Router {
    let mut router = common::echo_router();
    let made = Arc::clone(made);
    router.set_http(Rc::new(Streams { made }));
    router
}

fn ask(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

#[test]
fn pieces_leave_as_they_are_made_and_another_request_may_follow() {
    let Memory { io, server } = Setup::paused().start(|_| router(&Arc::default()));
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            for _ in 0..2 {
                let began = shard.now();
                // What is asked behind it waits for its end.
                peer.write((ask("GET", "/three") + &ask("GET", "/a")).as_bytes())
                    .await;
                let head = String::from_utf8(peer.until(b"\r\n\r\n").await).unwrap();
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                assert!(head.contains("transfer-encoding: chunked"), "{head}");
                for count in 0..3 {
                    let piece = peer.until(b"\r\n").await;
                    assert_eq!(piece, b"7\r\n");
                    let piece = peer.until(b"\r\n").await;
                    assert_eq!(piece, format!("piece {count}\r\n").as_bytes());
                    // It came when it was made, which the idle limit does not end.
                    let at = shard.now().saturating_since(began);
                    assert_eq!(at.as_secs() / 60, count + 1);
                }
                assert_eq!(peer.until(b"\r\n\r\n").await, b"0\r\n\r\n");
                let whole = peer.until(b"whole /a\n").await;
                assert!(whole.starts_with(b"HTTP/1.1 200 "));
            }
            // A HEAD has no body, and is answered as any other.
            peer.write(ask("HEAD", "/three").as_bytes()).await;
            peer.until(b"content-length: 13\r\n").await;
        })
    });
    server.drain();
}

#[test]
fn a_peer_that_reads_nothing_is_closed_and_costs_what_sockets_hold() {
    let made = Arc::new(AtomicUsize::new(0));
    let mut setup = Setup::default();
    setup.config.connection.write_stall = Duration::from_millis(300);
    let counted = Arc::clone(&made);
    let memory = setup.start(move |_| router(&counted));
    let baseline = figures(&memory.server);
    let (slow, mut other) = (memory.dial(), memory.dial());
    run(async {
        let mut slow = slow;
        slow.write(ask("GET", "/flood").as_bytes()).await;
        eventually("it is found", || {
            // Others are answered meanwhile.
            closed(&memory.server, "slow_reader") == 1
        });
        other.write(ask("GET", "/a").as_bytes()).await;
        other.until(b"whole /a\n").await;
        drop(slow);
        drop(other);
    });
    // Sockets of 64 KiB, two in split placement, the queue between them, and what
    // the library takes ahead.
    let made = made.load(Ordering::Relaxed);
    assert!((1..100).contains(&made), "{made} pieces");
    back_at(&memory.server, &baseline);
}

#[test]
fn a_peer_that_leaves_ends_its_stream() {
    let memory = Setup::default().start(|_| router(&Arc::default()));
    let baseline = figures(&memory.server);
    run(async {
        let mut peer = memory.dial();
        peer.write(ask("GET", "/first").as_bytes()).await;
        peer.until(b"first\r\n").await;
    });
    back_at(&memory.server, &baseline);
}

#[test]
fn a_stream_ends_in_good_order_when_the_process_goes_away() {
    let Memory { io, server } = Setup::default().start(|_| router(&Arc::default()));
    let mut peer = Peer::new(io.dial(NAME).unwrap());
    run(async {
        peer.write(ask("GET", "/first").as_bytes()).await;
        peer.until(b"first\r\n").await;
    });
    server.drain();
    let rest = run(async { peer.rest().await });
    assert_eq!(rest, b"0\r\n\r\n");
}
