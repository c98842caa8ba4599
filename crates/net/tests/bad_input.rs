//! What peers must not send, and must not fail to send: each ends its own
//! connection with a counted reason, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use common::{Memory, NAME, Peer, Setup, closed, eventually, on_shard, request, run};
use tokio::io::AsyncWriteExt;
use waystation_base::{CallId, MessageId};
use waystation_net::limits::{FRAME_WAIT, IDLE, MESSAGE_WAIT};
use waystation_net::{NetConfig, Server, StartError};
use waystation_wire::{Flags, Header, Kind, Status, encode_header};

/// A frame with some bytes of its header changed.
fn frame_with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = request(1, "test/Echo", b"body");
    for &(at, byte) in changes {
        frame[at] = byte;
    }
    frame
}

fn piece(call: u64, body: &[u8]) -> Vec<u8> {
    let mut header = Header::request(MessageId::of("test/Echo"), CallId(call));
    header.flags = Flags::MORE;
    header.body_len = u32::try_from(body.len()).unwrap();
    [&encode_header(&header)[..], body].concat()
}

/// What comes after a good exchange, and the reason that is counted for it.
fn bad_streams() -> Vec<(&'static str, Vec<u8>)> {
    let mut continued_ping = Header::ping(CallId(1));
    continued_ping.flags = Flags::MORE;
    let over = u32::try_from(waystation_wire::BODY_LEN_MAX + 1)
        .unwrap()
        .to_le_bytes();
    let oversized: Vec<(usize, u8)> = (4..).zip(over).collect();
    vec![
        ("bad_magic", frame_with(&[(0, 0xF6)])),
        ("unknown_version", frame_with(&[(1, 2)])),
        ("unknown_kind", frame_with(&[(2, 99)])),
        ("unknown_kind", frame_with(&[(2, 0)])),
        ("unknown_flags", frame_with(&[(3, 0x80)])),
        ("too_large", frame_with(&oversized)),
        // -1 and the smallest number, read as lengths.
        (
            "too_large",
            frame_with(&[(4, 0xFF), (5, 0xFF), (6, 0xFF), (7, 0xFF)]),
        ),
        (
            "too_large",
            frame_with(&[(4, 0), (5, 0), (6, 0), (7, 0x80)]),
        ),
        ("more_on_control", encode_header(&continued_ping).to_vec()),
        ("empty_more", piece(1, b"")),
        (
            "too_many_partials",
            (0..17).flat_map(|call| piece(call, b"x")).collect(),
        ),
    ]
}

/// An unknown command crashed it; an integer overflowed on lengths.
#[test]
fn bad_frames_end_their_own_connection_only() {
    let memory = Setup::default().start(|_| common::echo_router());
    let baseline = common::figures(&memory.server);
    run(async {
        let mut other = memory.dial();
        for (reason, bytes) in bad_streams() {
            let before = closed(&memory.server, reason);
            let mut peer = memory.dial();
            peer.check_echo().await;
            // The peer may be closed before it has sent all.
            let _ = peer.stream.write_all(&bytes).await;
            assert_eq!(peer.rest().await, b"", "{reason}");
            drop(peer);
            eventually(reason, || closed(&memory.server, reason) == before + 1);
            other.check_echo().await;
        }
    });
    assert_eq!(memory.counters().panics.get(), 0);
    common::back_at(&memory.server, &baseline);
}

#[test]
fn an_unknown_protocol_is_named() {
    let memory = Setup::default().start(|_| common::echo_router());
    run(async {
        for first in [0, b'0', 0x80, 0xFF] {
            let mut peer = memory.dial();
            peer.write(&[first; 100]).await;
            assert_eq!(peer.rest().await, b"");
        }
    });
    eventually("each is counted", || {
        closed(&memory.server, "unknown_protocol") == 4
    });
}

