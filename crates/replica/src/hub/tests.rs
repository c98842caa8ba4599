//! Tests of a hub: what is durable before what is told, who may come in, dumps,
//! retention, writers.

mod dumps;
mod writers;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::entry::ClientKey;
use crate::ids::LifeId;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::message::{Hello, Holding, PublishRefusal, ToSite, Violation};
use crate::test_support::{EPOCH, NOW, TestHub, at, conn, hello, holding};

fn publish(key: &[u8]) -> Publish {
    Publish {
        key: Some(ClientKey::new(key)),
        payload: Bytes::from_static(b"insert"),
    }
}

fn outputs(hub: &mut Hub) -> Vec<HubOutput> {
    std::iter::from_fn(|| hub.poll_output()).collect()
}

fn hub() -> Hub {
    Hub::new(NOW, Restored::empty(EPOCH), HubConfig::default())
}

fn refused(answer: &HubOutput) -> &Refusal {
    match answer {
        HubOutput::Refuse { refusal, .. } => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn stream_after(answer: &HubOutput) -> Option<Seq> {
    match answer {
        HubOutput::Admit { welcome, .. } => welcome.stream_after,
        other => panic!("not admitted: {other:?}"),
    }
}

/// The story: writes were acknowledged as stored that a crash lost.
#[test]
fn a_publish_is_answered_after_its_batch_is_durable_and_not_before() {
    let mut hub = hub();
    hub.handle_publish(NOW, 1, publish(b"a"));
    hub.handle_publish(NOW, 2, publish(b"b"));
    let told = outputs(&mut hub);
    assert!(matches!(&told[..], [HubOutput::Append(batch)] if batch.entries.len() == 1));
    hub.handle_durable(NOW);
    let told = outputs(&mut hub);
    let (ticket, seq) = (1, Seq(1));
    assert_eq!(told[0], HubOutput::End(Seq(1)));
    assert_eq!(told[1], HubOutput::Published { ticket, seq });
    // What came meanwhile is the next batch: group commit.
    assert!(matches!(&told[2], HubOutput::Append(_)));
    assert_eq!(hub.end(), Seq(1));
}

/// The story: the write failed, and "OK" was answered; the sequence that was lost
/// left a gap that consumers waited at.
#[test]
fn a_publish_whose_write_failed_is_refused_and_leaves_no_gap() {
    let mut hub = hub();
    hub.handle_publish(NOW, 1, publish(b"a"));
    hub.handle_publish(NOW, 2, publish(b"b"));
    outputs(&mut hub);
    let error: Arc<str> = "no space left on device".into();
    hub.handle_append_failed(NOW, AppendFault::NotStored, &error);
    let refused = |ticket| HubOutput::PublishRefused {
        ticket,
        refusal: PublishRefusal::NotStored {
            error: Arc::clone(&error),
        },
    };
    let told = outputs(&mut hub);
    assert_eq!(told[1..], [refused(1), refused(2)]);
    // Once there is room the same key gets the first sequence.
    let later = NOW + HubConfig::default().retry_after;
    hub.handle_timeout(later);
    hub.handle_publish(later, 3, publish(b"b"));
    outputs(&mut hub);
    hub.handle_durable(later);
    let (ticket, seq) = (3, Seq(1));
    assert_eq!(outputs(&mut hub)[1], HubOutput::Published { ticket, seq });
}

#[test]
fn after_a_sync_that_failed_the_hub_takes_nothing_until_it_is_restored() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.told();
    test.hub.handle_publish(NOW, 1, publish(b"a"));
    outputs(&mut test.hub);
    let error: Arc<str> = "sync failed".into();
    test.hub
        .handle_append_failed(NOW, AppendFault::Unknown, &error);
    let told = test.told();
    assert!(told.contains(&HubOutput::PublishRefused {
        ticket: 1,
        refusal: PublishRefusal::Unknown { error },
    }));
    let closed = Notice::Close(Refusal::LogFailed);
    assert!(told.contains(&HubOutput::Notify {
        conn: conn(1),
        notice: closed
    }));
    test.hub.handle_publish(NOW, 2, publish(b"b"));
    let told = test.told();
    assert!(matches!(
        told[..],
        [HubOutput::PublishRefused { ticket: 2, .. }]
    ));
    let answer = test.arrive(2, &hello("master", 1, Holding::Fresh));
    assert_eq!(refused(&answer), &Refusal::LogFailed);
}

#[test]
fn the_same_key_is_the_same_entry_on_its_way_stored_and_after_a_restart() {
    let mut hub = hub();
    hub.handle_publish(NOW, 1, publish(b"a"));
    hub.handle_publish(NOW, 2, publish(b"a"));
    let batch = match outputs(&mut hub).pop() {
        Some(HubOutput::Append(batch)) => batch,
        other => panic!("no batch: {other:?}"),
    };
    assert_eq!(batch.entries.len(), 1);
    hub.handle_durable(NOW);
    hub.handle_publish(NOW, 3, publish(b"a"));
    let published = |ticket| HubOutput::Published {
        ticket,
        seq: Seq(1),
    };
    let told = outputs(&mut hub);
    assert_eq!(told[1..], [published(1), published(2), published(3)]);
    let mut restored = Restored::empty(EPOCH);
    restored.observe(NOW, &batch.entries[0]);
    let mut again = Hub::new(NOW, restored, HubConfig::default());
    again.handle_publish(NOW, 4, publish(b"a"));
    assert_eq!(outputs(&mut again), [published(4)]);
}

#[test]
fn payloads_of_no_bytes_are_taken_and_too_large_ones_refused() {
    let mut hub = hub();
    hub.handle_publish(NOW, 1, Publish::default());
    assert!(matches!(outputs(&mut hub)[..], [HubOutput::Append(_)]));
    let publish = Publish {
        key: None,
        payload: vec![0; PAYLOAD_BYTES_MAX + 1].into(),
    };
    hub.handle_publish(NOW, 2, publish);
    let refusal = PublishRefusal::TooLarge {
        found: PAYLOAD_BYTES_MAX + 1,
        bytes_max: PAYLOAD_BYTES_MAX,
    };
    let ticket = 2;
    assert_eq!(
        outputs(&mut hub),
        [HubOutput::PublishRefused { ticket, refusal }]
    );
}

#[test]
fn master_starts_with_increments_and_everyone_else_must_join() {
    let mut test = TestHub::new(HubConfig::default());
    let answer = test.arrive(1, &hello("master", 1, Holding::Fresh));
    assert_eq!(stream_after(&answer), Some(Seq(0)));
    let answer = test.arrive(2, &hello("b", 2, Holding::Fresh));
    assert_eq!(stream_after(&answer), None);
}

/// The story: the others were there first, and waited for a donor, and so did the
/// master.
#[test]
fn a_master_that_comes_last_is_the_first_all_the_same() {
    let mut test = TestHub::new(HubConfig::default());
    test.arrive(2, &hello("b", 2, Holding::Fresh));
    test.arrive(3, &hello("c", 3, Holding::Fresh));
    let answer = test.arrive(1, &hello("master", 1, Holding::Fresh));
    assert_eq!(stream_after(&answer), Some(Seq(0)));
}

#[test]
fn a_second_master_is_refused_and_the_first_one_comes_back() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    let answer = test.arrive(2, &hello("master", 9, Holding::Fresh));
    let life = LifeId(1);
    assert_eq!(refused(&answer), &Refusal::SecondMaster { life });
    test.hub.handle_lost(NOW, conn(1));
    let answer = test.arrive(3, &hello("master", 9, Holding::Fresh));
    assert_eq!(refused(&answer), &Refusal::SecondMaster { life });
    let answer = test.arrive(4, &hello("master", 1, holding(0)));
    assert_eq!(stream_after(&answer), Some(Seq(0)));
}

