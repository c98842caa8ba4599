//! What only a registry in `ZooKeeper` has: sessions, nodes that people read,
//! rights, servers.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use waystation_base::FencingToken;
use waystation_membership::{DrainStep, State, Update, View, Watch};
use waystation_registry::{
    Acks, Client, Registered, RegistrationStatus, Registry, RegistryUrl, Session, SessionState,
};
use waystation_registry_check::{Ensemble, Fixture, Mode, WAIT, World, ZooKeeper, has_zookeeper};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

/// A token of another registry: of its ninth epoch.
const FOREIGN: FencingToken = FencingToken(9 << 40);

/// Longer than what was refused waits until it is tried again.
const TRIED_AGAIN: Duration = Duration::from_secs(3);

type ZooWorld = World<ZooKeeper>;

/// A started server with a client, where there is one.
fn started() -> Option<(ZooWorld, Client)> {
    has_zookeeper().then(|| {
        let mut world = ZooWorld::new(Path::new(PROGRAM), false);
        world.fixture.start();
        let client = world.client();
        (world, client)
    })
}

fn value(id: &str) -> String {
    format!(r#"{{"id":"{id}","service":"a","address":"10.0.0.5:1"}}"#)
}

fn is_lost(session: &Session) -> bool {
    session.state != SessionState::Connected
}

fn weight(weight: u32) -> Update {
    Update {
        weight: Some(weight),
        ..Update::default()
    }
}

/// What stands there is read by people with zkCli.
#[test]
fn needs_zookeeper_an_instance_stands_there_as_json() {
    let Some((world, client)) = started() else {
        return;
    };
    let registered = ZooWorld::register(&client, ZooWorld::instance("im.logic", "logic-1"));
    let token = ZooWorld::is_registered(&registered).instance.token;
    ZooWorld::update(&registered, weight(7));
    let watching = ZooWorld::watch(&client, "im.logic");
    let view = watching.wait_view("im.logic", WAIT, |view| {
        let mut instances = view.instances.values();
        instances.any(|one| one.weight == 7)
    });
    assert!(view.is_some());
    let stand = world.fixture.get("instances/logic-1");
    let stand = stand.expect("it may be read").expect("it is there");
    let read = waystation_registry::instance_from_json(&stand.text).expect("it is an instance");
    assert_eq!(read.weight, 7);
    let begins = r#"{"id":"logic-1","service":"im.logic","address":"10.0.0.1:7000""#;
    assert!(stand.text.starts_with(begins), "{}", stand.text);
    assert!(stand.session != 0, "it goes with its owner");
    assert_eq!(u64::try_from(stand.czxid), Ok(token.0), "its token");
    drop(registered);
    ZooWorld::shows(&watching, "im.logic", &[]);
    assert_eq!(world.fixture.get("instances/logic-1"), Ok(None));
}

/// What people write with zkCli counts as well.
#[test]
fn needs_zookeeper_a_node_made_by_hand_is_an_instance() {
    let Some((world, client)) = started() else {
        return;
    };
    let watching = ZooWorld::watch(&client, "a");
    ZooWorld::shows(&watching, "a", &[]);
    world.fixture.write("instances/a-1", &value("a-1"));
    world.fixture.write("instances/a-2", &value("a-2"));
    ZooWorld::shows(&watching, "a", &["a-1", "a-2"]);
    world.fixture.delete("instances/a-1");
    ZooWorld::shows(&watching, "a", &["a-2"]);
}

/// One server of two is down: clients go to the other.
#[test]
fn needs_zookeeper_a_dead_server_is_passed_over() {
    let Some((world, _)) = started() else { return };
    // Nobody listens there any more, whoever may come later.
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let dead_address = dead.local_addr().expect("it is bound");
    drop(dead);
    let url = world.fixture.url().to_string();
    let url = url.replace("zookeeper://", &format!("zookeeper://{dead_address},"));
    let url: RegistryUrl = url.parse().expect("two servers");
    for number in 0..4 {
        // Whichever they begin with.
        let client = Client::open(&url).expect("a client starts");
        let id = format!("a-{number}");
        let registered = ZooWorld::register(&client, ZooWorld::instance("a", &id));
        ZooWorld::is_registered(&registered);
    }
}

/// A server behind a dead network answers nothing and ends nothing. Who only
/// watches notices it all the same, keeps its view, and catches up.
#[test]
fn needs_zookeeper_a_silent_server_is_noticed_by_who_only_watches() {
    let Some((world, _)) = started() else { return };
    let client = world.proxied_client();
    let watching = ZooWorld::watch(&client, "a");
    world.fixture.write("instances/a-1", &value("a-1"));
    ZooWorld::shows(&watching, "a", &["a-1"]);
    world.network(Mode::BlackHole);
    client.wait_session(WAIT, is_lost).expect("it is noticed");
    assert!(!watching.is_connected());
    let view = watching.view("a").expect("it stays");
    assert!(view.instances.contains_key("a-1"));
    world.fixture.write("instances/a-2", &value("a-2"));
    world.network(Mode::Pass);
    ZooWorld::shows(&watching, "a", &["a-1", "a-2"]);
}

/// Somebody overwrites a node by hand: what was written is named, and the owner
/// is back under a higher token.
#[test]
fn needs_zookeeper_a_node_that_was_overwritten_is_registered_again() {
    let Some((world, client)) = started() else {
        return;
    };
    let registered = ZooWorld::register(&client, ZooWorld::instance("a", "a-1"));
    let token = ZooWorld::is_registered(&registered).instance.token;
    let watching = ZooWorld::watch(&client, "a");
    ZooWorld::shows(&watching, "a", &["a-1"]);
    world.fixture.write("instances/a-1", "nonsense");
    let status = ZooWorld::stands(&registered, "back", |status| {
        status.is_registered && status.instance.token > token
    });
    let view = watching.wait_view("a", WAIT, |view| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.token == status.instance.token)
    });
    assert!(view.is_some(), "it is shown as it is now");
    let is_named = |session: &Session| {
        let mut places = session.skipped_places.iter();
        places.any(|(place, _)| place.ends_with("/instances/a-1"))
    };
    client.wait_session(WAIT, is_named).expect("it is named");
}

