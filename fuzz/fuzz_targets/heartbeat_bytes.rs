//! A connection's bytes, cut arbitrarily, to the I/O side of a split server,
//! which answers heartbeats in them while the worker computes.
//!
//! The first byte is the size of the pieces. The rest is native frames, or what
//! a WebSocket client sends behind its handshake where it begins with `G`.
//! Whatever the cut, exactly those are answered that a plain reading finds: the
//! worker answers all others.
#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;
use support::websocket::HANDSHAKE;
use waystation_net::native::NativeProtocol;
use waystation_net::{Heartbeat, Protocol};
use waystation_wire::{Decoded, Flags, HEADER_LEN, Header, Kind, Load, decode};

const LOAD: Load = Load {
    in_flight: 3,
    latency_us: 70,
};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let cut = usize::from(cut).max(1);
    if let Some(messages) = bytes.strip_prefix(b"G") {
        let answers = |cut| {
            let mut heartbeat = made();
            assert_eq!(look(&mut *heartbeat, HANDSHAKE, cut), (0, vec![]));
            assert!(heartbeat.begin_websocket());
            look(&mut *heartbeat, messages, cut)
        };
        let (count, pongs) = answers(messages.len().max(1));
        let expected = websocket_pongs(messages);
        assert_eq!((count, &pongs), (expected.0, &expected.1));
        assert_eq!(answers(cut), expected, "it depends on the cut");
        return;
    }
    let (count, answers) = look(&mut *made(), bytes, bytes.len().max(1));
    let answered = headers(&answers);
    assert_eq!(count, answered.len() as u64);
    assert_eq!(answered, native_heartbeats(bytes));
    let in_pieces = look(&mut *made(), bytes, cut);
    assert_eq!(in_pieces, (count, answers), "it depends on the cut");
});

fn made() -> Box<dyn Heartbeat> {
    NativeProtocol::heartbeat().expect("the native protocol has heartbeats")
}

fn look(heartbeat: &mut dyn Heartbeat, bytes: &[u8], cut: usize) -> (u64, Vec<u8>) {
    let (mut count, mut answers) = (0, Vec::new());
    for piece in bytes.chunks(cut) {
        count += heartbeat.look(piece, &|| LOAD, &mut answers);
    }
    (count, answers)
}

/// What answers are to which calls; each is whole and carries the load.
fn headers(mut answers: &[u8]) -> Vec<(Kind, u64)> {
    let mut headers = Vec::new();
    while !answers.is_empty() {
        let Ok(Decoded::Frame(header)) = decode(answers) else {
            panic!("{answers:?} is no frame")
        };
        assert_eq!(header.frame_len(), HEADER_LEN);
        assert_eq!(header.load.in_flight, LOAD.in_flight);
        headers.push((header.kind, header.call.0));
        answers = &answers[HEADER_LEN..];
    }
    headers
}

/// The heartbeats in a stream, up to where it is broken or incomplete.
fn native_heartbeats(mut rest: &[u8]) -> Vec<(Kind, u64)> {
    let mut found = Vec::new();
    while let Ok(Decoded::Frame(header)) = decode(rest) {
        match heartbeat_of(&header) {
            Some(_) if header.kind == Kind::Ping && header.has_more() => break,
            Some(kind) if !header.has_more() => found.push((kind, header.call.0)),
            _ => {}
        }
        rest = &rest[header.frame_len()..];
    }
    found
}

/// How it is answered, if at all.
fn heartbeat_of(header: &Header) -> Option<Kind> {
    match header.kind {
        Kind::Ping => Some(Kind::Pong),
        Kind::Request if header.flags.contains(Flags::PROBE) => Some(Kind::Reply),
        _ => None,
    }
}

/// Pongs to the pings of a client (RFC 6455, 5.2 and 5.5), up to the first byte
/// that none may send.
fn websocket_pongs(mut rest: &[u8]) -> (u64, Vec<u8>) {
    let (mut count, mut pongs) = (0, Vec::new());
    while let [first, second, tail @ ..] = rest {
        if second & 0x80 == 0 {
            break;
        }
        let (length, tail) = match second & 0x7F {
            126 => match tail.split_first_chunk() {
                Some((length, tail)) => (u64::from(u16::from_be_bytes(*length)), tail),
                None => break,
            },
            127 => match tail.split_first_chunk() {
                Some((length, tail)) => (u64::from_be_bytes(*length), tail),
                None => break,
            },
            short => (u64::from(short), tail),
        };
        let Some((mask, tail)) = tail.split_first_chunk::<4>() else {
            break;
        };
        let is_ping = *first == 0x89;
        if is_ping && length > 125 {
            break;
        }
        let whole = usize::try_from(length).ok();
        let Some((payload, tail)) = whole.and_then(|length| tail.split_at_checked(length)) else {
            break;
        };
        if is_ping {
            pongs.push(0x8A);
            pongs.push(u8::try_from(payload.len()).expect("a ping is short"));
            pongs.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
            count += 1;
        }
        rest = tail;
    }
    (count, pongs)
}
