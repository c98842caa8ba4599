//! The load that this process tells others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waystation_base::ShardId;
use waystation_wire::Load;

/// What one shard has to do: requests in the upper half, the median below. On a
/// cache line of its own, since each thread writes its own at every request.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(AtomicU64);

/// What all shards of a server have to do, readable from all of its threads.
#[derive(Debug)]
pub(crate) struct Board {
    places: Box<[Place]>,
}

impl Board {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            places: (0..shards).map(|_| Place::default()).collect(),
        }
    }

    fn set(&self, shard: ShardId, load: Load) {
        if let Some(place) = self.places.get(usize::from(shard.0)) {
            let word = u64::from(load.in_flight) << 32 | u64::from(load.latency_us);
            place.0.store(word, Ordering::Relaxed);
        }
    }

    /// Requests of all shards, and the mean of their medians, by how many
    /// requests each has.
    pub(crate) fn sum(&self) -> Load {
        let loads = self.places.iter().map(|place| {
            let word = place.0.load(Ordering::Relaxed);
            (word >> 32, word & u64::from(u32::MAX))
        });
        let (mut in_flight, mut weights, mut total_us) = (0, 0, 0);
        for (requests, latency_us) in loads {
            in_flight += requests;
            if latency_us > 0 {
                // One without requests has a say, too.
                weights += requests + 1;
                total_us += u128::from(requests + 1) * u128::from(latency_us);
            }
        }
        let mean_us = total_us.checked_div(u128::from(weights)).unwrap_or(0);
        Load {
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            latency_us: u32::try_from(mean_us).unwrap_or(u32::MAX),
        }
    }
}

/// Where a shard says what it has to do, see
/// [`Shard::load_place`](super::Shard::load_place).
#[derive(Debug, Clone)]
pub struct LoadPlace {
    board: Arc<Board>,
    shard: ShardId,
}

impl LoadPlace {
    pub(super) const fn new(board: Arc<Board>, shard: ShardId) -> Self {
        Self { board, shard }
    }

    /// The shard has so many requests in progress, and answers took so long
    /// lately. Cost: a store.
    pub fn tell(&self, load: Load) {
        self.board.set(self.shard, load);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_requests_of_its_shards_and_their_mean_time() {
        let board = Arc::new(Board::new(3));
        let none = Load::default();
        assert_eq!(board.sum(), none);
        let tell = |shard: u16, in_flight: u32, latency_us: u32| {
            let load = Load {
                in_flight,
                latency_us,
            };
            LoadPlace::new(Arc::clone(&board), ShardId(shard)).tell(load);
        };
        tell(0, 9, 1000);
        // It has answered nothing yet.
        tell(1, 4, 0);
        tell(7, 100, 100);
        let sum = board.sum();
        assert_eq!((sum.in_flight, sum.latency_us), (13, 1000));
        tell(2, 0, 2100);
        let sum = board.sum();
        assert_eq!((sum.in_flight, sum.latency_us), (13, 1100));
        tell(0, u32::MAX, u32::MAX);
        tell(2, u32::MAX, u32::MAX);
        let sum = board.sum();
        assert_eq!((sum.in_flight, sum.latency_us), (u32::MAX, u32::MAX));
    }
}
