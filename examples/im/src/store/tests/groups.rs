//! Groups: creation, members, read marks.

use super::*;
use crate::store::limits::CONVERSATIONS_MAX;

fn members_added(result: Result<WriteOutcome, StoreError>) -> (Vec<String>, Vec<String>) {
    match result.unwrap() {
        WriteOutcome::MembersAdded(outcome) => (outcome.added, outcome.members),
        other => panic!("{other:?}"),
    }
}

fn member_removed(result: Result<WriteOutcome, StoreError>) -> (bool, Vec<String>) {
    match result.unwrap() {
        WriteOutcome::MemberRemoved(outcome) => (outcome.removed, outcome.members),
        other => panic!("{other:?}"),
    }
}

fn read_marked(result: Result<WriteOutcome, StoreError>) -> (u64, u64) {
    match result.unwrap() {
        WriteOutcome::ReadMarked(outcome) => (outcome.read_seq, outcome.last_seq),
        other => panic!("{other:?}"),
    }
}

#[test]
fn creating_again_with_the_same_people_is_no_error() {
    let mut chat = TestStore::new();
    let first = chat
        .create(group("team", "bob", &["carol", "alice"]))
        .unwrap();
    assert_eq!(first.conversation, "g:team");
    assert!(first.created);
    assert_eq!(first.members, ["alice", "bob", "carol"]);
    for same in [&["alice", "carol"][..], &["bob", "carol", "alice", "carol"]] {
        let again = chat.create(group("team", "bob", same)).unwrap();
        assert!(!again.created);
        assert_eq!(again.members, first.members);
    }
    for (creator, members) in [
        ("alice", &["bob", "carol"][..]),
        ("bob", &["alice"]),
        ("bob", &["alice", "carol", "dave"]),
    ] {
        let other = chat.create(group("team", creator, members));
        assert!(
            matches!(other, Err(StoreError::AlreadyExists { .. })),
            "{other:?}"
        );
    }
    assert_eq!(chat.members("g:team").unwrap(), first.members);
}

/// A creation whose answer was lost is sent again later, when the group may have
/// changed: it must still succeed.
#[test]
fn creating_again_succeeds_after_members_changed() {
    let mut chat = TestStore::new();
    chat.create(group("team", "bob", &["alice"])).unwrap();
    chat.write(add("g:team", "bob", &["carol"])).unwrap();
    chat.write(remove("g:team", "bob", "bob")).unwrap();
    let again = chat.create(group("team", "bob", &["alice"])).unwrap();
    assert!(!again.created);
    assert_eq!(again.members, ["alice", "carol"]);
}

#[test]
fn adding_is_for_members_and_repeatable() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &[])).unwrap();
    let stranger = chat.write(add("g:team", "mallory", &["mallory"]));
    assert!(matches!(stranger, Err(StoreError::NotMember { .. })));
    let (added, members) = members_added(chat.write(add("g:team", "alice", &["bob", "alice"])));
    assert_eq!(added, ["bob"]);
    assert_eq!(members, ["alice", "bob"]);
    let (added, members) = members_added(chat.write(add("g:team", "bob", &["bob"])));
    assert!(added.is_empty());
    assert_eq!(members, ["alice", "bob"]);
    let unknown = chat.write(add("g:other", "alice", &["bob"]));
    assert!(matches!(
        unknown,
        Err(StoreError::NoSuchConversation { .. })
    ));
}

#[test]
fn removing_is_for_members_and_repeatable() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &["bob"])).unwrap();
    let stranger = chat.write(remove("g:team", "mallory", "bob"));
    assert!(matches!(stranger, Err(StoreError::NotMember { .. })));
    let (removed, members) = member_removed(chat.write(remove("g:team", "alice", "bob")));
    assert!(removed);
    assert_eq!(members, ["alice"]);
    let (removed, _) = member_removed(chat.write(remove("g:team", "alice", "bob")));
    assert!(!removed);
    let (removed, members) = member_removed(chat.write(remove("g:team", "alice", "alice")));
    assert!(removed && members.is_empty());
    let stored = chat.append(message("g:team", "alice", "1"));
    assert!(matches!(stored, Err(StoreError::NotMember { .. })));
}

