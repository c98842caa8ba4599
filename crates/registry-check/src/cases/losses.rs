//! Nodes that die.

use std::time::Duration;

use crate::fixture::Fixture;
use crate::proxy::Mode;
use crate::world::{World, now, since};

/// A node that is killed is gone once its lease is over; the others stay.
pub(super) fn killed<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let _stays: Vec<_> = ["a-2", "a-3"]
        .map(|id| World::<F>::register(&client, World::<F>::instance("a", id)))
        .into();
    let node = world.node_process("a", "a-1");
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2", "a-3"]);
    let start = now();
    node.kill();
    World::<F>::shows(&watching, "a", &["a-2", "a-3"]);
    since(start)
}

/// Five nodes of six are lost at once: callers keep them for a while, marked,
/// and let go of them when the registry insists. They are never left with less
/// than there is.
pub(super) fn mass_expiry<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, lost) = (world.client(), world.proxied_client());
    let ids = ["a-1", "a-2", "a-3", "a-4", "a-5"];
    let _lost: Vec<_> = ids
        .map(|id| World::<F>::register(&lost, World::<F>::instance("a", id)))
        .into();
    let _stays = World::<F>::register(&client, World::<F>::instance("a", "a-6"));
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2", "a-3", "a-4", "a-5", "a-6"]);
    World::<F>::record(&watching);
    world.network(Mode::BlackHole);
    let start = now();
    World::<F>::shows(&watching, "a", &["a-6"]);
    let took = since(start);
    let shown = World::<F>::never_without(&watching, &["a-6"]);
    let was_doubted = shown.iter().any(|change| change.kept.len() >= 3);
    assert!(was_doubted, "a mass loss is not believed at once");
    took
}
