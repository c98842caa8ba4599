//! What one peer can make us hold. Every allocation of the process is counted,
//! so this binary has one test.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;
mod held;

use common::{Memory, NAME, Peer, Setup, on, on_shard};
use held::most_held;
use tokio::io::AsyncWriteExt;
use waystation_net::native::Router;

const MIB: usize = 1 << 20;
const LINE: &[u8] = &[b'x'; 10_000];

fn router() -> Router {
    held::count_this_thread();
    let mut router = common::echo_router();
    router.set_websocket_path("/ws");
    on(&mut router, "test/Flood", |conn, _| {
        while conn.send(&[7; 1000]).is_ok() {}
        None
    });
    // A handler that stays suspended while its peer goes on sending.
    on(&mut router, "test/Never", |conn, _| {
        let conn = conn.clone();
        Some(Box::pin(async move { conn.closed().await }))
    });
    router
}

/// A 100 MiB header line was accepted, and a peer that never read took 400 MiB
/// of queued writes.
#[test]
fn one_peer_costs_little_whatever_it_does() {
    held::count_this_thread();
    heads_and_bodies_are_bounded();
    queues_of_one_peer_are_bounded();
}

fn heads_and_bodies_are_bounded() {
    let Memory { io, server } = Setup::paused().start(|_| router());
    // What is allocated once is allocated now.
    let warm = io.clone();
    on_shard(&server, 0, move |_| {
        Box::pin(async move { Peer::new(warm.dial(NAME).unwrap()).check_echo().await })
    });

    // Sent until 100 MiB are out or the server has had enough.
    let send = |head: &'static [u8], what: &'static [u8]| {
        let io = io.clone();
        let server = &server;
        most_held(move || {
            on_shard(server, 0, move |_| {
                Box::pin(async move {
                    let mut peer = Peer::new(io.dial(NAME).unwrap());
                    peer.write(head).await;
                    for _ in 0..100 * MIB / what.len() {
                        if peer.stream.write_all(what).await.is_err() {
                            break;
                        }
                    }
                    // Not read: an echo of everything would wait in it.
                    drop(peer);
                })
            });
        })
    };
    let header_line = send(b"GET / HTTP/1.1\r\nx: ", LINE);
    assert!(header_line < MIB, "a header line held {header_line} bytes");
    let request_line = send(b"GET /", LINE);
    assert!(
        request_line < MIB,
        "a request line held {request_line} bytes"
    );
    let body = send(
        b"POST / HTTP/1.1\r\ncontent-length: 104857600\r\n\r\n",
        LINE,
    );
    assert!(body < 4 * MIB, "a body held {body} bytes");
    let handshake = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
        \x82\xFF\0\0\0\0\x06\x40\0\0\0\0\0\0";
    let message = send(handshake, LINE);
    assert!(
        message < 4 * MIB,
        "a WebSocket message held {message} bytes"
    );
    server.drain();
}

/// Bytes behind a suspended handler, and output that nobody reads.
fn queues_of_one_peer_are_bounded() {
    let Memory { io, server } = Setup::paused().start(|_| router());
    let behind = {
        let io = io.clone();
        most_held(|| {
            on_shard(&server, 0, move |shard| {
                Box::pin(async move {
                    let mut peer = Peer::new(io.dial(NAME).unwrap());
                    peer.request(1, "test/Never", b"").await;
                    let frame = common::request(2, "test/Echo", &[1; 1000]);
                    let send = async {
                        loop {
                            peer.write(&frame).await;
                        }
                    };
                    // It stops taking more at its bound.
                    let until = shard.now() + std::time::Duration::from_secs(5);
                    let ended = waystation_net::until(&shard, until, send).await;
                    assert!(ended.is_err());
                })
            });
        })
    };
    assert!(behind < MIB, "input behind a handler held {behind} bytes");
    let flood = most_held(|| {
        on_shard(&server, 0, move |_| {
            Box::pin(async move {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.request(1, "test/Flood", b"").await;
                peer.rest().await;
            })
        });
    });
    assert!(
        flood < 16 * MIB,
        "output that nobody read held {flood} bytes"
    );
    server.drain();
}
