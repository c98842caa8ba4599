//! A body of counts of calls.
//!
//! What parses encodes to a body that parses to the same, with names in their bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation_wire::calls::{CallCounts, NAME_LEN_MAX};

fuzz_target!(|body: &[u8]| {
    let Ok(counts) = CallCounts::parse(body) else {
        return;
    };
    assert!(counts.caller.len() <= NAME_LEN_MAX);
    for service in &counts.services {
        assert!(service.service.len() <= NAME_LEN_MAX);
        assert!(
            service
                .hosts
                .iter()
                .all(|one| one.host.len() <= NAME_LEN_MAX)
        );
    }
    let mut again = Vec::new();
    counts.encode_into(&mut again);
    assert_eq!(again.len(), counts.body_len());
    assert_eq!(CallCounts::parse(&again), Ok(counts));
});
