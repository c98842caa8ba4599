//! Opening: settings, versions, files that are not ours or not whole.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};

use super::*;

fn refusal(file: &Path) -> StoreError {
    SqliteStore::open(file).expect_err("the file is opened")
}

#[test]
fn commits_are_synced() {
    let mut chat = TestStore::new();
    let mut pragma = |name| -> String {
        let value: rusqlite::types::Value = chat
            .store
            .connection()
            .pragma_query_value(None, name, |row| row.get(0))
            .unwrap();
        match value {
            rusqlite::types::Value::Integer(integer) => integer.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("synchronous"), "2");
    assert_eq!(pragma("busy_timeout"), "5000");
    assert_eq!(pragma("user_version"), "2");
}

#[test]
fn a_reader_cannot_write() {
    let chat = TestStore::new();
    let connection = crate::store::sqlite::open_reader_connection(&chat.file()).unwrap();
    let refused = connection.execute_batch("DELETE FROM message");
    let code = refused.unwrap_err().sqlite_error_code();
    assert_eq!(code, Some(rusqlite::ErrorCode::ReadOnly));
}

#[test]
fn a_newer_version_is_named_and_left_alone() {
    let mut chat = TestStore::new();
    chat.store
        .connection()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    let error = refusal(&chat.file());
    assert!(matches!(
        error,
        StoreError::NewerSchema {
            found: 7,
            supported: 2,
            ..
        }
    ));
    assert!(
        error.to_string().contains("chat.db has schema version 7"),
        "{error}"
    );
    chat.store
        .connection()
        .pragma_update(None, "user_version", 2)
        .unwrap();
    SqliteStore::open(&chat.file()).unwrap();
}

#[test]
fn another_programs_database_is_left_alone() {
    let directory = TestDir::new();
    let other = rusqlite::Connection::open(directory.file()).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    let before = fs::read(directory.file()).unwrap();
    assert!(matches!(
        refusal(&directory.file()),
        StoreError::NotAChatStore { .. }
    ));
    assert_eq!(fs::read(directory.file()).unwrap(), before);
}

#[test]
fn what_is_no_database_is_left_alone() {
    let directory = TestDir::new();
    let text = b"a letter to the reader\n".repeat(400);
    fs::write(directory.file(), &text).unwrap();
    let error = refusal(&directory.file());
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("chat.db is damaged"), "{error}");
    assert_eq!(fs::read(directory.file()).unwrap(), text);
}

/// A closed store with enough in it for several pages of each table.
fn closed_store() -> TestDir {
    let TestStore {
        mut store,
        directory,
    } = TestStore::new();
    let batch = (0..500)
        .map(|id| WriteOperation::Append(message("d:alice:bob", "alice", &id.to_string())))
        .collect();
    assert!(store.write(batch).iter().all(Result::is_ok));
    drop(store);
    assert!(!directory.path.join("chat.db-wal").exists());
    directory
}

#[test]
fn a_truncated_file_is_reported() {
    let directory = closed_store();
    let length = fs::metadata(directory.file()).unwrap().len();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(directory.file())
        .unwrap();
    file.set_len(length / 2).unwrap();
    let error = refusal(&directory.file());
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn an_overwritten_page_is_reported() {
    let directory = closed_store();
    let length = fs::metadata(directory.file()).unwrap().len();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(directory.file())
        .unwrap();
    file.seek(SeekFrom::Start(length - 4096)).unwrap();
    file.write_all(&[0x5a; 4096]).unwrap();
    drop(file);
    let error = refusal(&directory.file());
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_missing_directory_is_an_error() {
    let directory = TestDir::new();
    let error = refusal(&directory.path.join("missing").join("chat.db"));
    assert!(matches!(error, StoreError::Storage(_)), "{error:?}");
}

/// `SQLite` refuses the switch to write-ahead logging at once, without waiting, when
/// another connection switches the same new file at that moment.
#[test]
fn many_may_open_a_new_file_at_once() {
    for _ in 0..10 {
        let directory = TestDir::new();
        let start = std::sync::Barrier::new(6);
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (start, file) = (&start, directory.file());
                scope.spawn(move || {
                    start.wait();
                    let mut store = SqliteStore::open(&file).unwrap();
                    let append = message("d:alice:bob", "bob", &format!("{number}"));
                    let results = store.write(vec![WriteOperation::Append(append)]);
                    assert!(results[0].is_ok(), "{results:?}");
                });
            }
        });
        assert_eq!(
            whole_history(&directory.file(), "bob", "d:alice:bob").len(),
            6
        );
    }
}
