use waystation_membership::{Removal, State};

use super::*;
use crate::etcd::entry::{token_to_come, value_of};
use crate::test_support::instance;

fn keys() -> Keys {
    Keys::new("w")
}

fn kv(key: Vec<u8>, value: &str, revision: i64) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.to_owned().into(),
        create_revision: revision,
        mod_revision: revision,
        lease: 9,
    }
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

/// An instance of service `a`.
fn one(text: &str, revision: i64) -> KeyValue {
    let mut instance = instance("a", text);
    instance.token = token_to_come(Epoch(1));
    let value = String::from_utf8(value_of(&instance)).unwrap();
    kv(keys().instance(&id(text)), &value, revision)
}

fn epoch(text: &str, revision: i64) -> KeyValue {
    kv(keys().epoch(), text, revision)
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: 5,
        member_id: 6,
        revision,
        raft_term: 3,
    }
}

fn event(kind: EventType, kv: KeyValue) -> Event {
    Event {
        r#type: kind.into(),
        kv: Some(kv),
    }
}

fn deleted(key: Vec<u8>, revision: i64) -> Event {
    event(EventType::Delete, kv(key, "", revision))
}

fn at(epoch: u64, number: u64) -> ViewVersion {
    let epoch = Epoch(epoch);
    ViewVersion { epoch, number }
}

/// Epoch 1, instances a-1 and a-2, complete up to revision 10.
fn filled() -> Replica {
    let mut replica = Replica::new(keys());
    let kvs = [epoch("1", 2), one("a-1", 5), one("a-2", 6)];
    assert_eq!(fill(&mut replica, &header(10), &kvs), []);
    replica
}

fn fill(replica: &mut Replica, header: &ResponseHeader, kvs: &[KeyValue]) -> Vec<Skipped> {
    let mut filling = Filling::default();
    for kv in kvs {
        filling.note(&keys(), kv);
    }
    replica.fill(header, filling).0
}

fn start(replica: &Replica, header: ResponseHeader, epoch: Option<&KeyValue>) -> Start {
    replica.start(replica.floor(), &header, epoch)
}

#[test]
fn a_new_client_writes_the_first_epoch_and_lists() {
    let replica = Replica::new(keys());
    assert_eq!(start(&replica, header(1), None), Start::Epoch(Epoch(1)));
    let found = epoch("1", 2);
    assert_eq!(start(&replica, header(2), Some(&found)), Start::List);
    let found = epoch("nonsense", 2);
    assert_eq!(
        start(&replica, header(2), Some(&found)),
        Start::Epoch(Epoch(1))
    );
}

#[test]
fn a_list_gives_what_is_there_and_its_version() {
    let replica = filled();
    assert_eq!(replica.at(), at(1, 10));
    assert_eq!(replica.epoch_mod(), 2);
    let ids: Vec<String> = replica
        .known
        .instances()
        .map(|one| one.id.to_string())
        .collect();
    assert_eq!(ids, ["a-1", "a-2"]);
    let entry = replica.entry(&id("a-1")).unwrap();
    assert_eq!((entry.mark.mod_revision, entry.mark.lease), (5, 9));
    let token = entry.instance.as_ref().unwrap().token;
    assert_eq!(token, FencingToken((1 << 40) + 5));
}

#[test]
fn after_a_lost_connection_the_watch_goes_on_behind_the_last_revision() {
    let mut replica = filled();
    let found = epoch("1", 2);
    assert_eq!(start(&replica, header(10), Some(&found)), Start::Resume(11));
    replica.apply(&[event(EventType::Put, one("a-3", 12))]);
    assert_eq!(start(&replica, header(40), Some(&found)), Start::Resume(13));
    replica.progress(20);
    assert_eq!(start(&replica, header(40), Some(&found)), Start::Resume(21));
    let mut other = header(40);
    other.cluster_id = 8;
    assert_eq!(start(&replica, other, Some(&found)), Start::List);
    let raised = epoch("2", 30);
    assert_eq!(start(&replica, header(40), Some(&raised)), Start::List);
}

