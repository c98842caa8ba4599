//! Peers that read slowly, or never: what waits for them is bounded, and a
//! peer that keeps up is never taken for one.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use common::{Memory, NAME, Notes, Peer, Setup, answer_to, closed, eventually, on, on_shard, run};
use waystation_net::native::{Router, reply};
use waystation_net::{Conn, ConnectionLimits, Faults, NetConfig, SendError, SlowReader};

const HIGH_WATER: usize = 20_000;
const MOST: usize = 100_000;
const PIECE: usize = 5_000;

fn setup() -> Setup {
    Setup {
        config: NetConfig {
            connection: ConnectionLimits {
                output_high_water: HIGH_WATER,
                output_bytes_max: MOST,
                ..ConnectionLimits::default()
            },
            ..NetConfig::default()
        },
        faults: Faults {
            capacity: 1000,
            ..Faults::default()
        },
        ..Setup::paused()
    }
}

/// Pushes until it is refused, and notes how that went.
fn pushing(policy: SlowReader, notes: Notes) -> Router {
    let mut router = common::echo_router();
    on(&mut router, "test/Push", move |conn, _| {
        conn.set_slow_reader(policy);
        let mut most = 0;
        let refused = loop {
            most = most.max(conn.output_len());
            if let Err(error) = conn.send(&[7; PIECE]) {
                break error;
            }
        };
        assert!(most <= MOST, "{most} bytes waited");
        notes.add(match refused {
            SendError::Full(_) => "full",
            _ => "other",
        });
        notes.add(format!("open {}", conn.is_open()));
        None
    });
    router
}

/// A peer that never read took 400 MiB of queued writes.
#[test]
fn a_peer_that_never_reads_is_closed() {
    let notes = Notes::default();
    let noted = notes.clone();
    let Memory { io, server } = setup().start(move |_| pushing(SlowReader::Close, noted.clone()));
    let baseline = common::figures(&server);
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut other = Peer::new(io.dial(NAME).unwrap());
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Push", b"").await;
            // What the pipe took, and not one byte more.
            other.check_echo().await;
            assert!(peer.rest().await.len() <= 2000);
            other.check_echo().await;
        })
    });
    assert_eq!(notes.list(), ["full", "open false"]);
    assert_eq!(closed(&server, "slow_reader"), 1);
    assert_eq!(server.counters()[0].output_refused.get(), 1);
    common::back_at(&server, &baseline);
    server.drain();
}

/// With the other policy the sender decides, and what was accepted arrives.
#[test]
fn a_peer_whose_sender_decides_stays() {
    let notes = Notes::default();
    let noted = notes.clone();
    let Memory { io, server } = setup().start(move |_| pushing(SlowReader::Refuse, noted.clone()));
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Push", b"").await;
            let mut received = 0;
            while received < MOST {
                assert!(peer.read().await);
                received += std::mem::take(&mut peer.received).len();
            }
            assert_eq!(received, MOST);
            peer.check_echo().await;
        })
    });
    assert_eq!(notes.list(), ["full", "open true"]);
    assert_eq!(closed(&server, "slow_reader"), 0);
    server.drain();
}

/// Even then a peer that takes nothing at all is closed in time.
#[test]
fn output_that_makes_no_progress_ends_the_connection() {
    let Memory { io, server } =
        setup().start(move |_| pushing(SlowReader::Refuse, Notes::default()));
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            let started = shard.now();
            peer.request(1, "test/Push", b"").await;
            while shard.counters().connections_open.get() == 0 {
                tokio::task::yield_now().await;
            }
            let conn = shard.connections()[0].clone();
            conn.closed().await;
            assert!(shard.now() >= started + waystation_net::limits::WRITE_STALL);
            drop(peer);
        })
    });
    assert_eq!(closed(&server, "slow_reader"), 1);
    server.drain();
}

/// The writer of much is suspended, goes on as fast as the peer reads, and
/// the output stays at its high-water mark.
#[test]
fn a_writer_goes_as_fast_as_its_reader() {
    let notes = Notes::default();
    let noted = notes.clone();
    let Memory { io, server } = setup().start(move |_| {
        let mut router = common::echo_router();
        let notes = noted.clone();
        on(&mut router, "test/Stream", move |conn, _| {
            let (conn, notes) = (conn.clone(), notes.clone());
            Some(Box::pin(async move {
                let mut waited = 0;
                for piece in 0..100_u8 {
                    if conn.output_len() >= HIGH_WATER {
                        waited += 1;
                    }
                    conn.writable().await.unwrap();
                    assert!(conn.output_len() < HIGH_WATER);
                    conn.send(&[piece; PIECE]).unwrap();
                }
                notes.add(if waited > 50 {
                    "waited"
                } else {
                    "never waited"
                });
            }))
        });
        router
    });
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Stream", b"").await;
            let mut expected = (0..100_u8).flat_map(|piece| [piece; PIECE]);
            let mut received = 0;
            while received < 100 * PIECE {
                shard.sleep(Duration::from_millis(1)).await;
                assert!(peer.read().await);
                for byte in peer.received.drain(..) {
                    assert_eq!(Some(byte), expected.next());
                    received += 1;
                }
            }
            peer.check_echo().await;
        })
    });
    assert_eq!(notes.list(), ["waited"]);
    server.drain();
}

