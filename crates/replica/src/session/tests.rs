//! Tests of a session: window, acknowledgements, and the pause for a dump.

use std::time::Duration;

use proptest::prelude::*;
use waystation_base::SiteId;

use super::*;
use crate::entry::SnapshotSize;
use crate::message::Vitals;
use crate::test_support::{EPOCH, NOW, at, entries, welcome};

const SNAPSHOT: SnapshotId = SnapshotId(3);

fn session(end: u64) -> Session {
    let config = SessionConfig {
        window_entries: 4,
        ..SessionConfig::default()
    };
    let mut session = Session::new(NOW, welcome(Some(0), end), config);
    assert!(matches!(
        session.poll_output(),
        Some(SessionOutput::Send(ToSite::Welcome(_)))
    ));
    session
}

fn outputs(session: &mut Session) -> Vec<SessionOutput> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn read(after: u64, through: u64) -> SessionOutput {
    let window = SessionConfig::default().window_bytes;
    SessionOutput::Read {
        after: Seq(after),
        through: Seq(through),
        bytes_max: window,
    }
}

fn ack(session: &mut Session, seq: u64) {
    let seq = Seq(seq);
    session.handle_message(NOW, ToHub::Ack { epoch: EPOCH, seq });
}

/// A session that has sent entries 1 to 3.
fn in_flight() -> Session {
    let mut session = session(3);
    assert_eq!(outputs(&mut session), [read(0, 3)]);
    session.handle_read(NOW, entries(1..=3));
    assert!(matches!(
        outputs(&mut session)[..],
        [SessionOutput::Send(ToSite::Entries { .. })]
    ));
    session
}

fn open(session: &mut Session) {
    let at_least = Seq(0);
    let snapshot = SNAPSHOT;
    session.handle_notice(NOW, Notice::OpenSnapshot { snapshot, at_least });
}

fn asks(output: &SessionOutput) -> bool {
    matches!(output, SessionOutput::Send(ToSite::OpenSnapshot { snapshot }) if *snapshot == SNAPSHOT)
}

#[test]
fn a_dump_waits_for_the_increments_in_flight() {
    let mut session = in_flight();
    open(&mut session);
    assert_eq!(outputs(&mut session), []);
    ack(&mut session, 2);
    let acked = SessionOutput::Report(Report::Acked(Seq(2)));
    assert_eq!(outputs(&mut session), [acked], "one is still in flight");
    ack(&mut session, 3);
    assert!(outputs(&mut session).iter().any(asks));
}

#[test]
fn a_dump_goes_before_the_increments_that_are_queued_and_they_follow() {
    let mut session = session(3);
    outputs(&mut session);
    open(&mut session);
    assert!(outputs(&mut session).iter().any(asks));
    // What was being read when the dump came is held.
    session.handle_read(NOW, entries(1..=3));
    session.handle_notice(NOW, Notice::End(Seq(9)));
    assert_eq!(outputs(&mut session), []);
    let opened = ToHub::SnapshotOpened {
        snapshot: SNAPSHOT,
        position: at(0),
        ahead: None,
        size: SnapshotSize::default(),
    };
    session.handle_message(NOW, opened);
    let told = outputs(&mut session);
    assert!(matches!(
        told[..],
        [
            SessionOutput::Report(Report::SnapshotOpened { position, .. }),
            SessionOutput::Send(ToSite::Entries { .. }),
            SessionOutput::Read { .. },
        ] if position == at(0)
    ));
}

/// The story: a dump failed at the donor, and with it the donor stopped; its
/// increments were held for ever.
#[test]
fn held_increments_are_released_when_a_dump_fails() {
    let mut session = session(3);
    outputs(&mut session);
    open(&mut session);
    session.handle_read(NOW, entries(1..=3));
    outputs(&mut session);
    let error: Arc<str> = "disk full".into();
    let failed = ToHub::SnapshotFailed {
        snapshot: SNAPSHOT,
        error: Arc::clone(&error),
    };
    session.handle_message(NOW, failed);
    let told = outputs(&mut session);
    let snapshot = SNAPSHOT;
    let report = Report::SnapshotFailed { snapshot, error };
    assert_eq!(told[0], SessionOutput::Report(report));
    assert!(matches!(
        told[1],
        SessionOutput::Send(ToSite::Entries { .. })
    ));
    assert!(!session.is_held());
}

