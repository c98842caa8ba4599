//! Registries that are absent, restarted, emptied, damaged.

use std::time::Duration;

use waystation_membership::{View, Watch};
use waystation_registry::{Acks, Change, RegistrationStatus, Registry, Session, SessionState};

use crate::fixture::{Ability, Fixture};
use crate::world::{LEASE, WAIT, World, now, since};

fn is_lost(session: &Session) -> bool {
    session.state == SessionState::Connecting && session.fault.is_some()
}

fn is_connected(session: &Session) -> bool {
    session.state == SessionState::Connected
}

/// Nodes and callers start before the registry, and wait for it. They know why.
pub(super) fn absent<F: Fixture>(world: &mut World<F>) -> Duration {
    let client = world.client();
    let watching = World::<F>::watch(&client, "a");
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    assert_eq!(watching.view("a"), None, "nothing is known");
    assert!(!watching.is_complete());
    let session = client.wait_session(WAIT, is_lost);
    let fault = session.expect("its absence is noticed").fault;
    assert!(fault.is_some_and(|fault| !fault.is_empty()), "it says why");
    let start = now();
    world.fixture.start();
    World::<F>::shows(&watching, "a", &["a-1"]);
    since(start)
}

/// The registry is killed and away for longer than the lease. Nobody's view is
/// emptied, nodes fence themselves meanwhile, and when it is back they are all
/// there again; by the same leases, where those outlive it.
pub(super) fn long_restart<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, other) = (world.client(), world.client());
    let ids = ["a-1", "a-2", "a-3"];
    let nodes = ids.map(|id| World::<F>::register(&client, World::<F>::instance("a", id)));
    let before = nodes.each_ref().map(World::<F>::is_registered);
    let watching = World::<F>::watch(&other, "a");
    World::<F>::shows(&watching, "a", &ids);
    World::<F>::record(&watching);
    world.fixture.kill();
    let killed_at = now();
    for node in &nodes {
        World::<F>::is_fenced(node);
    }
    World::<F>::wait_until(killed_at + LEASE + Duration::from_secs(1));
    let start = now();
    world.fixture.start();
    let after = nodes.each_ref().map(World::<F>::is_registered);
    let took = since(start);
    // All that is seen of the restart, up to a change behind it.
    World::<F>::update_weight(&nodes[0], 3);
    let is_seen = |view: &View| view.instances.get("a-1").is_some_and(|one| one.weight == 3);
    let view = watching.wait_view("a", WAIT, is_seen);
    assert!(view.is_some(), "the update is seen");
    World::<F>::shows(&watching, "a", &ids);
    World::<F>::never_empty(&watching);
    if World::<F>::can(Ability::Leases) {
        World::<F>::never_without(&watching, &ids);
        let tokens = |nodes: [RegistrationStatus; 3]| nodes.map(|one| one.instance.token);
        assert_eq!(tokens(after), tokens(before), "leases were granted anew");
    }
    took
}

/// The registry is gone for good: what was seen stays.
pub(super) fn lost<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, other) = (world.client(), world.client());
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    let watching = World::<F>::watch(&other, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    World::<F>::record(&watching);
    let start = now();
    world.fixture.kill();
    let session = other
        .wait_session(WAIT, is_lost)
        .expect("the loss is noticed");
    let took = since(start);
    assert!(
        session.fault.is_some_and(|fault| !fault.is_empty()),
        "it says why"
    );
    assert!(!watching.is_connected());
    World::<F>::never_without(&watching, &["a-1"]);
    // And a question gets an answer: that there is none.
    let asked = other.list(Watch::Prefix("".into()), false);
    assert!(asked.expect("room").wait().is_err());
    took
}

/// The registry's data is deleted under living nodes: they register again, and
/// callers are never left without any.
pub(super) fn wiped<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, caller, other) = (world.client(), world.client(), world.client());
    let all = ["a-1", "a-2", "a-3", "a-4"];
    let nodes = all.map(|id| World::<F>::register(&client, World::<F>::instance("a", id)));
    for node in &nodes {
        World::<F>::is_registered(node);
    }
    let watching = World::<F>::watch(&caller, "a");
    World::<F>::shows(&watching, "a", &all);
    World::<F>::record(&watching);
    let start = now();
    world.fixture.wipe();
    let fresh = World::<F>::watch(&other, "a");
    World::<F>::shows(&fresh, "a", &all);
    let took = since(start);
    World::<F>::update_weight(&nodes[0], 3);
    let is_seen = |view: &View| view.instances.get("a-1").is_some_and(|one| one.weight == 3);
    let view = watching.wait_view("a", WAIT, is_seen);
    assert!(view.is_some(), "the update is seen");
    World::<F>::shows(&watching, "a", &all);
    World::<F>::never_empty(&watching);
    took
}

