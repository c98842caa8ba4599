//! Counts of calls: golden bytes, cut bodies, and any bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use proptest::prelude::*;
use waystation_wire::calls::{
    CALL_COUNTS, CallCounts, CallsError, HostCounts, NAME_LEN_MAX, ServiceCounts,
};

const PAGE: &str = include_str!("../../../docs/formats/calls.md");

fn host(host: &str, ok: u64, failed: u64, is_out: bool) -> HostCounts {
    HostCounts {
        host: host.to_owned(),
        ok,
        failed,
        is_out,
    }
}

fn example() -> CallCounts {
    CallCounts {
        source: 300,
        caller: "m1".to_owned(),
        services: vec![
            ServiceCounts {
                service: "pay".to_owned(),
                hosts: vec![
                    host("10.0.0.1:7", 1, 0, false),
                    host("[::1]:7", 0, 128, true),
                ],
            },
            ServiceCounts::default(),
        ],
    }
}

fn body(counts: &CallCounts) -> Vec<u8> {
    let mut out = Vec::new();
    counts.encode_into(&mut out);
    assert_eq!(out.len(), counts.body_len());
    out
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

#[test]
fn counts_encode_to_the_golden_bytes_and_back() {
    let golden = "08 ac 02 12 02 6d 31 1a 25 0a 03 70 61 79 \
                  12 0e 0a 0a 31 30 2e 30 2e 30 2e 31 3a 37 10 01 \
                  12 0e 0a 07 5b 3a 3a 31 5d 3a 37 18 80 01 20 01 1a 00";
    let golden = golden.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(hex(&body(&example())), golden);
    assert_eq!(CallCounts::parse(&body(&example())), Ok(example()));
    let flat = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&golden), "the format's page shows it");
    assert_eq!(CALL_COUNTS.0, 0x62cf_c52c, "the id never changes");
}

#[test]
fn a_body_that_is_cut_is_an_error_or_a_part() {
    let whole = body(&example());
    for end in 0..whole.len() {
        if let Ok(part) = CallCounts::parse(&whole[..end]) {
            assert!(part.services.len() < 2, "{end}");
        }
    }
}

#[test]
fn names_that_are_too_long_or_no_text_are_refused() {
    let mut long = example();
    long.caller = "x".repeat(NAME_LEN_MAX + 1);
    assert_eq!(
        CallCounts::parse(&body(&long)),
        Err(CallsError::LongName(NAME_LEN_MAX + 1))
    );
    long.caller.pop();
    assert!(CallCounts::parse(&body(&long)).is_ok());
    assert_eq!(
        CallCounts::parse(&[0x12, 1, 0xff]),
        Err(CallsError::BadText)
    );
}

proptest! {
    #[test]
    fn any_bytes_give_counts_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(counts) = CallCounts::parse(&bytes) {
            prop_assert_eq!(CallCounts::parse(&body(&counts)), Ok(counts));
        }
    }
}
