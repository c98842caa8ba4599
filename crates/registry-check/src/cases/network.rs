//! Networks that fail between the registry and who uses it.

use std::time::Duration;

use waystation_membership::{Update, View, Watch};
use waystation_registry::limits::CALL_WAIT;
use waystation_registry::{Registry, Session, SessionState};

use crate::fixture::Fixture;
use crate::proxy::Mode;
use crate::world::{WAIT, World, now, since};

/// In a black hole the peers dropped a node seconds before it knew itself. Here
/// it has fenced itself when the first of them sees it gone.
pub(super) fn black_hole<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, lost) = (world.client(), world.proxied_client());
    let registered = World::<F>::register(&lost, World::<F>::instance("a", "a-1"));
    let _stays = World::<F>::register(&client, World::<F>::instance("a", "a-2"));
    let token = World::<F>::is_registered(&registered).instance.token;
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    world.network(Mode::BlackHole);
    let start = now();
    World::<F>::shows(&watching, "a", &["a-2"]);
    let took = since(start);
    assert!(!registered.may_serve(), "evicted before it was fenced");
    world.network(Mode::Pass);
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    let status = World::<F>::is_registered(&registered);
    assert!(
        status.instance.token > token,
        "what it wrote before is told from now"
    );
    took
}

/// A cut that heals within the lease is seen by nobody.
pub(super) fn short_cut<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, cut) = (world.client(), world.proxied_client());
    // Long enough for a slow machine; the cut itself is as short as can be.
    let lease = WAIT;
    let registered = World::<F>::register_for(&cut, World::<F>::instance("a", "a-1"), lease);
    let token = World::<F>::is_registered(&registered).instance.token;
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    World::<F>::record(&watching);
    let start = now();
    world.network(Mode::Cut);
    let is_lost = |session: &Session| session.fault.is_some();
    cut.wait_session(WAIT, is_lost).expect("the cut is noticed");
    world.network(Mode::Pass);
    let is_back = |session: &Session| session.state == SessionState::Connected;
    cut.wait_session(WAIT, is_back).expect("it comes back");
    let took = since(start);
    assert!(registered.may_serve(), "it never stopped");
    // A change behind the cut shows that it still holds the same lease.
    World::<F>::update(
        &registered,
        Update {
            weight: Some(3),
            ..Update::default()
        },
    );
    let is_seen = |view: &View| view.instances.get("a-1").is_some_and(|one| one.weight == 3);
    let view = watching.wait_view("a", WAIT, is_seen);
    assert!(view.is_some(), "the update is seen");
    for change in World::<F>::never_without(&watching, &["a-1"]) {
        assert_eq!(change.view.instances["a-1"].token, token);
    }
    took
}

/// A node's handle was dropped while the registry was away, and the word of it with
/// it. Another node of the same client kept the lease that both share, and the one
/// that had left was listed as serving for as long as the client lived.
pub(super) fn left_while_away<F: Fixture>(world: &mut World<F>) -> Duration {
    // Beyond the longest call in flight, with time for what is left of the lease.
    let (lease, away) = (CALL_WAIT * 4, CALL_WAIT + CALL_WAIT / 4);
    world.fixture.start();
    let (client, cut) = (world.client(), world.proxied_client());
    let leaves = World::<F>::register_for(&cut, World::<F>::instance("a", "a-1"), lease);
    let stays = World::<F>::register_for(&cut, World::<F>::instance("a", "a-2"), lease);
    World::<F>::is_registered(&leaves);
    let token = World::<F>::is_registered(&stays).instance.token;
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    World::<F>::record(&watching);
    world.network(Mode::Cut);
    let is_lost = |session: &Session| session.fault.is_some();
    cut.wait_session(WAIT, is_lost).expect("the cut is noticed");
    let start = now();
    drop(leaves);
    World::<F>::wait_until(start + away);
    world.network(Mode::Pass);
    let is_gone = |view: &View| !view.instances.contains_key("a-1");
    let patience = lease + Duration::from_secs(1);
    let view = watching.wait_view("a", patience, is_gone);
    assert!(view.is_some(), "who has left is gone");
    let took = since(start);
    for change in World::<F>::never_without(&watching, &["a-2"]) {
        assert_eq!(change.view.instances["a-2"].token, token);
    }
    took
}

/// A cut beyond the lease costs the registration, which comes back by itself.
pub(super) fn long_cut<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, cut) = (world.client(), world.proxied_client());
    let registered = World::<F>::register(&cut, World::<F>::instance("a", "a-1"));
    let _stays = World::<F>::register(&client, World::<F>::instance("a", "a-2"));
    let token = World::<F>::is_registered(&registered).instance.token;
    let watching = World::<F>::watch(&client, "a");
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    world.network(Mode::Cut);
    World::<F>::shows(&watching, "a", &["a-2"]);
    assert!(!registered.may_serve());
    let start = now();
    world.network(Mode::Pass);
    World::<F>::shows(&watching, "a", &["a-1", "a-2"]);
    let took = since(start);
    assert!(World::<F>::is_registered(&registered).instance.token > token);
    took
}