#[test]
fn members_of_direct_conversations_stand_in_the_name() {
    let mut chat = TestStore::new();
    chat.append(message("d:alice:bob", "alice", "1")).unwrap();
    for change in [
        add("d:alice:bob", "alice", &["carol"]),
        remove("d:alice:bob", "alice", "bob"),
    ] {
        let refused = chat.write(change);
        assert!(
            matches!(refused, Err(StoreError::InvalidName { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_group_is_bounded() {
    let mut chat = TestStore::new();
    let names: Vec<String> = (0..1_024).map(|number| format!("u{number:04}")).collect();
    let mut create = group("big", "u0000", &[]);
    create.members.clone_from(&names);
    create.members.push("v".to_owned());
    let refused = chat.create(create.clone());
    assert!(matches!(
        refused,
        Err(StoreError::TooLarge {
            size: 1_025,
            limit: 1_024,
            ..
        })
    ));
    create.members.pop();
    assert_eq!(chat.create(create).unwrap().members, names);
    let refused = chat.write(add("g:big", "u0000", &["v"]));
    assert!(matches!(
        refused,
        Err(StoreError::TooLarge { size: 1_025, .. })
    ));
    let (added, _) = members_added(chat.write(add("g:big", "u0000", &["u0001"])));
    assert!(added.is_empty());
    assert_eq!(
        chat.append(message("g:big", "u0003", "1")).unwrap().members,
        names
    );
}

#[test]
fn every_name_is_checked() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &["bob"])).unwrap();
    for (operation, what, position) in [
        (
            WriteOperation::CreateGroup(group("Team", "alice", &[])),
            "group name",
            0,
        ),
        (
            WriteOperation::CreateGroup(group("ok", "al ice", &[])),
            "uid",
            2,
        ),
        (
            WriteOperation::CreateGroup(group("ok", "alice", &["b/ob"])),
            "uid",
            1,
        ),
        (
            WriteOperation::Append(message("team", "alice", "1")),
            "conversation",
            0,
        ),
        (
            WriteOperation::Append(message("d:bob:alice", "alice", "1")),
            "conversation",
            6,
        ),
        (
            WriteOperation::Append(message("g:team", "Alice", "1")),
            "uid",
            0,
        ),
        (add("g:te am", "alice", &["bob"]), "conversation", 4),
        (add("g:team", "", &["bob"]), "uid", 0),
        (add("g:team", "alice", &["bob", "\u{e4}"]), "uid", 0),
        (remove("g:team", "alice", "b:b"), "uid", 1),
        (mark("g:team", "alice!", 1), "uid", 5),
        (mark("h:team", "alice", 1), "conversation", 0),
    ] {
        match chat.write(operation) {
            Err(StoreError::InvalidName {
                what: told,
                position: at,
                ..
            }) => {
                assert_eq!((told, at), (what, position));
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn marks_go_up_to_the_last_message_and_never_down() {
    let mut chat = TestStore::new();
    for id in ["1", "2", "3"] {
        chat.append(message("d:alice:bob", "alice", id)).unwrap();
    }
    let mut marked = |seq| read_marked(chat.write(mark("d:alice:bob", "bob", seq)));
    assert_eq!(marked(2), (2, 3));
    assert_eq!(marked(1), (2, 3));
    assert_eq!(marked(u64::MAX), (3, 3));
    assert_eq!(marked(0), (3, 3));
    let stranger = chat.write(mark("d:alice:bob", "carol", 1));
    assert!(matches!(stranger, Err(StoreError::NotMember { .. })));
    let unknown = chat.write(mark("d:bob:carol", "carol", 1));
    assert!(matches!(
        unknown,
        Err(StoreError::NoSuchConversation { .. })
    ));
}

#[test]
fn what_one_writes_oneself_is_read_unless_something_before_is_not() {
    let mut chat = TestStore::new();
    let mut say = |sender, id| chat.append(message("d:alice:bob", sender, id)).unwrap();
    say("alice", "1");
    say("alice", "2");
    say("bob", "3");
    say("bob", "3");
    let alice = chat.state("alice", "d:alice:bob").unwrap();
    assert_eq!((alice.last_seq, alice.read_seq, alice.unread), (3, 2, 1));
    let bob = chat.state("bob", "d:alice:bob").unwrap();
    assert_eq!((bob.last_seq, bob.read_seq, bob.unread), (3, 0, 3));
}

#[test]
fn joining_starts_after_what_was_written() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &[])).unwrap();
    chat.append(message("g:team", "alice", "1")).unwrap();
    chat.write(add("g:team", "alice", &["bob"])).unwrap();
    let state = chat.state("bob", "g:team").unwrap();
    assert_eq!((state.joined_seq, state.read_seq, state.unread), (2, 1, 0));
    assert!(chat.whole_history("bob", "g:team").is_empty());
    chat.append(message("g:team", "alice", "2")).unwrap();
    let state = chat.state("bob", "g:team").unwrap();
    assert_eq!((state.last_seq, state.unread), (2, 1));
    let seen = |chat: &TestStore| -> Vec<u64> {
        let messages = chat.whole_history("bob", "g:team");
        messages.into_iter().map(|message| message.seq).collect()
    };
    assert_eq!(seen(&chat), [2]);

    chat.write(remove("g:team", "bob", "bob")).unwrap();
    assert_eq!(chat.state("bob", "g:team"), None);
    let gone = chat.history("bob", "g:team", HistoryPage::After(0), 10);
    assert!(matches!(gone, Err(StoreError::NotMember { .. })));
    chat.append(message("g:team", "alice", "3")).unwrap();
    chat.write(add("g:team", "alice", &["bob"])).unwrap();
    chat.append(message("g:team", "alice", "4")).unwrap();
    assert_eq!(seen(&chat), [4]);
    assert_eq!(chat.state("bob", "g:team").unwrap().unread, 1);
}

/// Anyone could bring a user into any number of conversations: each login of
/// that user listed them all, and each connection kept a cursor for each.
#[test]
fn a_user_is_in_a_bounded_number_of_conversations() {
    let mut chat = TestStore::new();
    let batch = (0..CONVERSATIONS_MAX)
        .map(|n| WriteOperation::Append(message(&format!("d:bob:u{n}"), "bob", "1")))
        .collect();
    assert!(chat.store.write(batch).iter().all(Result::is_ok));
    let full = |result: Result<WriteOutcome, StoreError>| {
        let full = matches!(result, Err(StoreError::TooLarge { .. }));
        assert!(full, "{result:?}");
    };
    let one_more = message("d:bob:eve", "eve", "1");
    full(chat.write(WriteOperation::Append(one_more)));
    full(chat.write(WriteOperation::CreateGroup(group("team", "eve", &["bob"]))));
    chat.create(group("team", "eve", &[])).unwrap();
    full(chat.write(add("g:team", "eve", &["ada", "bob"])));
    assert_eq!(chat.members("g:team").unwrap(), ["eve"], "all or none");
    assert!(chat.members("d:bob:eve").is_err(), "nothing was written");
    // Where bob is already, everything goes on.
    chat.append(message("d:bob:u7", "u7", "2")).unwrap();
}
