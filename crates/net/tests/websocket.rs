//! WebSocket on a native port: native frames in binary messages, text for the
//! text handler, and a close frame that says why.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::rc::Rc;
use std::sync::Arc;

use common::{Memory, NAME, Notes, Peer, Setup, closed, eventually, on, on_shard, request, run};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use waystation_base::{CallId, ShardId};
use waystation_net::limits::{FRAME_WAIT, MESSAGE_WAIT, WEBSOCKET_MESSAGE_BYTES};
use waystation_net::native::{Router, Started, TextHandler};
use waystation_net::{CloseReason, Conn, Label, MemoryStream, Shard};
use waystation_wire::{Decoded, HEADER_LEN, Header, Kind, decode, encode_header};

const CONTINUED: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
/// The last frame of its message.
const FIN: u8 = 0x80;

struct Shouts;

impl TextHandler for Shouts {
    fn handle(&self, conn: &Conn, text: &str) -> Started {
        conn.send_text(&text.to_uppercase()).unwrap();
        None
    }

    fn go_away(&self) -> Option<&str> {
        Some("BYE")
    }

    fn label(&self) -> Label {
        Label::of("test/Shouts")
    }
}

fn router() -> Router {
    let mut router = common::echo_router();
    router.set_websocket_path("/ws");
    router.set_text(Rc::new(Shouts));
    router
}

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A client's frame (RFC 6455, 5.2), masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 + u8::try_from(length).unwrap()),
        length @ 126..=0xFFFF => {
            frame.push(0x80 + 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 + 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The server's next frame: its first byte and payload.
async fn next(peer: &mut Peer<MemoryStream>) -> Option<(u8, Vec<u8>)> {
    let whole = |bytes: &[u8]| {
        let (at, length) = match *bytes.get(1)? {
            126 => (
                4,
                usize::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)),
            ),
            127 => (
                10,
                usize::try_from(u64::from_be_bytes(*bytes[2..].first_chunk()?)).unwrap(),
            ),
            length => (2, usize::from(length)),
        };
        (bytes.len() >= at + length).then_some((at, length))
    };
    loop {
        if let Some((at, length)) = whole(&peer.received) {
            let rest = peer.received.split_off(at + length);
            let frame = std::mem::replace(&mut peer.received, rest);
            return Some((frame[0], frame[at..].to_vec()));
        }
        if !peer.read().await {
            return None;
        }
    }
}

async fn upgraded(memory: &Memory) -> Peer<MemoryStream> {
    let mut peer = memory.dial();
    peer.write(HANDSHAKE).await;
    shake(&mut peer).await;
    peer
}

async fn shake(peer: &mut Peer<MemoryStream>) {
    let head = String::from_utf8(peer.until(b"\r\n\r\n").await).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let head = head.to_lowercase();
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
}

fn answer(frame: Option<(u8, Vec<u8>)>) -> (u64, Vec<u8>) {
    let (first, message) = frame.unwrap();
    assert_eq!(first, FIN | BINARY);
    let Ok(Decoded::Frame(header)) = decode(&message) else {
        panic!("{message:?} is no native frame")
    };
    (header.call.0, message[HEADER_LEN..].to_vec())
}

async fn check_end(peer: &mut Peer<MemoryStream>, code: u16) {
    let (first, payload) = next(peer).await.unwrap();
    assert_eq!((first, payload), (FIN | CLOSE, code.to_be_bytes().to_vec()));
    assert_eq!(peer.rest().await, b"");
}

#[test]
fn messages_in_both_directions() {
    let memory = Setup::default().start(|_| router());
    run(async {
        // With frames behind the handshake.
        let mut peer = memory.dial();
        let echo = request(1, "test/Echo", b"one");
        peer.write(&[HANDSHAKE, &frame(FIN | BINARY, &echo)].concat())
            .await;
        shake(&mut peer).await;
        assert_eq!(answer(next(&mut peer).await), (1, b"one".to_vec()));

        // Many native frames in one message; large ones; one in fragments
        // with a ping in between.
        let both = [
            request(2, "test/Echo", b"two"),
            request(3, "test/Echo", b"three"),
        ]
        .concat();
        peer.write(&frame(FIN | BINARY, &both)).await;
        assert_eq!(answer(next(&mut peer).await), (2, b"two".to_vec()));
        assert_eq!(answer(next(&mut peer).await), (3, b"three".to_vec()));
        for (call, length) in [(4, 200), (5, 70_000), (6, 900_000)] {
            let body = vec![b'x'; length];
            peer.write(&frame(FIN | BINARY, &request(call, "test/Echo", &body)))
                .await;
            assert_eq!(answer(next(&mut peer).await), (call, body));
        }
        let (head, tail) = echo.split_at(10);
        for part in [
            frame(BINARY, head),
            frame(FIN | PING, b"alive?"),
            frame(FIN | CONTINUED, tail),
        ] {
            peer.write(&part).await;
        }
        assert_eq!(
            next(&mut peer).await,
            Some((FIN | PONG, b"alive?".to_vec()))
        );
        assert_eq!(answer(next(&mut peer).await), (1, b"one".to_vec()));

        peer.write(&frame(FIN | TEXT, "grüße".as_bytes())).await;
        assert_eq!(next(&mut peer).await, Some((FIN | TEXT, "GRÜSSE".into())));

        // A message to everyone is framed for each.
        let remote = memory.server.remote();
        let ping = encode_header(&Header::ping(CallId(0))).to_vec();
        remote.send_to_all(&ping.clone().into()).unwrap();
        assert_eq!(next(&mut peer).await, Some((FIN | BINARY, ping)));

        // The closing handshake: our close frame answers theirs.
        peer.write(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()))
            .await;
        check_end(&mut peer, 1000).await;
    });
    eventually("it is counted", || closed(&memory.server, "peer") == 1);
}

