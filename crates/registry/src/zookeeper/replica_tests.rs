use waystation_membership::Removal;

use super::*;
use crate::test_support::instance;
use crate::zookeeper::entry::data_of;
use crate::zookeeper::entry::tests::stat;

/// The folder after its children last changed at `pzxid`, with so many of them.
fn folder(marks: Marks, pzxid: i64, children: i32) -> Found {
    let mut about = stat(1, 1, 0);
    about.pzxid = pzxid;
    about.num_children = children;
    (marks.text().into_bytes(), about)
}

fn node(service: &str, id: &str, czxid: i64, mzxid: i64) -> (String, Read) {
    let data = data_of(&instance(service, id));
    (id.to_owned(), Read::Node((data, stat(czxid, mzxid, 9))))
}

fn first() -> Marks {
    Marks::new(Epoch(1), 0)
}

fn at(number: u64) -> ViewVersion {
    let epoch = Epoch(1);
    ViewVersion { epoch, number }
}

fn take_in(
    replica: &mut Replica,
    folder: &Found,
    nodes: &[(String, Read)],
    is_whole: bool,
    left: &[&str],
) -> Result<(News, Vec<Skipped>), Unfit> {
    let staged: Staged = nodes.iter().cloned().collect();
    let fit = replica.fit(folder, &staged, is_whole, replica.floor())?;
    let mut made = Made::default();
    for (name, read) in staged {
        made.note(name, &read, &fit.marks);
    }
    if is_whole {
        return Ok((News::default(), replica.fill(fit, made).0));
    }
    let left = left.iter().map(|id| id.parse().unwrap()).collect();
    let mut news = News::default();
    for part in made.parts() {
        replica.look(part, &folder.1, &left, &mut news);
    }
    if !replica.is_all(&folder.1, &news) {
        return Err(Unfit::Missed);
    }
    for (name, entry) in replica.begin(made) {
        replica.put(name, entry);
    }
    Ok((news, replica.end(fit)))
}

/// A replica that has read two instances of service `a`.
fn filled() -> Replica {
    let mut replica = Replica::default();
    let nodes = [node("a", "a-1", 10, 10), node("a", "a-2", 11, 14)];
    take_in(&mut replica, &folder(first(), 11, 2), &nodes, true, &[]).unwrap();
    replica
}

fn apply(
    replica: &mut Replica,
    folder: &Found,
    nodes: &[(String, Read)],
    left: &[&str],
) -> Result<(News, Vec<Skipped>), Unfit> {
    take_in(replica, folder, nodes, false, left)
}

#[test]
fn a_version_is_the_latest_transaction_that_led_to_it() {
    let mut replica = filled();
    assert_eq!(replica.at(), at(14));
    // One is changed, one goes, one of another service comes.
    let nodes = [
        node("a", "a-1", 10, 15),
        ("a-2".to_owned(), Read::Nothing),
        node("b", "b-1", 17, 17),
    ];
    let news = apply(&mut replica, &folder(first(), 17, 2), &nodes, &["a-2"]).unwrap();
    let changes = news.0.changes;
    assert_eq!(replica.at(), at(17));
    assert_eq!(changes.at["a"], at(17));
    assert_eq!(changes.at["b"], at(17));
    let gone: Vec<_> = changes
        .gone
        .iter()
        .map(|((_, id), why)| (id.as_str(), *why))
        .collect();
    assert!(gone.contains(&("a-2", Removal::Deregistered)), "{gone:?}");
    assert_eq!(replica.known.instances().count(), 2);
}

#[test]
fn who_goes_without_a_word_is_unknown() {
    let mut replica = filled();
    let nodes = [("a-2".to_owned(), Read::Nothing)];
    let news = apply(&mut replica, &folder(first(), 15, 1), &nodes, &[]).unwrap();
    let changes = news.0.changes;
    let why: Vec<Removal> = changes.gone.into_values().collect();
    assert_eq!(why, [Removal::Unknown]);
}

/// An event was lost with a connection that nobody saw end.
#[test]
fn a_count_that_is_off_asks_for_everything() {
    let mut replica = filled();
    let nodes = [node("a", "a-3", 20, 20)];
    let taken = apply(&mut replica, &folder(first(), 20, 2), &nodes, &[]);
    assert_eq!(taken.unwrap_err(), Unfit::Missed);
}

#[test]
fn other_marks_ask_for_everything() {
    let mut replica = filled();
    let nodes = [node("a", "a-1", 10, 20)];
    let marks = Marks::new(Epoch(2), 14);
    let taken = apply(&mut replica, &folder(marks, 20, 2), &nodes, &[]);
    assert_eq!(taken.unwrap_err(), Unfit::Missed);
}

