//! The chat's roles as nodes: added, drained and killed for good under load,
//! with the registry away, and with views that differ.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::path::Path;

use common::chat::{Chat, look_until};
use common::lists::Lists;
use common::load::{clean_report, goes_on, lasting_load, load_of, size, stop};
use common::role::{Role, ids, nodes};
use common::world::World;
use common::{run, stderr, stdout};
use serde_json::Value;
use tempfile::TempDir;
use waystation_registry::{EmbeddedConfig, EmbeddedServer};
use waystation_registry_check::{Etcd, Fixture, ZooKeeper, etcd_program, has_zookeeper};

/// Story: a Logic that was added was used by nobody, one that was stopped stayed
/// routed for as long as its lease, and messages that a killed one had stored
/// and not announced were lost if it did not come back.
#[test]
fn logics_come_and_go_under_load() {
    nodes_come_and_go(&Chat::start());
}

#[test]
fn needs_etcd_logics_come_and_go_under_load_by_etcd() {
    if etcd_program().is_some() {
        let (_etcd, chat) = joined_by::<Etcd>();
        nodes_come_and_go(&chat);
    }
}

#[test]
fn needs_etcd_the_chat_goes_on_without_etcd() {
    if etcd_program().is_some() {
        let (mut etcd, chat) = joined_by::<Etcd>();
        goes_on_without(&chat, || {
            etcd.kill();
            goes_on(&chat, size().between);
            etcd.start();
        });
    }
}

#[test]
fn needs_zookeeper_logics_come_and_go_under_load_by_zookeeper() {
    if has_zookeeper() {
        let (_zookeeper, chat) = joined_by::<ZooKeeper>();
        nodes_come_and_go(&chat);
    }
}

#[test]
fn needs_zookeeper_the_chat_goes_on_without_zookeeper() {
    if has_zookeeper() {
        let (mut zookeeper, chat) = joined_by::<ZooKeeper>();
        goes_on_without(&chat, || {
            zookeeper.kill();
            goes_on(&chat, size().between);
            zookeeper.start();
        });
    }
}

/// A chat whose roles find each other by a registry of that kind.
fn joined_by<F: Fixture>() -> (F, Chat) {
    let registry = started::<F>();
    let chat = Chat::joined_by(&registry.url().to_string());
    (registry, chat)
}

fn started<F: Fixture>() -> F {
    let mut registry = F::new(Path::new("no program of its own"), true);
    registry.start();
    registry
}

fn nodes_come_and_go(chat: &Chat) {
    let registry = chat.registry();
    let size = size();
    let load = lasting_load(chat, &size);
    goes_on(chat, size.between);

    // Added: it is used.
    let dir = chat.dir();
    let mut added = Role::start(dir, "logic", "3", &["--registry", registry]);
    added.serves();
    look_until("the new Logic gets requests", || {
        added.metric("waystation_requests_started_total") > 20.0
    });
    goes_on(chat, size.between);

    // Drained by an operator: it ends by itself, and well.
    let drain = run(&["node", "drain", "logic-3", "--registry", registry]);
    assert_eq!(drain.status.code(), Some(0), "{}", stderr(&drain));
    assert!(
        stdout(&drain).ends_with("logic-3 of im.logic is out\n"),
        "{}",
        stdout(&drain)
    );
    assert_eq!(added.child.wait().unwrap().code(), Some(0));
    goes_on(chat, size.between);

    // One that `up` looks after is started again.
    let before = chat.pids()["logic-1"];
    let drain = run(&["node", "drain", "logic-1", "--registry", registry]);
    assert_eq!(drain.status.code(), Some(0), "{}", stderr(&drain));
    look_until("up starts it again", || {
        chat.pids().get("logic-1").is_some_and(|pid| *pid != before)
    });
    goes_on(chat, size.between);

    // Stopped by a signal.
    let mut stopped = Role::start(dir, "logic", "4", &["--registry", registry]);
    stopped.serves();
    goes_on(chat, size.between);
    stopped.signal("TERM");
    assert_eq!(stopped.child.wait().unwrap().code(), Some(0));
    assert!(
        !ids(registry).contains(&"logic-4".to_owned()),
        "it said goodbye"
    );

    // Killed, and nobody starts it again: its lease ends.
    let mut killed = Role::start(dir, "logic", "5", &["--registry", registry]);
    killed.serves();
    goes_on(chat, size.between);
    killed.kill();
    look_until("the registry notices", || {
        !ids(registry).contains(&"logic-5".to_owned())
    });
    goes_on(chat, size.between);

    stop(load);
    assert_eq!(chat.json("/healthz")["status"], "ok");
}

/// Story: a registry that was restarted emptied the lists of its callers, and
/// the whole system stood still with all its nodes alive.
#[test]
fn the_chat_goes_on_without_its_registry() {
    let chat = Chat::start();
    goes_on_without(&chat, || chat.kill("registry-1"));
}

