//! Which Logic, and which of its shards, handles a conversation.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::chat::{look_until, post};
use common::load::{clean_report, load_of, size};
use common::role::{ids, samples};
use common::world::World;

/// A Logic and one of its shards, as `logic-1` and `{shard="0"}`.
type Place = (String, String);

/// Two shards in each Logic and Entry.
const LINES: &str = "[logic]\nshards = 2\n[entry]\nshards = 2\n";

/// Three Logics, and what belongs to them.
fn three_logics() -> World {
    let roles = ["das-1", "logic-1", "logic-2", "logic-3", "entry-1"];
    let world = World::start(LINES, &roles);
    world.until_uses("entry-1", "im.logic", 3);
    world
}

/// Messages that each shard of each Logic has handled.
fn handled(world: &World) -> BTreeMap<Place, f64> {
    let mut handled = BTreeMap::new();
    for (name, logic) in world.roles("logic") {
        let of_shards = samples(logic.socket(), "waystation_im_sends_total");
        assert_eq!(of_shards.len(), 2, "{name} has two shards");
        for (shard, count) in of_shards {
            handled.insert((name.clone(), shard), count);
        }
    }
    handled
}

/// Who handles these messages of a conversation: each shard that did, and how
/// many.
fn handlers_of(world: &World, number: usize, bodies: &[&str]) -> BTreeMap<Place, f64> {
    let before = handled(world);
    for body in bodies {
        post(world.entry(), &format!("u{number}"), "zoe", body);
    }
    let mut handled = handled(world);
    for (place, count) in &mut handled {
        *count -= before.get(place).copied().unwrap_or_default();
    }
    handled.retain(|_, count| *count > 0.5);
    handled
}

/// Where each of a hundred conversations is handled now.
fn homes(world: &World, body: &str) -> Vec<Place> {
    let home = |number| {
        let handled = handlers_of(world, number, &[body]);
        assert_eq!(handled.len(), 1, "u{number}: {handled:?}");
        handled.into_keys().next().unwrap()
    };
    (0..100).map(home).collect()
}

/// Story: a conversation belonged to a Logic, and within it to whichever thread
/// its request came by: two of them ordered and told its messages past each
/// other.
#[test]
fn a_conversation_belongs_to_one_shard_of_one_logic() {
    let world = three_logics();
    let bodies = [
        "one", "two", "three", "four", "five", "six", "seven", "eight",
    ];
    let mut places = BTreeSet::new();
    for number in 0..40 {
        let handled = handlers_of(&world, number, &bodies);
        let counts: Vec<f64> = handled.values().copied().collect();
        assert_eq!(counts, [8.0], "u{number}: {handled:?}");
        places.extend(handled.into_keys());
    }
    assert_eq!(
        places.len(),
        6,
        "all shards of all Logics have some: {places:?}"
    );
    let handed_over: f64 = (world.roles("logic"))
        .map(|(_, logic)| logic.metric("waystation_im_handed_over_total"))
        .sum();
    assert!(handed_over > 0.0, "none came by another shard");
    // In order, without gaps, to everybody.
    clean_report(load_of(world.entry(), &size(), "5"));
}

/// Story: ids were spread by the number of nodes, so that all of them moved when
/// one node came or went.
#[test]
fn of_a_hundred_conversations_only_those_of_a_killed_logic_move() {
    let mut world = three_logics();
    let before = homes(&world, "before");
    let is_of = |logic: &str, place: &Place| place.0 == logic;
    for logic in ["logic-1", "logic-2", "logic-3"] {
        let own = before.iter().filter(|place| is_of(logic, place)).count();
        assert!(own > 10, "{logic} has {own} of 100");
    }

    world.kill("logic-2");
    look_until("the registry notices", || {
        !ids(world.registry()).contains(&"logic-2".to_owned())
    });
    world.until_uses("entry-1", "im.logic", 2);
    let without = homes(&world, "without");
    for (number, (old, new)) in before.iter().zip(&without).enumerate() {
        let may_move = is_of("logic-2", old);
        assert!(old == new || may_move, "u{number}: {old:?} to {new:?}");
    }

    world.add("logic-4");
    world.until_uses("entry-1", "im.logic", 3);
    let after = homes(&world, "after");
    for (number, (old, new)) in without.iter().zip(&after).enumerate() {
        let may_move = is_of("logic-4", new);
        assert!(old == new || may_move, "u{number}: {old:?} to {new:?}");
    }
    let taken = after.iter().filter(|place| is_of("logic-4", place)).count();
    assert!(taken > 10, "logic-4 took {taken} of 100");
}
