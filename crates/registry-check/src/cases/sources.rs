//! Registries that are absent, restarted, emptied, damaged.

use std::time::Duration;

use waystation_membership::{Instance, Update, Watch};
use waystation_registry::{Acks, Session, SessionState};

use crate::fixture::{Ability, Fixture};
use crate::world::{WAIT, World, now, since};

fn is_lost(session: &Session) -> bool {
    session.state == SessionState::Connecting && session.fault.is_some()
}

fn is_connected(session: &Session) -> bool {
    session.state == SessionState::Connected
}

/// Nodes and callers start before the registry, and wait for it.
pub(super) fn absent<F: Fixture>(world: &mut World<F>) -> Duration {
    let client = world.client();
    let watching = World::<F>::watch(&client, "a");
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    assert_eq!(watching.view("a"), None, "nothing is known");
    assert!(!watching.is_complete());
    let start = now();
    world.fixture.start();
    World::<F>::shows(&watching, "a", &["a-1"]);
    since(start)
}

/// The registry is killed and away for longer than the lease. Nobody's view is
/// emptied, nodes fence themselves meanwhile, and when it is back they are all
/// there again.
pub(super) fn long_restart<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let nodes: Vec<_> = ["a-1", "a-2", "a-3"]
        .map(|id| World::<F>::register(&client, World::<F>::instance("a", id)))
        .into();
    for node in &nodes {
        World::<F>::is_registered(node);
    }
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2", "a-3"]);
    watching.wait_changes(Duration::ZERO);
    world.fixture.kill();
    for node in &nodes {
        World::<F>::is_fenced(node);
    }
    let start = now();
    world.fixture.start();
    for node in &nodes {
        World::<F>::is_registered(node);
    }
    let took = since(start);
    // What is seen of the restart, up to a change behind it, has all of them.
    World::<F>::update(
        &nodes[0],
        Update {
            weight: Some(3),
            ..Update::default()
        },
    );
    loop {
        let changes = watching.wait_changes(WAIT);
        let view = &changes.last().expect("the update is seen").view;
        assert_eq!(
            view.instances.len(),
            3,
            "a restart dropped a node that lives"
        );
        if view.instances["a-1"].weight == 3 {
            return took;
        }
    }
}

/// The registry is gone for good: what was seen stays.
pub(super) fn lost<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, other) = (world.client(), world.client());
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    let watching = World::<F>::watch(&other, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    watching.wait_changes(Duration::ZERO);
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
    let view = watching.view("a").expect("it stays");
    assert!(view.instances.contains_key("a-1"));
    // And a question gets an answer: that there is none.
    let asked = waystation_registry::Registry::list(&other, Watch::Prefix("".into()), false);
    assert!(asked.expect("room").wait().is_err());
    took
}

/// The registry's data is deleted under living nodes: they register again.
pub(super) fn wiped<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let nodes: Vec<_> = ["a-1", "a-2", "a-3", "a-4"]
        .map(|id| World::<F>::register(&client, World::<F>::instance("a", id)))
        .into();
    for node in &nodes {
        World::<F>::is_registered(node);
    }
    let all = ["a-1", "a-2", "a-3", "a-4"];
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &all);
    let start = now();
    world.fixture.wipe();
    let other = world.client();
    let fresh = World::<F>::watch(&other, "a");
    World::<F>::shows(&fresh, "a", &all);
    let took = since(start);
    World::<F>::shows(&watching, "a", &all);
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
    watching.wait_changes(Duration::ZERO);
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
    let mut was_doubted = false;
    loop {
        let changes = watching.wait_changes(WAIT);
        let last = changes.last().expect("the guard clears by itself");
        if last.view.instances.is_empty() {
            break;
        }
        was_doubted |= !last.kept.is_empty();
    }
    assert!(was_doubted, "an empty registry is not believed at once");
    since(start)
}

/// What is not ours or malformed is skipped and named; what is good counts.
pub(super) fn foreign<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    let watching = World::<F>::watch_with(&client, Watch::Prefix("".into()), Acks::Shown);
    World::<F>::shows(&watching, "a", &["a-1"]);
    let start = now();
    let is_seen = world.fixture.add_foreign();
    if is_seen {
        let session = client.wait_session(WAIT, |session| session.skipped >= 2);
        let session = session.expect("both are counted");
        assert!(
            session
                .skipped_places
                .iter()
                .all(|(place, reason)| { !place.is_empty() && !reason.is_empty() })
        );
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

/// The registry is restored from an old backup, in which versions and tokens
/// have not been given yet that peers hold. Everything goes on above them.
pub(super) fn backup<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let node = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    let before = World::<F>::is_registered(&node).instance.token;
    let watching = World::<F>::watch(&client, "a");
    let mut last = World::<F>::shows(&watching, "a", &["a-1"]).at;
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
        World::<F>::update(
            &node,
            Update {
                weight: Some(weight),
                ..Update::default()
            },
        );
        let view = watching.wait_view("a", WAIT, |view| {
            view.instances
                .get("a-1")
                .is_some_and(|one| one.weight == weight)
        });
        last = view.expect("the update is seen").at;
    }
    let start = now();
    world.fixture.restore_backup();
    let _other = World::<F>::register(&client, World::<F>::instance("a", "a-2"));
    let view = watching.wait_view("a", WAIT, |view| {
        let is_new = |id| {
            let one = view.instances.get(id);
            one.is_some_and(|one: &std::sync::Arc<Instance>| one.token > before)
        };
        is_new("a-1") && is_new("a-2")
    });
    let took = since(start);
    let view = view.expect("both are there, under tokens that were never given");
    assert!(view.at > last, "{} is not above {last}", view.at);
    took
}
