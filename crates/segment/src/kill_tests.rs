//! A process that is killed before any of its stores leaves sense behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use waystation_balance::limits::TIERS;
use waystation_balance::{CallEnd, Load};

use crate::error::AttachError;
use crate::ledger::{Ledger, LedgerWatch, create_ledger, ledger_words};
use crate::memory::{Word, kill, zeroed};
use crate::route::{Entry, Place, Route, RouteReader, RouteWriter, Routes, Spill};

const CAPACITY: u32 = 4;

/// From one store at which a writer is killed to the next. Miri is a thousand
/// times as slow and looks at some of them.
const STEP: usize = if cfg!(miri) { 13 } else { 1 };

/// Of several words, each of which tells the content.
fn path(number: u16) -> Arc<str> {
    format!("/{number:07}").repeat(3).into()
}

/// Contents that are told apart by every word of theirs.
fn routes(number: u16) -> Routes {
    let route = |slot: u32| Route {
        slot,
        generation: number.into(),
        place: if slot == 0 {
            Place::Unix(0)
        } else {
            SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), number).into()
        },
    };
    Routes {
        version: number.into(),
        hosts: (0..CAPACITY).map(route).collect(),
        former: Vec::new(),
        paths: vec![path(number)],
        eligible: [(0..CAPACITY).collect(), Vec::new(), Vec::new()],
        shares: [1.0, 0.0, 0.0],
        spill: Spill {
            from: number.into(),
            ratio: 2,
        },
    }
}

fn pools(number: u16) -> [Vec<Entry>; TIERS] {
    let entry = |slot: u32| Entry {
        slot,
        generation: number.into(),
        unit: number.into(),
        level: number.into(),
        step: number.into(),
        warm: number.into(),
        work: number.into(),
    };
    [0, 1, 2].map(|_| (0..3).map(entry).collect())
}

fn publish(writer: &mut RouteWriter<Arc<Vec<Word>>>, number: u16) {
    writer.publish_routes(&routes(number));
    writer.publish_pools(&pools(number));
}

/// The number of the one content that is there.
fn seen(reader: &RouteReader<Arc<Vec<Word>>>) -> (u16, u16) {
    let hosts = reader.hosts().expect("it is at rest");
    let number = reader.view_version().expect("it is at rest");
    let number = u16::try_from(number).expect("it was written");
    let expected = routes(number).hosts;
    assert!(hosts.iter().all(|(_, may_be_picked)| *may_be_picked));
    assert_eq!(hosts.iter().map(|one| one.0).collect::<Vec<_>>(), expected);
    let socket = reader.path(0, number.into());
    assert_eq!(socket.as_deref(), Some(&*path(number)));
    let read = reader.pools().expect("it is at rest");
    let generation = read.entries[0][0].generation;
    let pool = u16::try_from(generation).expect("it was written");
    for (tier, entries) in pools(pool).iter().enumerate() {
        assert_eq!(&read.entries[tier][..read.counts[tier]], entries);
    }
    (number, pool)
}

/// A seqlock whose writer died in the middle of a write stayed odd for ever, and
/// every reader waited for it.
#[test]
fn a_writer_killed_anywhere_leaves_a_whole_content_and_the_next_one_goes_on() {
    let mut stores = 0;
    loop {
        let memory = Arc::new(zeroed(RouteWriter::<&[Word]>::words(CAPACITY)));
        let mut writer = RouteWriter::create(Arc::clone(&memory), CAPACITY, 1, 2).unwrap();
        publish(&mut writer, 1);
        publish(&mut writer, 2);
        let is_done = kill::after(stores, || publish(&mut writer, 3));
        drop(writer);
        let reader = RouteReader::attach(Arc::clone(&memory)).unwrap();
        let (number, pool) = seen(&reader);
        assert!((2..=3).contains(&number) && (2..=number).contains(&pool));
        // The next writer dies there, too, and the one after it does not.
        let mut second = RouteWriter::adopt(Arc::clone(&memory)).unwrap();
        kill::after(stores / 2, || publish(&mut second, 4));
        assert!((2..=4).contains(&seen(&reader).0));
        let mut third = RouteWriter::adopt(Arc::clone(&memory)).unwrap();
        publish(&mut third, 5);
        assert_eq!(seen(&reader), (5, 5));
        if is_done {
            break;
        }
        stores += STEP;
    }
    assert!(stores > 50, "every store was met: {stores}");
}

#[test]
fn a_segment_that_was_not_finished_is_none() {
    let mut stores = 0;
    loop {
        let memory = Arc::new(zeroed(RouteWriter::<&[Word]>::words(CAPACITY)));
        let is_done = kill::after(stores, || {
            RouteWriter::create(&memory, CAPACITY, 1, 2).unwrap();
        });
        assert_eq!(RouteReader::attach(&memory).is_ok(), is_done);
        if is_done {
            break;
        }
        stores += 1;
    }
    assert!(stores > 3);
}

