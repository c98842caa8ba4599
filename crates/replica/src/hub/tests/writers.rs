//! Captured changes and the right to write.

use waystation_base::FencingToken;

use super::*;
use crate::entry::Origin;
use crate::test_support::name;

const TOKEN: FencingToken = FencingToken(1);

/// A master that may write.
fn with_writer() -> (TestHub, SiteId) {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    let site = test.hub.site(&HubConfig::default().first).unwrap();
    test.hub.handle_grant_writer(NOW, 1, site);
    let writer = ToSite::Writer {
        token: Some(TOKEN),
        source: 0,
    };
    assert_eq!(test.notices(conn(1)), [Notice::Send(writer)]);
    (test, site)
}

fn capture(test: &mut TestHub, token: FencingToken, first: u64, count: usize) -> Vec<Notice> {
    let payloads = vec![Bytes::from_static(b"row"); count];
    let publish = ToHub::Publish {
        token,
        first,
        payloads,
    };
    test.hub.handle_report(NOW, conn(1), Report::Said(publish));
    test.notices(conn(1))
}

fn published(through: u64) -> Notice {
    Notice::Send(ToSite::Published { through })
}

fn refusal(notices: &[Notice]) -> Option<PublishRefusal> {
    notices.iter().find_map(|notice| match notice {
        Notice::Send(ToSite::PublishRefused { refusal }) => Some(refusal.clone()),
        _ => None,
    })
}

#[test]
fn captured_changes_carry_their_origin_and_enter_once() {
    let (mut test, site) = with_writer();
    assert_eq!(capture(&mut test, TOKEN, 1, 2), [published(2)]);
    // Sent again after an answer that was lost, with one more.
    let again = capture(&mut test, TOKEN, 2, 2);
    assert!(again.contains(&published(3)), "{again:?}");
    let entries = test.batches.iter().flat_map(|batch| &batch.entries);
    let origins: Vec<Origin> = entries.map(|entry| entry.origin.clone()).collect();
    let life = LifeId(1);
    let origin = |source| Origin::Site { site, life, source };
    assert_eq!(origins, [origin(1), origin(2), origin(3)]);
    let expected = 4;
    let gap = capture(&mut test, TOKEN, 6, 1);
    let found = 6;
    assert_eq!(
        refusal(&gap),
        Some(PublishRefusal::SourceGap { expected, found })
    );
}

/// The last captured change is in one batch with the record that says so: neither
/// a crash nor a trim can part them.
#[test]
fn after_a_restart_no_captured_change_enters_again() {
    let (mut test, site) = with_writer();
    capture(&mut test, TOKEN, 1, 3);
    let batch = test.batches.last().unwrap();
    let Some(Record::Site(record)) = batch.records.last() else {
        panic!("no record: {batch:?}");
    };
    assert_eq!((batch.entries.len(), record.source), (3, 3));
    let mut restored = Restored::empty(EPOCH);
    restored.end = Seq(3);
    restored.sites = vec![record.clone()];
    let mut again = TestHub::restored(restored, HubConfig::default());
    let answer = again.arrive(1, &hello("master", 1, holding(3)));
    assert!(matches!(answer, HubOutput::Admit { welcome, .. }
        if welcome.source == 3 && welcome.token == Some(TOKEN) && welcome.site == site));
    capture(&mut again, TOKEN, 3, 1);
    assert_eq!(again.hub.end(), Seq(3));
}

/// A site that was taking a copy could publish: what it did was numbered anew when the
/// copy began anew, and counted as published then.
#[test]
fn a_site_without_a_whole_copy_publishes_nothing() {
    let (mut test, _) = with_writer();
    let token = |answer: &HubOutput| match answer {
        HubOutput::Admit { welcome, .. } => welcome.token,
        other => panic!("not admitted: {other:?}"),
    };
    let answer = test.arrive(2, &hello("room", 2, Holding::Fresh));
    assert_eq!(token(&answer), None);
    let site = test.hub.site(&name("room")).unwrap();
    test.hub.handle_grant_writer(NOW, 2, site);
    let granted = test.told();
    assert!(granted.contains(&HubOutput::Changed { ticket: 2 }));
    let told = |notices: &[Notice]| -> Vec<Option<FencingToken>> {
        let writers = notices.iter().filter_map(|notice| match notice {
            Notice::Send(ToSite::Writer { token, .. }) => Some(*token),
            _ => None,
        });
        writers.collect()
    };
    let publish = |token| ToHub::Publish {
        token,
        first: 1,
        payloads: vec![Bytes::from_static(b"row")],
    };
    let report = Report::Said(publish(TOKEN));
    test.hub.handle_report(NOW, conn(2), report);
    let refused = test.notices(conn(2));
    assert_eq!(
        refusal(&refused),
        Some(PublishRefusal::Fenced { token: TOKEN })
    );
    // Nor does it learn of its right by coming again.
    let answer = test.arrive(2, &hello("room", 2, Holding::Fresh));
    assert_eq!(token(&answer), None);
    let end = test.hub.end();
    dumps::join(&mut test, 2, "room", 2);
    assert_eq!(told(&test.notices(conn(2))), [Some(TOKEN)]);
    let report = Report::Said(publish(TOKEN));
    test.hub.handle_report(NOW, conn(2), report);
    test.settle();
    assert_eq!(test.hub.end().0, end.0 + 1);
}