fn read_all(replica: &mut Replica, folder: &Found) -> Result<(News, Vec<Skipped>), Unfit> {
    take_in(replica, folder, &[], true, &[])
}

#[test]
fn a_store_that_went_back_gets_marks_above_all_that_was_seen() {
    let mut replica = filled();
    let unfit = read_all(&mut replica, &folder(first(), 5, 0)).unwrap_err();
    let marks = Marks::new(Epoch(2), 14 + HEADROOM);
    assert_eq!(unfit, Unfit::Marks(marks));
    read_all(&mut replica, &folder(marks, 6, 0)).unwrap();
    assert!(replica.at() > at(14));
    assert_eq!(replica.at().number, 20 + HEADROOM);
}

#[test]
fn a_store_that_is_behind_a_token_went_back() {
    let mut replica = filled();
    assert!(!replica.see_token(FencingToken(14)));
    assert!(replica.see_token(FencingToken(90)));
    let unfit = read_all(&mut replica, &folder(first(), 20, 0)).unwrap_err();
    assert_eq!(unfit, Unfit::Marks(Marks::new(Epoch(2), 90 + HEADROOM)));
    let absurd = FencingToken(u64::MAX);
    assert!(!replica.see_token(absurd));
}

/// A token that a node had from another registry was taken for one of this store.
#[test]
fn a_token_of_another_registry_is_no_word_about_this_store() {
    let marks = first();
    assert_eq!(marks_over(marks, 20, FencingToken(20)), None);
    let lifted = marks_over(marks, 20, FencingToken(90));
    let lifted = lifted.expect("tokens to come are not above it");
    assert_eq!(lifted, Marks::new(Epoch(2), 90 + HEADROOM));
    assert_eq!(marks_over(lifted, 21, FencingToken(90)), None);
    let mut replica = filled();
    read_all(&mut replica, &folder(lifted, 21, 0)).expect("nothing went back");
    assert_eq!(marks_over(Marks::default(), 20, FencingToken(90)), None);
    let highest = marks_over(marks, 20, FencingToken(NUMBER_MAX));
    let highest = highest.expect("tokens to come are not above it");
    assert_eq!(Marks::read(highest.text().as_bytes()), highest);
}

#[test]
fn lost_marks_are_written_anew() {
    let mut replica = filled();
    let bad = (b"nonsense".to_vec(), folder(first(), 30, 0).1);
    let unfit = read_all(&mut replica, &bad).unwrap_err();
    assert_eq!(unfit, Unfit::Marks(Marks::new(Epoch(2), 14 + HEADROOM)));
}

#[test]
fn what_is_skipped_is_told_once() {
    let mut replica = filled();
    let bad = (
        "bad-1".to_owned(),
        Read::Node((b"{".to_vec(), stat(20, 20, 0))),
    );
    let news = apply(
        &mut replica,
        &folder(first(), 20, 3),
        std::slice::from_ref(&bad),
        &[],
    );
    let skipped = news.unwrap().1;
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].0, "bad-1");
    let news = apply(&mut replica, &folder(first(), 20, 3), &[bad], &[]);
    assert!(news.unwrap().1.is_empty());
}

#[test]
fn what_may_not_be_read_is_skipped_and_counts_as_there() {
    let mut replica = filled();
    let nodes = [("a-3".to_owned(), Read::Closed)];
    let news = apply(&mut replica, &folder(first(), 20, 3), &nodes, &[]).unwrap();
    assert_eq!(news.1, [("a-3".to_owned(), "not authorized".to_owned())]);
    assert_eq!(replica.known.instances().count(), 2);
}

/// What had gone was read again, by each of a thousand watchers.
#[test]
fn what_is_gone_is_not_read_until_it_comes_back() {
    let paths = Paths::new("/w");
    let mut dirty = Dirty::default();
    let mut note = |what, path: &str| {
        dirty.note_at(paths.touched(path), what);
        let names = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>().join(",");
        (names(&dirty.names), names(&dirty.gone), dirty.left.len())
    };
    let told = |names: &str, gone: &str, left| (names.to_owned(), gone.to_owned(), left);
    let (created, deleted) = (EventType::NodeCreated, EventType::NodeDeleted);
    let node = "/w/instances/a-1";
    assert_eq!(note(created, node), told("a-1", "", 0));
    assert_eq!(note(deleted, node), told("", "a-1", 0));
    assert_eq!(note(created, node), told("a-1", "", 0));
    assert_eq!(note(created, "/w/instances/a-2~left"), told("a-1", "", 1));
    let gone = note(deleted, "/w/instances/a-2");
    assert_eq!(gone, told("a-1", "a-2", 1));
    let done = note(deleted, "/w/instances/a-3~left");
    assert_eq!(done, told("a-1", "a-2", 1), "the end of a word is no word");
}
