use futures_util::FutureExt;
use waystation_membership::LarsPair;

use super::*;
use crate::row::Patch;

struct Folder {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("below/routes.db");
    Folder {
        _folder: folder,
        path,
    }
}

fn opened(folder: &Folder) -> SqliteStore {
    let mut store = SqliteStore::new(folder.path.clone());
    now(store.open()).unwrap();
    store
}

/// It answers at once.
fn now<T>(answer: Answer<'_, T>) -> Result<T, StoreError> {
    answer.now_or_never().unwrap()
}

fn route(port: u16) -> Route {
    let address = format!("10.0.0.1:{port}").parse().unwrap();
    Route::new("pay".parse().unwrap(), address)
}

#[test]
fn routes_are_added_changed_removed_and_there_after_a_restart() {
    let folder = folder();
    let mut store = opened(&folder);
    let mut one = route(1);
    one.lars = Some(LarsPair {
        modid: -5,
        cmdid: 7,
    });
    let add = Change::Add(one.clone());
    let done = |put: &[Route], gone: &[RouteKey]| Outcome::Done {
        put: put.to_vec(),
        gone: gone.to_vec(),
    };
    assert_eq!(now(store.change(&add)).unwrap(), done(&[one.clone()], &[]));
    let again = now(store.change(&add)).unwrap();
    assert_eq!(again, Outcome::Refused(Refusal::Exists(one.key())));
    let add_two = Change::Add(route(2));
    now(store.change(&add_two)).unwrap();
    let patch = Patch {
        weight: Some(7),
        ..Patch::default()
    };
    let edit = |key, patch: &Patch| Change::Edit {
        key,
        patch: patch.clone(),
    };
    one.weight = 7;
    let edited = now(store.change(&edit(one.key(), &patch))).unwrap();
    assert_eq!(edited, done(&[one.clone()], &[]));
    let missing = now(store.change(&edit(route(3).key(), &patch))).unwrap();
    assert_eq!(missing, Outcome::Refused(Refusal::Missing(route(3).key())));
    let patch = Patch {
        weight: Some(99_999),
        ..Patch::default()
    };
    let invalid = now(store.change(&edit(one.key(), &patch))).unwrap();
    assert!(matches!(invalid, Outcome::Refused(Refusal::Invalid(_))));
    let remove = Change::Remove(route(2).key());
    assert_eq!(
        now(store.change(&remove)).unwrap(),
        done(&[], &[route(2).key()])
    );
    let again = now(store.change(&remove)).unwrap();
    assert_eq!(again, Outcome::Refused(Refusal::Missing(route(2).key())));
    drop(store);
    let loaded = now(opened(&folder).load()).unwrap();
    assert_eq!(loaded.routes, [one]);
    assert_eq!(loaded.skipped.count, 0);
}

#[test]
fn what_others_write_is_news_and_what_it_writes_itself_is_none() {
    let folder = folder();
    let (mut store, mut other) = (opened(&folder), opened(&folder));
    assert!(now(store.has_news()).unwrap(), "nothing was read yet");
    now(store.load()).unwrap();
    assert!(!now(store.has_news()).unwrap());
    now(store.change(&Change::Add(route(1)))).unwrap();
    assert!(!now(store.has_news()).unwrap());
    // Two in one second are two.
    for port in 2..4 {
        now(other.change(&Change::Add(route(port)))).unwrap();
        assert!(now(store.has_news()).unwrap());
        assert_eq!(now(store.load()).unwrap().routes.len(), usize::from(port));
        assert!(!now(store.has_news()).unwrap());
    }
}

#[test]
fn rows_that_are_no_routes_are_skipped_counted_and_named() {
    let folder = folder();
    let mut store = opened(&folder);
    now(store.change(&Change::Add(route(1)))).unwrap();
    let connection = Connection::open(&folder.path).unwrap();
    let rows = [
        "('pay', '10.0.0.2:70000', NULL, NULL, 100, NULL, NULL, '{}')",
        "('pay', '10.0.0.3:1', 1, NULL, 100, NULL, NULL, '{}')",
        "('pay', '10.0.0.4:1', NULL, NULL, 'heavy', NULL, NULL, '{}')",
        "('pay', '10.0.0.5:1', NULL, NULL, 100, x'00', NULL, '{}')",
        "('PAY', '10.0.0.6:1', NULL, NULL, 100, NULL, NULL, '{}')",
        "(x'ff', '10.0.0.7:1', NULL, NULL, 100, NULL, NULL, '{}')",
    ];
    for row in rows {
        let text = format!("INSERT INTO route VALUES {row}");
        connection.execute(&text, []).unwrap();
    }
    let loaded = now(store.load()).unwrap();
    assert_eq!(loaded.routes, [route(1)]);
    assert_eq!(loaded.skipped.count, 6);
    let named = |row: &str, why: &str| {
        let mut named = loaded.skipped.named.iter();
        named.any(|(name, text)| name == row && text.contains(why))
    };
    assert!(named("pay 10.0.0.2:70000", "address: "));
    assert!(named("pay 10.0.0.3:1", "a pair is two numbers"));
    assert!(named("pay 10.0.0.4:1", "weight is of another type"));
    assert!(named("pay 10.0.0.5:1", "site is of another type"));
    assert!(named("PAY 10.0.0.6:1", "service: "));
    assert!(named("? 10.0.0.7:1", "service is of another type"));
    // Such a row can be removed, and not changed.
    let key = RouteKey {
        service: "pay".parse().unwrap(),
        address: "10.0.0.4:1".parse().unwrap(),
    };
    let edit = Change::Edit {
        key: key.clone(),
        patch: Patch::default(),
    };
    let refused = now(store.change(&edit)).unwrap();
    assert!(matches!(refused, Outcome::Refused(Refusal::Unable(_))));
    let removed = now(store.change(&Change::Remove(key))).unwrap();
    assert!(matches!(removed, Outcome::Done { .. }));
}

#[test]
fn a_file_that_is_no_database_and_a_folder_that_cannot_be_made_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    std::fs::write(&path, "this is no database, however long one looks at it").unwrap();
    let mut store = SqliteStore::new(path.clone());
    assert!(now(store.open()).is_err());
    assert!(matches!(now(store.load()), Err(StoreError::Closed)));
    let mut store = SqliteStore::new(path.join("below/routes.db"));
    let error = now(store.open()).unwrap_err().to_string();
    assert!(error.starts_with("cannot make "), "{error}");
}
