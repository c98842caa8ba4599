//! Stores of which several sites keep copies.

use waystation_replica::LifeId;
use waystation_sync::adapter::{Adapter as _, SqliteDatabase};

use super::*;
use crate::store::StoreSite;

fn site(name: &str) -> StoreSite {
    StoreSite {
        name: name.to_owned(),
        sites: vec!["a".to_owned(), "b".to_owned()],
    }
}

/// A store of a site whose file is synced.
fn open(file: &Path, name: &str) -> SqliteStore {
    let store = SqliteStore::open_at(file, site(name)).unwrap();
    SqliteDatabase::new(file).open(LifeId(1)).unwrap();
    store
}

/// As [`open`], once the copy has come.
fn open_copy(file: &Path, name: &str) -> SqliteStore {
    let mut store = open(file, name);
    is_at_stage(&mut store, 2);
    store
}

/// What a site writes down of its copy: 0 before the first one, 1 while it comes, 2
/// when it is there, 3 when it was given up.
fn is_at_stage(store: &mut SqliteStore, stage: i64) {
    let sql = "UPDATE _waystation_state SET kind = ?1";
    store.connection().execute(sql, [stage]).unwrap();
}

/// Two sites with equal copies; nobody brings what one writes to the other.
struct Pair {
    directory: TestDir,
    a: SqliteStore,
    b: SqliteStore,
}

impl Pair {
    fn new() -> Self {
        let directory = TestDir::new();
        let (first, second) = (directory.file(), directory.path.join("b.db"));
        let mut a = open(&first, "a");
        let copy = format!("VACUUM INTO '{}'", second.display());
        a.connection().execute_batch(&copy).unwrap();
        let b = open_copy(&second, "b");
        Self { directory, a, b }
    }
}

fn append(store: &mut SqliteStore, to: &str) -> Result<Appended, StoreError> {
    let append = message(to, "ada", "1");
    let results = store.write(vec![WriteOperation::Append(append)]);
    match results.into_iter().next().unwrap()? {
        WriteOutcome::Appended(appended) => Ok(appended),
        other => panic!("an append was answered by {other:?}"),
    }
}

/// Both sites made a conversation of the same name, under ids that were the same
/// too, and one of them replaced the other.
#[test]
fn each_conversation_is_made_at_one_site() {
    let mut pair = Pair::new();
    let mut made = [0; 2];
    for index in 0..100 {
        let name = format!("d:ada:u{index}");
        let results = [append(&mut pair.a, &name), append(&mut pair.b, &name)];
        let home = usize::from(results[0].is_err());
        made[home] += 1;
        let refused = results[1 - home].as_ref().unwrap_err();
        let expected = ["a", "b"][home];
        assert!(
            matches!(refused, StoreError::OtherHome { home, .. } if home == expected),
            "{refused}"
        );
        for store in [&pair.a, &pair.b] {
            assert_eq!(store.reader().unwrap().home(&name).unwrap(), expected);
        }
    }
    assert!(made[0] > 20 && made[1] > 20, "{made:?}");
    let ids = |store: &mut SqliteStore| -> Vec<i64> {
        let sql = "SELECT id FROM conversation ORDER BY id";
        let mut statement = store.connection().prepare(sql).unwrap();
        let ids = statement.query_map([], |row| row.get(0)).unwrap();
        ids.map(Result::unwrap).collect()
    };
    let (a, b) = (ids(&mut pair.a), ids(&mut pair.b));
    assert!(a.last() < b.first(), "{a:?} {b:?}");
}

#[test]
fn a_copy_is_read_and_nothing_of_it_is_changed() {
    let mut pair = Pair::new();
    // As it is before both copies were made.
    let names: Vec<_> = (0..20).map(|index| format!("d:ada:u{index}")).collect();
    let made = names.iter().find(|name| append(&mut pair.a, name).is_ok());
    let name = made.unwrap().as_str();
    let second = pair.directory.path.join("c.db");
    let copy = format!("VACUUM INTO '{}'", second.display());
    pair.a.connection().execute_batch(&copy).unwrap();
    let mut copy = open_copy(&second, "b");
    assert_eq!(whole_copy(&copy, name).len(), 1);
    let mark = MarkRead {
        conversation: name.to_owned(),
        uid: "ada".to_owned(),
        seq: 1,
    };
    let operations = vec![
        WriteOperation::Append(message(name, "ada", "2")),
        WriteOperation::MarkRead(mark),
    ];
    for result in copy.write(operations) {
        assert!(
            matches!(result, Err(StoreError::OtherHome { .. })),
            "{result:?}"
        );
    }
    assert_eq!(whole_copy(&copy, name).len(), 1);
}

fn whole_copy(store: &SqliteStore, conversation: &str) -> Vec<StoredMessage> {
    let query = HistoryQuery {
        uid: "ada".to_owned(),
        conversation: conversation.to_owned(),
        page: HistoryPage::After(0),
        limit: 100,
    };
    store.reader().unwrap().history(&query).unwrap().messages
}