#[test]
fn a_writer_whose_token_was_taken_away_publishes_nothing() {
    let (mut test, site) = with_writer();
    capture(&mut test, TOKEN, 1, 1);
    test.hub.handle_fence_writer(NOW, 2, site);
    let (source, end) = (1, Seq(1));
    let fenced = HubEvent::Fenced { site, source, end };
    assert!(test.told().contains(&HubOutput::Event(fenced)));
    let token = TOKEN;
    let refused = capture(&mut test, TOKEN, 2, 1);
    assert_eq!(refusal(&refused), Some(PublishRefusal::Fenced { token }));
    assert_eq!(test.hub.end(), Seq(1));
    // A new token brings a new right, and the old one stays dead.
    test.hub.handle_grant_writer(NOW, 3, site);
    test.settle();
    let refused = capture(&mut test, TOKEN, 2, 1);
    assert_eq!(refusal(&refused), Some(PublishRefusal::Fenced { token }));
    capture(&mut test, FencingToken(2), 2, 1);
    assert_eq!(test.hub.end(), Seq(2));
}

#[test]
fn a_fence_holds_before_it_is_durable_and_a_grant_only_after() {
    let (mut test, site) = with_writer();
    test.hub.handle_fence_writer(NOW, 2, site);
    let publish = |token| ToHub::Publish {
        token,
        first: 1,
        payloads: vec![Bytes::new()],
    };
    test.hub
        .handle_report(NOW, conn(1), Report::Said(publish(TOKEN)));
    test.told();
    assert_eq!(test.hub.end(), Seq(0));
    test.hub.handle_grant_writer(NOW, 3, site);
    test.hub
        .handle_report(NOW, conn(1), Report::Said(publish(FencingToken(2))));
    assert!(refusal(&test.notices(conn(1))).is_some());
}

fn changed(told: &[HubOutput], ticket: u64) -> bool {
    told.contains(&HubOutput::Changed { ticket })
}

/// The story: a fence was answered as done before it was durable; the hub died, and
/// the next one let the site write.
#[test]
fn a_change_is_answered_when_it_is_durable_and_not_before() {
    let (mut test, site) = with_writer();
    let hub = &mut test.hub;
    outputs(hub);
    hub.handle_fence_writer(NOW, 5, site);
    let told = outputs(hub);
    assert!(matches!(&told[..], [HubOutput::Append(_)]), "{told:?}");
    hub.handle_durable(NOW);
    assert!(changed(&outputs(hub), 5));
    hub.handle_forget(NOW, 6, site);
    assert!(!changed(&outputs(hub), 6));
    hub.handle_durable(NOW);
    assert!(changed(&outputs(hub), 6));
    hub.handle_grant_writer(NOW, 7, site);
    let (ticket, refusal) = (7, ChangeRefusal::UnknownSite);
    let refused = HubOutput::ChangeRefused { ticket, refusal };
    assert_eq!(outputs(hub), [refused]);
}

/// The story: the fence was answered as done although the log had failed; the next
/// hub read from the log that the site may write.
#[test]
fn a_change_that_the_log_loses_is_not_answered_as_done() {
    let (mut test, site) = with_writer();
    let record = test.batches.last().unwrap().records.clone();
    let hub = &mut test.hub;
    outputs(hub);
    hub.handle_publish(NOW, 1, publish(b"a"));
    outputs(hub);
    // One change waits behind the batch that fails, one comes after.
    hub.handle_fence_writer(NOW, 5, site);
    let error: Arc<str> = "sync failed".into();
    hub.handle_append_failed(NOW, AppendFault::Unknown, &error);
    hub.handle_fence_writer(NOW, 6, site);
    let told = outputs(hub);
    let refused = |ticket, refusal| HubOutput::ChangeRefused { ticket, refusal };
    assert!(told.contains(&refused(5, ChangeRefusal::Unknown { error })));
    assert!(told.contains(&refused(6, ChangeRefusal::LogFailed)));
    assert!(!changed(&told, 5) && !changed(&told, 6));
    // What the next hub reads: the operator was not told otherwise.
    let [Record::Site(record)] = &record[..] else {
        panic!("not the record of the grant: {record:?}");
    };
    assert!(record.may_write);
}

