//! Captured changes and the right to write.

use super::*;
use crate::entry::Origin;

const TOKEN: FencingToken = FencingToken(1);

/// A master that may write.
fn with_writer() -> (TestHub, SiteId) {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    let site = test.hub.site(&HubConfig::default().first).unwrap();
    assert!(test.hub.handle_grant_writer(NOW, site));
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

#[test]
fn a_writer_whose_token_was_taken_away_publishes_nothing() {
    let (mut test, site) = with_writer();
    capture(&mut test, TOKEN, 1, 1);
    assert!(test.hub.handle_fence_writer(NOW, site));
    let (source, end) = (1, Seq(1));
    let fenced = HubEvent::Fenced { site, source, end };
    assert!(test.told().contains(&HubOutput::Event(fenced)));
    let token = TOKEN;
    let refused = capture(&mut test, TOKEN, 2, 1);
    assert_eq!(refusal(&refused), Some(PublishRefusal::Fenced { token }));
    assert_eq!(test.hub.end(), Seq(1));
    // A new token brings a new right, and the old one stays dead.
    test.hub.handle_grant_writer(NOW, site);
    test.settle();
    let refused = capture(&mut test, TOKEN, 2, 1);
    assert_eq!(refusal(&refused), Some(PublishRefusal::Fenced { token }));
    capture(&mut test, FencingToken(2), 2, 1);
    assert_eq!(test.hub.end(), Seq(2));
}

#[test]
fn a_fence_holds_before_it_is_durable_and_a_grant_only_after() {
    let (mut test, site) = with_writer();
    test.hub.handle_fence_writer(NOW, site);
    let publish = |token| ToHub::Publish {
        token,
        first: 1,
        payloads: vec![Bytes::new()],
    };
    test.hub
        .handle_report(NOW, conn(1), Report::Said(publish(TOKEN)));
    test.told();
    assert_eq!(test.hub.end(), Seq(0));
    test.hub.handle_grant_writer(NOW, site);
    test.hub
        .handle_report(NOW, conn(1), Report::Said(publish(FencingToken(2))));
    assert!(refusal(&test.notices(conn(1))).is_some());
}
