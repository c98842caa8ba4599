//! Batches: order, refusals in the middle, failures of the storage.

use super::*;

fn seq_of(result: &Result<WriteOutcome, StoreError>) -> u64 {
    match result {
        Ok(WriteOutcome::Appended(appended)) => appended.seq,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refusals_in_the_middle_do_not_affect_the_others() {
    let mut chat = TestStore::new();
    let mut too_long = message("d:alice:bob", "alice", "4");
    too_long.body = "b".repeat(32 * 1024 + 1);
    let results = chat.store.write(vec![
        WriteOperation::Append(message("d:alice:bob", "alice", "1")),
        WriteOperation::Append(message("g:team", "alice", "1")),
        WriteOperation::CreateGroup(group("team", "alice", &["bob"])),
        WriteOperation::Append(message("g:team", "alice", "1")),
        WriteOperation::Append(message("g:team", "carol", "1")),
        WriteOperation::Append(message("d:alice:bob", "alice", "1")),
        WriteOperation::Append(too_long),
        WriteOperation::CreateGroup(group("team", "bob", &[])),
        remove("g:team", "alice", "bob"),
        WriteOperation::Append(message("g:team", "bob", "2")),
        mark("d:alice:bob", "bob", 9),
        WriteOperation::Append(message("d:alice:bob", "bob", "1")),
    ]);
    assert_eq!(results.len(), 12);
    assert_eq!(seq_of(&results[0]), 1);
    assert!(matches!(
        results[1],
        Err(StoreError::NoSuchConversation { .. })
    ));
    assert!(matches!(results[2], Ok(WriteOutcome::GroupCreated(_))));
    assert_eq!(seq_of(&results[3]), 1);
    assert!(matches!(results[4], Err(StoreError::NotMember { .. })));
    assert!(matches!(&results[5], Ok(WriteOutcome::Appended(again)) if again.duplicate));
    assert!(matches!(results[6], Err(StoreError::TooLarge { .. })));
    assert!(matches!(results[7], Err(StoreError::AlreadyExists { .. })));
    assert!(matches!(results[8], Ok(WriteOutcome::MemberRemoved(_))));
    assert!(matches!(results[9], Err(StoreError::NotMember { .. })));
    assert!(matches!(&results[10], Ok(WriteOutcome::ReadMarked(marked)) if marked.read_seq == 1));
    assert_eq!(seq_of(&results[11]), 2);

    chat.reopen();
    assert_eq!(chat.whole_history("alice", "d:alice:bob").len(), 2);
    assert_eq!(chat.whole_history("alice", "g:team").len(), 1);
}

/// What a batch knows of a conversation must not outlive a change of its members.
#[test]
fn members_change_in_the_middle_of_a_batch() {
    let mut chat = TestStore::new();
    chat.create(group("team", "alice", &["bob"])).unwrap();
    let results = chat.store.write(vec![
        WriteOperation::Append(message("g:team", "bob", "1")),
        mark("g:team", "alice", 1),
        remove("g:team", "alice", "bob"),
        WriteOperation::Append(message("g:team", "bob", "2")),
        add("g:team", "alice", &["carol"]),
        WriteOperation::Append(message("g:team", "carol", "3")),
        add("g:team", "carol", &["bob"]),
        WriteOperation::Append(message("g:team", "bob", "1")),
    ]);
    assert_eq!(seq_of(&results[0]), 1);
    assert!(matches!(results[3], Err(StoreError::NotMember { .. })));
    let appended = |result: &Result<WriteOutcome, StoreError>| match result {
        Ok(WriteOutcome::Appended(appended)) => appended.clone(),
        other => panic!("{other:?}"),
    };
    let carols = appended(&results[5]);
    assert_eq!((carols.seq, carols.duplicate), (2, false));
    assert_eq!(carols.members, ["alice", "carol"]);
    let bobs = appended(&results[7]);
    assert_eq!((bobs.seq, bobs.duplicate), (1, true));
    assert_eq!(bobs.members, ["alice", "bob", "carol"]);
    let place = |uid| {
        let state = chat.state(uid, "g:team").unwrap();
        (state.joined_seq, state.read_seq, state.last_seq)
    };
    assert_eq!(place("alice"), (1, 1, 2));
    assert_eq!(place("carol"), (2, 2, 2));
    assert_eq!(place("bob"), (3, 2, 2));
}

#[test]
fn an_empty_batch_is_answered_by_nothing() {
    assert!(TestStore::new().store.write(Vec::new()).is_empty());
}

/// Something that one conversation's rows make impossible would otherwise fail every
/// batch that an append to it rides in, again and again.
#[test]
fn a_damaged_conversation_fails_alone() {
    let mut chat = TestStore::new();
    chat.append(message("d:alice:bob", "alice", "1")).unwrap();
    chat.append(message("d:alice:bob", "alice", "2")).unwrap();
    chat.append(message("d:alice:dave", "alice", "1")).unwrap();
    chat.store
        .connection()
        .execute_batch("UPDATE conversation SET last_seq = 1 WHERE name = 'd:alice:bob'")
        .unwrap();
    let results = chat.store.write(vec![
        WriteOperation::Append(message("d:alice:dave", "alice", "2")),
        WriteOperation::Append(message("d:alice:bob", "alice", "3")),
        WriteOperation::Append(message("g:none", "alice", "1")),
        WriteOperation::Append(message("d:alice:dave", "dave", "3")),
    ]);
    assert_eq!(seq_of(&results[0]), 2);
    assert!(matches!(results[1], Err(StoreError::Storage(_))));
    assert!(matches!(
        results[2],
        Err(StoreError::NoSuchConversation { .. })
    ));
    assert_eq!(seq_of(&results[3]), 3);
    assert_eq!(chat.whole_history("dave", "d:alice:dave").len(), 3);
    assert_eq!(chat.whole_history("bob", "d:alice:bob").len(), 2);
}

/// A hook that turns commits into rollbacks stands for a disk that fails then.
#[test]
fn a_failed_commit_fails_every_operation_and_leaves_nothing() {
    let mut chat = TestStore::new();
    chat.append(message("d:alice:bob", "alice", "1")).unwrap();
    chat.store.connection().commit_hook(Some(|| true)).unwrap();
    let batch = vec![
        WriteOperation::Append(message("d:alice:bob", "alice", "2")),
        WriteOperation::Append(message("g:none", "alice", "1")),
        WriteOperation::CreateGroup(group("team", "alice", &[])),
    ];
    let results = chat.store.write(batch.clone());
    assert_eq!(results.len(), 3);
    for result in results {
        assert!(matches!(result, Err(StoreError::Storage(_))), "{result:?}");
    }
    chat.store
        .connection()
        .commit_hook(None::<fn() -> bool>)
        .unwrap();
    assert_eq!(chat.whole_history("bob", "d:alice:bob").len(), 1);
    let results = chat.store.write(batch);
    assert_eq!(seq_of(&results[0]), 2);
    assert!(matches!(
        results[1],
        Err(StoreError::NoSuchConversation { .. })
    ));
    assert!(matches!(&results[2], Ok(WriteOutcome::GroupCreated(group)) if group.created));
}

#[test]
fn a_reader_sees_every_batch_that_returned() {
    let mut chat = TestStore::new();
    let mut reader = chat.store.reader().unwrap();
    for number in 1..=20 {
        chat.append(message("d:alice:bob", "alice", &number.to_string()))
            .unwrap();
        let query = HistoryQuery {
            uid: "bob".to_owned(),
            conversation: "d:alice:bob".to_owned(),
            page: HistoryPage::Before(u64::MAX),
            limit: 1,
        };
        assert_eq!(reader.history(&query).unwrap().messages[0].seq, number);
    }
}

/// Both stores race for every number and for every id.
#[test]
fn two_stores_on_one_file_number_densely() {
    const IDS: u64 = 300;
    let directory = TestDir::new();
    let file = directory.file();
    let told: Vec<Vec<(u64, u64, bool)>> = std::thread::scope(|scope| {
        let writers: Vec<_> = [1, 2]
            .map(|seed| {
                let file = &file;
                scope.spawn(move || append_shuffled(file, seed, IDS))
            })
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect();
        writers
    });
    let messages = whole_history(&file, "bob", "d:alice:bob");
    let numbers: Vec<u64> = messages.iter().map(|message| message.seq).collect();
    assert_eq!(numbers, (1..=IDS).collect::<Vec<_>>());
    let mut stored_once = 0;
    for (id, seq, duplicate) in told.into_iter().flatten() {
        let index = usize::try_from(seq).unwrap() - 1;
        assert_eq!(messages[index].client_id, id.to_string());
        stored_once += u64::from(!duplicate);
    }
    assert_eq!(stored_once, IDS);
}

/// Appends every id once, in an order of its own; opening races too.
fn append_shuffled(file: &Path, seed: u64, ids: u64) -> Vec<(u64, u64, bool)> {
    let mut random = SplitMix::new(seed);
    let mut order: Vec<u64> = (0..ids).collect();
    for index in (1..order.len()).rev() {
        let other = random.below(index as u64 + 1);
        order.swap(index, usize::try_from(other).unwrap());
    }
    let mut store = SqliteStore::open(file).unwrap();
    let mut told = Vec::new();
    while !order.is_empty() {
        let size = usize::try_from(1 + random.below(8))
            .unwrap()
            .min(order.len());
        let batch: Vec<u64> = order.drain(..size).collect();
        let operations = batch
            .iter()
            .map(|id| WriteOperation::Append(message("d:alice:bob", "alice", &id.to_string())))
            .collect();
        for (id, result) in batch.iter().zip(store.write(operations)) {
            match result.unwrap() {
                WriteOutcome::Appended(stored) => told.push((*id, stored.seq, stored.duplicate)),
                other => panic!("{other:?}"),
            }
        }
    }
    told
}
