//! Joiners, donors and the dumps between them.

use super::*;
use crate::entry::{Chunk, SnapshotSize};
use crate::ids::{Cursor, Position};
use crate::message::{Donor, JoinError, Pull, Restoring};
use crate::test_support::name;

fn ask(test: &mut TestHub, slot: u32, donor: Donor, have: Option<Restoring>) {
    let except = None;
    let join = ToHub::Join {
        donor,
        except,
        have,
    };
    test.hub.handle_report(NOW, conn(slot), Report::Said(join));
}

/// The snapshot that a donor was asked for.
fn asked(test: &mut TestHub, slot: u32) -> Option<SnapshotId> {
    let notices = test.notices(conn(slot));
    notices.iter().find_map(|notice| match notice {
        Notice::OpenSnapshot { snapshot, .. } => Some(*snapshot),
        _ => None,
    })
}

fn opened(test: &mut TestHub, slot: u32, snapshot: SnapshotId, position: Position) {
    let ahead = None;
    let report = Report::SnapshotOpened {
        snapshot,
        position,
        ahead,
        size: SnapshotSize::default(),
    };
    test.hub.handle_report(NOW, conn(slot), report);
}

fn given(notices: &[Notice]) -> Option<Position> {
    notices.iter().find_map(|notice| match notice {
        Notice::JoinFrom { position, .. } => Some(*position),
        _ => None,
    })
}

/// Joins a site by a dump of the master, at its end.
pub(super) fn join(test: &mut TestHub, slot: u32, text: &str, life: u128) {
    test.arrive(slot, &hello(text, life, Holding::Fresh));
    ask(test, slot, Donor::Named(name("master")), None);
    let snapshot = asked(test, 1).expect("the master is asked");
    let position = at(test.hub.end().0);
    opened(test, 1, snapshot, position);
    test.settle();
    let joined = ToHub::Joined { position };
    test.hub
        .handle_report(NOW, conn(slot), Report::Said(joined));
    test.settle();
}

/// A master, and two sites that want a copy.
fn with_joiners() -> TestHub {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.publish(5);
    test.arrive(2, &hello("b", 2, Holding::Fresh));
    test.arrive(3, &hello("c", 3, Holding::Fresh));
    test.told();
    test
}

