//! Which node a key belongs to, so that few keys move when nodes change.

use crate::rng::mix64;

/// A hash of 64 bits that is the same in every build, process and language:
/// FNV-1a (Fowler, Noll, Vo) followed by splitmix64's finaliser, because FNV
/// alone spreads short keys poorly over the high bits. Cost: O(bytes). It does
/// not withstand an attacker who chooses the keys.
pub const fn hash64(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    mix64(hash)
}

/// The node that `key` belongs to: the one with the highest weight for the key
/// (David Thaler and Chinya Ravishankar, "Using Name-Based Mappings to Increase
/// Hit Rates", IEEE/ACM
/// Transactions on Networking 6, 1998). `None` when there are no nodes.
///
/// Every caller that knows the same nodes gets the same answer, in whatever
/// order they come. When a node goes only its keys move; when one comes, keys
/// move only to it. Cost: O(nodes), about 2 ns each.
///
/// ```
/// use waystation_base::{hash64, rendezvous};
///
/// let nodes = ["10.0.0.1:7000", "10.0.0.2:7000"];
/// let hashes = nodes.iter().map(|node| hash64(node.as_bytes()));
/// let home = rendezvous(hash64(b"client 7"), hashes.enumerate()).unwrap();
/// assert!(home < nodes.len());
/// ```
pub fn rendezvous<I>(key: u64, nodes: impl IntoIterator<Item = (I, u64)>) -> Option<I> {
    let mut best: Option<((u64, u64), I)> = None;
    for (index, node_hash) in nodes {
        // The node's hash breaks a tie, so that the order of nodes never does.
        let weight = (mix64(key ^ mix64(node_hash)), node_hash);
        if best.as_ref().is_none_or(|(highest, _)| weight > *highest) {
            best = Some((weight, index));
        }
    }
    best.map(|(_, index)| index)
}

/// The shard of a node that `key` belongs to, of `shards` (0 counts as 1): the
/// same one in every process, as long as their number does not change. It says
/// nothing of the node that [`rendezvous`] gives the key to, so that the keys of
/// one node spread over all its shards.
///
/// ```
/// use waystation_base::{hash64, shard_of};
///
/// let shard = shard_of(hash64(b"client 7"), 2);
/// assert!(shard < 2);
/// assert_eq!(shard_of(hash64(b"client 7"), 1), 0);
/// ```
pub fn shard_of(key: u64, shards: u16) -> u16 {
    let shard = hash64(&key.to_le_bytes()) % u64::from(shards.max(1));
    u16::try_from(shard).unwrap_or(0)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn homes(nodes: &[usize]) -> Vec<usize> {
        (0..100_u64)
            .map(|key| {
                let hashed = nodes
                    .iter()
                    .map(|&n| (n, hash64(format!("node {n}").as_bytes())));
                rendezvous(hash64(&key.to_le_bytes()), hashed).unwrap()
            })
            .collect()
    }

    #[test]
    fn hashes_are_the_same_in_every_build() {
        // The inner values are FNV-1a's, as its authors publish them.
        assert_eq!(hash64(b""), mix64(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash64(b"foobar"), mix64(0x8594_4171_f739_67e8));
    }

    #[test]
    fn only_the_keys_of_a_removed_node_move() {
        let before = homes(&[0, 1, 2, 3, 4]);
        for gone in 0..5 {
            let left: Vec<usize> = (0..5).filter(|&n| n != gone).collect();
            for (old, new) in before.iter().zip(homes(&left)) {
                assert!(*old == new || *old == gone, "a key of {old} moved to {new}");
                assert_ne!(new, gone);
            }
        }
    }

    #[test]
    fn keys_spread_over_all_nodes_in_any_order() {
        let forward = homes(&[0, 1, 2, 3, 4]);
        assert_eq!(forward, homes(&[4, 2, 0, 1, 3]));
        for node in 0..5 {
            let keys = forward.iter().filter(|&&n| n == node).count();
            assert!(
                (8..=32).contains(&keys),
                "node {node} has {keys} of 100 keys"
            );
        }
    }

    #[test]
    fn no_nodes_no_home() {
        assert_eq!(rendezvous::<u8>(1, []), None);
    }
}
