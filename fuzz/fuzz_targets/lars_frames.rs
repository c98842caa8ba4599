//! A stream of Lars frames, cut arbitrarily, and each body as a message.
//!
//! The first byte is the size of the pieces. What is found in pieces must be
//! what is found at once; needs are honest; a body that parses is a message
//! that encodes to a body which parses to the same; and a frame of a stream is
//! a datagram, too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation_wire::lars::{BODY_LEN_MAX, FrameError, HEADER_LEN, Message, Scan, datagram, scan};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let (whole, end) = read(stream, stream.len());
    assert_eq!(read(stream, usize::from(cut)), (whole.clone(), end));
    for (id, body) in whole {
        let Ok(message) = Message::parse(id, &body) else {
            continue;
        };
        let mut bytes = Vec::new();
        if message.encode_into(&mut bytes).is_err() {
            // Numbers that were written short of their width grow.
            assert!(message.body_len() > BODY_LEN_MAX);
            continue;
        }
        let frame = datagram(&bytes).expect("what is written is a frame");
        assert_eq!((frame.id, frame.body.len()), (id, message.body_len()));
        assert_eq!(Message::parse(frame.id, frame.body), Ok(message));
    }
    let _ = datagram(stream);
});

/// The frames and why the stream cannot be followed further, if so.
fn read(stream: &[u8], cut: usize) -> (Vec<(i32, Vec<u8>)>, Option<FrameError>) {
    let (mut taken, mut arrived, mut frames) = (0, 0, Vec::new());
    loop {
        match scan(&stream[taken..arrived]) {
            Err(error) => return (frames, Some(error)),
            Ok(Scan::Frame(frame)) => {
                assert!(frame.len() <= arrived - taken);
                frames.push((frame.id, frame.body.to_vec()));
                taken += frame.len();
            }
            Ok(Scan::Need(total)) => {
                assert!(total > arrived - taken && total <= HEADER_LEN + BODY_LEN_MAX);
                if arrived == stream.len() {
                    return (frames, None);
                }
                arrived = arrived.saturating_add(cut.max(1)).min(stream.len());
            }
        }
    }
}