#[test]
fn a_caller_killed_anywhere_leaves_calls_in_flight_and_nothing_else() {
    let load = Load {
        in_flight: 3,
        latency_us: 700,
    };
    for end in crate::ENDS {
        let mut stores = 0;
        loop {
            let memory = Arc::new(zeroed(ledger_words(CAPACITY)));
            create_ledger(&memory, CAPACITY, (1, 2)).unwrap();
            let ledger = Ledger::attach(Arc::clone(&memory)).unwrap();
            let is_done = kill::after(stores, || {
                ledger.handle_sent(2);
                ledger.handle_sent(2);
                ledger.handle_ended(2, end, Some(1280), load);
            });
            let mut watch = LedgerWatch::attach(memory).unwrap();
            let added = watch.look(2);
            let ended: u32 = added.ended.iter().sum();
            assert!(added.sent <= 2 && ended <= 1);
            assert!(
                ended == 0 || added.load == Some(load),
                "told before the end"
            );
            assert!(added.timed == 0 || added.latency_ns == 1280);
            assert_eq!(watch.in_flight(2), added.sent - ended);
            assert!(watch.look(2).is_nothing());
            if is_done {
                assert_eq!((added.sent, ended), (2, 1));
                let at = crate::ENDS.iter().position(|one| *one == end).unwrap();
                assert_eq!(added.ended[at], 1);
                assert_eq!(added.timed, u32::from(end == CallEnd::Ok));
                break;
            }
            stores += 1;
        }
    }
}

/// Story: the next agent counted what the last one had told, or nobody counted what
/// it had not.
#[test]
fn an_agent_killed_anywhere_on_its_way_to_tell_counts_nothing_twice() {
    let call = |ledger: &Ledger<Arc<Vec<Word>>>, slot: u32, end: CallEnd| {
        ledger.handle_sent(slot);
        let timed = (slot == 1).then_some(1_000);
        ledger.handle_ended(slot, end, timed, Load::default());
    };
    let mut stores = 0;
    loop {
        let memory = Arc::new(zeroed(ledger_words(CAPACITY)));
        create_ledger(&memory, CAPACITY, (1, 2)).unwrap();
        let ledger = Ledger::attach(Arc::clone(&memory)).unwrap();
        let mut first = LedgerWatch::attach(Arc::clone(&memory)).unwrap();
        let look = |watch: &mut LedgerWatch<Arc<Vec<Word>>>| {
            let counts = (0..CAPACITY).map(|slot| watch.look(slot).ok_and_failed());
            counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        };
        // This much it told and noted.
        for slot in 0..CAPACITY {
            call(&ledger, slot, CallEnd::Ok);
        }
        let mut told = look(&mut first);
        assert_eq!(told, (4, 0));
        first.note_told();
        for slot in 0..3 {
            call(&ledger, slot, CallEnd::Ok);
            call(&ledger, slot, CallEnd::TimedOut);
            call(&ledger, slot, CallEnd::Cancelled);
        }
        let seen = look(&mut first);
        assert_eq!(seen, (3, 3));
        let is_done = kill::after(stores, || first.note_told());
        if is_done {
            told = (told.0 + seen.0, told.1 + seen.1);
        }
        drop(first);
        // Its callers go on, until they notice.
        call(&ledger, 3, CallEnd::Failed);
        call(&ledger, 0, CallEnd::Ok);
        // The next one dies while it takes over, and the one after it does not.
        kill::after(stores / 4, || {
            let _second = LedgerWatch::take_over(Arc::clone(&memory), 3).unwrap();
        });
        let mut third = LedgerWatch::take_over(Arc::clone(&memory), 4).unwrap();
        let again = LedgerWatch::take_over(Arc::clone(&memory), 4).map(drop);
        assert_eq!(again, Err(AttachError::Counted), "it counts it already");
        let added = look(&mut third);
        let sum = (told.0 + added.0, told.1 + added.1);
        assert!(sum.0 <= 8 && sum.1 <= 4, "twice: {sum:?} after {stores}");
        if stores == 0 || is_done {
            assert_eq!(sum, (8, 4), "all, but for those that it was about to tell");
        }
        assert!(sum.0 >= 5 && sum.1 >= 1, "{sum:?} after {stores}");
        // What it let go of it may take again, and has it once.
        third.let_go();
        call(&ledger, 2, CallEnd::Ok);
        let mut again = LedgerWatch::take_over(Arc::clone(&memory), 4).unwrap();
        assert_eq!(look(&mut again), (1, 0));
        if is_done {
            break;
        }
        stores += 1;
    }
    assert!(stores > 10, "every store was met: {stores}");
}

/// Story: who took a ledger over took all calls that had ever been sent there for new
/// ones, and said that it had dropped those above the most for one look.
#[cfg(not(miri))]
#[test]
fn calls_before_a_ledger_was_taken_over_are_not_dropped() {
    let memory = Arc::new(zeroed(ledger_words(CAPACITY)));
    create_ledger(&memory, CAPACITY, (1, 2)).unwrap();
    let ledger = Ledger::attach(Arc::clone(&memory)).unwrap();
    for _ in 0..=crate::limits::CALLS_PER_LOOK_MAX {
        ledger.handle_sent(0);
    }
    ledger.handle_ended(0, CallEnd::Ok, None, Load::default());
    let mut next = LedgerWatch::take_over(memory, 3).unwrap();
    let added = next.look(0);
    assert_eq!((added.ok_and_failed(), added.dropped), ((1, 0), 0));
}
