//! Arbitrary bytes in a segment: readers end, and find no host that is not there.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_segment::limits::CALLS_PER_LOOK_MAX;
use waystation_segment::{
    Ledger, LedgerWatch, Miss, Picker, Place, RouteReader, RouteWriter, SegmentState, Word,
    create_ledger, ledger_words, zeroed,
};

const CAPACITY: u32 = 8;

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0..20_u64,
        any::<u64>(),
        // A float that is no number, infinite or negative.
        Just(0x7fc0_0000_ff80_0000),
        Just(0x0004_1f90_0006_1f90),
        // A host at a socket.
        Just(0x0001_0000),
    ]
}

fn segment(changes: &[(usize, u64)]) -> Vec<Word> {
    let words = zeroed(RouteWriter::<&[Word]>::words(CAPACITY));
    let writer = RouteWriter::create(&words, CAPACITY, 1, 2).unwrap();
    writer.set_state(SegmentState::Live);
    for &(at, number) in changes {
        words[at % words.len()].store(number, Ordering::Relaxed);
    }
    words
}

proptest! {
    #[test]
    fn a_pick_from_any_bytes_ends(
        changes in prop::collection::vec((4..2600_usize, numbers()), 0..200),
        now in prop_oneof![Just(0), any::<u64>()],
    ) {
        let words = segment(&changes);
        let Ok(reader) = RouteReader::attach(&words) else { return Ok(()); };
        let ledger = zeroed(ledger_words(CAPACITY));
        create_ledger(&ledger, CAPACITY, reader.names()).unwrap();
        let mut picker = Picker::new(reader.clone(), Ledger::attach(&ledger).unwrap(), 1).unwrap();
        for _ in 0..20 {
            match picker.pick(Moment::from_nanos(now)) {
                Ok(chosen) => {
                    prop_assert!(chosen.slot < CAPACITY);
                    let host = reader.host(chosen.slot);
                    prop_assert_eq!(host, Some((chosen.generation, chosen.place)));
                    picker.report(&chosen, CallEnd::Ok, Some(1), Load::default());
                }
                Err(Miss::Stale | Miss::Retired | Miss::NoHosts | Miss::AskAgent | Miss::Unreadable) => {}
                Err(other) => panic!("{other}"),
            }
        }
        if let Some(hosts) = reader.hosts() {
            prop_assert!(hosts.len() <= CAPACITY as usize);
            for (host, _) in hosts {
                let path = reader.path(host.slot, host.generation);
                prop_assert!(path.is_none() || matches!(host.place, Place::Unix(_)));
            }
        }
    }

    #[test]
    fn no_bytes_are_a_segment_by_chance(bytes in prop::collection::vec(any::<u64>(), 0..40)) {
        let words: Vec<Word> = bytes.into_iter().map(Word::new).collect();
        prop_assert!(RouteReader::attach(&words).is_err());
        prop_assert!(RouteWriter::adopt(&words).is_err());
        prop_assert!(Ledger::attach(&words).is_err());
        prop_assert!(LedgerWatch::attach(&words).is_err());
    }

    /// A caller may write anything into its own ledger; the agent goes on.
    #[test]
    fn any_ledger_can_be_watched(changes in prop::collection::vec((8..130_usize, numbers()), 0..100)) {
        let words = zeroed(ledger_words(CAPACITY));
        create_ledger(&words, CAPACITY, (1, 2)).unwrap();
        let mut watch = LedgerWatch::attach(&words).unwrap();
        for chunk in changes.chunks(10) {
            for &(at, number) in chunk {
                words[at % words.len()].store(number, Ordering::Relaxed);
            }
            watch.take_marks(|slot| assert!(slot < CAPACITY));
            for slot in 0..=CAPACITY {
                let added = watch.look(slot);
                prop_assert!(u64::from(added.sent) <= CALLS_PER_LOOK_MAX);
            }
            watch.note_told();
        }
        // Nor does the next one mind what it is handed.
        if let Ok(mut next) = LedgerWatch::take_over(&words, 3) {
            for slot in 0..=CAPACITY {
                let (ok, failed) = next.look(slot).ok_and_failed();
                prop_assert!(ok <= 1 << 24 && failed <= 1 << 25);
            }
            next.let_go();
        }
    }
}

#[test]
fn another_layout_is_refused_by_its_name() {
    let words = segment(&[]);
    words[1].store(4, Ordering::Relaxed);
    let error = RouteReader::attach(&words).unwrap_err();
    assert_eq!(error.to_string(), "segment layout 4 is not known here");
    let short = &segment(&[])[..400];
    let error = RouteReader::attach(short).unwrap_err();
    assert!(
        error.to_string().starts_with("segment has 400 words"),
        "{error}"
    );
}