/// The story: a master that was forgotten after it had lost its data came back as
/// the first one, and replayed the log into an empty database.
#[test]
fn a_master_that_was_forgotten_joins_like_everyone_else() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    dumps::join(&mut test, 2, "b", 2);
    let master = test.hub.site(&HubConfig::default().first).unwrap();
    test.hub.handle_forget(NOW, 1, master);
    for slot in 3..5 {
        let answer = test.arrive(slot, &hello("master", 9, Holding::Fresh));
        assert_eq!(stream_after(&answer), None);
    }
}

#[test]
fn claims_that_the_log_cannot_meet_are_refused_by_reason() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.publish(5);
    let claim = |test: &mut TestHub, name: &str, holding| {
        let answer = test.arrive(9, &hello(name, 1, holding));
        refused(&answer).clone()
    };
    let (claimed, end) = (Seq(6), Seq(5));
    let past = claim(&mut test, "master", holding(6));
    assert_eq!(past, Refusal::PastEnd { claimed, end });
    let other = Holding::At {
        position: crate::Position::new(EPOCH.0 + 1, 2),
        ahead: None,
    };
    let (ours, theirs) = (EPOCH, Epoch(EPOCH.0 + 1));
    assert_eq!(
        claim(&mut test, "master", other),
        Refusal::OtherEpoch { ours, theirs }
    );
    let name = crate::test_support::name("who");
    let unknown = claim(&mut test, "who", holding(2));
    assert_eq!(unknown, Refusal::UnknownSite { name });
}