/// `restart` takes the registry away and brings it back.
fn goes_on_without(chat: &Chat, restart: impl FnOnce()) {
    let size = size();
    let load = lasting_load(chat, &size);
    goes_on(chat, size.between);
    restart();
    goes_on(chat, size.between);
    chat.kill("logic-2");
    goes_on(chat, size.between);
    stop(load);
    holders_are_named(chat);
    let expected = ["das-1", "entry-1", "logic-1", "logic-2"];
    look_until("all nodes are there", || {
        let nodes = nodes(chat.registry());
        expected
            .iter()
            .all(|id| nodes.contains(&((*id).to_owned(), "serving".to_owned())))
    });
}

#[test]
fn the_chat_moves_to_another_registry() {
    let [first, second] = [embedded(), embedded()];
    let (old, new) = (url(&first), url(&second));
    moves(&old, &new, || drop(first));
}

#[test]
fn needs_zookeeper_the_chat_moves_to_zookeeper() {
    if has_zookeeper() {
        let (first, second) = (embedded(), started::<ZooKeeper>());
        let (old, new) = (url(&first), second.url().to_string());
        moves(&old, &new, || drop(first));
    }
}

#[test]
fn needs_etcd_the_chat_moves_away_from_etcd() {
    if etcd_program().is_some() {
        let (mut first, second) = (started::<Etcd>(), embedded());
        let (old, new) = (first.url().to_string(), url(&second));
        moves(&old, &new, || first.kill());
    }
}

fn url((server, _): &(EmbeddedServer, TempDir)) -> String {
    format!("embedded://{}", server.address())
}

/// Moving to another registry, the chat is in both; the first then goes for good.
fn moves(old: &str, new: &str, end: impl FnOnce()) {
    let chat = Chat::joined_by(&format!("{old} {new}"));
    let all = ["das-1", "entry-1", "logic-1", "logic-2"];
    let has_all = |registry: &str| {
        let there = ids(registry);
        all.iter().all(|id| there.contains(&(*id).to_owned()))
    };
    look_until("all are in both", || has_all(old) && has_all(new));
    let size = size();
    let load = lasting_load(&chat, &size);
    goes_on(&chat, size.between);
    end();
    goes_on(&chat, size.between);
    // Four of the chat, and the route server.
    let shown = |registry: &str, is_connected: bool| {
        let rows = chat.json("/api/v1/registries");
        let rows = rows.as_array().unwrap().iter();
        let rows = rows.filter(|row| row["registry"] == registry);
        rows.filter(|row| row["connected"] == is_connected).count()
    };
    look_until("the console shows which one is lost", || {
        shown(old, false) == 5 && shown(new, true) == 5
    });
    let mut role = Role::start(chat.dir(), "logic", "3", &["--registry", new]);
    role.serves();
    look_until("who is in the second alone is found", || {
        role.metric("waystation_requests_started_total") > 20.0
    });
    role.signal("TERM");
    assert_eq!(role.child.wait().unwrap().code(), Some(0));
    chat.kill("logic-2");
    goes_on(&chat, size.between);
    stop(load);
    assert!(has_all(new));
}

/// A registry of this process, and its folder.
fn embedded() -> (EmbeddedServer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry");
    let config = EmbeddedConfig::new(path, "127.0.0.1:0".parse().unwrap());
    (EmbeddedServer::start(config).unwrap(), folder)
}

/// Story: a second Das on another machine waited without end, and nothing said
/// that a chat has one database. Under an id of its own it would have served
/// half of the chat by a database of its own.
#[test]
fn a_das_with_another_database_is_told_where_the_first_one_is() {
    let chat = Chat::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let registry = ["--registry", chat.registry()];
    let starts = |index: &str, wanted: [&str; 2]| {
        let second = Role::start(elsewhere.path(), "das", index, &registry);
        look_until("it says what is wrong", || {
            let page = second.page("/healthz").unwrap_or_default();
            wanted.iter().all(|part| page.contains(part))
        });
    };
    let held = "das-1 is not registered: the id is held by owner ";
    starts("1", [held, "das-1.rpc; start this one in its directory"]);
    starts("2", ["das-1 of unix:", "das-1.rpc has another directory"]);
    let listed = nodes(chat.registry());
    assert!(
        !listed.contains(&("das-2".to_owned(), "serving".to_owned())),
        "{listed:?}"
    );
}

