//! Tests of a site as a whole: its connection, what it acknowledges, refusals.

use super::*;
use crate::entry::{Chunk, SnapshotSize};
use crate::ids::Cursor;
use crate::test_support::{EPOCH, NOW, at, entries, hello, holding, name, welcome};

/// A copy whose writes are captured.
fn captured() -> Site {
    let restored = Restored {
        life: LifeId(2),
        holding: holding(4),
        is_captured: true,
        ..Restored::default()
    };
    Site::new(NOW, SiteConfig::new(name("b")), restored, 1)
}

fn site(holding: Holding) -> Site {
    let restored = Restored {
        life: LifeId(2),
        holding,
        ..Restored::default()
    };
    let mut site = Site::new(NOW, SiteConfig::new(name("b")), restored, 1);
    assert_eq!(outputs(&mut site), [SiteOutput::Connect]);
    site
}

fn outputs(site: &mut Site) -> Vec<SiteOutput> {
    std::iter::from_fn(|| site.poll_output()).collect()
}

/// A site that is welcome at its position.
fn streaming(seq: u64) -> Site {
    let mut site = site(holding(seq));
    site.handle_connected(NOW);
    let said = SiteOutput::Send(ToHub::Hello(hello("b", 2, holding(seq))));
    assert_eq!(outputs(&mut site), [said]);
    site.handle_message(NOW, ToSite::Welcome(welcome(Some(seq), 9)));
    site
}

fn increments(site: &mut Site, range: std::ops::RangeInclusive<u64>) {
    let entries = entries(range);
    let end = Seq(9);
    site.handle_message(NOW, ToSite::Entries { entries, end });
}

fn acks(site: &mut Site) -> Vec<Seq> {
    let all = outputs(site).into_iter().filter_map(|one| match one {
        SiteOutput::Send(ToHub::Ack { epoch, seq }) => {
            assert_eq!(epoch, EPOCH);
            Some(seq)
        }
        _ => None,
    });
    all.collect()
}

#[test]
fn what_is_committed_is_acknowledged_and_nothing_else() {
    let mut site = streaming(4);
    increments(&mut site, 5..=6);
    assert_eq!(acks(&mut site), []);
    site.handle_applied(NOW);
    assert_eq!(acks(&mut site), [Seq(6)]);
    assert_eq!(site.holding(), holding(6));
}

/// A transaction that outlives its connection is acknowledged on the next one
/// only when its entries came there, too: the hub has not sent them yet.
#[test]
fn nothing_is_acknowledged_that_this_connection_did_not_bring() {
    let mut site = streaming(4);
    increments(&mut site, 5..=6);
    outputs(&mut site);
    site.handle_disconnected(NOW);
    let later = site.poll_timeout().unwrap();
    site.handle_timeout(later);
    site.handle_connected(later);
    site.handle_message(later, ToSite::Welcome(welcome(Some(4), 9)));
    site.handle_applied(later);
    assert_eq!(acks(&mut site), []);
    increments(&mut site, 5..=6);
    assert_eq!(acks(&mut site), [Seq(6)]);
}

/// The story: a batch was lost whose entries a transaction of the connection
/// before had committed. Nothing was missing, so nothing was acknowledged, and a
/// full window waited for ever.
#[test]
fn what_is_here_is_acknowledged_though_its_batch_was_lost() {
    let mut site = streaming(4);
    increments(&mut site, 5..=6);
    outputs(&mut site);
    site.handle_disconnected(NOW);
    let later = site.poll_timeout().unwrap();
    site.handle_timeout(later);
    site.handle_connected(later);
    site.handle_message(later, ToSite::Welcome(welcome(Some(4), 9)));
    site.handle_applied(later);
    assert_eq!(acks(&mut site), []);
    heartbeat(&mut site, 6, true);
    assert_eq!(acks(&mut site), [Seq(6)]);
}

fn heartbeat(site: &mut Site, sent: u64, is_live: bool) {
    let (sent, end) = (Seq(sent), Seq(9));
    site.handle_message(NOW, ToSite::Heartbeat { sent, end, is_live });
}

/// The word that a copy was complete was lost: no increment ever came.
#[test]
fn a_whole_copy_without_increments_connects_again() {
    let mut site = streaming(4);
    outputs(&mut site);
    for _ in 0..IDLE_HEARTBEATS_MAX {
        heartbeat(&mut site, 0, false);
    }
    assert_eq!(outputs(&mut site), []);
    heartbeat(&mut site, 0, false);
    assert!(outputs(&mut site).contains(&SiteOutput::Disconnect));
}

/// The story: a batch was lost, and its session hung.
#[test]
fn a_lost_batch_is_noticed_at_the_next_heartbeat() {
    let mut site = streaming(4);
    outputs(&mut site);
    heartbeat(&mut site, 6, true);
    assert!(matches!(
        outputs(&mut site)[..],
        [
            SiteOutput::Event(SiteEvent::Violation(Violation::Gap { .. })),
            SiteOutput::Disconnect,
        ]
    ));
    let later = site.poll_timeout().expect("it connects again");
    site.handle_timeout(later);
    assert_eq!(outputs(&mut site), [SiteOutput::Connect]);
}