/// The server counts the versions of each node from zero, so that a start that
/// was superseded a moment ago could write its own data into the node of the
/// next one. That one notices that its node holds another start, and puts a new
/// one in its place.
#[test]
fn needs_zookeeper_a_node_with_the_data_of_an_older_start_is_replaced() {
    let Some((world, client)) = started() else {
        return;
    };
    let new = ZooWorld::register(&client, ZooWorld::owned("a", "a-1", 1, 2));
    let token = ZooWorld::is_registered(&new).instance.token;
    let stand = world.fixture.get("instances/a-1");
    let text = stand.expect("it may be read").expect("it is there").text;
    let older = text.replace(r#""incarnation":2"#, r#""incarnation":1"#);
    assert_ne!(older, text);
    world.fixture.write("instances/a-1", &older);
    let status = ZooWorld::stands(&new, "back", |status| {
        status.is_registered && status.instance.token > token
    });
    let watching = ZooWorld::watch(&client, "a");
    let view = watching.wait_view("a", WAIT, |view| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.owner.incarnation == 2 && one.token == status.instance.token)
    });
    assert!(view.is_some());
}

/// A node's handle was dropped, its node was deleted and the answer to that was lost.
/// Another client had the id a moment later, under the same version. What was tried
/// again then deleted that one, with the word that it was meant.
#[test]
fn needs_zookeeper_a_deregistration_that_is_tried_again_spares_the_next_owner() {
    let Some((world, client)) = started() else {
        return;
    };
    let cut = world.proxied_client();
    let leaves = ZooWorld::register_for(&cut, ZooWorld::instance("a", "a-1"), WAIT);
    ZooWorld::is_registered(&leaves);
    // The session goes on for this one.
    let stays = ZooWorld::register_for(&cut, ZooWorld::instance("a", "a-2"), WAIT);
    ZooWorld::is_registered(&stays);
    let next = ZooWorld::register_for(&client, ZooWorld::owned("a", "a-1", 99, 1), WAIT);
    ZooWorld::stands(&next, "refused", |status| status.refusal.is_some());
    world.network(Mode::Mute);
    drop(leaves);
    let token = ZooWorld::is_registered(&next).instance.token;
    let watching = ZooWorld::watch(&client, "a");
    ZooWorld::shows(&watching, "a", &["a-1", "a-2"]);
    ZooWorld::record(&watching);
    world.network(Mode::Cut);
    cut.wait_session(WAIT, is_lost).expect("the cut is noticed");
    world.network(Mode::Pass);
    // Whoever registers at the same client has its turn behind that.
    let again = ZooWorld::register_for(&cut, ZooWorld::instance("a", "a-1"), WAIT);
    ZooWorld::stands(&again, "refused", |status| status.refusal.is_some());
    let status = next.status();
    assert!(status.is_registered, "{status:?}");
    assert_eq!(status.instance.token, token);
    // It is the one that is shown, behind all of that.
    ZooWorld::update(&next, weight(7));
    let view = watching.wait_view("a", WAIT, |view| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.weight == 7)
    });
    assert!(view.is_some());
    for change in ZooWorld::never_without(&watching, &["a-1", "a-2"]) {
        assert_eq!(change.view.instances["a-1"].token, token);
    }
}