/// A subscriber that missed changes is brought to the present state, and holds
/// the same version as one that missed none. A restarted worker never got the
/// list again, since its own version was sent back to it.
pub(super) fn gap<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    let (client, cut) = (world.client(), world.proxied_client());
    let _old = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    let there = World::<F>::watch(&client, "a");
    let missing = World::<F>::watch(&cut, "a");
    World::<F>::shows(&missing, "a", &["a-1"]);
    world.network(Mode::Cut);
    let is_lost = |session: &Session| session.fault.is_some();
    cut.wait_session(WAIT, is_lost).expect("the cut is noticed");
    let _new = World::<F>::register(&client, World::<F>::instance("a", "a-2"));
    for id in ["a-3", "a-4"] {
        let short = World::<F>::register(&client, World::<F>::instance("a", id));
        World::<F>::shows(&there, "a", &["a-1", "a-2", id]);
        drop(short);
        World::<F>::shows(&there, "a", &["a-1", "a-2"]);
    }
    let view = missing.view("a").expect("it is shown");
    assert_eq!(view.instances.len(), 1, "it has missed all of that");
    let start = now();
    world.network(Mode::Pass);
    let caught_up = World::<F>::shows(&missing, "a", &["a-1", "a-2"]);
    let took = since(start);
    assert_eq!(Some(caught_up), there.view("a"));
    took
}

/// A read that failed was logged, and its watch never set again. Here the network
/// is cut behind each change, wherever the word of it or the read behind that
/// has got to, and each is seen all the same.
pub(super) fn lost_reads<F: Fixture>(world: &mut World<F>) -> Duration {
    const CUTS: u32 = 8;
    world.fixture.start();
    let (client, cut) = (world.client(), world.proxied_client());
    // The node is not what is cut off.
    let registered = World::<F>::register(&client, World::<F>::instance("a", "a-1"));
    World::<F>::is_registered(&registered);
    let there = World::<F>::watch(&client, "a");
    let watching = World::<F>::watch(&cut, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    let is_lost = |session: &Session| session.fault.is_some();
    let start = now();
    for weight in 1..=CUTS {
        World::<F>::update(
            &registered,
            Update {
                weight: Some(weight),
                ..Update::default()
            },
        );
        let is_seen = |view: &View| {
            let one = view.instances.get("a-1");
            one.is_some_and(|one| one.weight == weight)
        };
        if weight % 2 == 0 {
            // The word of it is on its way to the other, or there already.
            let view = there.wait_view("a", WAIT, is_seen);
            assert!(view.is_some(), "change {weight} of {CUTS} is made");
        }
        world.network(Mode::Cut);
        cut.wait_session(WAIT, is_lost).expect("the cut is noticed");
        world.network(Mode::Pass);
        let view = watching.wait_view("a", WAIT, is_seen);
        assert!(view.is_some(), "change {weight} of {CUTS} is seen");
    }
    since(start) / CUTS
}

/// A registry that answers late is a registry: nobody is fenced, and changes
/// arrive. Renewals waited for updates to be answered, and came too late.
pub(super) fn slow<F: Fixture>(world: &mut World<F>) -> Duration {
    const UPDATES: u32 = 24;
    world.fixture.start();
    let lease = Duration::from_secs(4);
    world.network(Mode::Slow(Duration::from_millis(100)));
    let slow = world.proxied_client();
    let registered = World::<F>::register_for(&slow, World::<F>::instance("a", "a-1"), lease);
    let token = World::<F>::is_registered(&registered).instance.token;
    let watching = World::<F>::watch(&slow, "a");
    World::<F>::shows(&watching, "a", &["a-1"]);
    let start = now();
    // Together these take longer than the lease.
    for weight in 1..=UPDATES {
        World::<F>::update(
            &registered,
            Update {
                weight: Some(weight),
                ..Update::default()
            },
        );
        let view = watching.wait_view("a", WAIT, |view| view.instances["a-1"].weight == weight);
        assert!(view.is_some(), "update {weight} is seen");
        assert!(registered.may_serve());
    }
    assert_eq!(registered.status().instance.token, token);
    since(start) / UPDATES
}

/// A registry that answers nonsense, before anything was heard of it and after,
/// is one that is not there: it is named, nobody's view changes, and when it
/// makes sense again all goes on.
pub(super) fn nonsense<F: Fixture>(world: &mut World<F>) -> Duration {
    world.fixture.start();
    world.network(Mode::Nonsense);
    let odd = world.proxied_client();
    let registered = World::<F>::register(&odd, World::<F>::instance("a", "a-1"));
    let watching = World::<F>::watch(&odd, "a");
    let is_lost =
        |session: &Session| session.state == SessionState::Connecting && session.fault.is_some();
    let session = odd.wait_session(WAIT, is_lost).expect("it is noticed");
    assert!(session.fault.is_some_and(|fault| !fault.is_empty()));
    assert!(!registered.may_serve());
    assert_eq!(watching.view("a"), None, "nothing is known");
    let asked = Registry::list(&odd, Watch::Prefix("".into()), false);
    assert!(asked.expect("room").wait().is_err());
    let start = now();
    world.network(Mode::Pass);
    World::<F>::is_registered(&registered);
    World::<F>::shows(&watching, "a", &["a-1"]);
    let took = since(start);
    world.network(Mode::Nonsense);
    odd.wait_session(WAIT, is_lost)
        .expect("it is noticed again");
    let view = watching.view("a").expect("it stays");
    assert!(view.instances.contains_key("a-1"));
    world.network(Mode::Pass);
    World::<F>::update(
        &registered,
        Update {
            weight: Some(3),
            ..Update::default()
        },
    );
    let is_seen = |view: &View| view.instances.get("a-1").is_some_and(|one| one.weight == 3);
    assert!(
        watching.wait_view("a", WAIT, is_seen).is_some(),
        "it goes on"
    );
    took
}
