//! A connection's bytes, cut arbitrarily, through the decoder and the assembler.
//!
//! The input is a byte that says how many cuts follow (of eight at most), two
//! bytes for the place of each, and the stream. The stream is read once whole and
//! once in its pieces: both must give the same messages and the same end.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waystation_wire::{
    AssembleError, Assembler, Decoded, FRAME_LEN_MAX, Flags, FrameError, HEADER_LEN, Header,
    MESSAGE_LEN_MAX, PARTIAL_LEN_SUM_MAX, PARTIALS_MAX, decode, encode_header,
};

const CUTS_MAX: usize = 8;

#[derive(PartialEq, Debug)]
enum End {
    /// All frames were taken; so many bytes are left for the next.
    Waiting(usize),
    Frame(FrameError),
    Assemble(AssembleError),
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else {
        return;
    };
    let cut_count = usize::from(count) % (CUTS_MAX + 1);
    let Some((places, stream)) = rest.split_at_checked(2 * cut_count) else {
        return;
    };
    let mut cuts: Vec<usize> = places
        .chunks_exact(2)
        .map(|place| usize::from(u16::from_le_bytes([place[0], place[1]])) % (stream.len() + 1))
        .collect();
    cuts.sort_unstable();
    assert_eq!(read(stream, &cuts), read(stream, &[]));
});

/// Reads the stream as a connection does: a piece more at each cut.
fn read(stream: &[u8], cuts: &[usize]) -> (Vec<(Header, Bytes)>, End) {
    let (mut messages, mut assembler) = (Vec::new(), Assembler::new());
    let (mut taken, mut needed) = (0, 1);
    for arrived in cuts.iter().copied().chain([stream.len()]) {
        while arrived - taken >= needed {
            let input = &stream[taken..arrived];
            let header = match decode(input) {
                Err(error) => return (messages, End::Frame(error)),
                Ok(Decoded::Need(len)) => {
                    assert!(len > input.len() && len <= FRAME_LEN_MAX);
                    needed = len;
                    continue;
                }
                Ok(Decoded::Frame(header)) => header,
            };
            check_header(&header, input);
            let body = Bytes::copy_from_slice(&input[HEADER_LEN..header.frame_len()]);
            taken += header.frame_len();
            needed = 1;
            match assembler.push(header, body) {
                Err(error) => {
                    assert!(assembler.is_idle());
                    return (messages, End::Assemble(error));
                }
                Ok(None) => assert!(header.has_more() && !assembler.is_idle()),
                Ok(Some((whole, body))) => {
                    assert!(!whole.has_more() && !header.has_more());
                    assert_eq!(whole.body_len as usize, body.len());
                    assert!(body.len() <= MESSAGE_LEN_MAX);
                    messages.push((whole, body));
                }
            }
            assert!(assembler.partial_count() <= PARTIALS_MAX);
            assert!(assembler.held_len() <= PARTIAL_LEN_SUM_MAX.min(taken));
        }
    }
    // The peer closes: what is left may be too short for the need to have been met.
    match decode(&stream[taken..]) {
        Err(error) => (messages, End::Frame(error)),
        Ok(_) => (messages, End::Waiting(stream.len() - taken)),
    }
}

/// A decoded header lies within the input and encodes to the bytes it came from.
fn check_header(header: &Header, input: &[u8]) {
    assert!(header.frame_len() <= input.len() && header.frame_len() <= FRAME_LEN_MAX);
    assert!(Flags::from_bits(header.flags.bits()) == Some(header.flags));
    let mut bytes = encode_header(header);
    bytes[68..72].copy_from_slice(&input[68..72]); // reserved: ignored when received
    assert_eq!(bytes, input[..HEADER_LEN]);
}
