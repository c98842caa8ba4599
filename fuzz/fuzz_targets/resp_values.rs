//! A server's answers, cut arbitrarily, through the scanner and the parser.
//!
//! The first byte is the size of the pieces. What is found in pieces must be
//! what is found at once; the scanner must not ask for less than there is, nor
//! pass its bounds; and what it finds the parser reads, or calls a bad number.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waystation_wire::resp::{RespError, RespLimits, Scan, Scanner, parse};

const LIMITS: RespLimits = RespLimits {
    bytes_max: 4096,
    line_max: 256,
    elements_max: 64,
    depth_max: 4,
};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let whole = read(stream, stream.len());
    assert_eq!(whole, read(stream, usize::from(cut).max(1)));
    for (start, end) in whole.0.windows(2).map(|pair| (pair[0], pair[1])) {
        // The parser has bounds of its own, which are wider.
        match parse(&Bytes::copy_from_slice(&stream[start..end])) {
            Ok(_) | Err(RespError::BadNumber | RespError::BadLength) => {}
            Err(error) => panic!("{error} in {:?}", &stream[start..end]),
        }
    }
});

/// Where values end, and why the stream cannot be followed further, if so.
fn read(stream: &[u8], cut: usize) -> (Vec<usize>, Option<RespError>) {
    let (mut ends, mut start, mut arrived) = (vec![0], 0, 0);
    let mut scanner = Scanner::new();
    loop {
        match scanner.scan(&stream[start..arrived], &LIMITS) {
            Err(error) => return (ends, Some(error)),
            Ok(Scan::Complete(length)) => {
                assert!(length > 0 && length <= LIMITS.bytes_max.min(arrived - start));
                assert!(scanner.is_idle());
                start += length;
                ends.push(start);
            }
            Ok(Scan::Need(total)) => {
                assert!(total > arrived - start && total <= LIMITS.bytes_max + LIMITS.line_max);
                if arrived == stream.len() {
                    return (ends, None);
                }
                arrived = arrived.saturating_add(cut.max(1)).min(stream.len());
            }
        }
    }
}