/// A store that refused the end of a registration for good kept its client from
/// registering that id again, for as long as it refused. And what was tried again
/// would have taken the next one along.
#[test]
fn needs_zookeeper_an_end_that_is_refused_keeps_nobody_waiting() {
    let Some((world, client)) = started() else {
        return;
    };
    let first = ZooWorld::register(&client, ZooWorld::instance("a", "a-1"));
    ZooWorld::is_registered(&first);
    let watching = ZooWorld::watch(&client, "a");
    ZooWorld::shows(&watching, "a", &["a-1"]);
    ZooWorld::record(&watching);
    world.fixture.allow_deletes("instances", false);
    drop(first);
    let next = ZooWorld::register(&client, ZooWorld::instance("a", "a-1"));
    let token = ZooWorld::is_registered(&next).instance.token;
    world.fixture.allow_deletes("instances", true);
    // Longer than until the first one is to be tried again.
    std::thread::park_timeout(TRIED_AGAIN);
    let status = next.status();
    assert!(status.is_registered, "{status:?}");
    assert_eq!(status.instance.token, token);
    ZooWorld::never_without(&watching, &["a-1"]);
    drop(next);
    ZooWorld::shows(&watching, "a", &[]);
}

/// Registers a node that comes with a token of another registry, above all that
/// this one has given out. How another stands behind that, which was never fenced
/// on the way there.
fn lifted(client: &Client, other: &Registered) -> (Registered, RegistrationStatus) {
    let token = other.status().instance.token;
    let mut instance = ZooWorld::instance("b", "b-1");
    instance.token = FOREIGN;
    std::thread::scope(|scope| {
        let raised = scope.spawn(|| {
            ZooWorld::stands(other, "raised", |status| {
                assert!(status.is_registered, "fenced: {status:?}");
                status.instance.token > token
            })
        });
        let moved = ZooWorld::register(client, instance);
        let status = ZooWorld::is_registered(&moved);
        assert!(status.instance.token > FOREIGN, "{status:?}");
        (moved, raised.join().expect("it was not fenced"))
    })
}

/// A node came from another registry, whose tokens are higher. Those of all nodes
/// rose with that, and each of them took itself for lost and was fenced.
#[test]
fn needs_zookeeper_who_comes_with_a_higher_token_fences_nobody() {
    let Some((world, client)) = started() else {
        return;
    };
    let registered = ZooWorld::register_for(&client, ZooWorld::instance("a", "a-1"), WAIT);
    let token = ZooWorld::is_registered(&registered).instance.token;
    let other = world.client();
    let watching = ZooWorld::watch(&other, "a");
    ZooWorld::shows(&watching, "a", &["a-1"]);
    ZooWorld::record(&watching);
    let (moved, raised) = lifted(&other, &registered);
    let raised = raised.instance.token;
    assert!(raised > FOREIGN);
    let stand = world.fixture.get("instances/a-1");
    let stand = stand.expect("it may be read").expect("it is there");
    assert_eq!(u64::try_from(stand.czxid), Ok(token.0), "the same node");
    // It holds it: a change is taken.
    ZooWorld::update(&registered, weight(7));
    let view = watching.wait_view("a", WAIT, |view| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.weight == 7 && one.token == raised)
    });
    assert!(view.is_some());
    for change in ZooWorld::never_without(&watching, &["a-1"]) {
        assert!([token, raised].contains(&change.view.instances["a-1"].token));
        assert_eq!(change.kept, [], "a doubt");
    }
    drop(moved);
    let status = registered.status();
    assert!(status.is_registered && registered.may_serve(), "{status:?}");
    assert_eq!(status.instance.token, raised);
    assert_eq!(client.session().went_back, None);
}

