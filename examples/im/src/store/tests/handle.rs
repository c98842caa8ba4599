//! The asynchronous face: queues, batches, ends. A store with a gate stands in for
//! the disk, so that no test depends on how fast anything is.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::store::{
    Addressees, Appended, ChatReader, ChatStore, MessagePage, StoreHandle, StoreOptions,
};

/// Far more than anything here takes; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// Tells the size of each batch, then waits to be let through.
struct GatedStore {
    entered: Sender<usize>,
    gate: Receiver<Pass>,
    ended: Sender<()>,
    next_seq: u64,
}

enum Pass {
    Write,
    Panic,
}

struct Gate {
    entered: Receiver<usize>,
    pass: Sender<Pass>,
    ended: Receiver<()>,
}

fn gated() -> (Box<dyn ChatStore>, Gate) {
    let (entered_tx, entered) = channel();
    let (pass, gate) = channel();
    let (ended_tx, ended) = channel();
    let store = GatedStore {
        entered: entered_tx,
        gate,
        ended: ended_tx,
        next_seq: 1,
    };
    (
        Box::new(store),
        Gate {
            entered,
            pass,
            ended,
        },
    )
}

impl Gate {
    fn next_batch(&self) -> usize {
        self.entered.recv_timeout(PATIENCE).unwrap()
    }

    fn open(&self) {
        self.pass.send(Pass::Write).unwrap();
    }
}

impl ChatStore for GatedStore {
    fn write(&mut self, batch: Vec<WriteOperation>) -> Vec<Result<WriteOutcome, StoreError>> {
        self.entered.send(batch.len()).unwrap();
        if let Ok(Pass::Panic) = self.gate.recv_timeout(PATIENCE) {
            panic!("the test lets this store panic");
        }
        let mut answer = |_| {
            let seq = self.next_seq;
            self.next_seq += 1;
            Ok(WriteOutcome::Appended(Appended {
                seq,
                at_ms: 0,
                duplicate: false,
                members: Vec::new(),
            }))
        };
        batch.into_iter().map(&mut answer).collect()
    }

    fn reader(&self) -> Result<Box<dyn ChatReader>, StoreError> {
        Ok(Box::new(NoReader))
    }
}

impl Drop for GatedStore {
    fn drop(&mut self) {
        // The test may be over already.
        let _ = self.ended.send(());
    }
}

struct NoReader;

impl ChatReader for NoReader {
    fn conversations(
        &mut self,
        _: &ConversationsQuery,
    ) -> Result<Vec<ConversationState>, StoreError> {
        panic!("the test lets this reader panic");
    }

    fn history(&mut self, _: &HistoryQuery) -> Result<MessagePage, StoreError> {
        Ok(MessagePage::default())
    }

    fn members(&mut self, conversation: &str) -> Result<Vec<String>, StoreError> {
        Ok(vec![conversation.to_owned()])
    }

    fn home(&mut self, _: &str) -> Result<String, StoreError> {
        Err(StoreError::NotWhole)
    }

    fn addressees(&mut self, _: i64) -> Result<Option<Addressees>, StoreError> {
        Ok(None)
    }
}

fn numbered(id: usize) -> Append {
    message("d:alice:bob", "alice", &id.to_string())
}

/// Polls once, so that the write is in the queue.
fn submit<F: Future>(future: F) -> std::pin::Pin<Box<F>> {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    future
}

