//! What only a registry in etcd has: revisions, keys that people read, members.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use waystation_membership::Update;
use waystation_registry::{Client, Registry, RegistryUrl, SessionState};
use waystation_registry_check::{Etcd, EtcdCluster, Fixture, Mode, WAIT, World, etcd_program};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

type EtcdWorld = World<Etcd>;

/// A started etcd with a client, where there is an etcd.
fn started() -> Option<(EtcdWorld, Client)> {
    etcd_program()?;
    let mut world = EtcdWorld::new(Path::new(PROGRAM), true);
    world.fixture.start();
    let client = world.client();
    Some((world, client))
}

fn value(id: &str) -> String {
    format!(r#"{{"id":"{id}","service":"a","address":"10.0.0.5:1"}}"#)
}

/// A watch that was cut off for so long that its place in the history was
/// compacted was told so once, and heard nothing more.
#[test]
fn needs_etcd_a_watch_behind_a_compaction_lists_again() {
    let Some((world, _)) = started() else { return };
    let client = world.proxied_client();
    let watching = EtcdWorld::watch(&client, "a");
    world.fixture.write("/suite/instances/a-1", &value("a-1"));
    world.fixture.write("/suite/instances/a-2", &value("a-2"));
    EtcdWorld::shows(&watching, "a", &["a-1", "a-2"]);
    world.network(Mode::Cut);
    let is_lost = |session: &waystation_registry::Session| session.state != SessionState::Connected;
    client.wait_session(WAIT, is_lost).expect("the cut is seen");
    world.fixture.delete("/suite/instances/a-1");
    world.fixture.write("/suite/instances/a-3", &value("a-3"));
    world.fixture.compact();
    world.network(Mode::Pass);
    EtcdWorld::shows(&watching, "a", &["a-2", "a-3"]);
    // It goes on from there.
    world.fixture.write("/suite/instances/a-4", &value("a-4"));
    EtcdWorld::shows(&watching, "a", &["a-2", "a-3", "a-4"]);
}

/// What stands in etcd is read by people with its own tools.
#[test]
fn needs_etcd_an_instance_stands_there_as_json() {
    let Some((world, client)) = started() else {
        return;
    };
    let registered = EtcdWorld::register(&client, EtcdWorld::instance("im.logic", "logic-1"));
    EtcdWorld::is_registered(&registered);
    let update = Update {
        weight: Some(7),
        ..Update::default()
    };
    EtcdWorld::update(&registered, update);
    let watching = EtcdWorld::watch(&client, "im.logic");
    let view = watching.wait_view("im.logic", WAIT, |view| {
        let mut instances = view.instances.values();
        instances.any(|one| one.weight == 7)
    });
    assert!(view.is_some());
    let text = world
        .fixture
        .get("/suite/instances/logic-1")
        .expect("it is there");
    let read = waystation_registry::instance_from_json(&text).expect("it is an instance");
    assert_eq!(read.weight, 7);
    assert!(text.starts_with(r#"{"id":"logic-1","service":"im.logic","address":"10.0.0.1:7000""#));
    drop(registered);
    EtcdWorld::shows(&watching, "im.logic", &[]);
    assert_eq!(world.fixture.get("/suite/instances/logic-1"), None);
}

/// One member of two is down: clients go to the other.
#[test]
fn needs_etcd_a_dead_member_is_passed_over() {
    let Some((world, _)) = started() else { return };
    // Nobody listens there any more, whoever may come later.
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let dead_address = dead.local_addr().expect("it is bound");
    drop(dead);
    let url = world.fixture.url().to_string();
    let url = url.replace("etcd://", &format!("etcd://{dead_address},"));
    let url: RegistryUrl = url.parse().expect("two members");
    for number in 0..4 {
        // Whichever they begin with.
        let client = Client::open(&url).expect("a client starts");
        let id = format!("a-{number}");
        let registered = EtcdWorld::register(&client, EtcdWorld::instance("a", &id));
        EtcdWorld::is_registered(&registered);
    }
}

/// A member behind a dead network answers nothing and ends nothing. A client that
/// only watches had no call of its own to notice it by.
#[test]
fn needs_etcd_a_silent_member_is_noticed_by_who_only_watches() {
    let Some((world, _)) = started() else { return };
    let client = world.proxied_client();
    let watching = EtcdWorld::watch(&client, "a");
    world.fixture.write("/suite/instances/a-1", &value("a-1"));
    EtcdWorld::shows(&watching, "a", &["a-1"]);
    world.network(Mode::BlackHole);
    let is_lost = |session: &waystation_registry::Session| session.state != SessionState::Connected;
    client.wait_session(WAIT, is_lost).expect("it is noticed");
    assert!(!watching.is_connected());
    let view = watching.view("a").expect("it stays");
    assert!(view.instances.contains_key("a-1"));
    world.fixture.write("/suite/instances/a-2", &value("a-2"));
    world.network(Mode::Pass);
    EtcdWorld::shows(&watching, "a", &["a-1", "a-2"]);
}

/// Somebody overwrites a node's key by hand: what was written is named, and the
/// node is back under a higher token.
#[test]
fn needs_etcd_a_key_that_was_overwritten_is_registered_again() {
    let Some((world, client)) = started() else {
        return;
    };
    let registered = EtcdWorld::register(&client, EtcdWorld::instance("a", "a-1"));
    let token = EtcdWorld::is_registered(&registered).instance.token;
    let watching = EtcdWorld::watch(&client, "a");
    EtcdWorld::shows(&watching, "a", &["a-1"]);
    world.fixture.write("/suite/instances/a-1", "nonsense");
    let status = EtcdWorld::stands(&registered, "back", |status| {
        status.is_registered && status.instance.token > token
    });
    let view = watching.wait_view("a", WAIT, |view| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.token == status.instance.token)
    });
    assert!(view.is_some(), "it is shown as it is now");
    let is_named = |session: &waystation_registry::Session| {
        let mut places = session.skipped_places.iter();
        places.any(|(place, _)| place == "/suite/instances/a-1")
    };
    client.wait_session(WAIT, is_named).expect("it is named");
}

/// Each member dies in turn, the one that a client talks to among them: what is
/// changed meanwhile is seen, by way of another.
#[test]
fn needs_etcd_any_member_may_die() {
    let Some(program) = etcd_program() else {
        return;
    };
    let mut cluster = EtcdCluster::new(program);
    let client = Client::open(&cluster.url()).expect("a client starts");
    let instance = EtcdWorld::instance("a", "a-1");
    let registered = EtcdWorld::register_for(&client, instance, WAIT);
    let token = EtcdWorld::is_registered(&registered).instance.token;
    let watching = EtcdWorld::watch(&client, "a");
    EtcdWorld::shows(&watching, "a", &["a-1"]);
    for member in 0..3_u32 {
        cluster.kill(member as usize);
        let update = Update {
            weight: Some(member + 1),
            ..Update::default()
        };
        EtcdWorld::update(&registered, update);
        let view = watching.wait_view("a", WAIT, |view| {
            let one = view.instances.get("a-1");
            one.is_some_and(|one| one.weight == member + 1)
        });
        let view = view.expect("the change is seen");
        assert_eq!(view.instances["a-1"].token, token, "it was never lost");
        cluster.start(member as usize);
    }
}

/// An update that a full store refused was told and forgotten: when there was room
/// again, its weight stayed wrong.
#[test]
fn needs_etcd_a_full_one_is_told_and_goes_on_when_it_has_room() {
    let Some((world, client)) = started() else {
        return;
    };
    let there = EtcdWorld::register(&client, EtcdWorld::instance("a", "a-1"));
    EtcdWorld::is_registered(&there);
    // Its lease does not end as long as this takes.
    let leaves = EtcdWorld::register_for(&client, EtcdWorld::instance("a", "a-3"), 4 * WAIT);
    EtcdWorld::is_registered(&leaves);
    let watching = EtcdWorld::watch(&client, "a");
    EtcdWorld::shows(&watching, "a", &["a-1", "a-3"]);
    world.fixture.set_full(true);
    let new = EtcdWorld::register(&client, EtcdWorld::instance("a", "a-2"));
    let update = Update {
        weight: Some(7),
        ..Update::default()
    };
    EtcdWorld::update(&there, update.clone());
    EtcdWorld::update(&leaves, update);
    for registered in [&new, &there, &leaves] {
        let status = EtcdWorld::stands(registered, "refused", |one| one.refusal.is_some());
        let text = status.refusal.expect("just looked").to_string();
        assert!(text.contains("database space exceeded"), "{text}");
    }
    // Who comes now sees what is there, and whoever was there stays.
    let later = EtcdWorld::watch(&client, "a");
    EtcdWorld::shows(&later, "a", &["a-1", "a-3"]);
    assert_eq!(client.session().state, SessionState::Connected);
    assert!(there.may_serve(), "its lease is renewed");
    assert!(!new.may_serve());
    // Who is refused an update again and again can leave all the same.
    drop(leaves);
    EtcdWorld::shows(&watching, "a", &["a-1"]);
    world.fixture.set_full(false);
    EtcdWorld::is_registered(&new);
    EtcdWorld::shows(&watching, "a", &["a-1", "a-2"]);
    let view = watching.wait_view("a", WAIT, |view| view.instances["a-1"].weight == 7);
    assert!(view.is_some(), "the update is made");
}

/// Two clients, one prefix each: neither sees what the other has.
#[test]
fn needs_etcd_prefixes_are_registries_of_their_own() {
    let Some((world, client)) = started() else {
        return;
    };
    let other: RegistryUrl = format!("{}2", world.fixture.url()).parse().expect("a URL");
    let other = Client::open(&other).expect("a client starts");
    let _one = {
        let registered = EtcdWorld::register(&client, EtcdWorld::instance("a", "a-1"));
        EtcdWorld::is_registered(&registered);
        registered
    };
    let second = EtcdWorld::register(&other, EtcdWorld::owned("a", "a-1", 99, 1));
    EtcdWorld::is_registered(&second);
    let watching = EtcdWorld::watch(&other, "a");
    let view = EtcdWorld::shows(&watching, "a", &["a-1"]);
    assert_eq!(view.instances["a-1"].owner.id.0, 99);
}