/// The same while a node drains: it was fenced, and its drain began anew with all
/// its time before it.
#[test]
fn needs_zookeeper_a_drain_goes_on_under_a_higher_token() {
    let Some((world, client)) = started() else {
        return;
    };
    let registered = ZooWorld::register_for(&client, ZooWorld::instance("a", "a-1"), WAIT);
    let token = ZooWorld::is_registered(&registered).instance.token;
    let other = world.client();
    let watch = Watch::Service(ZooWorld::service("a"));
    let slow = ZooWorld::watch_with(&other, watch, Acks::ByCaller);
    ZooWorld::shows(&slow, "a", &["a-1"]);
    registered.drain();
    let drains = |view: &View, token| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.state == State::Draining && one.token == token)
    };
    let view = slow.wait_view("a", WAIT, |view| drains(view, token));
    let at = view.expect("the drain is seen").at;
    let (_moved, status) = lifted(&other, &registered);
    assert_eq!(status.drain, Some(DrainStep::Waiting));
    let raised = status.instance.token;
    // What was shown before all that is enough.
    slow.acknowledge(&ZooWorld::service("a"), at);
    ZooWorld::stands(&registered, "acknowledged", |status| {
        status.drain == Some(DrainStep::Acknowledged)
    });
    let view = slow.wait_view("a", WAIT, |view| drains(view, raised));
    assert!(view.is_some());
    registered.idle();
    ZooWorld::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    ZooWorld::shows(&slow, "a", &[]);
}

/// Each server dies in turn, the one that a client talks to among them: its
/// sessions go on at another, and what is changed meanwhile is seen.
#[test]
fn needs_zookeeper_any_server_may_die() {
    if !has_zookeeper() {
        return;
    }
    let mut ensemble = Ensemble::new();
    let client = Client::open(&ensemble.url()).expect("a client starts");
    let instance = ZooWorld::instance("a", "a-1");
    let registered = ZooWorld::register_for(&client, instance, WAIT);
    let token = ZooWorld::is_registered(&registered).instance.token;
    let watching = ZooWorld::watch(&client, "a");
    ZooWorld::shows(&watching, "a", &["a-1"]);
    for member in 0..3_u32 {
        ensemble.kill(member as usize);
        ZooWorld::update(&registered, weight(member + 1));
        let view = watching.wait_view("a", WAIT, |view| {
            let one = view.instances.get("a-1");
            one.is_some_and(|one| one.weight == member + 1)
        });
        let view = view.expect("the change is seen");
        let of_session = view.instances["a-1"].token;
        assert_eq!(of_session, token, "its session went on at another");
        ensemble.start(member as usize);
    }
    ZooWorld::is_registered(&registered);
}

/// A server that was cut off from its leader went on answering, for as long as it
/// did not notice, and its clients took each answer for a renewal of their leases,
/// while the leader had ended their sessions and everybody else saw them go.
#[test]
fn needs_zookeeper_a_node_at_a_server_without_its_leader_is_fenced_before_it_is_gone() {
    if !has_zookeeper() {
        return;
    }
    // It notices after 20 s, long behind the session's 4 s.
    let ensemble = Ensemble::with_roads(40);
    let apart = ensemble.follower();
    let client = Client::open(&ensemble.url_of(apart)).expect("a client starts");
    let other = Client::open(&ensemble.url_of((apart + 1) % 3)).expect("a client starts");
    let instance = ZooWorld::instance("a", "a-1");
    let session = Duration::from_secs(4);
    let registered = ZooWorld::register_for(&client, instance, session);
    ZooWorld::is_registered(&registered);
    // It alone, so that its loss is no mass loss.
    let watching = ZooWorld::watch(&other, "a");
    ZooWorld::shows(&watching, "a", &["a-1"]);
    ensemble.cut_off(apart);
    ZooWorld::shows(&watching, "a", &[]);
    assert!(!registered.may_serve(), "it serves and is gone");
}

/// Two clients, one root each: neither sees what the other has.
#[test]
fn needs_zookeeper_roots_are_registries_of_their_own() {
    let Some((world, client)) = started() else {
        return;
    };
    let other: RegistryUrl = format!("{}-2", world.fixture.url()).parse().expect("a URL");
    let other = Client::open(&other).expect("a client starts");
    let first = ZooWorld::register(&client, ZooWorld::instance("a", "a-1"));
    ZooWorld::is_registered(&first);
    let second = ZooWorld::register(&other, ZooWorld::owned("a", "a-1", 99, 1));
    ZooWorld::is_registered(&second);
    let watching = ZooWorld::watch(&other, "a");
    let view = ZooWorld::shows(&watching, "a", &["a-1"]);
    assert_eq!(view.instances["a-1"].owner.id.0, 99);
}

