//! Leaving in order.

use std::time::Duration;

use waystation_membership::{DrainStep, State, View, Watch};
use waystation_registry::limits::DRAIN_POLL;
use waystation_registry::{Acks, Client, Registered, Registry};

use crate::fixture::Fixture;
use crate::world::{WAIT, World, now, since};

/// For how long any registry waits for a subscriber that lingers.
const LINGERS_MIN: Duration = Duration::from_secs(1);

fn is_draining(view: &View) -> bool {
    let one = view.instances.get("a-1");
    one.is_some_and(|one| one.state == State::Draining)
}

/// Many looks of a drain at who has acknowledged it: meanwhile others are served,
/// and it stands where it is.
fn stays_waiting<F: Fixture>(client: &Client, registered: &Registered) {
    const UPDATES: u32 = 20;
    let busy = World::<F>::register(client, World::<F>::instance("b", "b-1"));
    let watching = World::<F>::watch(client, "b");
    World::<F>::shows(&watching, "b", &["b-1"]);
    let looked = now() + DRAIN_POLL * 10;
    for weight in 1.. {
        if weight > UPDATES && now() >= looked {
            return;
        }
        World::<F>::update_weight(&busy, weight);
        let is_seen = |view: &View| {
            let one = view.instances.get("b-1");
            one.is_some_and(|one| one.weight == weight)
        };
        let view = watching.wait_view("b", WAIT, is_seen);
        assert!(view.is_some(), "update {weight} is seen");
        assert_eq!(registered.status().drain, Some(DrainStep::Waiting));
    }
}

/// A drain goes on when every subscriber has acknowledged it, not before, and
/// ends when nothing is in flight.
pub(super) fn acknowledged<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (node, caller) = (world.client(), world.client());
    let registered = World::<F>::register(&node, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let service = World::<F>::service("a");
    let watch = Watch::Service(service.clone());
    let quick = World::<F>::watch(&caller, "a");
    let slow = World::<F>::watch_with(&caller, watch.clone(), Acks::ByCaller);
    World::<F>::shows(&quick, "a", &["a-1"]);
    let view = World::<F>::shows(&slow, "a", &["a-1"]);
    slow.acknowledge(&service, view.at);
    registered.drain();
    let seen = |watching: &waystation_registry::Watching| {
        let view = watching.wait_view("a", WAIT, is_draining);
        view.expect("the drain is seen")
    };
    seen(&quick);
    let view = seen(&slow);
    // The registry knows who holds it up.
    let listed = caller
        .list(watch, true)
        .expect("room")
        .wait()
        .expect("an answer");
    let holders = &listed[0].holders;
    let of_slow = holders
        .iter()
        .find(|one| one.subscriber == slow.subscriber());
    let of_slow = of_slow.expect("the subscriber is listed");
    assert_eq!(of_slow.sent, Some(view.at));
    assert!(of_slow.acknowledged < Some(view.at));
    stays_waiting::<F>(&caller, &registered);
    slow.acknowledge(&service, view.at);
    World::<F>::stands(&registered, "acknowledged", |status| {
        status.drain == Some(DrainStep::Acknowledged)
    });
    assert!(
        is_draining(&quick.view("a").expect("it is shown")),
        "requests may be in flight"
    );
    let start = now();
    registered.idle();
    World::<F>::shows(&quick, "a", &[]);
    let took = since(start);
    World::<F>::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    assert!(!registered.may_serve());
    took
}

/// An operator drains a node; its owner learns of it and answers what it has.
pub(super) fn operator<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (node, caller) = (world.client(), world.client());
    let registered = World::<F>::register(&node, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let watching = World::<F>::watch(&caller, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    let unknown = caller
        .drain("a-2".parse().expect("an id"))
        .expect("room")
        .wait();
    let unknown = unknown.expect_err("there is no such instance");
    assert_eq!(unknown.to_string(), "no instance a-2 is registered");
    let start = now();
    let drained = caller
        .drain("a-1".parse().expect("an id"))
        .expect("room")
        .wait();
    assert_eq!(drained.expect("it begins").as_str(), "a");
    World::<F>::stands(&registered, "acknowledged", |status| {
        status.drain == Some(DrainStep::Acknowledged)
    });
    registered.idle();
    World::<F>::shows(&watching, "a", &[]);
    let took = since(start);
    World::<F>::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    took
}

/// With nobody to wait for, a drain goes on at once; and who was drained is not
/// back.
pub(super) fn unwatched<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let registered = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let start = now();
    registered.drain();
    registered.idle();
    World::<F>::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    let took = since(start);
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &[]);
    took
}

/// A subscriber that hangs does not hold a drain for ever: it goes on without
/// its word, and who has not given it is known.
pub(super) fn overdue<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (node, caller) = (world.client(), world.client());
    let registered = World::<F>::register(&node, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let watch = Watch::Service(World::<F>::service("a"));
    let hangs = World::<F>::watch_with(&caller, watch.clone(), Acks::ByCaller);
    World::<F>::shows(&hangs, "a", &["a-1"]);
    let start = now();
    registered.drain();
    let view = hangs.wait_view("a", WAIT, is_draining);
    let at = view.expect("the drain is seen").at;
    stays_waiting::<F>(&caller, &registered);
    World::<F>::stands(&registered, "acknowledged without it", |status| {
        status.drain == Some(DrainStep::Acknowledged)
    });
    let took = since(start);
    let listed = caller.list(watch, true).expect("room").wait();
    let holders = &listed.expect("an answer")[0].holders;
    let of_it = holders
        .iter()
        .find(|one| one.subscriber == hangs.subscriber());
    assert!(of_it.expect("it is listed").acknowledged < Some(at));
    registered.idle();
    World::<F>::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    took
}

/// Story: an agent that ended in good order was waited for no longer, while its
/// callers went on to call the hosts that they had. Where it watches the registry
/// itself it lingers for a while, and not for ever; who else was in its client is
/// gone at once.
pub(super) fn lingering<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (node, agent, other) = (world.client(), world.client(), world.client());
    let registered = World::<F>::register(&node, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let (lingers, gone) = (
        World::<F>::watch(&agent, "a"),
        World::<F>::watch(&agent, "a"),
    );
    World::<F>::shows(&lingers, "a", &["a-1"]);
    World::<F>::shows(&gone, "a", &["a-1"]);
    let gone_id = gone.subscriber();
    lingers.linger();
    drop((lingers, gone));
    let start = now();
    agent.close_and_wait();
    registered.drain();
    World::<F>::stands(&registered, "begun", |status| status.drain.is_some());
    let watch = Watch::Service(World::<F>::service("a"));
    let listed = other.list(watch, true).expect("room").wait();
    let holders = &listed.expect("an answer")[0].holders;
    assert!(
        holders.iter().all(|one| one.subscriber != gone_id),
        "{holders:?}"
    );
    World::<F>::stands(&registered, "acknowledged", |status| {
        status.drain == Some(DrainStep::Acknowledged)
    });
    let took = since(start);
    // The registry of this suite waits for 2 s, others for longer. Whatever is slow
    // adds to that.
    assert!(took >= LINGERS_MIN, "it did not wait: {took:?}");
    registered.idle();
    World::<F>::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    took
}
