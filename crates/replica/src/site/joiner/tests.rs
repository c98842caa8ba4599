//! Tests of a joiner: exact positions, the same chunk with another donor, bad
//! chunks, deadlines.

use bytes::Bytes;
use waystation_base::Seq;

use super::*;
use crate::test_support::{NOW, at};

const FIRST: SnapshotId = SnapshotId(1);
const SECOND: SnapshotId = SnapshotId(2);
const DONOR: SiteId = SiteId(8);

fn joiner() -> Joiner {
    Joiner::new(JoinerConfig::default(), None, 1)
}

fn wishes(joiner: &mut Joiner) -> Vec<Wish> {
    std::iter::from_fn(|| joiner.poll_wish()).collect()
}

fn key(index: u64) -> Cursor {
    Cursor::new(&[u8::try_from(index).unwrap()])
}

/// The chunk with keys from `index` to `index + 1`; the last one has index 5.
fn chunk(index: u64) -> Arc<Chunk> {
    let from = if index == 0 {
        Cursor::default()
    } else {
        key(index)
    };
    let to = (index < 5).then(|| key(index + 1));
    Arc::new(Chunk::new(index, from, to, 1, Bytes::from_static(b"row")))
}

fn give(joiner: &mut Joiner, snapshot: SnapshotId, seq: u64) -> Vec<Wish> {
    joiner.given(NOW, snapshot, DONOR, at(seq), None, SnapshotSize::default());
    wishes(joiner)
}

/// Takes and stores chunks of a snapshot.
fn store(joiner: &mut Joiner, snapshot: SnapshotId, range: std::ops::Range<u64>) -> Vec<Wish> {
    let mut all = Vec::new();
    for index in range {
        joiner.chunk(NOW, snapshot, chunk(index));
        joiner.stored(NOW);
        all.extend(wishes(joiner));
    }
    all
}

/// A joiner that has chunks 0 to 2 at sequence 5.
fn with_part() -> Joiner {
    let mut joiner = joiner();
    joiner.begin(NOW);
    give(&mut joiner, FIRST, 5);
    store(&mut joiner, FIRST, 0..3);
    joiner
}

fn pulls(wishes: &[Wish]) -> Option<Pull> {
    wishes.iter().find_map(|wish| match wish {
        Wish::Send(ToHub::Pull(pull)) => Some(pull.clone()),
        _ => None,
    })
}

fn joins(wishes: &[Wish]) -> Option<(Option<SiteId>, Option<Restoring>)> {
    wishes.iter().find_map(|wish| match wish {
        Wish::Send(ToHub::Join { except, have, .. }) => Some((*except, have.clone())),
        _ => None,
    })
}

#[test]
fn a_copy_is_complete_at_exactly_the_position_of_its_snapshot() {
    let mut joiner = with_part();
    let told = store(&mut joiner, FIRST, 3..6);
    let (position, ahead) = (at(5), None);
    assert_eq!(told.last(), Some(&Wish::Complete { position, ahead }));
    assert!(!joiner.is_joining());
    assert_eq!(joiner.progress(), (6, 6, 18));
}

/// The story: an interrupted dump began again from the first row.
#[test]
fn at_the_same_position_another_donor_goes_on_at_the_same_chunk() {
    let mut joiner = with_part();
    joiner.lost(NOW, FIRST);
    let (except, have) = joins(&wishes(&mut joiner)).expect("it asks again");
    let have = have.expect("it says what it has");
    assert_eq!((except, have.chunks, &have.cursor), (None, 3, &key(3)));
    let told = give(&mut joiner, SECOND, 5);
    let pull = pulls(&told).expect("it pulls at once");
    assert_eq!((pull.index, pull.from, pull.is_first), (3, key(3), true));
    let told = store(&mut joiner, SECOND, 3..6);
    assert!(matches!(told.last(), Some(Wish::Complete { .. })));
}

#[test]
fn at_a_later_position_what_is_there_is_brought_up_to_it_first() {
    let mut joiner = with_part();
    joiner.lost(NOW, FIRST);
    wishes(&mut joiner);
    let told = give(&mut joiner, SECOND, 9);
    let (position, below) = (at(5), key(3));
    assert_eq!(told[0], Wish::Filter { position, below });
    assert_eq!(
        told[1],
        Wish::Send(ToHub::CatchUp {
            after: position.seq
        })
    );
    // A chunk that comes too early does not mix positions.
    joiner.chunk(NOW, SECOND, chunk(3));
    joiner.applied(NOW, at(8));
    assert_eq!(wishes(&mut joiner), []);
    joiner.applied(NOW, at(9));
    let pull = pulls(&wishes(&mut joiner)).expect("now it pulls");
    assert_eq!((pull.index, pull.from), (3, key(3)));
    let told = store(&mut joiner, SECOND, 3..6);
    let position = at(9);
    assert!(matches!(told.last(), Some(Wish::Complete { position: one, .. }) if *one == position));
}

#[test]
fn what_cannot_be_brought_up_begins_anew() {
    let config = JoinerConfig {
        can_filter: false,
        ..JoinerConfig::default()
    };
    let mut joiner = Joiner::new(config, None, 1);
    joiner.begin(NOW);
    give(&mut joiner, FIRST, 5);
    store(&mut joiner, FIRST, 0..3);
    joiner.lost(NOW, FIRST);
    assert_eq!(joins(&wishes(&mut joiner)), Some((None, None)));
    let pull = pulls(&give(&mut joiner, SECOND, 9)).expect("it pulls at once");
    assert_eq!((pull.index, pull.from), (0, Cursor::default()));
}

