//! What was measured.

use std::time::Duration;

use super::ratio;
use super::server::Sent;
use super::work::Work;

/// Of one world.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) steady: Steady,
    pub(super) restarts: Vec<Restart>,
}

/// While nothing but changes happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    pub(super) changes: u64,
    /// That arrived.
    pub(super) pushes: u64,
    pub(super) sent: Sent,
    /// What agents did with the pushes.
    pub(super) agents: Work,
}

impl Steady {
    pub(super) fn bytes_a_change(&self) -> f64 {
        ratio(self.sent.bytes, self.changes)
    }

    /// What the server looked at, for each change.
    pub(super) fn server_steps_a_change(&self) -> f64 {
        ratio(self.sent.work.steps, self.changes)
    }

    /// What an agent looked at, for each push.
    pub(super) fn agent_steps_a_push(&self) -> f64 {
        ratio(self.agents.steps, self.pushes)
    }

    pub(super) fn server_us_a_change(&self) -> f64 {
        ratio(self.sent.work.cpu_ns, self.changes) / 1e3
    }

    /// KiB that the server asked for, for each change.
    pub(super) fn server_kib_a_change(&self) -> f64 {
        ratio(self.sent.work.allocated_bytes, self.changes) / 1024.0
    }

    pub(super) fn agent_us_a_push(&self) -> f64 {
        ratio(self.agents.cpu_ns, self.pushes) / 1e3
    }

    /// KiB that an agent asked for, for each push.
    pub(super) fn agent_kib_a_push(&self) -> f64 {
        ratio(self.agents.allocated_bytes, self.pushes) / 1024.0
    }
}

/// A start of the server anew.
#[derive(Clone, Debug)]
pub(super) struct Restart {
    pub(super) outage: Duration,
    /// Attempts to connect of each agent while it was away.
    pub(super) in_vain: f64,
    /// Connections by the 100 ms in which they were made.
    pub(super) arrivals: Vec<u64>,
    pub(super) agents: u64,
    pub(super) watches: u64,
    /// Since it was back.
    pub(super) sent: Sent,
}

impl Restart {
    /// The share of agents that came within the same 100 ms, at most.
    pub(super) fn most_at_once(&self) -> f64 {
        ratio(
            self.arrivals.iter().copied().max().unwrap_or_default(),
            self.agents,
        )
    }

    /// Until all agents but one in a hundred were back.
    pub(super) fn back_ms(&self) -> u64 {
        let mut sum = 0;
        let is_most = |count: &u64| {
            sum += count;
            sum * 100 >= self.agents * 99
        };
        let found = self.arrivals.iter().position(is_most);
        found.map_or(u64::MAX, |tenth| (tenth as u64 + 1) * 100)
    }

    /// Whole views that each watch was sent.
    pub(super) fn wholes_a_watch(&self) -> f64 {
        ratio(self.sent.wholes, self.watches)
    }
}

impl Sent {
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            deltas: self.deltas - before.deltas,
            wholes: self.wholes - before.wholes,
            bytes: self.bytes - before.bytes,
            work: self.work.since(&before.work),
        }
    }
}

impl Work {
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            steps: self.steps - before.steps,
            cpu_ns: self.cpu_ns - before.cpu_ns,
            allocated_bytes: self.allocated_bytes - before.allocated_bytes,
        }
    }
}