/// The story: an acknowledgement was lost, and a full window waited for ever.
#[test]
fn the_last_acknowledgement_is_repeated_with_each_heartbeat() {
    let mut site = streaming(4);
    increments(&mut site, 5..=6);
    site.handle_applied(NOW);
    assert_eq!(acks(&mut site), [Seq(6)]);
    site.handle_timeout(NOW + SiteConfig::new(name("b")).heartbeat_every);
    assert_eq!(acks(&mut site), [Seq(6)]);
}

/// The story: a hub that died was waited for for ever.
#[test]
fn a_silent_hub_is_left_and_looked_for_again() {
    let mut site = streaming(4);
    outputs(&mut site);
    let silence = SiteConfig::new(name("b")).silence_max;
    site.handle_timeout(NOW + silence);
    assert!(outputs(&mut site).contains(&SiteOutput::Disconnect));
    let later = site.poll_timeout().unwrap();
    site.handle_timeout(later);
    assert_eq!(outputs(&mut site), [SiteOutput::Connect]);
}

#[test]
fn a_whole_copy_that_must_re_seed_waits_for_an_operator() {
    let mut site = streaming(4);
    outputs(&mut site);
    let (at, start) = (Seq(4), Seq(8));
    let refusal = Refusal::MustReseed { at, start };
    site.handle_message(NOW, ToSite::Refused(refusal.clone()));
    let event = SiteOutput::Event(SiteEvent::Refused(refusal));
    assert_eq!(outputs(&mut site), [event, SiteOutput::Disconnect]);
    assert!(site.view().is_barred);
    assert_eq!(site.poll_timeout(), None);
    site.handle_rejoin(NOW, LifeId(3));
    site.handle_timeout(NOW);
    site.handle_connected(NOW);
    let said = SiteOutput::Send(ToHub::Hello(hello("b", 3, Holding::Fresh)));
    assert!(outputs(&mut site).contains(&said));
}

#[test]
fn a_part_of_a_copy_that_must_re_seed_begins_anew_by_itself() {
    let part = crate::message::Restoring {
        position: at(4),
        chunks: 2,
        cursor: Cursor::new(b"k"),
        ahead: None,
    };
    let mut site = site(Holding::Restoring(part));
    site.handle_connected(NOW);
    let (at, start) = (Seq(4), Seq(8));
    site.handle_message(NOW, ToSite::Refused(Refusal::MustReseed { at, start }));
    assert_eq!(site.holding(), Holding::Fresh);
    assert!(!site.view().is_barred);
}

/// The story: a copy that had come from a writer's snapshot, with changes that
/// the log did not have yet, gave them on as if they were not there; its joiner
/// applied them twice.
#[test]
fn a_copy_that_is_ahead_says_so_when_it_is_a_donor() {
    let ahead = Some(Ahead {
        site: SiteId(7),
        life: LifeId(7),
        source: 5,
    });
    let position = at(4);
    let mut site = site(Holding::At { position, ahead });
    site.handle_connected(NOW);
    site.handle_message(NOW, ToSite::Welcome(welcome(Some(4), 4)));
    let snapshot = SnapshotId(1);
    site.handle_message(NOW, ToSite::OpenSnapshot { snapshot });
    outputs(&mut site);
    let size = SnapshotSize {
        bytes: 1000,
        rows: 10,
    };
    site.handle_snapshot_opened(NOW, snapshot, position, None, size);
    let opened = ToHub::SnapshotOpened {
        snapshot,
        position,
        ahead,
        size,
    };
    assert_eq!(outputs(&mut site), [SiteOutput::Send(opened)]);
}

/// A copy that lacks what its position says would spread the lack.
#[test]
fn a_copy_with_parked_entries_opens_no_snapshot() {
    let restored = Restored {
        life: LifeId(2),
        holding: holding(4),
        parked: vec![(Seq(2), crate::Touches::Anything)],
        ..Restored::default()
    };
    let mut site = Site::new(NOW, SiteConfig::new(name("b")), restored, 1);
    site.handle_connected(NOW);
    site.handle_message(NOW, ToSite::Welcome(welcome(Some(4), 4)));
    outputs(&mut site);
    let snapshot = SnapshotId(1);
    site.handle_message(NOW, ToSite::OpenSnapshot { snapshot });
    assert!(matches!(
        outputs(&mut site)[..],
        [SiteOutput::Send(ToHub::SnapshotFailed { .. })]
    ));
}

#[test]
fn vitals_travel_with_heartbeats() {
    let mut site = streaming(4);
    site.handle_load(300);
    increments(&mut site, 5..=6);
    site.handle_apply_failed(NOW, ApplyFault::Transient, "database is locked");
    let told = {
        site.handle_timeout(NOW);
        outputs(&mut site)
    };
    let vitals = told.iter().find_map(|one| match one {
        SiteOutput::Send(ToHub::Heartbeat(vitals)) => Some(vitals.clone()),
        _ => None,
    });
    let vitals = vitals.expect("a heartbeat");
    assert_eq!(vitals.load_permille, 300);
    assert_eq!(vitals.apply, ApplyState::Retrying);
    assert_eq!(vitals.error.as_deref(), Some("database is locked"));
}