/// Story: a chat whose Das was gone stood still until the same one was back. In
/// the same directory another one goes on at once, and messages keep their
/// numbers, since they come from the database.
#[test]
fn a_second_das_of_the_same_directory_takes_over_under_load() {
    let roles = ["das-1", "das-2", "logic-1", "logic-2", "entry-1"];
    let mut world = World::start("", &roles);
    for logic in ["logic-1", "logic-2"] {
        world.until_uses(logic, "im.das", 2);
    }
    let size = size();
    let load = load_of(world.entry(), &size, "600");
    let both = ["das-1", "das-2"];
    let stored = |world: &World, das: &str| world.role(das).metric("waystation_im_writes_total");
    let goes_on = |world: &World, das: &str| {
        world
            .role(das)
            .until_grows("waystation_im_writes_total", 200.0);
    };
    // All Logics go to the same one, and then to the other.
    let before = both.map(|das| stored(&world, das));
    let mut first = None;
    look_until("one of them stores", || {
        let grew = |at: &usize| stored(&world, both[*at]) > before[*at] + 200.0;
        first = [0, 1].into_iter().find(grew);
        first.is_some()
    });
    let (first, second) = (both[first.unwrap()], both[1 - first.unwrap()]);
    world.kill(first);
    goes_on(&world, second);
    world.add(first);
    goes_on(&world, first);
    world.kill(second);
    goes_on(&world, first);
    stop(load);
}

/// Who holds which version is known for the chat's roles too.
#[test]
fn the_holders_of_views_are_listed() {
    holders_are_named(&Chat::start());
}

fn holders_are_named(chat: &Chat) {
    let args = [
        "node",
        "list",
        "im.logic",
        "--holders",
        "--json",
        "--registry",
        chat.registry(),
    ];
    look_until("two Logics and an Entry follow the Logics", || {
        let text = stdout(&run(&args));
        let rows = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let there = rows.filter(|row| row["peer"].is_string());
        let nodes: Vec<Value> = there.map(|row| row["node"].clone()).collect();
        let expected = ["entry-1", "logic-1", "logic-2"];
        expected.iter().all(|id| nodes.contains(&Value::from(*id)))
    });
}

/// Story: a message that reached a Logic whose neighbours knew better was served
/// there, beside those of the same conversation on the right one. Passed on, it
/// was told by the right one to the Entries that this one knew, and the Entry
/// that did not know the right one missed it.
#[test]
fn a_request_at_the_wrong_logic_is_passed_on_once() {
    // Entry knows of one Logic only, the Logics of each other.
    let lists = Lists::start(&["logic-2"]);
    let load = load_of(lists.entry(), &size(), "5");
    clean_report(load);
    let [one, other] = ["logic-1", "logic-2"].map(|name| lists.role(name));
    assert!(other.metric("waystation_im_relayed_total") > 10.0);
    assert!(one.metric("waystation_requests_started_total") > 10.0);
    let again = one.metric("waystation_im_relayed_total");
    assert!(again.abs() < f64::EPSILON, "passed on {again} times more");
}

/// Story: after a restart of everything the registry listed one Logic a moment
/// later than the other. Entry kept its connection, told it of nobody who came in
/// that moment, and had nothing to tell it when it was listed: those users heard
/// of no message of its conversations until they came again.
#[test]
fn a_logic_that_was_not_listed_for_a_while_knows_who_came_meanwhile() {
    not_listed(&["logic-2"], |lists| lists.listed_again());
}

/// The same when it is also killed meanwhile: who comes to it anew is told who is
/// here, whether it is listed or not.
#[test]
fn a_logic_that_was_killed_while_it_was_not_listed_knows_who_came_meanwhile() {
    not_listed(&["logic-2"], |lists| {
        lists.restart("logic-1");
        let logic = lists.role("logic-1");
        look_until("it is told who is here", || {
            logic.metric("waystation_requests_started_total") > 0.0
        });
        lists.listed_again();
    });
}

/// Story: users who came while no Logic was listed, and the last ones were called
/// nevertheless, heard of nothing until these were listed again.
#[test]
fn logics_that_are_called_although_none_is_listed_know_who_comes() {
    not_listed(&[], |_| {});
}

impl Lists {
    fn listed_again(&self) {
        self.list(&["logic-1", "logic-2"]);
        self.role("entry-1").until_uses("im.logic", 2);
    }
}

/// Users come while only the `listed` Logics are in the list of Entry, go on until
/// `then` has ended, and must hear of everything.
fn not_listed(listed: &[&str], then: impl FnOnce(&mut Lists)) {
    let mut lists = Lists::start(&["logic-1", "logic-2"]);
    let entry = lists.role("entry-1");
    entry.until_uses("im.logic", 2);
    lists.list(listed);
    entry.until_uses("im.logic", u32::try_from(listed.len()).unwrap());
    let load = load_of(lists.entry(), &size(), "600");
    let stored = |lists: &Lists, more| {
        let das = lists.role("das-1");
        das.until_grows("waystation_im_writes_total", more);
    };
    stored(&lists, 50.0);
    then(&mut lists);
    stored(&lists, 200.0);
    stop(load);
}
