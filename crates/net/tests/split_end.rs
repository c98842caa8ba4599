//! Split placement: how connections end, and what waits for peers that do not
//! read.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{NAME, Peer, answer_to, closed, eventually, on, run};
use tokio::io::AsyncWriteExt;
use waystation_base::CallId;
use waystation_net::native::{NativeProtocol, Router, reply};
use waystation_net::{Address, CloseReason, ConnectionLimits, Faults, MemoryIo, NetConfig, Server};
use waystation_wire::{Header, encode_header};

fn start(
    io: &MemoryIo,
    connection: ConnectionLimits,
    router: impl Fn() -> Router + Send + Sync + 'static,
) -> Server {
    let config = NetConfig {
        io_shards: 1,
        io: Arc::new(io.clone()),
        connection,
        ..NetConfig::default()
    };
    Server::builder(config)
        .listen(Address::Memory(NAME.into()), move |_| {
            NativeProtocol::new(Rc::new(router()))
        })
        .start()
        .unwrap()
}

/// A ping behind the worker's last word was answered on a socket that had been
/// shut. The write failed, so that the connection was reset, which may overtake
/// the last word.
#[test]
fn nothing_follows_the_last_word() {
    let io = MemoryIo::new(6, Faults::default());
    let server = start(&io, ConnectionLimits::default(), || {
        let mut router = Router::new();
        on(&mut router, "test/Bye", |conn, message| {
            reply(conn, &answer_to(message.header), b"bye").unwrap();
            conn.close(CloseReason::Local);
            None
        });
        router
    });
    let io_shard = server.counters()[1].clone();
    run(async {
        let mut peer = Peer::new(io.dial(NAME).unwrap());
        peer.request(1, "test/Bye", b"").await;
        assert_eq!(peer.answer().await, Some((1, b"bye".to_vec())));
        assert!(!peer.read().await, "that was all");
        // On a slow machine the socket may be gone by now.
        let ping = encode_header(&Header::ping(CallId(2)));
        let _ = peer.stream.write_all(&ping).await;
        let _ = peer.stream.shutdown().await;
        eventually("its socket is gone", || io_shard.split_pumps.get() == 0);
        assert!(!peer.read().await, "a pong behind the end");
    });
}

/// What a worker wrote for a peer that read nothing waited, without bound,
/// between its thread and that of the socket.
#[test]
fn the_send_queue_is_bounded_and_its_peer_is_found_to_be_slow() {
    const CAPACITY: usize = 1000;
    const HIGH_WATER: usize = 20_000;
    const PIECE: usize = 1000;
    let narrow = Faults {
        capacity: CAPACITY,
        ..Faults::default()
    };
    let io = MemoryIo::new(7, narrow);
    let limits = ConnectionLimits {
        output_high_water: HIGH_WATER,
        write_stall: Duration::from_millis(300),
        ..ConnectionLimits::default()
    };
    let window = limits.input_queue;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let server = start(&io, limits, move || {
        let mut router = Router::new();
        let counted = counted.clone();
        on(&mut router, "test/Flood", move |conn, _| {
            let (conn, counted) = (conn.clone(), counted.clone());
            Some(Box::pin(async move {
                while conn.write(&[7; PIECE]).await.is_ok() {
                    counted.fetch_add(PIECE, Ordering::Relaxed);
                }
            }))
        });
        router
    });
    run(async {
        let mut peer = Peer::new(io.dial(NAME).unwrap());
        peer.request(1, "test/Flood", b"").await;
        eventually("it is closed", || closed(&server, "slow_reader") == 1);
    });
    server.drain();
    let sent = sent.load(Ordering::Relaxed);
    // At the peer, on the way to it, in the queue, and at the worker.
    let most = CAPACITY + 2 * window + HIGH_WATER + PIECE;
    assert!((window..=most).contains(&sent), "{sent} bytes were sent");
}
