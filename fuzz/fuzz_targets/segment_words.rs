//! Arbitrary words in a route segment and a ledger, written between picks.
//!
//! The input is a list of changes: a place of 16 bits and a number of 64. After
//! each few of them a caller picks and the agent looks. Nothing crashes or loops;
//! a pick is a host that the segment has; counts stay within their bounds.
#![no_main]

use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;
use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_segment::limits::CALLS_PER_LOOK_MAX;
use waystation_segment::{
    Ledger, LedgerWatch, Picker, RouteReader, RouteWriter, SegmentState, Word, create_ledger,
    ledger_words, zeroed,
};

const CAPACITY: u32 = 8;
const NAMES: (u64, u64) = (1, 2);

fuzz_target!(|input: &[u8]| {
    let words = zeroed(RouteWriter::<&[Word]>::words(CAPACITY));
    let writer = RouteWriter::create(&words, CAPACITY, NAMES.0, NAMES.1).expect("it fits");
    writer.set_state(SegmentState::Live);
    let ledger = zeroed(ledger_words(CAPACITY));
    create_ledger(&ledger, CAPACITY, NAMES).expect("it fits");
    let reader = RouteReader::attach(&words).expect("it was made");
    let caller = Ledger::attach(&ledger).expect("it was made");
    let mut picker = Picker::new(reader.clone(), caller, 1).expect("they belong together");
    let mut watch = LedgerWatch::attach(&ledger).expect("it was made");
    for (number, change) in input.chunks_exact(10).enumerate() {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let value = u64::from_le_bytes(change[2..].try_into().expect("eight bytes"));
        match place.checked_sub(words.len()) {
            // The capacity was checked once, and so were the names.
            None if place >= 5 => words[place].store(value, Ordering::Relaxed),
            None => {}
            Some(place) => ledger[8 + place % (ledger.len() - 8)].store(value, Ordering::Relaxed),
        }
        if number % 4 != 3 {
            continue;
        }
        // One that keeps what it read while it seems to be the same, ...
        if let Ok(chosen) = picker.pick(Moment::from_nanos(value)) {
            assert!(chosen.slot < CAPACITY);
            picker.report(&chosen, CallEnd::Ok, Some(value), Load::default());
        }
        // ... and one that reads it now.
        let caller = Ledger::attach(&ledger).expect("it was made");
        let mut newcomer =
            Picker::new(reader.clone(), caller, value).expect("they belong together");
        if let Ok(chosen) = newcomer.pick(Moment::from_nanos(value)) {
            let host = Some((chosen.generation, chosen.place));
            assert_eq!(reader.host(chosen.slot), host);
        }
        watch.take_marks(|slot| assert!(slot < CAPACITY));
        for slot in 0..CAPACITY {
            assert!(u64::from(watch.look(slot).sent) <= CALLS_PER_LOOK_MAX);
        }
    }
    assert!(reader.hosts().is_none_or(|hosts| hosts.len() <= 8));
});