#[test]
fn a_truncated_frame_is_counted() {
    let memory = Setup::default().start(|_| common::echo_router());
    run(async {
        for length in [1, 7, 8, 79, 80, 83] {
            let mut peer = memory.dial();
            peer.write(&request(1, "test/Echo", b"body")[..length])
                .await;
            peer.stream.shutdown().await.unwrap();
            assert_eq!(peer.rest().await, b"");
        }
        // The same between the frames of one message.
        let mut peer = memory.dial();
        peer.write(&piece(1, b"first half")).await;
        peer.stream.shutdown().await.unwrap();
        assert_eq!(peer.rest().await, b"");
    });
    eventually("each is counted", || {
        closed(&memory.server, "truncated") == 7
    });
}

#[test]
fn an_unknown_message_is_answered_so() {
    let memory = Setup::default().start(|_| common::echo_router());
    run(async {
        let mut peer = memory.dial();
        peer.request(9, "test/Nothing", b"").await;
        let (header, reason) = peer.frame().await.unwrap();
        assert_eq!(
            (header.kind, header.status),
            (Kind::Reply, Status::Unimplemented)
        );
        assert_eq!(header.call, CallId(9));
        assert!(
            String::from_utf8(reason)
                .unwrap()
                .starts_with("no handler has")
        );
        peer.check_echo().await;
        // An answer that nobody asked for completes nothing.
        let stray = Header::reply(CallId(1 << 32), MessageId::of("test/Echo"), Status::Ok);
        peer.write(&encode_header(&stray)).await;
        peer.check_echo().await;
    });
    assert_eq!(memory.counters().unrouted.get(), 1);
    assert_eq!(memory.counters().late_answers.get(), 1);
}

/// Half-open peers stayed for ever.
#[test]
fn silence_ends_a_connection() {
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let dial = || Peer::new(io.dial(NAME).unwrap());
            let (mut mute, mut quiet, mut alive) = (dial(), dial(), dial());
            quiet.check_echo().await;
            let started = shard.now();
            for _ in 0..3 {
                shard.sleep(IDLE / 2).await;
                let ping = encode_header(&Header::ping(CallId(0)));
                alive.write(&ping).await;
                assert_eq!(alive.frame().await.unwrap().0.kind, Kind::Pong);
            }
            assert_eq!(mute.rest().await, b"");
            assert_eq!(quiet.rest().await, b"");
            assert!(shard.now() >= started + IDLE);
            alive.check_echo().await;
        })
    });
    eventually("both are counted", || closed(&server, "idle") == 2);
    server.drain();
}

#[test]
fn a_frame_must_be_completed_in_time() {
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            for bytes in [&request(1, "test/Echo", b"body")[..81], &piece(1, b"x")] {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                let started = shard.now();
                // Drop by drop does not help.
                for byte in bytes {
                    peer.write(&[*byte]).await;
                    shard.sleep(FRAME_WAIT / 200).await;
                }
                assert_eq!(peer.rest().await, b"");
                assert!(shard.now() >= started + FRAME_WAIT);
                assert!(shard.now() < started + IDLE);
            }
        })
    });
    eventually("both are counted", || closed(&server, "frame_timeout") == 2);
    server.drain();
}

/// The time of a frame was counted from the first half frame that was ever
/// seen, so a busy peer whose stream always ended within some frame was closed.
#[test]
fn a_stream_that_always_ends_within_a_frame_is_fine() {
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            let frame = request(1, "test/Echo", b"body");
            peer.write(&frame[..40]).await;
            for _ in 0..20 {
                shard.sleep(FRAME_WAIT / 4).await;
                peer.write(&frame[40..]).await;
                peer.write(&frame[..40]).await;
                assert_eq!(peer.answer().await, Some((1, b"body".to_vec())));
            }
        })
    });
    assert_eq!(closed(&server, "frame_timeout"), 0);
    server.drain();
}