/// A store that was restored from a backup answered with old revisions. Watches
/// that went on from a later one heard nothing more, for ever.
#[test]
fn a_store_that_went_back_gets_a_higher_epoch() {
    let mut replica = filled();
    let found = epoch("1", 2);
    let back = Start::Backwards(Epoch(2));
    assert_eq!(start(&replica, header(9), Some(&found)), back);
    assert_eq!(start(&replica, header(9), None), back);
    // It has gone on since, and passed what was seen.
    let mut earlier = header(11);
    earlier.raft_term = 2;
    assert_eq!(start(&replica, earlier, Some(&found)), back);
    // An answer that a change overtook is no step back.
    let floor = replica.floor();
    replica.apply(&[event(EventType::Put, one("a-3", 12))]);
    let overtaken = replica.start(floor, &header(11), Some(&found));
    assert_eq!(overtaken, Start::Resume(13));
    fill(&mut replica, &header(9), &[epoch("2", 9)]);
    assert_eq!(replica.at(), at(2, 9));
    assert_eq!(replica.known.instances().count(), 0);
}

#[test]
fn what_others_have_seen_counts() {
    let mut replica = filled();
    assert!(!replica.see(at(1, 10)));
    assert!(replica.see(at(1, 15)));
    let found = epoch("1", 2);
    let back = Start::Backwards(Epoch(2));
    assert_eq!(start(&replica, header(14), Some(&found)), back);
    assert!(replica.see_token(FencingToken((4 << 40) + 2)));
    let back = Start::Backwards(Epoch(5));
    assert_eq!(start(&replica, header(1), Some(&found)), back);
    // An epoch out of nowhere would use up all that are left.
    assert!(!replica.see(at(1 << 22, 1)));
}

#[test]
fn an_epoch_that_was_deleted_is_written_again_and_not_raised() {
    let mut replica = filled();
    assert_eq!(start(&replica, header(11), None), Start::Epoch(Epoch(1)));
    let news = replica.apply(&[deleted(keys().epoch(), 11)]);
    assert!(news.is_reset);
    let mut replica = filled();
    let news = replica.apply(&[event(EventType::Put, epoch("2", 11))]);
    assert!(!news.is_reset);
    assert_eq!((replica.at(), replica.epoch_mod()), (at(2, 11), 11));
}

/// A store was emptied while a client was away, and another wrote the epoch
/// again. The first heard of both at once, dropped what it heard, and went on
/// behind it: its callers saw the deleted instances for ever.
#[test]
fn after_an_epoch_that_came_back_everything_is_listed() {
    let mut replica = filled();
    let news = replica.apply(&[
        deleted(keys().instance(&id("a-1")), 11),
        deleted(keys().epoch(), 11),
        event(EventType::Put, epoch("1", 12)),
    ]);
    assert!(news.is_reset);
    let found = epoch("1", 12);
    assert_eq!(start(&replica, header(12), Some(&found)), Start::List);
    assert_eq!(replica.floor(), at(1, 12));
}

#[test]
fn who_left_is_told_from_who_was_lost() {
    let mut replica = filled();
    let news = replica.apply(&[
        event(EventType::Put, kv(keys().left(7), "a-1", 11)),
        deleted(keys().instance(&id("a-1")), 11),
        deleted(keys().left(7), 12),
        deleted(keys().instance(&id("a-2")), 13),
    ]);
    let gone: Vec<_> = (news.changes.gone.iter())
        .map(|((_, id), why)| (id.as_str(), *why))
        .collect();
    assert_eq!(
        gone,
        [("a-1", Removal::Deregistered), ("a-2", Removal::Unknown)]
    );
    assert!(news.changes.put.is_empty());
    assert_eq!(news.touched.len(), 2);
    assert_eq!(replica.at(), at(1, 13));
    // An old word is no word about a new instance.
    let news = replica.apply(&[
        event(EventType::Put, kv(keys().left(7), "a-3", 14)),
        event(EventType::Put, one("a-3", 15)),
        deleted(keys().instance(&id("a-3")), 16),
    ]);
    let why: Vec<Removal> = news.changes.gone.into_values().collect();
    assert_eq!(why, [Removal::Unknown]);
}

