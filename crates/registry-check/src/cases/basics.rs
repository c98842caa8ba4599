//! Registering, watching, updating, leaving.

use std::time::Duration;

use waystation_membership::{GrantError, Refusal, RegistrationConfig, Update, Watch};
use waystation_registry::{Acks, RegistrationOptions, Registry};

use crate::fixture::Fixture;
use crate::proxy::Mode;
use crate::world::{WAIT, World, now, since};

/// A node that comes is seen by who watched before, and by who watches later.
pub(super) fn seen<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let before = World::<F>::watch(&client, "a");
    World::<F>::shows(&before, "a", &[]);
    let start = now();
    let _one = world.add(&client, World::<F>::instance("a", "a-1"));
    let view = World::<F>::shows(&before, "a", &["a-1"]);
    let took = since(start);
    let one = &view.instances["a-1"];
    assert_eq!(one.address.to_string(), "10.0.0.1:7000");
    let other = world.client();
    let later = World::<F>::watch(&other, "a");
    World::<F>::shows(&later, "a", &["a-1"]);
    let _elsewhere = world.add(&client, World::<F>::instance("b", "b-1"));
    let listed = client.list(Watch::Prefix("".into()), false).expect("room");
    let mut listed = listed.wait().expect("an answer");
    listed.retain(|one| !one.view.instances.is_empty());
    // The second may not have arrived; what is there is filed rightly.
    for one in &listed {
        assert!(
            one.view
                .instances
                .values()
                .all(|i| i.service == one.view.service)
        );
    }
    assert!(
        listed
            .iter()
            .any(|one| one.view.instances.contains_key("a-1"))
    );
    took
}

/// Who is registered may serve, under a token.
pub(super) fn granted<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let start = now();
    let registered = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    assert!(!registered.may_serve(), "nobody has granted it yet");
    let status = World::<F>::is_registered(&registered);
    let took = since(start);
    assert!(registered.may_serve());
    assert!(status.instance.token.0 > 0);
    let watching = World::<F>::watch(&client, "a");
    let view = World::<F>::shows(&watching, "a", &["a-1"]);
    assert_eq!(view.instances["a-1"].token, status.instance.token);
    assert_eq!(view.instances["a-1"].owner, status.instance.owner);
    took
}

/// Who watches a prefix sees each service with it, the later ones too, and no
/// other.
pub(super) fn prefix<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let _old = world.add(&client, World::<F>::instance("im.old", "old-1"));
    let _other = world.add(&client, World::<F>::instance("shop.cart", "cart-1"));
    let watching = World::<F>::watch_with(&client, Watch::Prefix("im.".into()), Acks::Shown);
    World::<F>::shows(&watching, "im.old", &["old-1"]);
    let start = now();
    let _new = world.add(&client, World::<F>::instance("im.new", "new-1"));
    World::<F>::shows(&watching, "im.new", &["new-1"]);
    let took = since(start);
    assert_eq!(watching.view("shop.cart"), None);
    took
}

/// A gate that was started before the first logic node never saw one: its watch
/// of a type that had no parent yet was never set.
pub(super) fn before_first<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let watching = World::<F>::watch(&client, "not.yet.there");
    assert!(watching.wait_complete(WAIT));
    World::<F>::shows(&watching, "not.yet.there", &[]);
    let start = now();
    let _one = world.add(&client, World::<F>::instance("not.yet.there", "n-1"));
    World::<F>::shows(&watching, "not.yet.there", &["n-1"]);
    since(start)
}

/// Weight and metadata change in place, under the same token.
pub(super) fn update<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let registered = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    let token = World::<F>::is_registered(&registered).instance.token;
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    let start = now();
    World::<F>::update(
        &registered,
        Update {
            weight: Some(7),
            ..Update::default()
        },
    );
    World::<F>::update(
        &registered,
        Update {
            metadata: Some([("k".to_owned(), "v".to_owned())].into()),
            ..Update::default()
        },
    );
    let view = watching.wait_view("a", WAIT, |view| {
        let one = &view.instances["a-1"];
        one.weight == 7 && one.metadata.get("k").is_some_and(|v| v == "v")
    });
    let took = since(start);
    let view = view.expect("both are seen");
    assert_eq!(view.instances["a-1"].token, token);
    took
}