/// A write for each message cost a system call each.
#[test]
fn all_messages_of_a_turn_leave_in_one_write() {
    let memory = Setup::default().start(|_| {
        let mut router = Router::new();
        on(&mut router, "test/Many", |conn, message| {
            for _ in 0..100 {
                conn.send(b"small").unwrap();
            }
            conn.send_bytes(&Bytes::from_static(b"shared")).unwrap();
            reply(conn, &answer_to(message.header), b"the last").unwrap();
            None
        });
        router
    });
    run(async {
        let mut peer = memory.dial();
        for turn in 1..=3 {
            peer.request(turn, "test/Many", b"").await;
            peer.until(b"the last").await;
            let writes = &memory.counters().writes;
            eventually("the write is counted", || writes.get() >= turn);
        }
        peer.request(4, "test/Nothing", b"").await;
        assert!(peer.frame().await.is_some());
        assert_eq!(memory.counters().messages_out.get(), 3 * 102 + 1);
        let writes = memory.counters().writes.get();
        assert!((3..=4).contains(&writes), "one write a turn, not {writes}");
    });
}

/// A peer that sent many small requests at once, and read all answers as fast
/// as they came, was closed as a slow reader: nobody looked at the output
/// between two requests.
#[test]
fn a_peer_that_pipelines_is_no_slow_reader() {
    let Memory { io, server } = setup().start(|_| {
        let mut router = Router::new();
        on(&mut router, "test/Big", |conn, message| {
            reply(conn, &answer_to(message.header), &[1; 9 * 1024]).unwrap();
            None
        });
        router
    });
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let (read, mut write) = tokio::io::split(io.dial(NAME).unwrap());
            let sender = tokio::task::spawn_local(async move {
                let requests: Vec<u8> = (1..=200)
                    .flat_map(|call| common::request(call, "test/Big", b""))
                    .collect();
                tokio::io::AsyncWriteExt::write_all(&mut write, &requests)
                    .await
                    .unwrap();
                write
            });
            let mut peer = Peer::new(tokio::io::join(read, tokio::io::sink()));
            for call in 1..=200 {
                assert_eq!(peer.answer().await.unwrap().0, call);
            }
            sender.await.unwrap();
        })
    });
    assert_eq!(server.counters()[0].output_refused.get(), 0);
    server.drain();
}

/// A large answer behind a small one in the same turn was refused, and the
/// peer closed, though it had not had a chance to read.
#[test]
fn a_large_message_passes_while_the_peer_keeps_up() {
    let Memory { io, server } = setup().start(|_| {
        let mut router = common::echo_router();
        on(&mut router, "test/Large", |conn, message| {
            conn.send(b"small").unwrap();
            reply(conn, &answer_to(message.header), &vec![2; 3 * MOST]).unwrap();
            assert_eq!(conn.send(b"behind"), Err(SendError::Full(conn.name())));
            None
        });
        on(&mut router, "test/Polite", |conn, message| {
            conn.set_slow_reader(SlowReader::Refuse);
            reply(conn, &answer_to(message.header), b"").unwrap();
            None
        });
        router
    });
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Polite", b"").await;
            peer.answer().await.unwrap();
            peer.request(2, "test/Large", b"").await;
            assert_eq!(peer.until(b"small").await, b"small");
            assert_eq!(peer.answer().await, Some((2, vec![2; 3 * MOST])));
            peer.check_echo().await;
        })
    });
    server.drain();
}

/// A download that took longer than the idle limit was cut: the peer sent
/// nothing, because it was busy reading.
#[test]
fn a_slow_download_is_not_idle() {
    let mut setup = setup();
    setup.config.connection.idle = Duration::from_secs(10);
    let Memory { io, server } = setup.start(|_| {
        let mut router = common::echo_router();
        on(&mut router, "test/Large", |conn, message| {
            reply(conn, &answer_to(message.header), &vec![2; 50_000]).unwrap();
            None
        });
        router
    });
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            let started = shard.now();
            peer.request(1, "test/Large", b"").await;
            for pause_s in std::iter::once(15).chain(std::iter::repeat(1)) {
                if peer.received.len() >= 50_000 {
                    break;
                }
                shard.sleep(Duration::from_secs(pause_s)).await;
                assert!(peer.read().await, "after {} bytes", peer.received.len());
            }
            assert!(shard.now() >= started + Duration::from_secs(40));
            assert!(peer.answer().await.is_some());
            peer.check_echo().await;
            // Idle it is only now.
            assert_eq!(peer.rest().await, b"");
        })
    });
    assert_eq!(closed(&server, "idle"), 1);
    server.drain();
}

/// A panic while a message was written in place left half of it in the
/// stream, and every later message of the connection was garbage.
#[test]
fn a_message_that_panics_leaves_no_half_behind() {
    let Memory { io, server } = setup().start(|_| {
        let mut router = common::echo_router();
        on(&mut router, "test/Torn", |conn: &Conn, _| {
            let torn = AssertUnwindSafe(|| {
                conn.send_with(10, |out| {
                    out.extend_from_slice(b"half");
                    panic!("an encoder with a fault");
                })
            });
            assert!(catch_unwind(torn).is_err());
            None
        });
        router
    });
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.request(1, "test/Torn", b"").await;
            peer.check_echo().await;
        })
    });
    server.drain();
}
