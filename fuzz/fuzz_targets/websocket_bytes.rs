//! A WebSocket session's bytes, behind its handshake, to a whole server in
//! memory.
#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;
use support::websocket::{HANDSHAKE, frames};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, session)) = input.split_first() else {
        return;
    };
    let bytes = [HANDSHAKE, session].concat();
    let whole = frames(&support::exchange(&bytes, bytes.len()));
    let in_pieces = frames(&support::exchange(&bytes, usize::from(cut)));
    assert_eq!(whole, in_pieces, "it depends on the cut");
});