/// What a client must not send: the code that it is told, and the reason that
/// is counted.
fn bad_messages() -> Vec<(&'static str, u16, Vec<u8>, &'static str)> {
    let too_large = vec![b'x'; WEBSOCKET_MESSAGE_BYTES + 1];
    let echo = request(1, "test/Echo", b"body");
    let mut bad_magic = echo.clone();
    bad_magic[0] = 0;
    let unmasked = vec![FIN | TEXT, 1, b'x'];
    let bad = |what, code, bytes| (what, code, bytes, "websocket");
    vec![
        bad("invalid UTF-8", 1007, frame(FIN | TEXT, b"\xFF\xFE")),
        bad("an unmasked frame", 1002, unmasked),
        bad("a reserved bit", 1002, frame(FIN | 0x40 | TEXT, b"x")),
        bad("an unknown opcode", 1002, frame(FIN | 0x3, b"x")),
        bad(
            "a continuation of nothing",
            1002,
            frame(FIN | CONTINUED, b"x"),
        ),
        bad("too much", 1009, frame(FIN | BINARY, &too_large)),
        (
            "a frame in two messages",
            1002,
            frame(FIN | BINARY, &echo[..20]),
            "truncated",
        ),
        (
            "a bad frame",
            1002,
            frame(FIN | BINARY, &bad_magic),
            "bad_magic",
        ),
    ]
}

#[test]
fn what_breaks_the_protocol_is_told_why() {
    let memory = Setup::default().start(|_| router());
    let baseline = common::figures(&memory.server);
    run(async {
        let mut other = upgraded(&memory).await;
        for (what, code, bytes, reason) in bad_messages() {
            let before = closed(&memory.server, reason);
            let mut peer = upgraded(&memory).await;
            // The server may stop reading before the end.
            let _ = peer.stream.write_all(&bytes).await;
            let said = next(&mut peer).await;
            let expected = (FIN | CLOSE, code.to_be_bytes().to_vec());
            assert_eq!(said, Some(expected), "{what}");
            assert_eq!(peer.rest().await, b"", "{what}");
            drop(peer);
            eventually(what, || closed(&memory.server, reason) == before + 1);
            other.write(&frame(FIN | TEXT, b"x")).await;
            assert_eq!(next(&mut other).await, Some((FIN | TEXT, b"X".to_vec())));
        }
    });
    assert_eq!(memory.counters().panics.get(), 0);
    common::back_at(&memory.server, &baseline);
}

#[test]
fn text_without_a_handler_is_refused() {
    let memory = Setup::default().start(|_| {
        let mut router = common::echo_router();
        router.set_websocket_path("/ws");
        router
    });
    run(async {
        let mut peer = upgraded(&memory).await;
        peer.write(&frame(FIN | TEXT, b"hello")).await;
        check_end(&mut peer, 1003).await;
    });
    eventually("it is counted", || closed(&memory.server, "websocket") == 1);
}

#[test]
fn our_own_end_is_said_too() {
    let memory = Setup::default().start(|_| router());
    run(async {
        let mut peer = upgraded(&memory).await;
        let close_all = |shard: &Shard| {
            for conn in shard.connections() {
                conn.close(CloseReason::Local);
            }
        };
        memory
            .server
            .remote()
            .run_on(ShardId(0), close_all)
            .unwrap();
        check_end(&mut peer, 1000).await;
    });
}

