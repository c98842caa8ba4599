//! A hub with its log, four sites with their databases, and clients, in a seeded
//! world: crashes between any two durable steps, lost and torn writes, a network
//! that delays, loses, reorders and partitions, donors that die, slow sites,
//! entries that a database refuses, two sites whose own writes are captured and whose
//! right to write is taken away and given back.
//!
//! Checked after each step: every copy holds exactly what the log says up to its
//! position (order, nothing twice, nothing missing); what was acknowledged is in
//! the log, once; nothing is trimmed that no copy has; nothing comes of a site whose
//! right to write was taken away. At rest: all copies are equal, and everything that
//! was published or captured is in them.

mod check;
mod database;
mod disk;
mod faults;
mod hub_side;
mod site_side;
mod world;

pub(crate) use world::Mutant;

/// Runs one world.
///
/// # Panics
/// Names the promise that was broken.
pub(crate) fn run(seed: u64) {
    run_mutant(seed, Mutant::None);
}

/// Runs one world with a fault built in on purpose.
fn run_mutant(seed: u64, mutant: Mutant) {
    let mut world = world::World::new(seed, mutant);
    world.run_faulty();
    world.run_slow_site();
    world.run_healed();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_hold_for_dozens_of_seeds() {
        (0..60).for_each(run);
    }

    /// A checker that cannot fail proves nothing: each of these faults is found
    /// within a few worlds.
    #[test]
    fn every_mutant_is_found() {
        for mutant in Mutant::ALL {
            let is_found =
                |seed: u64| std::panic::catch_unwind(|| run_mutant(seed, mutant)).is_err();
            assert!((0..200).any(is_found), "{mutant:?} passes for correct");
        }
    }
}
