//! Pages of history and of conversations.

use super::*;
use crate::store::limits;

fn numbers(page: Result<Vec<StoredMessage>, StoreError>) -> Vec<u64> {
    page.unwrap()
        .into_iter()
        .map(|message| message.seq)
        .collect()
}

fn chat_of(messages: usize) -> TestStore {
    let mut chat = TestStore::new();
    let batch = (1..=messages)
        .map(|id| WriteOperation::Append(message("d:alice:bob", "alice", &id.to_string())))
        .collect();
    assert!(chat.store.write(batch).iter().all(Result::is_ok));
    chat
}

#[test]
fn history_pages_in_both_directions() {
    let chat = chat_of(7);
    let page = |page, limit| numbers(chat.history("bob", "d:alice:bob", page, limit));
    assert_eq!(page(HistoryPage::After(0), 3), [1, 2, 3]);
    assert_eq!(page(HistoryPage::After(3), 200), [4, 5, 6, 7]);
    assert!(page(HistoryPage::After(7), 3).is_empty());
    assert!(page(HistoryPage::After(u64::MAX), 3).is_empty());
    assert_eq!(page(HistoryPage::Before(u64::MAX), 3), [5, 6, 7]);
    assert_eq!(page(HistoryPage::Before(5), 3), [2, 3, 4]);
    assert_eq!(page(HistoryPage::Before(2), 3), [1]);
    assert!(page(HistoryPage::Before(1), 3).is_empty());
    assert!(page(HistoryPage::Before(0), 3).is_empty());
    assert!(page(HistoryPage::After(0), 0).is_empty());
}

/// A page was bounded by its messages alone: a hundred of the largest were 3 MiB,
/// and a few readers of such pages at once filled the connection that all users of
/// a Logic share.
#[test]
fn a_page_ends_by_its_bytes_and_says_that_there_are_more() {
    let mut chat = TestStore::new();
    for id in 1..=20_u64 {
        let mut large = message("d:alice:bob", "alice", &id.to_string());
        large.body = "x".repeat(limits::BODY_BYTES_MAX);
        chat.append(large).unwrap();
    }
    let read = |page| {
        let query = HistoryQuery {
            uid: "bob".to_owned(),
            conversation: "d:alice:bob".to_owned(),
            page,
            limit: 200,
        };
        let page = chat.store.reader().unwrap().history(&query).unwrap();
        (numbers(Ok(page.messages)), page.more)
    };
    assert_eq!(read(HistoryPage::After(0)), ((1..=8).collect(), true));
    assert_eq!(read(HistoryPage::After(8)), ((9..=16).collect(), true));
    assert_eq!(read(HistoryPage::After(16)), ((17..=20).collect(), false));
    assert_eq!(read(HistoryPage::Before(21)), ((13..=20).collect(), true));
    assert_eq!(read(HistoryPage::Before(9)), ((1..=8).collect(), false));
    assert_eq!(chat.whole_history("bob", "d:alice:bob").len(), 20);
}

#[test]
fn scrolling_back_stops_where_the_reader_joined() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &[])).unwrap();
    for id in ["1", "2"] {
        chat.append(message("g:team", "alice", id)).unwrap();
    }
    chat.write(add("g:team", "alice", &["bob"])).unwrap();
    for id in ["3", "4"] {
        chat.append(message("g:team", "alice", id)).unwrap();
    }
    let back = chat.history("bob", "g:team", HistoryPage::Before(u64::MAX), 200);
    assert_eq!(numbers(back), [3, 4]);
}

#[test]
fn a_message_comes_back_whole() {
    let mut chat = TestStore::new();
    let sent = message("d:alice:bob", "alice", "id-1");
    chat.append(sent.clone()).unwrap();
    let stored = StoredMessage {
        seq: 1,
        sender: sent.sender,
        client_id: sent.client_id,
        body: sent.body,
        at_ms: sent.at_ms,
    };
    for page in [HistoryPage::After(0), HistoryPage::Before(2)] {
        let read = chat.history("bob", "d:alice:bob", page, 1).unwrap();
        assert_eq!(read, std::slice::from_ref(&stored));
    }
}