#[test]
fn changes_of_one_answer_are_one_step() {
    let mut replica = filled();
    let mut moved = instance("b", "a-1");
    moved.state = State::Draining;
    let value = String::from_utf8(value_of(&moved)).unwrap();
    let news = replica.apply(&[
        event(EventType::Put, one("a-3", 11)),
        event(EventType::Put, one("a-3", 12)),
        event(EventType::Put, kv(keys().instance(&id("a-1")), &value, 13)),
    ]);
    let put: Vec<_> = (news.changes.put.values())
        .map(|one| (one.service.as_str(), one.id.as_str()))
        .collect();
    assert_eq!(put, [("b", "a-1"), ("a", "a-3")]);
    let at_of = |service: &str| news.changes.at[service];
    assert_eq!((at_of("a"), at_of("b")), (at(1, 13), at(1, 13)));
    let gone = &news.changes.gone;
    assert!(gone.iter().any(|((service, id), why)| {
        (service.as_str(), id.as_str(), *why) == ("a", "a-1", Removal::Deregistered)
    }));
}

#[test]
fn what_is_known_already_is_left_out() {
    let mut replica = filled();
    let news = replica.apply(&[
        deleted(keys().instance(&id("a-1")), 9),
        event(EventType::Put, one("a-3", 10)),
    ]);
    assert!(news.touched.is_empty() && news.changes.put.is_empty());
    assert_eq!(replica.at(), at(1, 10));
    assert_eq!(replica.known.instances().count(), 2);
}

#[test]
fn what_is_not_ours_is_told_once() {
    let mut replica = Replica::new(keys());
    let foreign = kv(b"/w/somebody/else".to_vec(), "x", 3);
    let malformed = kv(keys().instance(&id("a-1")), "{", 4);
    let kvs = [epoch("1", 2), foreign.clone(), malformed.clone()];
    let skipped = fill(&mut replica, &header(10), &kvs);
    let places: Vec<&str> = skipped.iter().map(|(place, _)| &**place).collect();
    assert_eq!(places, ["/w/somebody/else", "/w/instances/a-1"]);
    assert_eq!(fill(&mut replica, &header(11), &kvs), []);
    let again = kv(b"/w/somebody/else".to_vec(), "y", 12);
    let news = replica.apply(&[event(EventType::Put, again)]);
    assert_eq!(news.skipped.len(), 1, "it was written again");
    // Garbage over an instance takes it out.
    let mut replica = filled();
    let garbage = kv(keys().instance(&id("a-1")), "{", 14);
    let news = replica.apply(&[event(EventType::Put, garbage)]);
    assert_eq!(news.skipped.len(), 1);
    let why: Vec<Removal> = news.changes.gone.into_values().collect();
    assert_eq!(why, [Removal::Unknown]);
    assert!(replica.entry(&id("a-1")).unwrap().instance.is_none());
}

/// A watch that resumed told of all that was missed in one answer, and all of it
/// was handled in one turn.
#[test]
fn many_events_are_handled_some_revisions_at_a_time() {
    let revisions = [4, 5, 5, 5, 6, 7];
    let put = |revision| event(EventType::Put, one("a-1", revision));
    let events: Vec<Event> = revisions.map(put).into();
    for (at_least, count) in [(0, 1), (1, 1), (2, 4), (4, 4), (5, 5), (6, 6), (7, 6)] {
        let whole = whole_revisions(&events, at_least);
        assert_eq!(whole, count, "at least {at_least}");
    }
    assert_eq!(whole_revisions(&[], 3), 0);
}
