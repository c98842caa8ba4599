//! A connection's bytes, from the first one on, to a whole server in memory.
#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;
use waystation_wire::{Decoded, FirstByte, HEADER_LEN, Kind, classify, decode};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = support::exchange(bytes, bytes.len());
    match bytes.first().map(|first| classify(*first)) {
        Some(FirstByte::Native) => {
            let answers = answers(&whole);
            let in_pieces = support::exchange(bytes, usize::from(cut));
            assert_eq!(answers, self::answers(&in_pieces), "it depends on the cut");
        }
        Some(FirstByte::Http) => {
            let is_http = whole.is_empty() || whole.starts_with(b"HTTP/1.");
            assert!(is_http, "{}", String::from_utf8_lossy(&whole));
        }
        _ => assert_eq!(whole, b"", "nobody is told anything"),
    }
});

/// The answers in their order, and how many of anything else. Heartbeats may
/// pass answers, so their place depends on when they were read.
fn answers(mut received: &[u8]) -> (Vec<(u64, u16, Vec<u8>)>, usize) {
    let (mut answers, mut others) = (Vec::new(), 0);
    while !received.is_empty() {
        let Ok(Decoded::Frame(header)) = decode(received) else {
            panic!("{received:?} is no frame")
        };
        let (frame, rest) = received.split_at(header.frame_len());
        if header.kind == Kind::Reply {
            let body = frame[HEADER_LEN..].to_vec();
            answers.push((header.call.0, header.status.code(), body));
        } else {
            assert_eq!(header.kind, Kind::Pong);
            others += 1;
        }
        received = rest;
    }
    (answers, others)
}