/// Every event waited for the next tick of a second. Here each change is waited
/// for before the next is made, and there is no time for a tick each.
pub(super) fn no_tick<F: Fixture>(world: &mut World<F>) -> Duration {
    /// In seconds of ticks this is half as long again as the wait for all.
    const CHANGES: u32 = 60;
    world.fixture.start();
    let client = world.client();
    let registered = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    let start = now();
    for weight in 1..=CHANGES {
        World::<F>::update(
            &registered,
            Update {
                weight: Some(weight),
                ..Update::default()
            },
        );
        let is_seen = |view: &waystation_membership::View| {
            let one = view.instances.get("a-1");
            one.is_some_and(|one| one.weight == weight)
        };
        let left = WAIT.saturating_sub(since(start));
        let view = watching.wait_view("a", left, is_seen);
        assert!(view.is_some(), "change {weight} of {CHANGES} is seen");
    }
    since(start) / CHANGES
}

/// Who leaves in order is gone at once, and is kept by no guard.
pub(super) fn leaves<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let one = world.add(&client, World::<F>::instance("a", "a-1"));
    let _two = world.add(&client, World::<F>::instance("a", "a-2"));
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    let start = now();
    world.remove(one);
    World::<F>::shows(&watching, "a", &["a-2"]);
    since(start)
}

/// A registration that was on its way out took along the entry that the next one
/// of its id had found there, and taken for its own.
pub(super) fn left_and_taken<F: Fixture>(world: &mut World<F>) -> Duration {
    const ROUNDS: u32 = 10;
    world.fixture.start();
    let client = world.client();
    let watching = World::<F>::watch(&client, "a");
    // Nothing is to be lost by a machine that is slow.
    let register = || World::<F>::register_for(&client, World::<F>::instance("a", "a-1"), WAIT);
    let mut registered = register();
    World::<F>::is_registered(&registered);
    let start = now();
    for weight in 1..=ROUNDS {
        // It is busy with that when it is to leave, and others came before its end.
        let update = Update {
            weight: Some(1000),
            ..Update::default()
        };
        World::<F>::update(&registered, update);
        drop(registered);
        registered = register();
        World::<F>::is_registered(&registered);
        // It stands for as long as this takes, under one token.
        World::<F>::update(
            &registered,
            Update {
                weight: Some(weight + 1),
                ..Update::default()
            },
        );
        let is_seen = |view: &waystation_membership::View| {
            let one = view.instances.get("a-1");
            one.is_some_and(|one| one.weight == weight + 1)
        };
        let view = watching.wait_view("a", WAIT, is_seen);
        let view = view.expect("the update is seen");
        let token = registered.status().instance.token;
        assert_eq!(view.instances["a-1"].token, token, "round {weight}");
        assert!(registered.may_serve());
    }
    since(start) / ROUNDS
}

/// An empty registry is one that was heard, with nothing in it.
pub(super) fn empty<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let start = now();
    let watching = World::<F>::watch(&client, "a");
    let view = World::<F>::shows(&watching, "a", &[]);
    assert!(watching.wait_complete(WAIT));
    let all = World::<F>::watch_with(&client, Watch::Prefix("".into()), Acks::Shown);
    assert!(all.wait_complete(WAIT));
    assert!(all.views().iter().all(|one| one.view.instances.is_empty()));
    assert!(watching.is_connected());
    assert_eq!(view.service.as_str(), "a");
    since(start)
}

/// A node that asks for a lease of a tenth of a second gets one that is worth
/// asking for.
///
/// Story: sessions under 2 s lost nodes on cuts that healed.
pub(super) fn short_lease<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let config = RegistrationConfig {
        ttl: Duration::from_millis(100),
        // Who is granted no more than this never serves.
        fence_margin: Duration::from_secs(1),
        ..RegistrationConfig::default()
    };
    let options = RegistrationOptions {
        config,
        ..RegistrationOptions::default()
    };
    let start = now();
    let registered = client.register(World::<F>::instance("a", "a-1"), options);
    World::<F>::is_registered(&registered.expect("it is taken"));
    since(start)
}