fn answer_at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn every_write_works_through_the_handle() {
    let directory = TestDir::new();
    let store = StoreHandle::open(&directory.file(), StoreOptions::default()).unwrap();
    let team = "g:team".to_owned();
    let first = message(&team, "alice", "1");
    let add = AddMembers {
        conversation: team.clone(),
        actor: "alice".to_owned(),
        members: strings(&["carol"]),
    };
    let remove = RemoveMember {
        conversation: team.clone(),
        actor: "alice".to_owned(),
        uid: "carol".to_owned(),
    };
    let mark = MarkRead {
        conversation: team.clone(),
        uid: "bob".to_owned(),
        seq: 1,
    };
    block_on(async {
        let created = store
            .create_group(group("team", "alice", &["bob"]))
            .await
            .unwrap();
        assert_eq!(created.conversation, team);
        assert_eq!(store.append(first.clone()).await.unwrap().seq, 1);
        assert!(store.append(first).await.unwrap().duplicate);
        assert_eq!(store.add_members(add).await.unwrap().added, ["carol"]);
        assert!(store.remove_member(remove).await.unwrap().removed);
        assert_eq!(store.mark_read(mark).await.unwrap().read_seq, 1);
        let refused = store.append(message("g:none", "alice", "1")).await;
        assert!(matches!(
            refused,
            Err(StoreError::NoSuchConversation { .. })
        ));
    });
    store.close(PATIENCE).unwrap();
    let counters = store.counters();
    assert_eq!((counters.operations, counters.batch_size_sum), (7, 7));
    assert_eq!((counters.duplicates, counters.errors), (1, 1));
    assert_eq!((counters.storage_errors, counters.queue_length), (0, 0));
}

#[test]
fn every_read_works_through_the_handle() {
    let directory = TestDir::new();
    let store = StoreHandle::open(&directory.file(), StoreOptions::default()).unwrap();
    let conversations = ConversationsQuery {
        uid: "bob".to_owned(),
        after: None,
        limit: 10,
    };
    let history = HistoryQuery {
        uid: "bob".to_owned(),
        conversation: "d:alice:bob".to_owned(),
        page: HistoryPage::After(0),
        limit: 10,
    };
    block_on(async {
        store
            .append(message("d:alice:bob", "alice", "1"))
            .await
            .unwrap();
        let members = store.members("d:alice:bob".to_owned()).await.unwrap();
        assert_eq!(members, ["alice", "bob"]);
        let states = store.conversations(conversations).await.unwrap();
        assert_eq!(states[0].unread, 1);
        let messages = store.history(history).await.unwrap().messages;
        assert_eq!(messages[0].client_id, "1");
        let refused = store.members("g:none".to_owned()).await;
        assert!(matches!(
            refused,
            Err(StoreError::NoSuchConversation { .. })
        ));
    });
    assert_eq!(store.counters().reads, 4);
    store.close(PATIENCE).unwrap();
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (store, gate) = gated();
    let options = StoreOptions {
        write_queue_operations_max: 3,
        ..StoreOptions::default()
    };
    let store = StoreHandle::start(store, options).unwrap();
    let mut waiting = vec![submit(store.append(numbered(0)))];
    assert_eq!(gate.next_batch(), 1);
    waiting.extend((1..4).map(|id| submit(store.append(numbered(id)))));
    assert_eq!(store.counters().queue_length, 3);
    let refused = answer_at_once(store.append(numbered(4)));
    assert!(
        matches!(refused, Err(StoreError::Overloaded)),
        "{refused:?}"
    );
    assert_eq!(store.counters().overloads, 1);

    gate.open();
    assert_eq!(gate.next_batch(), 3);
    waiting.push(submit(store.append(numbered(5))));
    gate.open();
    assert_eq!(gate.next_batch(), 1);
    gate.open();
    let numbers: Vec<u64> = waiting
        .into_iter()
        .map(|answer| block_on(answer).unwrap().seq)
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let (store, gate) = gated();
    let options = StoreOptions {
        write_queue_bytes_max: 64 * 1024,
        ..StoreOptions::default()
    };
    let store = StoreHandle::start(store, options).unwrap();
    let large = |id| {
        let mut append = numbered(id);
        append.body = "b".repeat(30 * 1024);
        append
    };
    let first = submit(store.append(large(0)));
    assert_eq!(gate.next_batch(), 1);
    let second = submit(store.append(large(1)));
    let third = submit(store.append(large(2)));
    let refused = answer_at_once(store.append(large(3)));
    assert!(matches!(refused, Err(StoreError::Overloaded)));
    for _ in 0..2 {
        gate.open();
    }
    for answer in [first, second, third] {
        block_on(answer).unwrap();
    }
}