/// A browser that speaks text was sent a native frame when the server went
/// away. Each peer is told in what it has spoken itself, then by WebSocket.
#[test]
fn who_goes_away_says_so_in_what_the_peer_speaks() {
    let memory = Setup::default().start(|_| router());
    run(async {
        let mut silent = upgraded(&memory).await;
        let mut native = upgraded(&memory).await;
        native
            .write(&frame(FIN | BINARY, &request(1, "test/Echo", b"x")))
            .await;
        assert_eq!(answer(next(&mut native).await).0, 1);
        let mut text = upgraded(&memory).await;
        let mut both = upgraded(&memory).await;
        both.write(&frame(FIN | BINARY, &request(1, "test/Echo", b"x")))
            .await;
        assert_eq!(answer(next(&mut both).await).0, 1);
        for peer in [&mut text, &mut both] {
            peer.write(&frame(FIN | TEXT, b"hey")).await;
            assert_eq!(next(peer).await, Some((FIN | TEXT, b"HEY".to_vec())));
        }

        let draining = std::thread::spawn(move || memory.server.drain());
        check_end(&mut silent, 1001).await;
        let (first, message) = next(&mut native).await.unwrap();
        assert_eq!(first, FIN | BINARY);
        let Ok(Decoded::Frame(header)) = decode(&message) else {
            panic!("{message:?}")
        };
        assert_eq!(header.kind, Kind::GoAway);
        check_end(&mut native, 1001).await;
        for peer in [&mut text, &mut both] {
            assert_eq!(next(peer).await, Some((FIN | TEXT, b"BYE".to_vec())));
            check_end(peer, 1001).await;
        }
        draining.join().unwrap();
    });
}

/// Slow senders were never timed out: the library reads ahead, and nobody knew
/// that a frame had begun.
#[test]
fn a_message_must_be_completed_in_time() {
    let Memory { io, server } = Setup::paused().start(|_| router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let whole = frame(FIN | TEXT, &[b'x'; 300]);
            let fragment = frame(TEXT, b"no end");
            for begun in [&whole[..1], &whole[..50], &fragment[..]] {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.write(HANDSHAKE).await;
                shake(&mut peer).await;
                // Whole messages before it do not hide it.
                peer.write(&[&frame(FIN | TEXT, b"x"), begun].concat())
                    .await;
                assert_eq!(next(&mut peer).await, Some((FIN | TEXT, b"X".to_vec())));
                let started = shard.now();
                check_end(&mut peer, 1002).await;
                assert!(shard.now() <= started + FRAME_WAIT + FRAME_WAIT / 10);
            }
            // Between messages there is no such limit.
            let mut peer = Peer::new(io.dial(NAME).unwrap());
            peer.write(HANDSHAKE).await;
            shake(&mut peer).await;
            peer.write(&frame(FIN | TEXT, b"x")).await;
            next(&mut peer).await.unwrap();
            shard.sleep(FRAME_WAIT * 2).await;
            peer.write(&frame(FIN | TEXT, b"y")).await;
            assert_eq!(next(&mut peer).await, Some((FIN | TEXT, b"Y".to_vec())));
        })
    });
    eventually("all are counted", || closed(&server, "frame_timeout") == 3);
    server.drain();
}

/// A ping between two fragments gave the message another half minute, again
/// and again.
#[test]
fn a_message_in_fragments_must_be_completed_in_time_whatever_comes_between() {
    let Memory { io, server } = Setup::paused().start(|_| router());
    on_shard(&server, 0, move |shard| {
        Box::pin(async move {
            let ping = frame(FIN | PING, b"p");
            for between in [ping, frame(CONTINUED, b"more")] {
                let mut peer = Peer::new(io.dial(NAME).unwrap());
                peer.write(HANDSHAKE).await;
                shake(&mut peer).await;
                // One that ended before it does not count.
                peer.write(&frame(TEXT, b"x")).await;
                shard.sleep(FRAME_WAIT / 2).await;
                peer.write(&frame(FIN | CONTINUED, b"y")).await;
                assert_eq!(next(&mut peer).await, Some((FIN | TEXT, b"XY".to_vec())));
                peer.write(&frame(TEXT, b"{")).await;
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
        })
    });
    eventually("both are counted", || closed(&server, "frame_timeout") == 2);
    server.drain();
}

/// While a handler is suspended, later messages wait, also those that the
/// library has read ahead or that share a WebSocket message with it.
#[test]
fn messages_wait_for_the_handler_before_them() {
    let (notes, gate) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let (noted, opened) = (notes.clone(), gate.clone());
    let memory = Setup::default().start(move |_| {
        let mut router = router();
        let (notes, gate) = (noted.clone(), opened.clone());
        on(&mut router, "test/Wait", move |_, _| {
            let (notes, gate) = (notes.clone(), gate.clone());
            notes.add("begun");
            Some(Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                notes.add("ended");
            }))
        });
        let notes = noted.clone();
        on(&mut router, "test/Next", move |_, _| {
            notes.add("next");
            None
        });
        router
    });
    run(async {
        let mut peer = upgraded(&memory).await;
        let (wait, later) = (request(1, "test/Wait", b""), request(2, "test/Next", b""));
        let message = frame(FIN | BINARY, &[&wait[..], &later, &wait].concat());
        let text = frame(FIN | TEXT, b"last");
        peer.write(&[message, frame(FIN | BINARY, &later), text].concat())
            .await;
        for round in 1..=2 {
            eventually("a handler is suspended", || notes.count("begun") == round);
            assert_eq!(peer.received, b"");
            gate.add_permits(1);
        }
        assert_eq!(next(&mut peer).await, Some((FIN | TEXT, b"LAST".to_vec())));
        let order = ["begun", "ended", "next", "begun", "ended", "next"];
        assert_eq!(notes.list(), order);
    });
}
