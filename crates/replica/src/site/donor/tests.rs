//! Tests of a donor: turns, windows, rates, failures.

use bytes::Bytes;

use super::*;
use crate::test_support::{NOW, at};

const SNAPSHOT: SnapshotId = SnapshotId(1);

fn wishes(donor: &mut Donor) -> Vec<Wish> {
    std::iter::from_fn(|| donor.poll_wish()).collect()
}

fn open(donor: &mut Donor) {
    donor.open(SNAPSHOT);
    donor.opened(SNAPSHOT, at(3), None, SnapshotSize::default());
    wishes(donor);
}

fn pull(donor: &mut Donor, joiner: u16, until: u64, is_first: bool) {
    let pull = Pull {
        snapshot: SNAPSHOT,
        index: 0,
        from: Cursor::default(),
        until,
        is_first,
    };
    donor.pull(NOW, SiteId(joiner), pull);
}

/// For whom a chunk is to be read, and which.
fn reading(donor: &mut Donor) -> Option<(u16, u64)> {
    wishes(donor).iter().find_map(|wish| match wish {
        Wish::Read { joiner, index, .. } => Some((joiner.0, *index)),
        _ => None,
    })
}

fn deliver(donor: &mut Donor, now: Moment, joiner: u16, index: u64) {
    let to = Some(Cursor::new(&[1]));
    let data = Bytes::from(vec![0; 1000]);
    let chunk = Chunk::new(index, Cursor::default(), to, 1, data);
    donor.read(now, SNAPSHOT, SiteId(joiner), chunk);
}

#[test]
fn joiners_take_turns_within_their_windows() {
    let mut donor = Donor::new(None);
    open(&mut donor);
    pull(&mut donor, 5, 2, true);
    pull(&mut donor, 6, 2, true);
    let mut served = Vec::new();
    while let Some((joiner, index)) = reading(&mut donor) {
        served.push((joiner, index));
        deliver(&mut donor, NOW, joiner, index);
    }
    assert_eq!(served, [(5, 0), (6, 0), (5, 1), (6, 1)]);
    pull(&mut donor, 6, 3, false);
    assert_eq!(reading(&mut donor), Some((6, 2)));
}

#[test]
fn the_rate_is_bounded() {
    let mut donor = Donor::new(Some(1000));
    open(&mut donor);
    pull(&mut donor, 5, 9, true);
    assert_eq!(reading(&mut donor), Some((5, 0)));
    deliver(&mut donor, NOW, 5, 0);
    assert_eq!(reading(&mut donor), None);
    let next = donor.poll_timeout().expect("a next one");
    assert_eq!(next, NOW + Duration::from_secs(1));
    donor.advance(next);
    assert_eq!(reading(&mut donor), Some((5, 1)));
}

/// The story: a failed dump ended the donor.
#[test]
fn a_snapshot_that_fails_is_told_and_the_donor_goes_on() {
    let mut donor = Donor::new(None);
    open(&mut donor);
    pull(&mut donor, 5, 2, true);
    wishes(&mut donor);
    donor.failed(NOW, SNAPSHOT, "disk full");
    let snapshot = SNAPSHOT;
    let error = "disk full".into();
    let told = wishes(&mut donor);
    assert_eq!(told[0], Wish::Close(SNAPSHOT));
    assert_eq!(
        told[1],
        Wish::Send(ToHub::SnapshotFailed { snapshot, error })
    );
    deliver(&mut donor, NOW, 5, 0);
    assert_eq!(wishes(&mut donor), [], "it came too late");
    open(&mut donor);
    pull(&mut donor, 5, 2, true);
    assert_eq!(reading(&mut donor), Some((5, 0)));
}

#[test]
fn one_snapshot_too_many_is_refused() {
    let mut donor = Donor::new(None);
    for id in 0..SNAPSHOTS_OPEN_MAX as u64 {
        donor.open(SnapshotId(id));
    }
    wishes(&mut donor);
    donor.open(SnapshotId(99));
    assert!(matches!(
        wishes(&mut donor)[..],
        [Wish::Send(ToHub::SnapshotFailed { .. })]
    ));
}

#[test]
fn what_was_closed_while_it_opened_is_closed_when_it_is_open() {
    let mut donor = Donor::new(None);
    donor.open(SNAPSHOT);
    wishes(&mut donor);
    donor.disconnected();
    donor.opened(SNAPSHOT, at(3), None, SnapshotSize::default());
    assert_eq!(wishes(&mut donor), [Wish::Close(SNAPSHOT)]);
}
