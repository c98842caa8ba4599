//! One registry, nodes of two services, two of which want one id, and subscribers
//! of one or of all in a seeded world: a network that delays, loses and partitions,
//! also one way only, a disk that is slow, whose last writes are lost when the
//! registry is killed, processes that restart or stand still, and nodes that are
//! drained.
//!
//! Checked all the time:
//! - a view is emptied, or left with less than half, neither by a lost source nor
//!   by one that has just come back, nor at once by the loss of many;
//! - no two holders of an id have one token, and tokens of an id rise;
//! - a node that is evicted has fenced itself before;
//! - who acknowledged a drain shows the node as serving no more; a drain that
//!   was shown is not undone, by a restart either once its node was told; who was
//!   drained is not back, by a restart either once it was told that it is out;
//! - what subscribers show at a version is what the registry published there.
//!
//! After healing: every live node is visible again within a bound, of two that want
//! one id just one, the same to everybody, and stays so.

mod checks;
mod message;
mod store;
mod world;

use world::{Mutant, World};

/// 30 s.
const FAULTY_STEPS: u32 = 600;
/// Longest back-off, an answer that is lost, and the guard's time: 32 s.
const HEALING_STEPS: u32 = 640;
/// Longer than a lease: who does not renew is gone meanwhile. 8 s.
const STEADY_STEPS: u32 = 160;

/// Runs one world.
///
/// # Panics
/// Names the promise that was broken.
pub(crate) fn run(seed: u64) {
    run_mutant(seed, Mutant::None);
}

/// Runs one world with a fault built in on purpose.
fn run_mutant(seed: u64, mutant: Mutant) {
    let mut world = World::new(seed, mutant);
    world.heal();
    for _ in 0..FAULTY_STEPS {
        world.fault();
        world.step();
    }
    world.heal();
    for _ in 0..HEALING_STEPS {
        world.step();
    }
    world.check_healed();
    for _ in 0..STEADY_STEPS {
        world.step();
        world.check_healed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_hold_for_hundreds_of_seeds() {
        (0..200).for_each(run);
    }

    /// What a world that breaks says.
    fn fault(seed: u64, mutant: Mutant) -> Option<String> {
        let broken = std::panic::catch_unwind(|| run_mutant(seed, mutant)).err()?;
        Some(*broken.downcast::<String>().expect("it is formatted"))
    }

    /// Checks that cannot fail prove nothing: each of these faults is found within
    /// a few worlds, for what it is.
    #[test]
    fn every_mutant_is_found() {
        for (mutant, said) in Mutant::ALL {
            let found = (0..60).find_map(|seed| fault(seed, mutant));
            let found = found.unwrap_or_else(|| panic!("{mutant:?} passes for correct"));
            assert!(found.contains(said), "{mutant:?} is taken for: {found}");
            // For the table of results; shown with --nocapture.
            println!("{mutant:?}: {found:.160}");
        }
    }
}