/// Any whole frame gave an incomplete message another half minute: a peer that
/// sent pings, or a byte of it now and then, had a megabyte held for ever,
/// without a login.
#[test]
fn a_message_in_pieces_must_be_completed_in_time_whatever_comes_between() {
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let ping = encode_header(&Header::ping(CallId(9))).to_vec();
            for between in [ping, piece(1, b"more")] {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.write(&piece(1, &[b'z'; 1000])).await;
                let started = shard.now();
                while shard.now() < started + MESSAGE_WAIT * 2 {
                    if peer.stream.write_all(&between).await.is_err() {
                        break;
                    }
                    shard.sleep(FRAME_WAIT / 3).await;
                }
                assert!(shard.now() >= started + MESSAGE_WAIT);
                assert!(shard.now() < started + MESSAGE_WAIT * 2, "it was closed");
            }
            // A message that ends makes room for the next.
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            for call in 1..=8 {
                peer.write(&piece(call, b"bo")).await;
                shard.sleep(FRAME_WAIT / 2).await;
                peer.write(&request(call, "test/Echo", b"dy")).await;
                assert_eq!(peer.answer().await, Some((call, b"body".to_vec())));
            }
        })
    });
    eventually("both are counted", || closed(&server, "frame_timeout") == 2);
    server.drain();
}

/// A port in use is named, whatever kind it is.
#[test]
fn an_address_in_use_is_named() {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("waystation-in-use-{}", std::process::id()));
    let unix = format!("unix:{}", path.display());
    for address in ["127.0.0.1:0", &unix, "memory:in-use"] {
        let io = waystation_net::MemoryIo::new(1, waystation_net::Faults::default());
        let config = || {
            let mut config = NetConfig::default();
            if address.starts_with("memory") {
                config.io = std::sync::Arc::new(io.clone());
            }
            config
        };
        let listen = |address| {
            Server::builder(config())
                .listen(address, |_| {
                    waystation_net::native::NativeProtocol::new(common::echo_router().into())
                })
                .start()
        };
        let first = listen(address.parse().unwrap()).unwrap();
        let taken = first.addresses()[0].clone();
        let Err(error) = listen(taken.clone()) else {
            panic!("{address} was taken twice")
        };
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        let StartError::Listen { source, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    }
    // A socket file that nobody listens on is replaced; any other file is not.
    let listen = |address: &str| {
        Server::builder(NetConfig::default())
            .listen(address.parse().unwrap(), |_| {
                waystation_net::native::NativeProtocol::new(common::echo_router().into())
            })
            .start()
    };
    assert!(listen(&unix).is_ok());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"precious").unwrap();
    assert!(listen(&unix).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
}

/// A peer that was refused while it was still sending got a reset, which
/// overtook the words that said why.
#[test]
fn a_peer_that_is_refused_may_finish_its_sentence() {
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    let rest = vec![b'x'; 3 << 20];
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            for (head, said) in [
                (
                    &b"POST / HTTP/1.1\r\ncontent-length: 3145728\r\n\r\n"[..],
                    "HTTP/1.1 413 ",
                ),
                (b"NONSENSE\r\n\r\n", "HTTP/1.1 400 "),
                (&request(1, "test/Nothing", b""), "\u{fffd}"),
            ] {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.write(head).await;
                // It reads only when it has said all.
                let sent = peer.stream.write_all(&rest).await;
                assert!(sent.is_ok(), "{said}: {sent:?}");
                let answer = peer.rest().await;
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.starts_with(said), "{answer}");
            }
        })
    });
    server.drain();
}

/// Beside many bad peers a good one is served.
#[test]
fn heartbeats_of_others_go_on_beside_garbage() {
    let Memory { io, server } = Setup::paused().start(|_| common::echo_router());
    on_shard(&server, 0, move |_| {
        Box::pin(async move {
            let mut good = Peer::new(io.dial(NAME).unwrap());
            let mut random = waystation_base::Rng::from_seed(5);
            for _ in 0..300 {
                let mut bad = Peer::new(io.dial(NAME).unwrap());
                let length = random.below(200);
                let mut bytes: Vec<u8> = (0..length)
                    .map(|_| random.next_u64().to_le_bytes()[0])
                    .collect();
                // Half of them get past the first byte.
                if let Some(first) = bytes.first_mut().filter(|first| **first % 2 == 0) {
                    *first = waystation_wire::MAGIC;
                }
                let _ = bad.stream.write_all(&bytes).await;
                good.check_echo().await;
            }
        })
    });
    assert_eq!(server.counters()[0].panics.get(), 0);
    server.drain();
}