/// The story: a hub's folder was restored from a backup, and its last entries were
/// gone. A site that had applied them was refused; the log gave their numbers to
/// other entries, and when it had passed the site's place, a restart of the site was
/// welcome: two histories in one, and nobody noticed.
#[test]
fn a_copy_that_was_past_the_end_never_comes_in_again() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    dumps::join(&mut test, 2, "b", 2);
    test.publish(5);
    test.hub.handle_lost(NOW, conn(2));
    test.hub
        .handle_hello(NOW, conn(3), &hello("b", 2, holding(6)));
    // First it must be durable that the copy is refused.
    let Some(HubOutput::Event(event)) = test.hub.poll_output() else {
        panic!("nobody hears of it");
    };
    let site = test.hub.site(&crate::test_support::name("b")).unwrap();
    let (claimed, end) = (Seq(6), Seq(5));
    assert_eq!(event, HubEvent::Beyond { site, claimed, end });
    let told = outputs(&mut test.hub);
    let [HubOutput::Append(batch)] = &told[..] else {
        panic!("told before it is durable: {told:?}");
    };
    let record = batch.records.clone();
    test.hub.handle_durable(NOW);
    let (conn, refusal) = (conn(3), Refusal::PastEnd { claimed, end });
    let refuse = HubOutput::Refuse { conn, refusal };
    assert!(test.told().contains(&refuse));
    test.publish(5);
    let was = Refusal::WasPastEnd { claimed };
    let answer = test.arrive(4, &hello("b", 2, holding(6)));
    assert_eq!(refused(&answer), &was);
    // After a restart, too.
    let [Record::Site(record)] = &record[..] else {
        panic!("not one record: {record:?}");
    };
    let mut restored = Restored::empty(EPOCH);
    restored.end = Seq(10);
    restored.sites = vec![record.clone()];
    let mut again = TestHub::restored(restored, HubConfig::default());
    let answer = again.arrive(1, &hello("b", 2, holding(6)));
    assert_eq!(refused(&answer), &was);
    // Another copy takes its place.
    let answer = again.arrive(2, &hello("b", 3, Holding::Fresh));
    assert_eq!(stream_after(&answer), None);
}

#[test]
fn a_copy_of_a_copy_cannot_take_a_sites_name() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.arrive(2, &hello("b", 2, Holding::Fresh));
    let answer = test.arrive(3, &hello("b", 3, holding(0)));
    let name = crate::test_support::name("b");
    let life = LifeId(2);
    assert_eq!(refused(&answer), &Refusal::OtherLife { name, life });
}

#[test]
fn a_site_that_connects_again_replaces_its_old_connection() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.hub
        .handle_hello(NOW, conn(2), &hello("master", 1, holding(0)));
    let superseded = Notice::Close(Refusal::Superseded);
    assert!(test.notices(conn(1)).contains(&superseded));
    // What the old connection still says counts for nothing.
    test.publish(3);
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(3)));
    test.hub.handle_lost(NOW, conn(1));
    let status = &test.hub.status(NOW)[0];
    assert_eq!((status.at, status.is_connected), (Seq(0), true));
}

