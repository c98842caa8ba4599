//! What is sent when: decided by the seed alone, never by the answers.

use std::time::Duration;

use waystation_base::Rng;

use super::topology::Topology;

/// Of a hundred messages, those that go to groups.
pub(super) const GROUP_PERCENT: u64 = 25;

/// One message of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// Its number in the run: 0, 1, 2 …
    pub(super) number: u32,
    /// The client that sends it.
    pub(super) sender: u32,
    /// The conversation it goes to.
    pub(super) room: u32,
    /// When it is to be sent, from the start.
    pub(super) at: Duration,
}

/// The messages of a run, evenly spaced in time.
pub(super) struct Plan<'a> {
    topology: &'a Topology,
    rng: Rng,
    rate: u64,
    total: u64,
    next: u64,
}

impl<'a> Plan<'a> {
    /// `rate` messages a second for `seconds`.
    pub(super) fn new(topology: &'a Topology, rate: u32, seconds: u32, rng: Rng) -> Self {
        Self {
            topology,
            rng,
            rate: u64::from(rate),
            total: u64::from(rate) * u64::from(seconds),
            next: 0,
        }
    }

    /// When the next message is due, from the start; `None` at the end.
    pub(super) fn next_at(&self) -> Option<Duration> {
        (self.next < self.total).then(|| self.at(self.next))
    }

    fn at(&self, number: u64) -> Duration {
        let whole = number / self.rate;
        let part = number % self.rate * 1_000_000_000 / self.rate;
        Duration::from_secs(whole) + Duration::from_nanos(part)
    }
}

impl Iterator for Plan<'_> {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let at = self.next_at()?;
        let clients = self.topology.places.len() as u64;
        let sender = u32::try_from(self.rng.below(clients)).unwrap_or(0);
        let places = &self.topology.places[sender as usize];
        let to_group = self.rng.below(100) < GROUP_PERCENT;
        let rooms = if to_group && !places.groups.is_empty() {
            &places.groups
        } else {
            &places.direct
        };
        let room = *self.rng.pick(rooms).expect("every client has a partner");
        let number = u32::try_from(self.next).ok()?;
        self.next += 1;
        Some(Planned {
            number,
            sender,
            room,
            at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_even_complete_and_the_same_for_a_seed() {
        let topology = Topology::new("a", 20, &mut Rng::from_seed(1));
        let plan = || Plan::new(&topology, 300, 4, Rng::from_seed(7));
        let planned: Vec<_> = plan().collect();
        assert_eq!(planned.len(), 1200);
        assert!(planned.iter().eq(plan().collect::<Vec<_>>().iter()));
        for (index, message) in planned.iter().enumerate() {
            assert_eq!(message.number as usize, index);
            let members = &topology.rooms[message.room as usize].members;
            assert!(members.contains(&message.sender));
            let second = u64::from(message.number) / 300;
            assert_eq!(message.at.as_secs(), second);
        }
        assert!(planned.is_sorted_by(|a, b| a.at < b.at));
        let to_groups = planned
            .iter()
            .filter(|m| topology.rooms[m.room as usize].is_group);
        // Six standard deviations around a quarter, for a fixed seed.
        assert!((210..390).contains(&to_groups.count()));
    }
}
