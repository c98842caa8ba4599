//! Which node and shard keys belong to, whatever nodes there are.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{hash64, rendezvous, shard_of};

/// Keys looked at in each case.
const KEYS: u32 = 100;

/// Where keys belong: a node's name and its shard.
type Homes = BTreeMap<u32, (String, u16)>;

fn homes(nodes: &[String], shards: u16) -> Homes {
    let home = |number: u32| {
        let key = hash64(format!("d:user-{number}:user-{}", number + 1).as_bytes());
        let hashed = nodes.iter().map(|name| (name, hash64(name.as_bytes())));
        let node = rendezvous(key, hashed).expect("there is a node");
        (number, (node.clone(), shard_of(key, shards)))
    };
    (0..KEYS).map(home).collect()
}

/// The nodes but one.
fn without(nodes: &[String], one: &str) -> Vec<String> {
    let others = nodes.iter().filter(|name| *name != one);
    others.cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whoever knows the same nodes finds the same home, in whatever order it
    /// heard of them.
    #[test]
    fn the_order_of_nodes_says_nothing(
        nodes in prop::collection::btree_set("[a-z]{1,6}-[0-9]{1,3}", 1..12),
        shards in 1_u16..9,
    ) {
        let forward: Vec<String> = nodes.into_iter().collect();
        let backward: Vec<String> = forward.iter().rev().cloned().collect();
        let found = homes(&forward, shards);
        prop_assert_eq!(&found, &homes(&backward, shards));
        for (node, shard) in found.values() {
            prop_assert!(forward.contains(node) && *shard < shards);
        }
    }

    /// Of a hundred keys only those of a node that is gone move; those that
    /// stay keep their shard too.
    #[test]
    fn a_node_that_goes_moves_its_own_keys(
        nodes in prop::collection::btree_set("[a-z]{1,6}-[0-9]{1,3}", 2..12),
        gone in any::<prop::sample::Index>(),
        shards in 1_u16..9,
    ) {
        let all: Vec<String> = nodes.into_iter().collect();
        let gone = gone.get(&all).clone();
        let before = homes(&all, shards);
        let after = homes(&without(&all, &gone), shards);
        for (key, home) in &before {
            prop_assert_ne!(&after[key].0, &gone);
            prop_assert!(home.0 == gone || after[key] == *home, "key {} moved", key);
        }
    }

    /// A node that comes takes keys from others, and nothing else moves.
    #[test]
    fn a_node_that_comes_moves_what_it_takes(
        nodes in prop::collection::btree_set("[a-z]{1,6}-[0-9]{1,3}", 2..12),
        come in any::<prop::sample::Index>(),
        shards in 1_u16..9,
    ) {
        let all: Vec<String> = nodes.into_iter().collect();
        let come = come.get(&all).clone();
        let before = homes(&without(&all, &come), shards);
        let after = homes(&all, shards);
        for (key, home) in &after {
            prop_assert!(home.0 == come || before[key] == *home, "key {} moved", key);
        }
    }
}

/// The keys of one node lay on one of its shards, had both been found by the
/// same bits of the hash: the node would serve on one thread.
#[test]
fn the_keys_of_each_node_spread_over_all_its_shards() {
    let nodes: Vec<String> = (1..=3).map(|number| format!("logic-{number}")).collect();
    for shards in [2, 3, 4, 8] {
        let mut counts: BTreeMap<(String, u16), u32> = BTreeMap::new();
        for key in (0..6_000_u32).map(|number| hash64(format!("g:room-{number}").as_bytes())) {
            let hashed = nodes.iter().map(|name| (name, hash64(name.as_bytes())));
            let node = rendezvous(key, hashed).expect("there is a node");
            *counts
                .entry((node.clone(), shard_of(key, shards)))
                .or_default() += 1;
        }
        let mean = 6_000 / (3 * u32::from(shards));
        let places: BTreeSet<_> = counts.keys().cloned().collect();
        assert_eq!(places.len(), 3 * usize::from(shards));
        for (place, count) in counts {
            let near = mean * 7 / 10..=mean * 13 / 10;
            assert!(near.contains(&count), "{place:?} has {count}, not {mean}");
        }
    }
}
