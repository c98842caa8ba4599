//! Many more connections than may be open at once, closed from either side:
//! everything that they took comes back.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::time::Duration;

use common::{Peer, Setup, answer_to, back_at, closed, figures, on, run, start_tcp};
use tokio::io::{AsyncRead, AsyncWrite};
use waystation_net::native::{Router, reply};
use waystation_net::{CloseReason, NetConfig, Server};

/// Connections that may be open at once.
const MOST: usize = 12;
/// Connections that come and go.
const ALL: usize = 10 * MOST;

fn router() -> Router {
    let mut router = common::echo_router();
    router.set_concurrency(4);
    on(&mut router, "test/Sleep", |conn, message| {
        let (conn, header) = (conn.clone(), answer_to(message.header));
        Some(Box::pin(async move {
            conn.shard().sleep(Duration::from_millis(5)).await;
            // The peer may be gone.
            let _ = reply(&conn, &header, &[]);
        }))
    });
    on(&mut router, "test/Close", |conn, _| {
        conn.close(CloseReason::Local);
        None
    });
    router
}

fn config() -> NetConfig {
    NetConfig {
        shards: 2,
        connections_max: MOST,
        first_generation: u32::MAX - 3,
        ..NetConfig::default()
    }
}

/// Asks for something that is still in progress when the connection ends.
async fn visit<S: AsyncRead + AsyncWrite + Unpin>(mut peer: Peer<S>, number: usize) -> Peer<S> {
    peer.check_echo().await;
    if number.is_multiple_of(2) {
        peer.request(5, "test/Sleep", b"").await;
    }
    if number.is_multiple_of(3) {
        // We close; the peer hears of it, after an answer that came before.
        peer.request(6, "test/Close", b"").await;
        while peer.frame().await.is_some() {}
    }
    peer
}

fn room(server: &Server) {
    common::eventually("there is room", || {
        let open = server.counters().iter().map(|c| c.connections_open.get());
        open.sum::<u64>() == 0
    });
    // Places are given back a turn after the connection has ended; the next
    // visitor would be refused otherwise, and this is no test of that.
    common::eventually("every handler is done", || {
        let left = server
            .counters()
            .iter()
            .map(|c| c.connections_closing.get());
        left.sum::<u64>() == 0
    });
}

fn check(server: &Server, baseline: &[[usize; 5]]) {
    back_at(server, baseline);
    let sum = |pick: fn(&waystation_net::Counters) -> u64| {
        server.counters().iter().map(|c| pick(c)).sum::<u64>()
    };
    assert_eq!(sum(|c| c.accepted.get()), ALL as u64);
    assert_eq!(sum(|c| c.refused.get()), 0);
    assert_eq!(sum(|c| c.panics.get()), 0);
    assert_eq!(closed(server, "local"), (ALL / 3) as u64);
    let ends: u64 = server
        .counters()
        .iter()
        .flat_map(|c| c.closed.list())
        .map(|(_, n)| n)
        .sum();
    assert_eq!(ends, ALL as u64, "one end for each");
}

/// The first release handshake leaked every slot.
#[test]
fn in_memory() {
    let setup = Setup {
        config: config(),
        ..Setup::default()
    };
    let memory = setup.start(|_| router());
    let baseline = figures(&memory.server);
    run(async {
        for round in 0..ALL / MOST {
            let mut peers = Vec::new();
            for number in 0..MOST {
                peers.push(visit(memory.dial(), round * MOST + number).await);
            }
            drop(peers);
            room(&memory.server);
        }
    });
    check(&memory.server, &baseline);
}

#[test]
fn over_tcp() {
    let (server, address) = start_tcp(config(), |_| router());
    let baseline = figures(&server);
    run(async {
        for round in 0..ALL / MOST {
            let mut peers = Vec::new();
            for number in 0..MOST {
                let peer = common::connect(address).await;
                peers.push(visit(peer, round * MOST + number).await);
            }
            for (number, peer) in peers.into_iter().enumerate() {
                if number.is_multiple_of(2) {
                    common::reset(peer.stream).unwrap();
                }
            }
            room(&server);
        }
    });
    check(&server, &baseline);
}
