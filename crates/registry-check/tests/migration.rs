//! The way from each registry to each other, while everything runs.

use std::path::Path;
use std::time::Duration;

use waystation_base::FencingToken;
use waystation_membership::{DrainStep, InstanceId, State, Update, View, Watch};
use waystation_registry::{Acks, Combined, Registered, RegistrationOptions, Registry, Watching};
use waystation_registry_check::{
    Embedded, Etcd, Fixture, WAIT, World, ZooKeeper, etcd_program, has_zookeeper,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waystation-registry-check");

fn started<F: Fixture>() -> World<F> {
    let mut world = World::<F>::new(Path::new(PROGRAM), true);
    world.fixture.start();
    world
}

fn combined<F: Fixture>(world: &World<F>) -> Combined {
    Combined::open(&[world.fixture.url()]).expect("it starts")
}

fn register<F: Fixture>(registry: &Combined, id: &str) -> Registered {
    let instance = World::<F>::instance("a", id);
    let options = RegistrationOptions::default();
    let registered = registry.register(instance, options).expect("it is taken");
    World::<F>::is_registered(&registered);
    registered
}

fn watch<F: Fixture>(registry: &Combined, acks: Acks) -> Watching {
    let options = waystation_registry::WatchOptions {
        acks,
        ..waystation_registry::WatchOptions::default()
    };
    let watch = Watch::Service(World::<F>::service("a"));
    registry.watch(watch, options).expect("it is taken")
}

fn weight(weight: u32) -> Update {
    let weight = Some(weight);
    Update {
        weight,
        ..Update::default()
    }
}

/// Every view that a watch has shown since it was recorded first has both nodes,
/// once, under tokens that only rise.
fn has_both(watching: &Watching) {
    let mut tokens = [FencingToken(0); 2];
    for change in World::<Embedded>::never_empty(watching) {
        let instances = &change.view.instances;
        let ids: Vec<&str> = instances.keys().map(InstanceId::as_str).collect();
        assert_eq!(ids, ["a-1", "a-2"], "a gap");
        assert_eq!(change.kept, [], "a doubt");
        for (last, one) in tokens.iter_mut().zip(instances.values()) {
            assert!(one.token >= *last, "{} went back", one.id);
            *last = one.token;
        }
    }
}

/// Two nodes and a caller move from one registry to the other, each at its own
/// time, while both nodes serve; then the first registry dies. The caller never
/// sees a node go, and what happens behind that reaches it.
fn moves<A: Fixture, B: Fixture>() {
    let (mut from, to) = (started::<A>(), started::<B>());
    let [one, two, caller] = [(); 3].map(|()| combined(&from));
    let nodes = [register::<A>(&one, "a-1"), register::<A>(&two, "a-2")];
    let watching = watch::<A>(&caller, Acks::Shown);
    World::<A>::shows(&watching, "a", &["a-1", "a-2"]);
    World::<A>::record(&watching);

    // Everybody adds the second registry; one node is late.
    caller.add(&to.fixture.url()).expect("it is added");
    one.add(&to.fixture.url()).expect("it is added");
    assert!(one.wait_settled(WAIT), "{:?}", nodes[0].status());
    has_both(&watching);
    let only = |wanted: &dyn Fn(&[InstanceId]) -> bool| {
        // Its view of the second registry may be a moment behind.
        for _ in 0..WAIT.as_millis() / 10 {
            if wanted(&caller.only_in(&from.fixture.url())) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        false
    };
    let is_late = |only: &[InstanceId]| only.len() == 1 && only[0].as_str() == "a-2";
    assert!(only(&is_late), "who is late is named");
    two.add(&to.fixture.url()).expect("it is added");
    assert!(two.wait_settled(WAIT), "{:?}", nodes[1].status());
    assert!(caller.wait_settled(WAIT));
    assert!(only(&|only| only.is_empty()), "all have come over");
    has_both(&watching);

    // Everybody leaves the first, nodes before their caller too.
    one.remove(&from.fixture.url()).expect("it is removed");
    caller.remove(&from.fixture.url()).expect("it is removed");
    two.remove(&from.fixture.url()).expect("it is removed");
    for node in &nodes {
        assert!(node.may_serve(), "{:?}", node.status());
    }
    has_both(&watching);
    from.fixture.kill();
    nodes[0].update(weight(7)).expect("it is within the rules");
    let view = watching.wait_view("a", WAIT, |view| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.weight == 7)
    });
    let view = view.expect("the change is seen");
    has_both(&watching);
    let [first, _] = [0, 1].map(|at: usize| nodes[at].status().instance.token);
    assert_eq!(view.instances["a-1"].token, first, "what it knows is seen");
    let fresh = to.client();
    let fresh = World::<B>::watch(&fresh, "a");
    World::<B>::shows(&fresh, "a", &["a-1", "a-2"]);
    let late = to.client();
    let watching = World::<B>::watch(&late, "a");
    World::<B>::shows(&watching, "a", &["a-1", "a-2"]);
    // The token that a node had before is above all that the new registry had given
    // out: operators were told, at each such move, that it had gone back.
    for client in [&one, &two, &caller] {
        assert_eq!(client.session().went_back, None);
    }
    assert_eq!(late.session().went_back, None);
}