/// Everything is taken out at once. It is kept, marked, for a while; then the
/// registry is believed.
pub(super) fn emptied<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let ids = ["a-1", "a-2", "a-3", "a-4"];
    let mut present = Vec::new();
    for id in ids {
        present.push(world.add(&client, World::<F>::instance("a", id)));
    }
    let other = world.client();
    let watching = World::<F>::watch(&other, "a");
    World::<F>::shows(&watching, "a", &ids);
    World::<F>::record(&watching);
    let start = now();
    if World::<F>::can(Ability::Register) {
        // The owners end without a word together with the registry's data.
        let is_owner_gone = client.clone();
        world.fixture.kill();
        is_owner_gone.close_and_wait();
        drop(present);
        world.fixture.start();
    }
    world.fixture.wipe();
    let is_empty = |view: &View| view.instances.is_empty();
    let view = watching.wait_view("a", WAIT, is_empty);
    assert!(view.is_some(), "the guard clears by itself");
    let took = since(start);
    let shown = watching.recorded();
    let (_, before) = shown.split_last().expect("the last is empty");
    assert!(
        before.iter().all(|change| !is_empty(&change.view)),
        "it is emptied once"
    );
    let is_doubted = before.last().is_some_and(|change| change.kept.len() >= 3);
    assert!(is_doubted, "an empty registry is not believed at once");
    took
}

/// What is not ours or malformed is skipped and named; what is good counts.
pub(super) fn foreign<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    let watching = World::<F>::watch_with(&client, Watch::Prefix("".into()), Acks::Shown);
    World::<F>::shows(&watching, "a", &["a-1"]);
    let start = now();
    let seen = world.fixture.add_foreign();
    if !seen.is_empty() {
        let count = seen.len() as u64;
        let session = client.wait_session(WAIT, |session| session.skipped >= count);
        let session = session.expect("all are counted");
        assert_eq!(session.skipped, count, "{:?}", session.skipped_places);
        for place in seen {
            let mut named = session.skipped_places.iter();
            let named = named.find(|(one, _)| one.ends_with(place));
            let (_, reason) = named.expect("each is named");
            assert!(!reason.is_empty(), "{place}");
        }
    }
    let _two = world.add(&client, World::<F>::instance("a", "a-2"));
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    let took = since(start);
    let strays = watching
        .views()
        .into_iter()
        .filter(|one| one.view.service.as_str() != "a");
    assert_eq!(strays.map(|one| one.view.instances.len()).sum::<usize>(), 0);
    took
}

/// The registry is restored from an old backup: in which versions and tokens
/// have not been given yet that peers hold, a node stands that has left since,
/// one by its start before, and one not at all. Everything goes on above that,
/// and the registry is said to have gone back.
pub(super) fn backup<F: Fixture>(world: &mut World<F>) -> Duration {
    // Of who has left: it is seen again.
    const LEASE_OF_OLD: Duration = Duration::from_secs(8);
    world.fixture.start();
    let (client, leaver) = (world.client(), world.client());
    let early = World::<F>::register(&client, World::<F>::owned("a", "a-1", 7, 1));
    World::<F>::is_registered(&early);
    let old = World::<F>::instance("a", "a-9");
    let old = World::<F>::register_for(&leaver, old, LEASE_OF_OLD);
    World::<F>::is_registered(&old);
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-9"]);
    let backup = tempfile::tempdir().expect("a folder");
    world.fixture.back_up(backup.path());
    let is_back = client.wait_session(WAIT, is_connected);
    is_back.expect("it comes back");
    assert_eq!(client.session().went_back, None, "it has not");

    drop((early, old));
    leaver.close_and_wait();
    World::<F>::shows(&watching, "a", &[]);
    let node = World::<F>::register(&client, World::<F>::owned("a", "a-1", 7, 2));
    let new = World::<F>::register(&client, World::<F>::instance("a", "a-2"));
    let nodes = [&node, &new];
    for node in nodes {
        World::<F>::is_registered(node);
    }
    let mut last = World::<F>::shows(&watching, "a", &["a-1", "a-2"]).at;
    // Later epochs than the backup knows.
    for weight in 1..=3 {
        world.fixture.kill();
        client
            .wait_session(WAIT, is_lost)
            .expect("the loss is noticed");
        world.fixture.start();
        client
            .wait_session(WAIT, is_connected)
            .expect("it comes back");
        World::<F>::is_registered(&node);
        World::<F>::update_weight(&node, weight);
        let view = watching.wait_view("a", WAIT, |view| {
            let one = view.instances.get("a-1");
            one.is_some_and(|one| one.weight == weight)
        });
        last = view.expect("the update is seen").at;
    }
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    let tokens = nodes.map(|one| one.status().instance.token);
    World::<F>::record(&watching);

    let start = now();
    world.fixture.restore(backup.path());
    let view = watching.wait_view("a", WAIT, |view| {
        let is_new = |id: &str, before| {
            let one = view.instances.get(id);
            one.is_some_and(|one| one.token > before)
        };
        is_new("a-1", tokens[0]) && is_new("a-2", tokens[1])
    });
    let took = since(start);
    let view = view.expect("both are there, under tokens that were never given");
    assert!(view.at > last, "{} is not above {last}", view.at);
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    let shown = World::<F>::never_empty(&watching);
    let is_there = |change: &Change| change.view.instances.contains_key("a-9");
    assert!(
        shown.iter().any(is_there),
        "who had left was not there again"
    );
    let told = client.wait_session(WAIT, |session| session.went_back.is_some());
    let times = told.map(|session| session.went_back_times);
    assert_eq!(times, Some(1), "it is told once");
    took
}
