//! Every byte changed, every length, and a disk that fails at every call.

use super::*;
use crate::log::recorded::{Fault, LeftOut, Recorded};

/// Entries of the log that is damaged, three of them in its last batch.
const ENTRIES: u64 = 33;

/// A small log in two segments.
fn small() -> Recorded {
    let files = Recorded::new(LeftOut::Nothing);
    let mut log = Log::open(files.clone(), tiny(), EPOCH).unwrap();
    let records = vec![Record::Site(record(1, 0))];
    let entries = Vec::new();
    log.append(&Batch { entries, records }).unwrap();
    for first in (1..=ENTRIES).step_by(3) {
        log.append(&batch(first..=first + 2, 20)).unwrap();
    }
    assert_eq!(log.reader.view().segments.len(), 2);
    files
}

fn tiny() -> LogConfig {
    LogConfig {
        segment_bytes: 1100,
        ..config()
    }
}

/// The sequences that are there after a damage, or none if the log is refused.
fn found_after(damage: impl FnOnce(&Recorded)) -> Option<Vec<u64>> {
    let files = small();
    damage(&files);
    let log = Log::open(files, tiny(), EPOCH).ok()?;
    let found = log.read(log.start(), log.end(), u64::MAX).unwrap();
    for one in &found {
        assert_eq!(*one, entry(one.position.seq.0, 20), "never written");
    }
    Some(found.iter().map(|one| one.position.seq.0).collect())
}

#[test]
fn a_bit_that_is_flipped_anywhere_is_refused_or_costs_the_last_batch_at_most() {
    let all: Vec<u64> = (1..=ENTRIES).collect();
    let without_last: Vec<u64> = (1..=ENTRIES - 3).collect();
    let mut refused = 0;
    for number in [1, 2] {
        let name = segment::name_of(number);
        for at in 0..small().bytes(&name) {
            let flipped = found_after(|files| files.damage(&name, |data| data[at] ^= 0x10));
            match flipped {
                None => refused += 1,
                Some(found) if found == all => {}
                Some(found) => {
                    assert_eq!((number, &found), (2, &without_last), "byte {at}");
                }
            }
        }
    }
    assert!(refused > 1000, "{refused} flips were refused");
}