/// A node that began with both registries, as from the command line, had a token of each,
/// and with the first one gone callers saw it under a lower one than before.
fn begins_with_both<B: Fixture>() {
    let (from, to) = (started::<Embedded>(), started::<B>());
    // The first has been in use for longer.
    let before = from.client();
    let mut old = World::<Embedded>::instance("b", "b-1");
    old.token = FencingToken(9 << 40);
    let old = before
        .register(old, RegistrationOptions::default())
        .expect("it is within the rules");
    World::<Embedded>::is_registered(&old);
    let both = || {
        let registry = combined(&from);
        registry.add(&to.fixture.url()).expect("it is added");
        registry
    };
    let (one, caller) = (both(), both());
    let watching = watch::<Embedded>(&caller, Acks::Shown);
    let node = register::<Embedded>(&one, "a-1");
    World::<Embedded>::shows(&watching, "a", &["a-1"]);
    World::<Embedded>::record(&watching);
    assert!(one.wait_settled(WAIT), "{:?}", node.status());
    let late = to.client();
    let late = World::<B>::watch(&late, "a");
    let is_above = |view: &View| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.token > FencingToken(9 << 40))
    };
    late.wait_view("a", WAIT, is_above).expect("it is lifted");
    one.remove(&from.fixture.url()).expect("it is removed");
    caller.remove(&from.fixture.url()).expect("it is removed");
    let token = node.status().instance.token;
    let is_last = |view: &View| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.token == token)
    };
    watching.wait_view("a", WAIT, is_last).expect("it is known");
    assert!(node.may_serve(), "{:?}", node.status());
    assert_eq!(one.session().went_back, None);
    let mut last = FencingToken(0);
    for change in World::<Embedded>::never_without(&watching, &["a-1"]) {
        let one = &change.view.instances["a-1"];
        assert!(one.token >= last, "its token fell");
        last = one.token;
    }
}

#[test]
fn a_node_that_begins_with_two_registries() {
    begins_with_both::<Embedded>();
}

#[test]
fn needs_etcd_a_node_that_begins_with_two_registries() {
    if etcd_program().is_some() {
        begins_with_both::<Etcd>();
    }
}

#[test]
fn needs_zookeeper_a_node_that_begins_with_two_registries() {
    if has_zookeeper() {
        begins_with_both::<ZooKeeper>();
    }
}

#[test]
fn a_registry_like_the_one_before() {
    moves::<Embedded, Embedded>();
}

#[test]
fn needs_etcd_from_the_embedded_one_to_etcd() {
    if etcd_program().is_some() {
        moves::<Embedded, Etcd>();
    }
}

#[test]
fn needs_etcd_from_etcd_to_the_embedded_one() {
    if etcd_program().is_some() {
        moves::<Etcd, Embedded>();
    }
}

#[test]
fn needs_zookeeper_from_the_embedded_one_to_zookeeper() {
    if has_zookeeper() {
        moves::<Embedded, ZooKeeper>();
    }
}

#[test]
fn needs_zookeeper_from_zookeeper_to_the_embedded_one() {
    if has_zookeeper() {
        moves::<ZooKeeper, Embedded>();
    }
}

#[test]
fn needs_zookeeper_from_zookeeper_to_etcd() {
    if has_zookeeper() && etcd_program().is_some() {
        moves::<ZooKeeper, Etcd>();
    }
}

#[test]
fn needs_zookeeper_from_etcd_to_zookeeper() {
    if has_zookeeper() && etcd_program().is_some() {
        moves::<Etcd, ZooKeeper>();
    }
}

/// A drain on the way waits for the callers of both registries, those who only
/// acknowledge when they are told to included.
#[test]
fn a_drain_on_the_way_waits_for_both_sides() {
    let (from, to) = (started::<Embedded>(), started::<Embedded>());
    let (node, caller) = (combined(&from), combined(&from));
    for one in [&node, &caller] {
        one.add(&to.fixture.url()).expect("it is added");
    }
    let registered = register::<Embedded>(&node, "a-1");
    let slow = watch::<Embedded>(&caller, Acks::ByCaller);
    let is_draining = |view: &View| {
        let one = view.instances.get("a-1");
        one.is_some_and(|one| one.state == State::Draining)
    };
    World::<Embedded>::shows(&slow, "a", &["a-1"]);
    assert!(node.wait_settled(WAIT) && caller.wait_settled(WAIT));
    registered.drain();
    let view = slow.wait_view("a", WAIT, is_draining).expect("it is seen");
    assert_eq!(registered.status().drain, Some(DrainStep::Waiting));
    let service = World::<Embedded>::service("a");
    slow.acknowledge(&service, view.at);
    World::<Embedded>::stands(&registered, "acknowledged", |status| {
        status.drain == Some(DrainStep::Acknowledged)
    });
    registered.idle();
    World::<Embedded>::stands(&registered, "out", |status| {
        status.drain == Some(DrainStep::Ended)
    });
    World::<Embedded>::shows(&slow, "a", &[]);
}

/// Two nodes with one id, one in each registry: whoever moves finds the other
/// there and does not serve, and callers see one of them.
#[test]
fn an_id_that_another_has_in_the_second_registry_is_not_served() {
    let (from, to) = (started::<Embedded>(), started::<Embedded>());
    let (one, caller) = (combined(&from), combined(&from));
    let registered = register::<Embedded>(&one, "a-1");
    let other = to.client();
    let holder = World::<Embedded>::register(&other, World::<Embedded>::owned("a", "a-1", 99, 1));
    World::<Embedded>::is_registered(&holder);
    let watching = watch::<Embedded>(&caller, Acks::Shown);
    World::<Embedded>::shows(&watching, "a", &["a-1"]);
    caller.add(&to.fixture.url()).expect("it is added");
    one.add(&to.fixture.url()).expect("it is added");
    World::<Embedded>::stands(&registered, "refused", |status| status.refusal.is_some());
    assert!(!registered.may_serve());
    assert!(holder.may_serve());
    assert!(one.add(&to.fixture.url()).is_err(), "it stands there twice");
    one.remove(&to.fixture.url()).expect("it is removed");
    World::<Embedded>::stands(&registered, "serving again", |status| status.is_registered);
    assert!(one.remove(&from.fixture.url()).is_err(), "the last one");
}
