//! Tests of the store as a whole, and what they share.

mod batch;
mod crash;
mod groups;
mod handle;
mod home;
mod messages;
mod model;
mod open;
mod reading;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    AddMembers, Append, Appended, ChatStore as _, ConversationState, ConversationsQuery,
    CreateGroup, GroupCreated, HistoryPage, HistoryQuery, MarkRead, RemoveMember, SqliteStore,
    StoreError, StoredMessage, WriteOperation, WriteOutcome,
};

/// A directory of one test, removed when it ends.
struct TestDir {
    path: PathBuf,
}

impl TestDir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("waystation-im-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    fn file(&self) -> PathBuf {
        self.path.join("chat.db")
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // Best effort: a failing test must not fail again while it unwinds.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// A store in a directory of its own.
struct TestStore {
    store: SqliteStore,
    directory: TestDir,
}

impl TestStore {
    fn new() -> Self {
        let directory = TestDir::new();
        let store = SqliteStore::open(&directory.file()).unwrap();
        Self { store, directory }
    }

    fn reopen(&mut self) {
        self.store = SqliteStore::open(&self.directory.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.file()
    }

    fn write(&mut self, operation: WriteOperation) -> Result<WriteOutcome, StoreError> {
        let mut results = self.store.write(vec![operation]);
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    fn append(&mut self, append: Append) -> Result<Appended, StoreError> {
        match self.write(WriteOperation::Append(append))? {
            WriteOutcome::Appended(appended) => Ok(appended),
            other => panic!("an append was answered by {other:?}"),
        }
    }

    fn create(&mut self, create: CreateGroup) -> Result<GroupCreated, StoreError> {
        match self.write(WriteOperation::CreateGroup(create))? {
            WriteOutcome::GroupCreated(created) => Ok(created),
            other => panic!("a creation was answered by {other:?}"),
        }
    }

    fn state(&self, uid: &str, conversation: &str) -> Option<ConversationState> {
        let query = ConversationsQuery {
            uid: uid.to_owned(),
            after: None,
            limit: 500,
        };
        let states = self.store.reader().unwrap().conversations(&query).unwrap();
        states
            .into_iter()
            .find(|state| state.conversation == conversation)
    }

    fn members(&self, conversation: &str) -> Result<Vec<String>, StoreError> {
        self.store.reader().unwrap().members(conversation)
    }

    fn history(
        &self,
        uid: &str,
        conversation: &str,
        page: HistoryPage,
        limit: usize,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        let query = HistoryQuery {
            uid: uid.to_owned(),
            conversation: conversation.to_owned(),
            page,
            limit,
        };
        let page = self.store.reader().unwrap().history(&query)?;
        Ok(page.messages)
    }

    /// All messages that a member can see, page by page.
    fn whole_history(&self, uid: &str, conversation: &str) -> Vec<StoredMessage> {
        whole_history(&self.file(), uid, conversation)
    }
}

fn whole_history(file: &Path, uid: &str, conversation: &str) -> Vec<StoredMessage> {
    let store = SqliteStore::open(file).unwrap();
    let mut reader = store.reader().unwrap();
    let mut messages: Vec<StoredMessage> = Vec::new();
    loop {
        let last = messages.last().map_or(0, |message| message.seq);
        let query = HistoryQuery {
            uid: uid.to_owned(),
            conversation: conversation.to_owned(),
            page: HistoryPage::After(last),
            limit: 200,
        };
        let page = reader.history(&query).unwrap();
        messages.extend(page.messages);
        if !page.more {
            return messages;
        }
    }
}

fn message(conversation: &str, sender: &str, client_id: &str) -> Append {
    Append {
        conversation: conversation.to_owned(),
        sender: sender.to_owned(),
        client_id: client_id.to_owned(),
        body: format!("{sender} says {client_id}"),
        at_ms: 1_700_000_000_000,
    }
}

fn group(name: &str, creator: &str, members: &[&str]) -> CreateGroup {
    CreateGroup {
        name: name.to_owned(),
        creator: creator.to_owned(),
        members: strings(members),
    }
}

fn add(conversation: &str, actor: &str, members: &[&str]) -> WriteOperation {
    WriteOperation::AddMembers(AddMembers {
        conversation: conversation.to_owned(),
        actor: actor.to_owned(),
        members: strings(members),
    })
}

fn remove(conversation: &str, actor: &str, uid: &str) -> WriteOperation {
    WriteOperation::RemoveMember(RemoveMember {
        conversation: conversation.to_owned(),
        actor: actor.to_owned(),
        uid: uid.to_owned(),
    })
}

fn mark(conversation: &str, uid: &str, seq: u64) -> WriteOperation {
    WriteOperation::MarkRead(MarkRead {
        conversation: conversation.to_owned(),
        uid: uid.to_owned(),
        seq,
    })
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// A small seeded generator for the tests that need no shrinking (Steele, Lea,
/// Flood: "Fast splittable pseudorandom number generators", 2014, figure 17).
struct SplitMix {
    state: u64,
}

impl SplitMix {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; the slight bias does not matter here.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