/// The story: the id in a message's header was believed, and anyone could
/// acknowledge for anyone.
#[test]
fn a_report_speaks_for_the_site_of_its_connection_and_no_other() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.arrive(2, &hello("b", 2, Holding::Fresh));
    test.publish(5);
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(4)));
    test.hub.handle_report(NOW, conn(77), Report::Acked(Seq(5)));
    let at: Vec<Seq> = test.hub.status(NOW).iter().map(|one| one.at).collect();
    assert_eq!(at, [Seq(4), Seq(0)]);
    let message = ToHub::Hello(hello("b", 2, Holding::Fresh));
    test.hub.handle_report(NOW, conn(2), Report::Said(message));
    assert!(matches!(
        test.notices(conn(2))[..],
        [Notice::Close(Refusal::Violation(
            Violation::OutOfTurn { .. }
        ))]
    ));
}

#[test]
fn lag_is_told_in_entries_bytes_and_time() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    test.publish(5);
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(2)));
    let vitals = Vitals {
        applied_per_second: 1,
        ..Vitals::default()
    };
    test.hub.handle_report(NOW, conn(1), Report::Alive(vitals));
    let later = NOW + Duration::from_secs(7);
    let status = &test.hub.status(later)[0];
    assert_eq!(status.lag_entries, 3);
    assert_eq!(status.lag_bytes, 3 * 64);
    assert_eq!(status.lag, Duration::from_secs(7));
    assert_eq!(status.eta, Some(Duration::from_secs(3)));
}

/// A hub whose log keeps `entries` empty entries at most.
fn bounded(entries: u64) -> TestHub {
    TestHub::new(test_config(entries))
}

fn test_config(entries: u64) -> HubConfig {
    HubConfig {
        retain_bytes_max: entries * 64,
        retain_age_min: Duration::ZERO,
        ..HubConfig::default()
    }
}

/// What the log of a hub holds.
fn restored(test: &TestHub) -> Restored {
    let mut restored = Restored::empty(EPOCH);
    let mut sites = BTreeMap::new();
    for batch in &test.batches {
        (batch.entries.iter()).for_each(|entry| restored.observe(NOW, entry));
        for record in &batch.records {
            if let Record::Site(record) = record {
                sites.insert(record.site, record.clone());
            }
        }
    }
    restored.sites = sites.into_values().collect();
    restored
}

fn trimmed(told: &[HubOutput]) -> Option<Seq> {
    told.iter().rev().find_map(|one| match one {
        HubOutput::Trim { through } => Some(*through),
        _ => None,
    })
}

/// The story: nothing was ever trimmed. And the other way round: what no site has
/// applied must stay, however full the log is.
#[test]
fn nothing_is_trimmed_that_no_copy_has_and_a_full_log_refuses() {
    let mut test = bounded(5);
    test.master();
    test.publish(5);
    assert_eq!(trimmed(&test.outputs), None);
    test.hub.handle_publish(NOW, 9, Publish::default());
    let refusal = PublishRefusal::Full;
    let told = test.told();
    assert!(told.contains(&HubOutput::PublishRefused { ticket: 9, refusal }));
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(3)));
    assert_eq!(trimmed(&test.told()), Some(Seq(3)));
    assert_eq!(test.hub.start(), Seq(3));
    test.publish(1);
    assert_eq!(test.hub.end(), Seq(6));
}

