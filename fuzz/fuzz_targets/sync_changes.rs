//! What comes out of a sync hub's log: payloads of changes of rows, and keys. The first
//! byte says which. What reads is written and read again as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation_sync::adapter::{changes_again, key_again};

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else {
        return;
    };
    let again = if which & 1 == 0 {
        changes_again
    } else {
        key_again
    };
    if let Some(once) = again(bytes) {
        assert_eq!(again(&once).as_ref(), Some(&once));
    }
});