#[test]
fn what_gathers_during_a_commit_is_one_batch_up_to_the_bound() {
    let (store, gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    let mut waiting = vec![submit(store.append(numbered(0)))];
    assert_eq!(gate.next_batch(), 1);
    waiting.extend((1..=300).map(|id| submit(store.append(numbered(id)))));
    for expected in [256, 44] {
        gate.open();
        assert_eq!(gate.next_batch(), expected);
    }
    gate.open();
    for (answer, expected) in waiting.into_iter().zip(1..) {
        assert_eq!(block_on(answer).unwrap().seq, expected);
    }
    let counters = store.counters();
    assert_eq!((counters.commits, counters.batch_size_sum), (3, 301));
    assert_eq!(counters.batch_size_max, 256);
}

#[test]
fn dropping_the_handles_finishes_the_queue() {
    let (store, gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    let clone = store.clone();
    // The futures are dropped with the handles that they borrow.
    drop(submit(store.append(numbered(0))));
    assert_eq!(gate.next_batch(), 1);
    drop(submit(clone.append(numbered(1))));
    drop(store);
    drop(clone);
    gate.open();
    assert_eq!(gate.next_batch(), 1);
    gate.open();
    gate.ended.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_clone_keeps_the_store_open() {
    let (store, gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    drop(store.clone());
    assert!(store.is_open());
    let answer = submit(store.append(numbered(0)));
    assert_eq!(gate.next_batch(), 1);
    gate.open();
    assert_eq!(block_on(answer).unwrap().seq, 1);
}

#[test]
fn closing_waits_for_the_queue_with_a_deadline() {
    let (store, gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    let first = submit(store.append(numbered(0)));
    assert_eq!(gate.next_batch(), 1);
    let second = submit(store.append(numbered(1)));
    let late = store.close(Duration::from_millis(1));
    assert!(
        matches!(late, Err(StoreError::CloseTimedOut { queued: 1 })),
        "{late:?}"
    );
    let refused = answer_at_once(store.append(numbered(2)));
    assert!(matches!(refused, Err(StoreError::Closed)));
    let refused = answer_at_once(store.members("g:team".to_owned()));
    assert!(matches!(refused, Err(StoreError::Closed)));
    gate.open();
    gate.open();
    store.close(PATIENCE).unwrap();
    // When close has returned, the store itself is closed as well.
    gate.ended.try_recv().unwrap();
    assert_eq!(block_on(first).unwrap().seq, 1);
    assert_eq!(block_on(second).unwrap().seq, 2);
}

/// A writer thread that is gone must not leave its callers waiting for ever.
#[test]
fn a_panic_of_the_store_answers_everyone_and_closes() {
    let (store, gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    let in_hand = submit(store.append(numbered(0)));
    assert_eq!(gate.next_batch(), 1);
    let queued = submit(store.append(numbered(1)));
    gate.pass.send(Pass::Panic).unwrap();
    assert!(matches!(block_on(in_hand), Err(StoreError::Storage(_))));
    assert!(matches!(block_on(queued), Err(StoreError::Storage(_))));
    assert!(!store.is_open());
    let refused = answer_at_once(store.members("g:team".to_owned()));
    assert!(matches!(refused, Err(StoreError::Closed)));
    store.close(PATIENCE).unwrap();
    let refused = answer_at_once(store.append(numbered(2)));
    assert!(matches!(refused, Err(StoreError::Closed)));
}

#[test]
fn a_panic_of_a_reader_answers_its_caller_and_closes() {
    let (store, gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    let members = block_on(store.members("g:team".to_owned()));
    assert_eq!(members.unwrap(), ["g:team"]);
    let query = ConversationsQuery {
        uid: "alice".to_owned(),
        after: None,
        limit: 1,
    };
    let lost = block_on(store.conversations(query));
    assert!(matches!(lost, Err(StoreError::Storage(_))), "{lost:?}");
    // The writer ends too, although nobody has closed the store.
    gate.ended.recv_timeout(PATIENCE).unwrap();
    store.close(PATIENCE).unwrap();
    assert!(!store.is_open());
}

#[test]
fn a_handle_goes_anywhere() {
    fn anywhere<T: Clone + Send + Sync + 'static>(_: &T) {}
    let (store, _gate) = gated();
    let store = StoreHandle::start(store, StoreOptions::default()).unwrap();
    anywhere(&store);
    std::thread::scope(|scope| {
        let members = scope.spawn(|| block_on(store.members("g:team".to_owned())));
        assert!(members.join().unwrap().is_ok());
    });
}
