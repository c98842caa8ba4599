//! Bytes of a log's segment. The input is a body: it is read as it is, and as the
//! body of a batch whose header is right, so that decoders behind the hashes are
//! reached.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waystation_sync::{check_segment, segment_with};

fuzz_target!(|input: &[u8]| {
    let _ = check_segment(&Bytes::copy_from_slice(input));
    let segment = segment_with(input);
    let length = segment.len() as u64;
    if let Some((_, _, used)) = check_segment(&segment.into()) {
        assert_eq!(used, length);
    }
});