/// A full disk: the change holds on, is written once there is room, and is answered
/// then.
#[test]
fn a_change_that_finds_no_room_is_answered_once_it_is_stored() {
    let (mut test, site) = with_writer();
    let hub = &mut test.hub;
    outputs(hub);
    hub.handle_fence_writer(NOW, 5, site);
    outputs(hub);
    let error: Arc<str> = "no space left on device".into();
    hub.handle_append_failed(NOW, AppendFault::NotStored, &error);
    assert!(!changed(&outputs(hub), 5));
    let later = NOW + HubConfig::default().retry_after;
    hub.handle_timeout(later);
    let told = outputs(hub);
    assert!(matches!(&told[..], [HubOutput::Append(_)]), "{told:?}");
    hub.handle_durable(later);
    assert!(changed(&outputs(hub), 5));
}

/// The story: a grant came while a fence was on its way, and the fence's durability
/// was taken for the grant's: the token was told before it was durable, and nobody
/// heard that the fence was.
#[test]
fn a_grant_behind_a_fence_is_told_after_its_own_batch() {
    let (mut test, site) = with_writer();
    let hub = &mut test.hub;
    outputs(hub);
    hub.handle_fence_writer(NOW, 5, site);
    outputs(hub);
    hub.handle_grant_writer(NOW, 6, site);
    hub.handle_durable(NOW);
    let told = outputs(hub);
    let (source, end) = (0, Seq(0));
    let fenced = HubEvent::Fenced { site, source, end };
    assert!(told.contains(&HubOutput::Event(fenced)), "{told:?}");
    let writer = |token| HubOutput::Notify {
        conn: conn(1),
        notice: Notice::Send(ToSite::Writer { token, source }),
    };
    assert!(told.contains(&writer(None)), "{told:?}");
    let token = Some(FencingToken(2));
    assert!(!told.contains(&writer(token)), "told too early");
    assert!(changed(&told, 5) && !changed(&told, 6));
    hub.handle_durable(NOW);
    let told = outputs(hub);
    assert!(told.contains(&writer(token)), "{told:?}");
    assert!(changed(&told, 6));
}

/// And the other way round: a right that was taken away meanwhile is not told.
#[test]
fn a_right_that_is_taken_away_on_its_way_is_never_told() {
    let (mut test, site) = with_writer();
    let hub = &mut test.hub;
    outputs(hub);
    hub.handle_grant_writer(NOW, 5, site);
    outputs(hub);
    hub.handle_fence_writer(NOW, 6, site);
    hub.handle_durable(NOW);
    hub.handle_durable(NOW);
    let told = outputs(hub);
    let is_right = |one: &HubOutput| {
        matches!(one, HubOutput::Notify { notice: Notice::Send(ToSite::Writer { token, .. }), .. }
            if token.is_some())
    };
    assert!(!told.iter().any(is_right), "{told:?}");
    assert!(changed(&told, 5) && changed(&told, 6));
}

/// The story: a copy whose file was put back from a backup was welcomed. Its own writes
/// that came after the backup passed for contained, and its new ones for published.
#[test]
fn a_copy_that_captures_and_was_put_back_from_before_is_refused() {
    let (mut test, _) = with_writer();
    capture(&mut test, TOKEN, 1, 3);
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(3)));
    let claim = |seq, captured| Hello {
        captured,
        ..hello("master", 1, holding(seq))
    };
    let mut answer = |seq, captured| test.arrive(2, &claim(seq, captured));
    let older = |at, captured| Refusal::OlderCopy {
        at: Seq(at),
        acked: Seq(3),
        captured,
        published: 3,
    };
    assert_eq!(refused(&answer(1, Some(1))), &older(1, 1));
    assert_eq!(refused(&answer(3, Some(2))), &older(3, 2));
    // Numbers may be those of writes that were made after it was put back.
    assert_eq!(refused(&answer(1, Some(4))), &older(1, 4));
    let fresh = Hello {
        captured: Some(0),
        ..hello("master", 1, Holding::Fresh)
    };
    assert_eq!(refused(&test.arrive(3, &fresh)), &older(0, 0));
    // What captures nothing applies again what it lost.
    for (at, captured) in [(1, None), (3, Some(3)), (3, Some(9))] {
        let answer = test.arrive(4, &claim(at, captured));
        assert!(matches!(answer, HubOutput::Admit { .. }), "{answer:?}");
        test.hub.handle_report(NOW, conn(4), Report::Acked(Seq(3)));
    }
}