/// The story: no deadline: a donor that never answered held its increments, and
/// its joiner waited for ever.
#[test]
fn a_donor_that_never_answers_loses_the_dump_and_keeps_its_increments() {
    let mut session = session(3);
    outputs(&mut session);
    open(&mut session);
    session.handle_read(NOW, entries(1..=3));
    outputs(&mut session);
    let mut now = NOW;
    let mut failed = false;
    let mut sent = false;
    while !failed {
        // It lives, and does nothing about the snapshot.
        session.handle_message(now, ToHub::Heartbeat(Vitals::default()));
        now += SessionConfig::default().heartbeat_every;
        session.handle_timeout(now);
        for output in outputs(&mut session) {
            failed |= matches!(output, SessionOutput::Report(Report::SnapshotFailed { .. }));
            sent |= matches!(output, SessionOutput::Send(ToSite::Entries { .. }));
        }
        assert!(now < NOW + Duration::from_mins(1));
    }
    assert!(sent, "the held increments follow");
    // Its answer comes after all: it is told to close.
    let opened = ToHub::SnapshotOpened {
        snapshot: SNAPSHOT,
        position: at(0),
        ahead: None,
        size: SnapshotSize::default(),
    };
    session.handle_message(now, opened);
    let snapshot = SNAPSHOT;
    assert_eq!(
        outputs(&mut session),
        [SessionOutput::Send(ToSite::CloseSnapshot { snapshot })]
    );
}

#[test]
fn a_snapshot_that_is_not_exactly_at_the_donors_position_is_no_dump() {
    let mut session = session(0);
    open(&mut session);
    outputs(&mut session);
    let opened = ToHub::SnapshotOpened {
        snapshot: SNAPSHOT,
        position: at(1),
        ahead: None,
        size: SnapshotSize::default(),
    };
    session.handle_message(NOW, opened);
    assert!(matches!(
        outputs(&mut session)[..],
        [
            SessionOutput::Send(ToSite::CloseSnapshot { .. }),
            SessionOutput::Report(Report::SnapshotFailed { .. }),
        ]
    ));
}

/// A donor that lags is first brought to where the joiner stands.
#[test]
fn a_donor_behind_the_joiner_catches_up_before_it_is_asked() {
    let mut session = session(9);
    outputs(&mut session);
    let (snapshot, at_least) = (SNAPSHOT, Seq(6));
    session.handle_notice(NOW, Notice::OpenSnapshot { snapshot, at_least });
    session.handle_read(NOW, entries(1..=4));
    ack(&mut session, 4);
    let told = outputs(&mut session);
    assert!(!told.iter().any(asks));
    assert_eq!(told.last(), Some(&read(4, 6)));
    session.handle_read(NOW, entries(5..=6));
    ack(&mut session, 6);
    assert!(outputs(&mut session).iter().any(asks));
}