#[test]
fn requests_that_come_meanwhile_share_a_dump_and_get_its_exact_position() {
    let mut test = with_joiners();
    ask(&mut test, 2, Donor::Best, None);
    let snapshot = asked(&mut test, 1).expect("the master is asked");
    ask(&mut test, 3, Donor::Named(name("master")), None);
    assert_eq!(asked(&mut test, 1), None, "one dump for both");
    opened(&mut test, 1, snapshot, at(4));
    let told = test.told();
    for slot in [2, 3] {
        let notices: Vec<Notice> = (told.iter())
            .filter_map(|one| match one {
                HubOutput::Notify { conn: to, notice } if *to == conn(slot) => Some(notice.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(given(&notices), Some(at(4)));
    }
    // One that comes while it is open shares it, too.
    test.arrive(4, &hello("d", 4, Holding::Fresh));
    ask(&mut test, 4, Donor::Best, None);
    assert_eq!(given(&test.notices(conn(4))), Some(at(4)));
}

/// Who leaves a snapshot since it is old must not get it again, though others still
/// use it.
#[test]
fn a_dump_that_is_open_for_long_is_not_shared_any_more() {
    let mut test = with_joiners();
    ask(&mut test, 2, Donor::Best, None);
    ask(&mut test, 3, Donor::Best, None);
    let snapshot = asked(&mut test, 1).expect("the master is asked");
    opened(&mut test, 1, snapshot, at(5));
    test.publish(3);
    let join = ToHub::Join {
        donor: Donor::Best,
        except: None,
        have: Some(Restoring {
            position: at(5),
            chunks: 1,
            cursor: Cursor::new(b"k"),
            ahead: None,
        }),
    };
    let later = NOW + crate::limits::DUMP_SHARED_FOR;
    let said = Report::Said(join);
    test.hub.handle_report(later, conn(2), said);
    let fresh = asked(&mut test, 1).expect("the master is asked again");
    assert_ne!(fresh, snapshot);
}

/// The story: data and position in two stores: a crash in between made a position
/// that no data followed.
#[test]
fn a_joiner_hears_of_its_snapshot_after_its_position_is_durable() {
    let mut test = with_joiners();
    ask(&mut test, 2, Donor::Best, None);
    let snapshot = asked(&mut test, 1).unwrap();
    opened(&mut test, 1, snapshot, at(5));
    let told = outputs(&mut test.hub);
    let [HubOutput::Append(batch)] = &told[..] else {
        panic!("told before it is durable: {told:?}");
    };
    assert!(matches!(&batch.records[..], [Record::Site(record)]
        if record.at == Seq(5) && record.phase == Phase::Restoring));
    test.hub.handle_durable(NOW);
    assert_eq!(given(&test.notices(conn(2))), Some(at(5)));
}

/// The story: a failed dump was nobody's error: the joiner waited.
#[test]
fn a_failed_dump_is_reported_to_who_asked_for_it() {
    let mut test = with_joiners();
    ask(&mut test, 2, Donor::Named(name("master")), None);
    let snapshot = asked(&mut test, 1).unwrap();
    let error: Arc<str> = "disk full".into();
    let failed = Report::SnapshotFailed {
        snapshot,
        error: Arc::clone(&error),
    };
    test.hub.handle_report(NOW, conn(1), failed);
    let error = JoinError::DumpFailed { error };
    let failed = Notice::Send(ToSite::JoinFailed { error });
    assert_eq!(test.notices(conn(2)), [failed]);
    // The donor goes on, and can be asked again.
    ask(&mut test, 2, Donor::Best, None);
    assert!(asked(&mut test, 1).is_some());
}

#[test]
fn a_donor_that_is_unknown_not_live_or_the_joiner_itself_is_refused() {
    let mut test = with_joiners();
    for (text, is_known) in [("who", false), ("c", true), ("b", false)] {
        ask(&mut test, 2, Donor::Named(name(text)), None);
        let name = name(text);
        let error = if is_known {
            JoinError::DonorNotLive { name }
        } else {
            JoinError::UnknownDonor { name }
        };
        let failed = Notice::Send(ToSite::JoinFailed { error });
        assert_eq!(test.notices(conn(2)), [failed]);
    }
}

/// The story: a dead donor stranded its joiner.
#[test]
fn the_joiner_of_a_dead_donor_goes_on_with_another() {
    let mut test = with_joiners();
    join(&mut test, 3, "c", 3);
    ask(&mut test, 2, Donor::Named(name("c")), None);
    let snapshot = asked(&mut test, 3).unwrap();
    opened(&mut test, 3, snapshot, at(5));
    test.settle();
    test.hub.handle_lost(NOW, conn(3));
    let lost = Notice::Send(ToSite::DonorLost { snapshot });
    assert!(test.notices(conn(2)).contains(&lost));
    // It asks again, with what it has.
    let part = Restoring {
        position: at(5),
        chunks: 2,
        cursor: Cursor::new(b"k"),
        ahead: None,
    };
    ask(&mut test, 2, Donor::Best, Some(part));
    let told = test.told();
    assert!(told.iter().any(|one| matches!(one, HubOutput::Notify {
        conn: to,
        notice: Notice::OpenSnapshot { at_least: Seq(5), .. },
    } if *to == conn(1))));
}

#[test]
fn a_joiner_does_not_wait_for_ever_for_a_donor() {
    let mut test = with_joiners();
    test.hub.handle_lost(NOW, conn(1));
    ask(&mut test, 2, Donor::Best, None);
    test.told();
    let by = NOW + HubConfig::default().join_wait_max;
    assert!(test.hub.poll_timeout().is_some_and(|at| at <= by));
    test.hub.handle_timeout(by);
    let error = JoinError::NoDonor;
    let failed = Notice::Send(ToSite::JoinFailed { error });
    assert_eq!(test.notices(conn(2)), [failed]);
}

fn chunk(index: u64) -> Arc<Chunk> {
    let data = Bytes::from_static(b"rows");
    Arc::new(Chunk::new(index, Cursor::default(), None, 1, data))
}

fn said(test: &mut TestHub, slot: u32, message: ToHub) -> Vec<HubOutput> {
    test.hub
        .handle_report(NOW, conn(slot), Report::Said(message));
    test.told()
}

/// The story: a dump's answer from a client that nobody had asked crashed the
/// server.
#[test]
fn a_chunk_reaches_its_joiner_from_its_donor_only() {
    let mut test = with_joiners();
    join(&mut test, 3, "c", 3);
    ask(&mut test, 2, Donor::Named(name("master")), None);
    let snapshot = asked(&mut test, 1).unwrap();
    opened(&mut test, 1, snapshot, at(5));
    test.told();
    let pull = Pull {
        snapshot,
        index: 0,
        from: Cursor::default(),
        until: 4,
        is_first: true,
    };
    let joiner = test.hub.site(&name("b")).unwrap();
    let told = said(&mut test, 2, ToHub::Pull(pull.clone()));
    let notice = Notice::Send(ToSite::Pull { joiner, pull });
    let to = conn(1);
    assert_eq!(told, [HubOutput::Notify { conn: to, notice }]);
    let message = ToHub::Chunk {
        snapshot,
        joiner,
        chunk: chunk(0),
    };
    assert_eq!(said(&mut test, 3, message.clone()), [], "not the donor");
    let told = said(&mut test, 1, message);
    assert!(matches!(&told[..], [HubOutput::Notify { conn: to, .. }] if *to == conn(2)));
    // One that nobody joins with any more goes nowhere.
    test.hub.handle_lost(NOW, conn(2));
    test.told();
    let message = ToHub::Chunk {
        snapshot,
        joiner,
        chunk: chunk(1),
    };
    assert_eq!(said(&mut test, 1, message), []);
}

#[test]
fn a_snapshot_is_closed_when_its_last_joiner_is_gone() {
    let mut test = with_joiners();
    ask(&mut test, 2, Donor::Best, None);
    ask(&mut test, 3, Donor::Best, None);
    let snapshot = asked(&mut test, 1).unwrap();
    opened(&mut test, 1, snapshot, at(5));
    test.told();
    test.hub.handle_lost(NOW, conn(2));
    assert_eq!(test.notices(conn(1)), []);
    test.hub.handle_lost(NOW, conn(3));
    let close = Notice::CloseSnapshot { snapshot };
    assert_eq!(test.notices(conn(1)), [close]);
}

#[test]
fn a_copy_with_parked_or_skipped_entries_is_no_donor() {
    let mut test = with_joiners();
    let vitals = Vitals {
        parked: 1,
        ..Vitals::default()
    };
    test.hub.handle_report(NOW, conn(1), Report::Alive(vitals));
    ask(&mut test, 2, Donor::Best, None);
    assert_eq!(asked(&mut test, 1), None);
    test.hub
        .handle_report(NOW, conn(1), Report::Alive(Vitals::default()));
    assert!(asked(&mut test, 1).is_some());
}

#[test]
fn a_part_whose_entries_are_gone_must_begin_anew() {
    let mut test = bounded(3);
    test.master();
    test.arrive(2, &hello("b", 2, Holding::Fresh));
    for seq in 1..=6 {
        test.publish(1);
        let acked = Report::Acked(Seq(seq));
        test.hub.handle_report(NOW, conn(1), acked);
    }
    test.told();
    let part = Restoring {
        position: at(1),
        chunks: 2,
        cursor: Cursor::new(b"k"),
        ahead: None,
    };
    ask(&mut test, 2, Donor::Best, Some(part));
    let notices = test.notices(conn(2));
    assert!(matches!(
        notices[..],
        [Notice::Send(ToSite::JoinFailed {
            error: JoinError::MustReseed { at: Seq(1), .. }
        })]
    ));
}
