//! What others put on a connection leaves without its own task, whatever
//! becomes of the connection meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::time::Duration;

use common::{Memory, NAME, Peer, Setup, answer_to, closed, eventually, on, on_shard, run};
use waystation_base::{CallId, MessageId};
use waystation_net::limits::FLUSHES_PER_TURN;
use waystation_net::native::{Router, reply};
use waystation_net::{CloseReason, ConnectionLimits, Faults, NetConfig};
use waystation_wire::{Header, encode_into};

const PEERS: usize = 3 * FLUSHES_PER_TURN as usize + 1;

/// A push that says which of many it is.
fn push(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header::request(MessageId::of("test/News"), CallId(number));
    encode_into(&header, b"news", &mut bytes).unwrap();
    bytes
}

/// Sends `each` pushes to every connection of the shard, round by round.
fn telling_all(each: u64) -> Router {
    let mut router = common::echo_router();
    on(&mut router, "test/Tell", move |conn, _| {
        for number in 0..each {
            for conn in conn.shard().connections() {
                conn.send(&push(number)).unwrap();
            }
        }
        None
    });
    // Answers, then ends every connection but its own.
    on(&mut router, "test/Part", move |conn, message| {
        for other in conn.shard().connections() {
            if other.name() != conn.name() {
                other.send(&push(0)).unwrap();
                other.close(CloseReason::Local);
            }
        }
        let _ = reply(conn, &answer_to(message.header), b"");
        None
    });
    router
}

async fn dial_all(memory: &Memory) -> Vec<Peer<waystation_net::MemoryStream>> {
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = memory.dial();
        // Its protocol is known from here on.
        peer.check_echo().await;
        peers.push(peer);
    }
    peers
}

/// A task that told more connections than the runtime lets one task write
/// would leave the rest unsaid.
#[test]
fn more_connections_than_a_turn_writes_all_hear_everything_in_order() {
    for capacity in [64 * 1024, 100] {
        let faults = Faults {
            capacity,
            ..Faults::default()
        };
        let memory = Setup {
            faults,
            ..Setup::default()
        }
        .start(|_| telling_all(5));
        run(async {
            let mut peers = dial_all(&memory).await;
            peers[7].request(1, "test/Tell", b"").await;
            for peer in &mut peers {
                for number in 0..5 {
                    let (header, body) = peer.frame().await.unwrap();
                    assert_eq!((header.call, &body[..]), (CallId(number), &b"news"[..]));
                }
            }
            // And nothing else.
            for peer in &mut peers {
                peer.check_echo().await;
            }
        });
        memory.server.drain();
    }
}

/// The last words of a connection that is closed in the same turn.
#[test]
fn what_was_sent_before_a_close_leaves_before_it() {
    let memory = Setup::default().start(|_| telling_all(0));
    let baseline = common::figures(&memory.server);
    run(async {
        let mut peers = dial_all(&memory).await;
        peers[0].request(1, "test/Part", b"").await;
        assert!(peers[0].answer().await.is_some());
        for peer in &mut peers[1..] {
            assert!(peer.frame().await.is_some());
            assert!(peer.rest().await.is_empty());
        }
    });
    common::back_at(&memory.server, &baseline);
    memory.server.drain();
}

/// Nobody wakes a connection's task when its handler ends. The idle limit is
/// looked at in time nevertheless, and never while a handler runs.
#[test]
fn a_connection_is_idle_again_after_a_long_handler() {
    let config = NetConfig {
        connection: ConnectionLimits {
            idle: Duration::from_secs(10),
            ..ConnectionLimits::default()
        },
        ..NetConfig::default()
    };
    let Memory { io, server } = Setup {
        config,
        ..Setup::paused()
    }
    .start(|_| {
        let mut router = Router::new();
        // Beside its connection, whose task waits for input.
        router.set_concurrency(4);
        on(&mut router, "test/Long", |conn, message| {
            let (conn, answer) = (conn.clone(), answer_to(message.header));
            Some(Box::pin(async move {
                conn.shard().sleep(Duration::from_secs(35)).await;
                reply(&conn, &answer, b"done").unwrap();
            }))
        });
        router
    });
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Long", b"").await;
            assert_eq!(peer.answer().await, Some((1, b"done".to_vec())));
            let answered = shard.now();
            assert!(peer.rest().await.is_empty());
            let quiet = shard.now().saturating_since(answered);
            // On a clock that jumps from timer to timer.
            assert!(quiet <= Duration::from_secs(11), "{quiet:?}");
        })
    });
    eventually("it was idle", || closed(&server, "idle") == 1);
    server.drain();
}