/// The story: an acknowledgement that came twice, or late, crashed the server.
#[test]
fn duplicate_and_late_acknowledgements_change_nothing() {
    let mut session = in_flight();
    for seq in [3, 3, 1, 2, 0] {
        ack(&mut session, seq);
    }
    let acked = SessionOutput::Report(Report::Acked(Seq(3)));
    assert_eq!(outputs(&mut session), [acked]);
    assert_eq!((session.acked(), session.acks_repeated()), (Seq(3), 4));
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_connection() {
    let mut session = in_flight();
    ack(&mut session, 4);
    let (acked, sent) = (Seq(4), Seq(3));
    let violation = Violation::AckPastSent { acked, sent };
    assert_eq!(
        outputs(&mut session),
        [SessionOutput::Close(Refusal::Violation(violation))]
    );
    ack(&mut session, 3);
    assert_eq!(outputs(&mut session), [], "nothing comes after the end");
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn a_message_about_another_history_ends_the_connection() {
    let mut session = in_flight();
    let (ours, theirs) = (EPOCH, Epoch(EPOCH.0 + 1));
    let seq = Seq(1);
    session.handle_message(NOW, ToHub::Ack { epoch: theirs, seq });
    let violation = Violation::OtherEpoch { ours, theirs };
    assert_eq!(
        outputs(&mut session),
        [SessionOutput::Close(Refusal::Violation(violation))]
    );
}

#[test]
fn a_site_that_acknowledges_nothing_gets_one_window_and_no_more() {
    let mut session = session(100);
    assert_eq!(outputs(&mut session), [read(0, 4)]);
    session.handle_read(NOW, entries(1..=4));
    session.handle_notice(NOW, Notice::End(Seq(200)));
    let told = outputs(&mut session);
    assert!(
        !told
            .iter()
            .any(|one| matches!(one, SessionOutput::Read { .. }))
    );
    ack(&mut session, 1);
    assert!(outputs(&mut session).iter().any(|one| matches!(
        one,
        SessionOutput::Read {
            after: Seq(4),
            through: Seq(5),
            ..
        }
    )));
}

#[test]
fn a_site_whose_entries_are_trimmed_is_told_to_re_seed() {
    let mut session = session(9);
    outputs(&mut session);
    session.handle_unread(NOW, &Unread::Trimmed { start: Seq(5) });
    let (at, start) = (Seq(0), Seq(5));
    assert_eq!(
        outputs(&mut session),
        [SessionOutput::Close(Refusal::MustReseed { at, start })]
    );
    let text = Refusal::MustReseed { at, start }.to_string();
    assert!(text.starts_with("must re-seed"), "{text}");
}

/// The story: no heartbeats: a lost peer hung its session.
#[test]
fn a_silent_site_is_given_up() {
    let mut session = session(0);
    let silence = SessionConfig::default().silence_max;
    session.handle_timeout(NOW + silence);
    assert!(matches!(
        outputs(&mut session)[..],
        [SessionOutput::Close(Refusal::Silent)]
    ));
}

/// A joiner that has nothing yet.
fn joiner() -> Session {
    let mut session = Session::new(NOW, welcome(None, 9), SessionConfig::default());
    outputs(&mut session);
    session
}

fn join_from(session: &mut Session, seq: u64) {
    session.handle_notice(
        NOW,
        Notice::JoinFrom {
            snapshot: SNAPSHOT,
            donor: SiteId(2),
            position: at(seq),
            ahead: None,
            size: SnapshotSize::default(),
        },
    );
    outputs(session);
}

/// The story: a fresh client skipped the dump and replayed from the first entry.
#[test]
fn who_must_join_gets_no_increments_before_its_copy_is_there() {
    let mut session = joiner();
    session.handle_notice(NOW, Notice::End(Seq(20)));
    assert_eq!(outputs(&mut session), []);
    join_from(&mut session, 6);
    let position = at(6);
    session.handle_message(NOW, ToHub::Joined { position });
    let told = outputs(&mut session);
    assert!(matches!(
        told[0],
        SessionOutput::Report(Report::Said(ToHub::Joined { .. }))
    ));
    assert!(matches!(
        told[1],
        SessionOutput::Read {
            after: Seq(6),
            through: Seq(20),
            ..
        }
    ));
}

#[test]
fn a_joiner_that_claims_another_position_than_its_snapshots_is_refused() {
    let mut session = joiner();
    join_from(&mut session, 6);
    session.handle_message(NOW, ToHub::Joined { position: at(7) });
    assert!(matches!(
        outputs(&mut session)[..],
        [SessionOutput::Close(Refusal::Violation(
            Violation::SnapshotPosition { .. }
        ))]
    ));
}

#[test]
fn a_part_of_a_copy_gets_the_entries_up_to_the_snapshot_and_no_more() {
    let mut session = joiner();
    join_from(&mut session, 6);
    session.handle_message(NOW, ToHub::CatchUp { after: Seq(4) });
    assert_eq!(outputs(&mut session), [read(4, 6)]);
    session.handle_read(NOW, entries(5..=6));
    outputs(&mut session);
    ack(&mut session, 6);
    let acked = SessionOutput::Report(Report::Acked(Seq(6)));
    assert_eq!(outputs(&mut session), [acked]);
}

fn any_message() -> impl Strategy<Value = ToHub> {
    let seq = 0..12_u64;
    prop_oneof![
        seq.clone().prop_map(|seq| ToHub::Ack {
            epoch: EPOCH,
            seq: Seq(seq)
        }),
        seq.clone()
            .prop_map(|seq| ToHub::CatchUp { after: Seq(seq) }),
        seq.clone()
            .prop_map(|seq| ToHub::Joined { position: at(seq) }),
        (0..5_u64, seq).prop_map(|(snapshot, seq)| ToHub::SnapshotOpened {
            snapshot: SnapshotId(snapshot),
            position: at(seq),
            ahead: None,
            size: SnapshotSize::default(),
        }),
        (0..5_u64).prop_map(|snapshot| ToHub::SnapshotFailed {
            snapshot: SnapshotId(snapshot),
            error: "no".into()
        }),
        Just(ToHub::Heartbeat(Vitals::default())),
        Just(ToHub::Join {
            donor: crate::message::Donor::Best,
            except: None,
            have: None
        }),
    ]
}

/// A session of a site that may write, which was asked to hold still for a dump.
fn preparing() -> Session {
    let welcome = Welcome {
        token: Some(waystation_base::FencingToken(1)),
        ..welcome(Some(3), 3)
    };
    let mut session = Session::new(NOW, welcome, SessionConfig::default());
    outputs(&mut session);
    open(&mut session);
    let prepare = SessionOutput::Send(ToSite::PrepareSnapshot { snapshot: SNAPSHOT });
    assert_eq!(outputs(&mut session), [prepare]);
    session
}

/// The story: the snapshot of a database that programs wrote to held writes that the log
/// had not yet. No other donor could go on with it and nothing could follow it: a donor
/// that died, or a log that kept less than a copy took, cost the whole copy.
#[test]
fn a_site_that_may_write_holds_still_and_gets_its_own_writes_before_its_dump() {
    let mut session = preparing();
    // Its last write.
    session.handle_notice(NOW, Notice::End(Seq(4)));
    assert!(!session.is_held());
    let (snapshot, is_held) = (SNAPSHOT, true);
    session.handle_message(NOW, ToHub::SnapshotPrepared { snapshot, is_held });
    // What others write from here on waits for the snapshot.
    session.handle_notice(NOW, Notice::End(Seq(6)));
    assert_eq!(outputs(&mut session), [read(3, 4)]);
    session.handle_read(NOW, entries(4..=4));
    assert!(!outputs(&mut session).iter().any(asks));
    ack(&mut session, 4);
    assert!(outputs(&mut session).iter().any(asks));
}

/// A write that came between two transactions of the site that held still.
#[test]
fn a_site_that_was_written_to_all_the_same_holds_still_again() {
    let mut session = preparing();
    let (snapshot, is_held) = (SNAPSHOT, true);
    let prepared = || ToHub::SnapshotPrepared { snapshot, is_held };
    let opened = |source: Option<u64>| ToHub::SnapshotOpened {
        snapshot,
        position: at(3),
        ahead: source.map(|source| crate::Ahead {
            site: SiteId(1),
            life: crate::LifeId(1),
            source,
        }),
        size: SnapshotSize::default(),
    };
    session.handle_message(NOW, prepared());
    assert!(outputs(&mut session).iter().any(asks));
    session.handle_message(NOW, opened(Some(4)));
    let again = [
        SessionOutput::Send(ToSite::CloseSnapshot { snapshot }),
        SessionOutput::Send(ToSite::PrepareSnapshot { snapshot }),
    ];
    assert_eq!(outputs(&mut session), again);
    session.handle_message(NOW, prepared());
    assert!(outputs(&mut session).iter().any(asks));
    session.handle_message(NOW, opened(None));
    let told = outputs(&mut session);
    let is_told = |one: &SessionOutput| {
        matches!(
            one,
            SessionOutput::Report(Report::SnapshotOpened { ahead: None, .. })
        )
    };
    assert!(told.iter().any(is_told), "{told:?}");
}

#[test]
fn a_site_that_cannot_hold_still_opens_its_snapshot_all_the_same() {
    let (snapshot, is_held) = (SNAPSHOT, false);
    let mut session = preparing();
    session.handle_message(NOW, ToHub::SnapshotPrepared { snapshot, is_held });
    assert!(outputs(&mut session).iter().any(asks));
    let mut session = preparing();
    let late = NOW + Duration::from_secs(4);
    session.handle_message(late, ToHub::Heartbeat(Vitals::default()));
    assert!(!outputs(&mut session).iter().any(asks));
    session.handle_timeout(NOW + SessionConfig::default().prepare_max);
    assert!(outputs(&mut session).iter().any(asks));
}

proptest! {
    /// Whatever a site says, what is sent is never past the durable end, never
    /// more than the window ahead, and has no gap.
    #[test]
    fn any_site_gets_durable_entries_without_a_gap(
        messages in prop::collection::vec(any_message(), 0..60),
        joins in any::<bool>(),
    ) {
        let end = 10;
        let config = SessionConfig { window_entries: 4, ..SessionConfig::default() };
        let after = if joins { None } else { Some(0) };
        let mut session = Session::new(NOW, welcome(after, end), config);
        let mut open = 0;
        for message in messages {
            session.handle_message(NOW, message);
            open += 1;
            let (snapshot, at_least) = (SnapshotId(open % 5), Seq(0));
            session.handle_notice(NOW, Notice::OpenSnapshot { snapshot, at_least });
            while let Some(output) = session.poll_output() {
                match output {
                    SessionOutput::Read { after, through, .. } => {
                        prop_assert!(after < through && through <= Seq(end));
                        let last = through.0.min(after.0 + 2);
                        session.handle_read(NOW, entries(after.0 + 1..=last));
                    }
                    SessionOutput::Send(ToSite::Entries { entries, .. }) => {
                        let last = entries.last().map(|one| one.position.seq);
                        prop_assert_eq!(last, Some(session.sent()));
                        prop_assert!(session.sent().0 - session.acked().0 <= 4);
                    }
                    _ => {}
                }
            }
            prop_assert!(session.acked() <= session.sent());
        }
    }
}
