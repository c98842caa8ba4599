//! Messages between a sync hub and its sites. The first byte says whose; what
//! decodes encodes to the bytes that it came from.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waystation_sync::codec::{FromHub, FromSite};

fuzz_target!(|input: &[u8]| {
    let Some((side, bytes)) = input.split_first() else {
        return;
    };
    let message = Bytes::copy_from_slice(bytes);
    if side & 1 == 0 {
        if let Ok(message) = FromSite::decode(message) {
            assert_eq!(message.encode(), bytes);
        }
    } else if let Ok(message) = FromHub::decode(message) {
        assert_eq!(message.encode(), bytes);
    }
});