#[test]
fn groups_are_changed_at_their_home_only() {
    let mut pair = Pair::new();
    for index in 0..20 {
        let create = CreateGroup {
            name: format!("team{index}"),
            creator: "ada".to_owned(),
            members: vec!["bob".to_owned()],
        };
        let add = AddMembers {
            conversation: format!("g:team{index}"),
            actor: "ada".to_owned(),
            members: vec!["cyd".to_owned()],
        };
        let remove = RemoveMember {
            conversation: add.conversation.clone(),
            actor: "ada".to_owned(),
            uid: "bob".to_owned(),
        };
        let operations = vec![
            WriteOperation::CreateGroup(create),
            WriteOperation::AddMembers(add),
            WriteOperation::RemoveMember(remove),
        ];
        let results = [pair.a.write(operations.clone()), pair.b.write(operations)];
        let home = usize::from(results[0][0].is_err());
        assert!(results[home].iter().all(Result::is_ok), "{results:?}");
        let is_refused = |result: &_| matches!(result, Err(StoreError::OtherHome { .. }));
        assert!(results[1 - home].iter().all(is_refused), "{results:?}");
    }
}

#[test]
fn before_its_copy_has_come_a_site_does_nothing() {
    let directory = TestDir::new();
    let mut store = open(&directory.file(), "b");
    let refused = append(&mut store, "d:ada:bob").unwrap_err();
    assert!(matches!(refused, StoreError::NotWhole), "{refused}");
    let refused = store.reader().unwrap().home("d:ada:bob").unwrap_err();
    assert!(matches!(refused, StoreError::NotWhole), "{refused}");
}

/// A part of the rows of a copy that was being restored looked like all of them: a
/// conversation that had not come yet was made anew.
#[test]
fn while_a_part_of_it_is_missing_a_copy_is_neither_read_nor_written() {
    let mut pair = Pair::new();
    is_at_stage(&mut pair.b, 1);
    for index in 0..10 {
        let refused = append(&mut pair.b, &format!("d:ada:u{index}")).unwrap_err();
        assert!(matches!(refused, StoreError::NotWhole), "{refused}");
    }
    let query = ConversationsQuery {
        uid: "ada".to_owned(),
        after: None,
        limit: 10,
    };
    let refused = pair.b.reader().unwrap().conversations(&query).unwrap_err();
    assert!(matches!(refused, StoreError::NotWhole), "{refused}");
}

/// From the moment on at which a site gave its copy up, until the first part of the
/// next one, the old rows were all there: what was written to them was acknowledged,
/// and gone with them.
#[test]
fn a_copy_that_was_given_up_is_neither_read_nor_written() {
    for site in ["a", "b"] {
        let mut pair = Pair::new();
        let own = (0..20).map(|index| format!("d:ada:u{index}"));
        let store = if site == "a" {
            &mut pair.a
        } else {
            &mut pair.b
        };
        let own: Vec<_> = own.filter(|name| append(store, name).is_ok()).collect();
        let name = own.first().unwrap();
        let file = match site {
            "a" => pair.directory.file(),
            _ => pair.directory.path.join("b.db"),
        };
        let mut apply = SqliteDatabase::new(&file).open(LifeId(1)).unwrap().apply;
        apply.give_up(LifeId(2)).unwrap();
        let refused = append(store, name).unwrap_err();
        assert!(matches!(refused, StoreError::NotWhole), "{site}: {refused}");
        let refused = store.reader().unwrap().home(name).unwrap_err();
        assert!(matches!(refused, StoreError::NotWhole), "{site}: {refused}");
        // A start in between changes nothing.
        drop(apply);
        SqliteDatabase::new(&file).open(LifeId(3)).unwrap();
        let refused = append(store, name).unwrap_err();
        assert!(matches!(refused, StoreError::NotWhole), "{site}: {refused}");
    }
}

/// A file that was brought here by hand was written to before the hub had said that
/// its site must join: the copy took the place of what was acknowledged.
#[test]
fn rows_that_did_not_come_as_a_copy_are_not_written() {
    let mut pair = Pair::new();
    is_at_stage(&mut pair.b, 0);
    for index in 0..10 {
        let refused = append(&mut pair.b, &format!("d:ada:u{index}")).unwrap_err();
        assert!(matches!(refused, StoreError::NotWhole), "{refused}");
    }
}

#[test]
fn sites_that_come_later_change_no_home() {
    let mut pair = Pair::new();
    let names: Vec<_> = (0..50).map(|index| format!("d:ada:u{index}")).collect();
    let homes = |store: &SqliteStore| -> Vec<String> {
        let mut reader = store.reader().unwrap();
        names
            .iter()
            .map(|name| reader.home(name).unwrap())
            .collect()
    };
    for name in &names[..25] {
        let _ = append(&mut pair.a, name);
    }
    let before = homes(&pair.a);
    let mut more = site("a");
    more.sites.push("c".to_owned());
    let again = SqliteStore::open_at(&pair.directory.file(), more).unwrap();
    assert_eq!(homes(&again), before);
}

#[test]
fn a_store_of_sites_is_refused_to_somebody_alone() {
    let pair = Pair::new();
    let refused = SqliteStore::open(&pair.directory.file()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::OfSites { name } if name == "a"),
        "{refused}"
    );
}