/// A part that holds more of a writer than its position says cannot be mixed with
/// chunks of a donor that does not.
#[test]
fn a_part_that_is_ahead_goes_on_with_its_like_only() {
    let mut joiner = joiner();
    joiner.begin(NOW);
    let ahead = Some(Ahead {
        site: SiteId(1),
        life: crate::ids::LifeId(1),
        source: 4,
    });
    joiner.given(NOW, FIRST, DONOR, at(5), ahead, SnapshotSize::default());
    store(&mut joiner, FIRST, 0..3);
    joiner.lost(NOW, FIRST);
    assert_eq!(joins(&wishes(&mut joiner)), Some((None, None)));
    let pull = pulls(&give(&mut joiner, SECOND, 5)).expect("it pulls at once");
    assert_eq!(pull.index, 0);
}

#[test]
fn a_damaged_chunk_is_not_stored_and_its_donor_is_left() {
    let mut joiner = with_part();
    let mut bad = (*chunk(3)).clone();
    bad.data = Bytes::from_static(b"rox");
    joiner.chunk(NOW, FIRST, Arc::new(bad));
    let told = wishes(&mut joiner);
    let (except, have) = joins(&told).expect("it asks for another donor");
    assert_eq!(except, Some(DONOR));
    assert_eq!(have.map(|part| part.chunks), Some(3));
    assert!(!told.iter().any(|one| matches!(one, Wish::Store(_))));
}

#[test]
fn chunks_out_of_place_are_ignored() {
    let mut joiner = with_part();
    for (snapshot, index) in [(FIRST, 2), (FIRST, 4), (SECOND, 3)] {
        joiner.chunk(NOW, snapshot, chunk(index));
        assert_eq!(wishes(&mut joiner), []);
    }
}

/// The story: a donor that stopped delivering hung its joiner for hours.
#[test]
fn a_donor_that_stops_delivering_is_left() {
    let mut joiner = with_part();
    let by = joiner.poll_timeout().expect("a deadline");
    joiner.handle_timeout(by);
    let (except, _) = joins(&wishes(&mut joiner)).expect("it asks for another donor");
    assert_eq!(except, Some(DONOR));
}

#[test]
fn a_full_disk_is_tried_again_with_the_same_chunk() {
    let mut joiner = with_part();
    joiner.chunk(NOW, FIRST, chunk(3));
    let told = wishes(&mut joiner);
    joiner.not_stored(NOW);
    let later = joiner.poll_timeout().expect("a retry");
    joiner.handle_timeout(later);
    assert_eq!(wishes(&mut joiner), told);
}

/// What is there is told only when it is known: a store under way may still
/// commit.
#[test]
fn a_joiner_that_stores_asks_when_the_store_has_ended() {
    let mut joiner = with_part();
    joiner.chunk(NOW, FIRST, chunk(3));
    wishes(&mut joiner);
    joiner.lost(NOW, FIRST);
    assert_eq!(joins(&wishes(&mut joiner)), None);
    joiner.stored(NOW);
    let later = joiner.poll_timeout().expect("it asks soon");
    joiner.handle_timeout(later);
    let (_, have) = joins(&wishes(&mut joiner)).expect("it asks");
    assert_eq!(have.map(|part| part.chunks), Some(4));
}

#[test]
fn a_join_that_failed_is_asked_for_again_and_a_gone_part_is_dropped() {
    let mut joiner = with_part();
    let (at, start) = (Seq(5), Seq(9));
    let error = JoinError::MustReseed { at, start };
    joiner.failed(NOW, error.clone());
    assert_eq!(wishes(&mut joiner), [Wish::Failed(error)]);
    let later = joiner.poll_timeout().expect("it asks again");
    joiner.handle_timeout(later);
    assert_eq!(joins(&wishes(&mut joiner)), Some((None, None)));
}

/// The story: a copy took longer than the log keeps what is written meanwhile; the
/// joiner was evicted, began anew, and was evicted again, for ever.
#[test]
fn a_copy_that_takes_long_leaves_its_snapshot_for_a_fresh_one_and_goes_on() {
    let mut joiner = with_part();
    let later = NOW + JoinerConfig::default().renew_after;
    joiner.chunk(later, FIRST, chunk(3));
    joiner.stored(later);
    let told = wishes(&mut joiner);
    let (except, have) = joins(&told).expect("a fresh snapshot is asked for");
    assert_eq!(except, None, "nothing is wrong with the donor");
    let have = have.expect("what is there counts");
    assert_eq!((have.position, have.chunks), (at(5), 4));
    assert_eq!(pulls(&told), None, "nothing more of the old one");
    let told = give(&mut joiner, SECOND, 90);
    let catch_up = Wish::Send(ToHub::CatchUp { after: Seq(5) });
    assert!(told.contains(&catch_up), "{told:?}");
    joiner.applied(later, at(90));
    let pull = pulls(&wishes(&mut joiner)).expect("it goes on");
    assert_eq!((pull.snapshot, pull.index), (SECOND, 4));
    let told = store(&mut joiner, SECOND, 4..6);
    let (position, ahead) = (at(90), None);
    assert_eq!(told.last(), Some(&Wish::Complete { position, ahead }));
}

#[test]
fn a_part_that_cannot_follow_stays_with_its_snapshot() {
    let later = NOW + JoinerConfig::default().renew_after;
    let config = JoinerConfig {
        can_filter: false,
        ..JoinerConfig::default()
    };
    let mut joiner = Joiner::new(config, None, 1);
    joiner.begin(NOW);
    give(&mut joiner, FIRST, 5);
    joiner.chunk(later, FIRST, chunk(0));
    joiner.stored(later);
    let told = wishes(&mut joiner);
    assert_eq!(joins(&told), None);
    assert!(pulls(&told).is_some());
}