/// The story: a file was put back from a backup while the hub was away. Programs wrote to
/// it, their writes got the numbers of those that the backup lacked, and it passed for
/// whole.
#[test]
fn what_is_captured_counts_for_the_hub_once_it_has_agreed_to_what_was_before() {
    let restored = Restored {
        life: LifeId(2),
        holding: holding(4),
        is_captured: true,
        captured: 5,
        ..Restored::default()
    };
    let mut site = Site::new(NOW, SiteConfig::new(name("b")), restored, 1);
    let said = |site: &mut Site| {
        site.handle_connected(NOW);
        let told = outputs(site);
        let hello = told.into_iter().find_map(|one| match one {
            SiteOutput::Send(ToHub::Hello(hello)) => Some(hello),
            _ => None,
        });
        hello.expect("a hello").captured
    };
    site.handle_captured(NOW, 9);
    assert_eq!(said(&mut site), Some(5));
    site.handle_disconnected(NOW);
    assert_eq!(said(&mut site), Some(5));
    site.handle_message(NOW, ToSite::Welcome(welcome(Some(4), 4)));
    site.handle_captured(NOW, 10);
    site.handle_disconnected(NOW);
    assert_eq!(said(&mut site), Some(10));
    let refusal = Refusal::OlderCopy {
        at: Seq(4),
        acked: Seq(4),
        captured: 10,
        published: 11,
    };
    site.handle_message(NOW, ToSite::Refused(refusal));
    assert!(site.view().is_barred);
}

/// The story: a site that was never granted, or whose hub was away, filled the database of
/// whoever wrote with captured writes, and nothing showed it: it lagged by nothing.
#[test]
fn captured_writes_that_wait_are_counted_and_told_from_a_bound_on() {
    let mut site = captured();
    site.handle_captured(NOW, 70_000);
    assert_eq!(site.view().unpublished, 0, "the hub may have them");
    site.handle_connected(NOW);
    let welcome = Welcome {
        source: 69_000,
        ..welcome(Some(4), 4)
    };
    site.handle_message(NOW, ToSite::Welcome(welcome));
    assert_eq!(site.view().unpublished, 1_000);
    assert_eq!(site.view().error, None);
    outputs(&mut site);
    let told = |site: &mut Site, last| {
        site.handle_captured(NOW, last);
        let told = outputs(site).into_iter();
        let told = told.filter(|one| matches!(one, SiteOutput::Event(_)));
        told.collect::<Vec<_>>()
    };
    let count = UNPUBLISHED_TOLD;
    let event = SiteOutput::Event(SiteEvent::Unpublished { count });
    assert_eq!(told(&mut site, 69_000 + count), [event]);
    assert_eq!(told(&mut site, 69_001 + count), []);
    assert!(site.view().error.unwrap().contains("10001 of them wait"));
    site.handle_message(NOW, ToSite::Published { through: 69_500 });
    assert_eq!(site.view().error, None);
}

/// The story: a busy site joined anew. What it had captured before was told after the old
/// copy was given up, or counted on: it lagged for ever by writes that were gone, nobody
/// could prove it equal or copy from it exactly, and it read its empty list all the time.
#[test]
fn what_was_captured_before_a_copy_began_anew_is_forgotten() {
    let mut site = captured();
    let waiting = |site: &mut Site| {
        let token = Some(FencingToken(1));
        site.handle_message(NOW, ToSite::Writer { token, source: 0 });
        site.view().unpublished
    };
    site.handle_rejoin(NOW, LifeId(3));
    site.handle_captured(NOW, 500);
    site.handle_given_up();
    site.handle_timeout(NOW);
    site.handle_connected(NOW);
    site.handle_message(NOW, ToSite::Welcome(welcome(None, 4)));
    assert_eq!(waiting(&mut site), 0);
    // What programs wrote until the first chunk came goes with the old rows.
    site.handle_captured(NOW, 7);
    assert_eq!(waiting(&mut site), 7);
    let (snapshot, size) = (SnapshotId(1), SnapshotSize { bytes: 9, rows: 1 });
    let join = ToSite::JoinFrom {
        snapshot,
        donor: SiteId(5),
        position: at(4),
        ahead: None,
        size,
    };
    site.handle_message(NOW, join);
    let chunk = Arc::new(Chunk::new(0, Cursor::default(), None, 1, "rows".into()));
    site.handle_message(NOW, ToSite::Chunk { snapshot, chunk });
    let told = outputs(&mut site);
    assert!(
        told.iter().any(|one| matches!(one, SiteOutput::Store(_))),
        "{told:?}"
    );
    site.handle_stored(NOW);
    assert_eq!(site.holding(), holding(4));
    assert_eq!(waiting(&mut site), 0);
    site.handle_captured(NOW, 1);
    assert_eq!(waiting(&mut site), 1);
}