#[test]
fn strangers_read_nothing() {
    let mut chat = chat_of(1);
    chat.create(group("team", "alice", &[])).unwrap();
    for (uid, conversation) in [
        ("carol", "d:alice:bob"),
        ("carol", "d:alice:dave"),
        ("carol", "g:team"),
    ] {
        let refused = chat.history(uid, conversation, HistoryPage::After(0), 10);
        assert!(
            matches!(refused, Err(StoreError::NotMember { .. })),
            "{conversation}"
        );
    }
    for conversation in ["d:bob:carol", "g:other"] {
        let unknown = chat.history("carol", conversation, HistoryPage::After(0), 10);
        assert!(matches!(
            unknown,
            Err(StoreError::NoSuchConversation { .. })
        ));
        let unknown = chat.members(conversation);
        assert!(matches!(
            unknown,
            Err(StoreError::NoSuchConversation { .. })
        ));
    }
    let invalid = chat.history("Carol", "g:team", HistoryPage::After(0), 10);
    assert!(matches!(invalid, Err(StoreError::InvalidName { .. })));
    assert!(matches!(
        chat.members("team"),
        Err(StoreError::InvalidName { .. })
    ));
}

#[test]
fn pages_beyond_the_bound_are_refused() {
    let chat = chat_of(1);
    let page = chat.history("bob", "d:alice:bob", HistoryPage::After(0), 201);
    assert!(matches!(
        page,
        Err(StoreError::TooLarge {
            size: 201,
            limit: 200,
            ..
        })
    ));
    let mut query = ConversationsQuery {
        uid: "bob".to_owned(),
        after: None,
        limit: 501,
    };
    let mut reader = chat.store.reader().unwrap();
    let page = reader.conversations(&query);
    assert!(matches!(
        page,
        Err(StoreError::TooLarge {
            size: 501,
            limit: 500,
            ..
        })
    ));
    query.limit = 500;
    assert_eq!(reader.conversations(&query).unwrap().len(), 1);
    query.after = Some("nonsense".to_owned());
    let page = reader.conversations(&query);
    assert!(matches!(page, Err(StoreError::InvalidName { .. })));
    query.uid = "Bob".to_owned();
    let page = reader.conversations(&query);
    assert!(matches!(
        page,
        Err(StoreError::InvalidName { what: "uid", .. })
    ));
}

#[test]
fn conversations_page_by_name() {
    let mut chat = TestStore::new();
    for other in ["zoe", "bob", "carol"] {
        let name = crate::store::direct_conversation("mia", other).unwrap();
        chat.append(message(&name, other, "1")).unwrap();
    }
    chat.append(message("d:bob:zoe", "bob", "1")).unwrap();
    chat.create(group("club", "mia", &["bob"])).unwrap();
    let mut reader = chat.store.reader().unwrap();
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let query = ConversationsQuery {
            uid: "mia".to_owned(),
            after,
            limit: 2,
        };
        let page = reader.conversations(&query).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.conversation.clone());
        pages.push(page);
    }
    let names: Vec<Vec<&str>> = pages
        .iter()
        .map(|page| {
            page.iter()
                .map(|state| state.conversation.as_str())
                .collect()
        })
        .collect();
    assert_eq!(
        names,
        [["d:bob:mia", "d:carol:mia"], ["d:mia:zoe", "g:club"]]
    );
    let empty = ConversationState {
        conversation: "g:club".to_owned(),
        last_seq: 0,
        read_seq: 0,
        unread: 0,
        joined_seq: 1,
    };
    assert_eq!(pages[1][1], empty);
    assert_eq!(pages[0][0].unread, 1);
}

/// An access path that `SQLite` does not take costs a scan of everything ever said.
#[test]
fn queries_use_their_indices() {
    let mut chat = TestStore::new();
    for (query, index) in [
        (
            "SELECT seq FROM message WHERE conversation_id = 1 AND seq >= 2 AND seq < 9
             ORDER BY seq DESC LIMIT 5",
            "USING PRIMARY KEY",
        ),
        (
            "SELECT seq FROM message WHERE conversation_id = 1 AND sender = 'a'
             AND client_id = 'b'",
            "message_once",
        ),
        (
            "SELECT read_seq FROM member JOIN conversation ON id = conversation_id
             WHERE uid = 'a' AND member.conversation > 'd' ORDER BY member.conversation LIMIT 5",
            "member_by_uid",
        ),
    ] {
        let connection = chat.store.connection();
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
            .unwrap();
        let steps: Vec<String> = statement
            .query_map([], |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let plan = steps.join("; ");
        assert!(plan.contains(index), "{plan}");
        assert!(
            !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
            "{plan}"
        );
    }
}