/// What is damaged while the hub runs is not looked at before a site needs it.
#[test]
fn a_bit_that_is_flipped_under_an_open_log_is_refused_where_it_is_read() {
    let mut refused = 0;
    for number in [1, 2] {
        let name = segment::name_of(number);
        for at in (0..small().bytes(&name)).step_by(5) {
            let files = small();
            let log = Log::open(files.clone(), tiny(), EPOCH).unwrap();
            files.damage(&name, |data| data[at] ^= 0x10);
            match log.read(Seq(0), log.end(), u64::MAX) {
                Ok(found) => {
                    let expected: Vec<_> = (1..=ENTRIES).map(|seq| entry(seq, 20)).collect();
                    assert_eq!(found, expected, "segment {number}, byte {at}");
                }
                Err(ReadError::Io(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refused > 200, "{refused} flips were refused");
}

#[test]
fn a_segment_that_is_cut_anywhere_is_refused() {
    for number in [1, 2] {
        let name = segment::name_of(number);
        for length in 0..small().bytes(&name) {
            let cut = found_after(|files| files.damage(&name, |data| data.truncate(length)));
            assert_eq!(cut, None, "segment {number} cut to {length}");
        }
    }
}

/// The story: the first segment was missing, and the log began later, as after a trim:
/// acknowledged entries that no copy had were gone without a word.
#[test]
fn a_first_segment_that_is_missing_and_was_not_trimmed_is_damage() {
    let left = found_after(|files| files.remove(&segment::name_of(1)).unwrap());
    assert_eq!(left, None);
    // One that was trimmed is not missed, nor is the next one taken for it.
    let files = small();
    let mut log = Log::open(files.clone(), tiny(), EPOCH).unwrap();
    (ENTRIES + 1..=60).for_each(|seq| log.append(&batch(seq..=seq, 20)).unwrap());
    let first = log.reader.view().segments[0].last;
    log.trim(first).unwrap();
    let start = log.start();
    assert!(start > Seq(0) && log.reader.view().segments.len() > 1);
    let log = Log::open(files.clone(), tiny(), EPOCH).unwrap();
    assert_eq!(log.start(), start);
    files.remove(&segment::name_of(2)).unwrap();
    assert!(matches!(
        Log::open(files, tiny(), EPOCH),
        Err(LogError::MissingStart { segment: 3, .. })
    ));
}

/// The story: a release that noted no trims left a folder that the next one called
/// damaged, and nobody knew what to do with it.
#[test]
fn a_log_that_was_trimmed_without_a_note_is_opened_once_its_start_is_accepted() {
    let files = small();
    files.remove(&segment::name_of(1)).unwrap();
    let open = |accept_start| {
        let config = LogConfig {
            accept_start,
            ..tiny()
        };
        Log::open(files.clone(), config, EPOCH)
    };
    let Err(error @ LogError::MissingStart { segment: 2, after }) = open(None) else {
        panic!("it is opened");
    };
    let said = error.to_string();
    assert!(
        said.contains(&format!("accept {after} as its start")),
        "{said}"
    );
    // Whoever means another log opens none.
    for other in [Seq(0), Seq(after.0 - 1), Seq(after.0 + 1)] {
        assert!(matches!(
            open(Some(other)),
            Err(LogError::MissingStart { .. })
        ));
    }
    let log = open(Some(after)).unwrap();
    assert_eq!((log.start(), log.end()), (after, Seq(ENTRIES)));
    // From then on it says so itself.
    let mut log = open(None).unwrap();
    let left: Vec<u64> = (after.0 + 1..=ENTRIES).collect();
    assert_eq!(seqs(&log), left);
    log.append(&batch(ENTRIES + 1..=ENTRIES + 3, 20)).unwrap();
    assert_eq!(open(None).unwrap().end(), Seq(ENTRIES + 3));
}

/// One run of publishes on a disk that fails once. What the log says of the
/// failure is true, and everything acknowledged is there in the end.
fn fail_once(fault: Fault) -> bool {
    let files = Recorded::new(LeftOut::Nothing);
    let mut log = Log::open(files.clone(), config(), EPOCH).unwrap();
    files.fault.set(Some(fault));
    let mut next = 1;
    while next <= 40 {
        match log.append(&batch(next..=next, 300)) {
            Ok(()) => next += 1,
            // Nothing is there: the same sequence again.
            Err(AppendError::NotStored(_)) => assert_eq!(log.end(), Seq(next - 1)),
            Err(AppendError::Unknown(_)) => {
                let again = log.append(&batch(next..=next, 300));
                assert!(matches!(again, Err(AppendError::Failed)));
                log = Log::open(files.clone(), config(), EPOCH).unwrap();
                assert!(log.end() == Seq(next - 1) || log.end() == Seq(next));
                next = log.end().0 + 1;
            }
            // The note of a trim failed before.
            Err(AppendError::Failed) => {
                log = Log::open(files.clone(), config(), EPOCH).unwrap();
                assert_eq!(log.end(), Seq(next - 1));
            }
        }
        if next.is_multiple_of(10) {
            // A failed trim is tried again by the next one.
            let _ = log.trim(Seq(next.saturating_sub(15)));
        }
    }
    let was_hit = files.fault.take().is_none();
    let log = Log::open(files, config(), EPOCH).unwrap();
    let expected: Vec<u64> = (log.start().0 + 1..=40).collect();
    assert_eq!(seqs(&log), expected, "{fault:?}");
    was_hit
}

#[test]
fn a_disk_that_is_full_at_any_call_loses_nothing_that_was_acknowledged() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let mut calls = 0;
        while fail_once(Fault { after: calls, kind }) {
            calls += 1;
        }
        assert!(calls > 80, "{calls} calls failed");
    }
}

/// The story: the next segment's file was to be made while the disk was full. From then
/// on the log waited for that file only, though trims had set others aside, and nothing
/// could be published any more.
#[test]
fn a_full_disk_is_no_hindrance_while_a_trim_has_set_a_segment_aside() {
    let files = Recorded::new(LeftOut::Nothing);
    let mut log = Log::open(files.clone(), config(), EPOCH).unwrap();
    let segments = |log: &Log<Recorded>| log.reader.view().segments.len();
    let mut next = 1;
    let mut append = |log: &mut Log<Recorded>| {
        let stored = log.append(&batch(next..=next, 300));
        next += u64::from(stored.is_ok());
        stored
    };
    while segments(&log) < 2 {
        append(&mut log).unwrap();
    }
    // The third one's file is asked for, and there is no room.
    files.is_full.set(true);
    while log.prepared < 3 {
        append(&mut log).unwrap();
    }
    let first = log.reader.view().segments[0].last;
    log.trim(first).unwrap();
    assert_eq!((segments(&log), log.spare.len()), (1, 1));
    while segments(&log) < 2 {
        append(&mut log).unwrap();
    }
    assert_eq!(log.spare.len(), 0);
    // Without one it says so, and goes on with room.
    let refused = loop {
        if let Err(error) = append(&mut log) {
            break error;
        }
    };
    assert!(matches!(refused, AppendError::NotStored(_)), "{refused}");
    files.is_full.set(false);
    append(&mut log).unwrap();
    let log = Log::open(files, config(), EPOCH).unwrap();
    assert_eq!(log.end(), Seq(next - 1));
}