/// The URL of a user for another root.
fn closed(url: &RegistryUrl, folder: &Path) -> RegistryUrl {
    let digest = folder.join("digest");
    std::fs::write(&digest, "way:secret\n").expect("a file");
    let url = format!("{url}?digest={}", digest.display());
    url.parse().expect("a URL")
}

/// With a user's name and password a registry is that user's: nobody else reads
/// it, and who tries is told so.
#[test]
fn needs_zookeeper_a_registry_of_a_user_is_closed_to_others() {
    let Some((world, _)) = started() else { return };
    let open = world
        .fixture
        .url()
        .to_string()
        .replace("/check/", "/closed-");
    let open: RegistryUrl = open.parse().expect("a URL");
    let folder = tempfile::tempdir().expect("a folder");
    let url = closed(&open, folder.path());
    let client = Client::open(&url).expect("a client starts");
    let registered = ZooWorld::register(&client, ZooWorld::instance("a", "a-1"));
    ZooWorld::is_registered(&registered);
    let same = Client::open(&url).expect("a client starts");
    let watching = ZooWorld::watch(&same, "a");
    ZooWorld::shows(&watching, "a", &["a-1"]);
    let stranger = Client::open(&open).expect("a client starts");
    let is_refused = |session: &Session| {
        let fault = session.fault.as_ref();
        fault.is_some_and(|fault| fault.contains("not authorized"))
    };
    let refused = stranger.wait_session(WAIT, is_refused);
    refused.expect("it is told why");
    std::fs::write(folder.path().join("digest"), "nonsense").expect("a file");
    assert!(Client::open(&url).is_err(), "it proves nothing");
}

/// A node among others that may not be read is skipped and named, and stays
/// whose it is.
#[test]
fn needs_zookeeper_a_closed_node_among_others_is_skipped() {
    let Some((world, stranger)) = started() else {
        return;
    };
    let watching = ZooWorld::watch(&stranger, "a");
    ZooWorld::shows(&watching, "a", &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let url = closed(&world.fixture.url(), folder.path());
    let client = Client::open(&url).expect("a client starts");
    let instance = ZooWorld::instance("a", "a-1");
    let registered = ZooWorld::register_for(&client, instance, WAIT);
    ZooWorld::is_registered(&registered);
    let second = ZooWorld::register(&stranger, ZooWorld::instance("a", "a-2"));
    ZooWorld::is_registered(&second);
    ZooWorld::shows(&watching, "a", &["a-2"]);
    let is_named = |session: &Session| {
        let mut places = session.skipped_places.iter();
        places.any(|(place, why)| place.ends_with("/a-1") && why == "not authorized")
    };
    stranger.wait_session(WAIT, is_named).expect("it is named");
    let thief = ZooWorld::register(&stranger, ZooWorld::owned("a", "a-1", 99, 1));
    ZooWorld::stands(&thief, "refused", |status| status.refusal.is_some());
    assert!(registered.may_serve());
}

/// Many come at once and change while they are read: whoever watches ends at the
/// same version, with all of them.
#[test]
fn needs_zookeeper_a_crowd_is_seen_alike_by_everybody() {
    const CROWD: usize = 300;
    let Some((world, client)) = started() else {
        return;
    };
    let before = ZooWorld::watch(&client, "a");
    let nodes: Vec<_> = (0..CROWD)
        .map(|number| {
            let id = format!("a-{number}");
            ZooWorld::register_for(&client, ZooWorld::instance("a", &id), WAIT)
        })
        .collect();
    let other = world.client();
    let meanwhile = ZooWorld::watch(&other, "a");
    for node in &nodes {
        ZooWorld::is_registered(node);
        ZooWorld::update(node, weight(3));
    }
    let ends = |watching: &waystation_registry::Watching| {
        let view = watching.wait_view("a", WAIT, |view| {
            let mut instances = view.instances.values();
            view.instances.len() == CROWD && instances.all(|one| one.weight == 3)
        });
        view.expect("all of them are shown as they are")
    };
    assert_eq!(ends(&before), ends(&meanwhile));
}
