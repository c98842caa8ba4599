//! Two registries at once.

use std::time::Duration;

use waystation_membership::{Update, View, Watch};
use waystation_registry::{Combined, RegistrationOptions, Registry, WatchOptions};

use crate::fixture::Fixture;
use crate::world::{WAIT, World, now, since};

/// A node that is in both, or in either, is seen once. When one of them ends for
/// good nobody goes, and what happens next is seen by the other.
///
/// Story: the one that had ended had given the later token, and what it had last
/// said hid all that the other said.
pub(super) fn ends<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let other = world.beside();
    let urls = [world.fixture.url(), other.fixture.url()];
    let caller = Combined::open(&urls).expect("they start");
    let watch = Watch::Service(World::<F>::service("a"));
    let watching = caller.watch(watch, WatchOptions::default());
    let watching = watching.expect("it is taken");
    let others = [world.client(), other.client()];
    let ids = ["a-2", "a-3"];
    let _alone: Vec<_> = (others.iter().zip(ids))
        .map(|(client, id)| World::<F>::register(client, World::<F>::instance("a", id)))
        .collect();
    World::<F>::shows(&watching, "a", &ids);
    let node = Combined::open(&urls[1..]).expect("it starts");
    let options = RegistrationOptions::default();
    let both = node.register(World::<F>::instance("a", "a-1"), options);
    let both = both.expect("it is taken");
    World::<F>::shows(&watching, "a", &["a-1", "a-2", "a-3"]);
    let start = now();
    node.add(&urls[0]).expect("it is added");
    assert!(node.wait_settled(WAIT), "{:?}", both.status());
    let took = since(start);
    for client in &others {
        let there = World::<F>::watch(client, "a");
        let view = there.wait_view("a", WAIT, |view| view.instances.contains_key("a-1"));
        assert!(view.is_some(), "it is in both");
    }
    let token = both.status().instance.token;
    let is_seen = |view: &View| {
        view.instances
            .get("a-1")
            .is_some_and(|one| one.token == token)
    };
    let is_seen = watching.wait_view("a", WAIT, is_seen);
    assert!(is_seen.is_some(), "it is seen by its later token");
    World::<F>::record(&watching);

    world.fixture.kill();
    let update = Update {
        weight: Some(7),
        ..Update::default()
    };
    World::<F>::update(&both, update);
    let is_seen = |view: &View| view.instances.get("a-1").is_some_and(|one| one.weight == 7);
    let is_seen = watching.wait_view("a", WAIT, is_seen);
    assert!(is_seen.is_some(), "the other one shows it");
    assert!(both.may_serve(), "{:?}", both.status());
    for change in World::<F>::never_without(&watching, &["a-1", "a-3"]) {
        let instances = &change.view.instances;
        assert!(instances["a-1"].token >= token, "{change:?}");
    }
    took
}