/// What is out of rule is refused before it is sent.
pub(super) fn out_of_rule<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let client = world.client();
    let start = now();
    let mut instance = World::<F>::instance("a", "a-1");
    instance.weight = 1_000_000;
    let refused = client.register(instance, RegistrationOptions::default());
    assert!(
        refused
            .expect_err("too heavy")
            .to_string()
            .contains("weight 1000000")
    );
    // So is what would become so.
    let registered = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let heavy = Update {
        weight: Some(1_000_000),
        ..Update::default()
    };
    assert!(registered.update(heavy).is_err());
    let watching = World::<F>::watch(&client, "a");
    let view = World::<F>::shows(&watching, "a", &["a-1"]);
    assert_eq!(view.instances["a-1"].weight, 100);
    since(start)
}

/// Two nodes with one id: the second is told where the first is, goes on asking,
/// and gets the id when the first has left.
pub(super) fn duplicate<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (one, other) = (world.client(), world.client());
    let mut first = World::<F>::owned("a", "a-1", 1, 1);
    first.address = "10.0.0.7:7000".parse().expect("an address");
    let holder = first.address.clone();
    let first = World::<F>::register(&one, first);
    let token = World::<F>::is_registered(&first).instance.token;
    let second = World::<F>::register(&other, World::<F>::owned("a", "a-1", 2, 1));
    let status = World::<F>::stands(&second, "refused", |status| status.refusal.is_some());
    let Some(Refusal::Lease {
        error: GrantError::Held { held },
        holder: told,
    }) = status.refusal
    else {
        panic!("refused for another reason: {:?}", status.refusal)
    };
    assert_eq!(told, Some(holder));
    assert_eq!(held.owner.id.0, 1);
    assert!(!second.may_serve());
    assert!(first.may_serve());
    let start = now();
    drop(first);
    let status = World::<F>::is_registered(&second);
    assert!(
        status.instance.token > token,
        "a new holder has a higher token"
    );
    assert_eq!(status.refusal, None);
    since(start)
}

/// A node's own stale entry was never removed after it registered again. Here it
/// is replaced at once: the lease of the old one is far longer than the wait.
pub(super) fn own_stale_entry<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, gone) = (world.client(), world.proxied_client());
    let long = WAIT * 3;
    let old = World::<F>::register_for(&gone, World::<F>::owned("a", "a-1", 1, 1), long);
    let token = World::<F>::is_registered(&old).instance.token;
    world.network(Mode::Cut);
    let start = now();
    let new = World::<F>::register_for(&client, World::<F>::owned("a", "a-1", 1, 2), long);
    let status = World::<F>::is_registered(&new);
    let took = since(start);
    assert!(status.instance.token > token, "the old start is fenced");
    let watching = World::<F>::watch(&client, "a");
    let view = World::<F>::shows(&watching, "a", &["a-1"]);
    assert_eq!(view.instances["a-1"].owner.incarnation, 2);
    took
}

/// A process that was cut off while its successor started does not take the id
/// back when it returns, however often it asks.
pub(super) fn superseded<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, gone) = (world.client(), world.proxied_client());
    let old = World::<F>::register(&gone, World::<F>::owned("a", "a-1", 1, 1));
    World::<F>::is_registered(&old);
    world.network(Mode::Cut);
    let new = World::<F>::register(&client, World::<F>::owned("a", "a-1", 1, 2));
    let token = World::<F>::is_registered(&new).instance.token;
    let start = now();
    world.network(Mode::Pass);
    World::<F>::stands(&old, "refused twice", |status| status.refusals >= 2);
    let took = since(start);
    assert!(!old.may_serve());
    assert!(new.may_serve());
    assert_eq!(new.status().instance.token, token);
    took
}