/// The story: a handler that was up to date passed for a copy. While the master was away
/// the log let go what no database had applied, and nobody could give it back.
#[test]
fn what_only_a_handler_has_is_not_trimmed() {
    let mut test = bounded(5);
    test.master();
    dumps::join(&mut test, 2, "h", 2);
    let handler = Hello {
        has_rows: false,
        ..hello("h", 2, holding(0))
    };
    test.arrive(3, &handler);
    test.hub.handle_lost(NOW, conn(1));
    test.publish(5);
    let later = NOW + HubConfig::default().lease + Duration::from_secs(1);
    test.hub
        .handle_report(later, conn(3), Report::Acked(Seq(5)));
    let told = test.told();
    assert_eq!(trimmed(&told), None, "{told:?}");
    let full = HubOutput::PublishRefused {
        ticket: 9,
        refusal: PublishRefusal::Full,
    };
    test.hub.handle_publish(later, 9, Publish::default());
    assert!(test.told().contains(&full));
    // Neither by a hub that starts again.
    let mut again = TestHub::restored(restored(&test), test_config(5));
    again.arrive(
        3,
        &Hello {
            holding: holding(5),
            ..handler
        },
    );
    again.hub.handle_timeout(NOW + Duration::from_hours(2));
    again.settle();
    assert_eq!(again.hub.start(), Seq(0));
    again.arrive(1, &hello("master", 1, holding(4)));
    assert_eq!(again.hub.start(), Seq(4));
}

/// Where nobody has rows there is no copy to wait for.
#[test]
fn a_stream_of_handlers_alone_is_trimmed() {
    let mut test = bounded(5);
    let first = Hello {
        has_rows: false,
        ..hello("master", 1, Holding::Fresh)
    };
    test.arrive(1, &first);
    test.publish(5);
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(5)));
    assert_eq!(trimmed(&test.told()), Some(Seq(5)));
}

#[test]
fn the_slowest_live_site_keeps_what_it_needs_until_its_lease_ends() {
    let mut test = TestHub::new(HubConfig {
        retain_age_min: Duration::ZERO,
        ..HubConfig::default()
    });
    test.master();
    dumps::join(&mut test, 2, "b", 2);
    test.publish(8);
    test.hub.handle_report(NOW, conn(1), Report::Acked(Seq(8)));
    test.hub.handle_report(NOW, conn(2), Report::Acked(Seq(2)));
    assert_eq!(trimmed(&test.told()), Some(Seq(2)));
    test.hub.handle_lost(NOW, conn(2));
    let lease = HubConfig::default().lease;
    let almost = NOW + lease.saturating_sub(Duration::from_secs(1));
    test.hub
        .handle_report(almost, conn(1), Report::Alive(Vitals::default()));
    assert_eq!(trimmed(&test.told()), None);
    let over = almost + Duration::from_secs(2);
    test.hub.handle_timeout(over);
    assert_eq!(trimmed(&test.told()), Some(Seq(8)));
    let answer = test.arrive(5, &hello("b", 2, holding(2)));
    let (at, start) = (Seq(2), Seq(8));
    assert_eq!(refused(&answer), &Refusal::MustReseed { at, start });
}

/// The story: a slow consumer filled the disk for everyone.
#[test]
fn a_site_that_is_too_far_behind_is_evicted_by_name() {
    let mut test = bounded(5);
    test.master();
    dumps::join(&mut test, 2, "b", 2);
    for seq in 1..=8 {
        test.publish(1);
        let acked = Report::Acked(Seq(seq));
        test.hub.handle_report(NOW, conn(1), acked);
    }
    let told = test.told();
    let site = test.hub.site(&crate::test_support::name("b")).unwrap();
    let evicted = HubEvent::Evicted { site, at: Seq(0) };
    assert!(told.contains(&HubOutput::Event(evicted)));
    // From there on it holds nothing back.
    assert_eq!(trimmed(&told), Some(Seq(8)));
    assert_eq!(test.hub.status(NOW)[1].phase, Phase::Evicted);
}

#[test]
fn a_restarted_hub_knows_its_sites_and_where_they_are_at_least() {
    let mut test = TestHub::new(HubConfig::default());
    test.master();
    dumps::join(&mut test, 2, "b", 2);
    test.publish(4);
    test.hub.handle_report(NOW, conn(2), Report::Acked(Seq(3)));
    test.hub
        .handle_timeout(NOW + HubConfig::default().save_every);
    test.settle();
    let mut again = TestHub::restored(restored(&test), HubConfig::default());
    let status = again.hub.status(NOW);
    assert_eq!((status[1].at, status[1].phase), (Seq(3), Phase::Live));
    let answer = again.arrive(1, &hello("b", 2, holding(4)));
    assert_eq!(stream_after(&answer), Some(Seq(4)));
    assert_eq!(again.hub.end(), at(4).seq);
}
