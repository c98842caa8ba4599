//! Appends: numbers, duplicates, who may, and what is too large.

use super::*;

#[test]
fn numbers_are_dense_in_each_conversation() {
    let mut chat = TestStore::new();
    for number in 1..=3 {
        let id = number.to_string();
        let ours = chat.append(message("d:alice:bob", "alice", &id)).unwrap();
        assert_eq!((ours.seq, ours.duplicate), (number, false));
        assert_eq!(ours.members, ["alice", "bob"]);
        let other = chat.append(message("d:bob:carol", "bob", &id)).unwrap();
        assert_eq!(other.seq, number);
    }
}

#[test]
fn a_repeat_gets_the_first_number_and_writes_nothing() {
    let mut chat = TestStore::new();
    let first = message("d:alice:bob", "alice", "x");
    chat.append(first.clone()).unwrap();
    chat.append(message("d:alice:bob", "bob", "y")).unwrap();
    let mut changed = first;
    changed.body = "something else".to_owned();
    changed.at_ms += 5;
    let again = chat.append(changed.clone()).unwrap();
    assert_eq!((again.seq, again.duplicate), (1, true));
    assert_eq!(again.at_ms, changed.at_ms - 5);
    assert_eq!(again.members, ["alice", "bob"]);
    chat.reopen();
    assert!(chat.append(changed).unwrap().duplicate);
    let next = chat.append(message("d:alice:bob", "alice", "z")).unwrap();
    assert_eq!(next.seq, 3);
    let bodies: Vec<_> = chat
        .whole_history("bob", "d:alice:bob")
        .into_iter()
        .map(|message| (message.seq, message.body))
        .collect();
    let expected = [(1, "alice says x"), (2, "bob says y"), (3, "alice says z")];
    assert_eq!(bodies, expected.map(|(seq, body)| (seq, body.to_owned())));
}

#[test]
fn an_id_counts_for_one_sender_in_one_conversation() {
    let mut chat = TestStore::new();
    let places = [
        ("d:alice:bob", "alice", 1),
        ("d:alice:bob", "bob", 2),
        ("d:alice:carol", "alice", 1),
    ];
    for (conversation, sender, seq) in places {
        let stored = chat.append(message(conversation, sender, "same")).unwrap();
        assert_eq!((stored.seq, stored.duplicate), (seq, false));
    }
}

#[test]
fn notes_to_oneself_have_one_member() {
    let mut chat = TestStore::new();
    let stored = chat.append(message("d:alice:alice", "alice", "1")).unwrap();
    assert_eq!(stored.members, ["alice"]);
    assert_eq!(chat.whole_history("alice", "d:alice:alice").len(), 1);
}

#[test]
fn strangers_are_refused() {
    let mut chat = TestStore::new();
    let refused = chat.append(message("d:alice:bob", "carol", "1"));
    assert!(matches!(refused, Err(StoreError::NotMember { uid, .. }) if uid == "carol"));
    let unknown = chat.append(message("g:team", "carol", "1"));
    assert!(matches!(
        unknown,
        Err(StoreError::NoSuchConversation { conversation }) if conversation == "g:team"
    ));
    chat.create(group("team", "alice", &["bob"])).unwrap();
    let refused = chat.append(message("g:team", "carol", "1"));
    assert!(matches!(refused, Err(StoreError::NotMember { .. })));
    // A refused first message must not have made the conversation.
    assert!(chat.members("d:alice:bob").is_err());
    assert_eq!(chat.append(message("g:team", "bob", "1")).unwrap().seq, 1);
}

#[test]
fn a_message_from_before_leaving_keeps_its_number() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &["bob"])).unwrap();
    chat.append(message("g:team", "bob", "kept")).unwrap();
    chat.write(remove("g:team", "alice", "bob")).unwrap();
    let again = chat.append(message("g:team", "bob", "kept")).unwrap();
    assert_eq!((again.seq, again.duplicate), (1, true));
    let new = chat.append(message("g:team", "bob", "new"));
    assert!(matches!(new, Err(StoreError::NotMember { .. })));
}

#[test]
fn sizes_are_bounded_exactly() {
    let mut chat = TestStore::new();
    let mut largest = message("d:alice:bob", "alice", &"i".repeat(64));
    largest.body = "b".repeat(32 * 1024);
    chat.append(largest.clone()).unwrap();
    let stored = chat.whole_history("bob", "d:alice:bob").remove(0);
    assert_eq!(
        (stored.client_id, stored.body),
        (largest.client_id.clone(), largest.body.clone())
    );

    let mut id_too_long = largest.clone();
    id_too_long.client_id.push('i');
    let mut body_too_long = largest.clone();
    body_too_long.body.push('b');
    let mut time_too_late = largest;
    time_too_late.at_ms = u64::MAX;
    for (refused, limit) in [
        (id_too_long, 64),
        (body_too_long, 32 * 1024),
        (time_too_late, i64::MAX.unsigned_abs()),
    ] {
        match chat.append(refused) {
            Err(StoreError::TooLarge { limit: told, .. }) => assert_eq!(told, limit),
            other => panic!("{other:?}"),
        }
    }
    let no_id = chat.append(message("d:alice:bob", "alice", ""));
    assert!(matches!(no_id, Err(StoreError::InvalidName { .. })));
}

#[test]
fn any_text_comes_back_as_it_was() {
    let mut chat = TestStore::new();
    let texts = [
        "",
        "\0",
        "a\0b",
        "'; DROP TABLE message; --",
        "\u{1f469}\u{200d}\u{1f680}",
        "\r\n",
    ];
    for (number, text) in texts.into_iter().enumerate() {
        let mut append = message("d:alice:bob", "alice", &format!("{number}\0{text}"));
        append.body = text.to_owned();
        assert!(!chat.append(append.clone()).unwrap().duplicate);
        assert!(chat.append(append).unwrap().duplicate, "{text:?}");
    }
    let bodies: Vec<_> = chat
        .whole_history("alice", "d:alice:bob")
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(bodies, texts);
}
