//! Drains: draining → acknowledged by every subscriber → idle → out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use waystation_base::Moment;

use crate::ids::{InstanceId, Owner, SubscriberId};
use crate::limits::DRAINED_REMEMBERED_MAX;
use crate::view::ViewVersion;

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrainStep {
    /// Not every subscriber has acknowledged: new requests still come.
    Waiting,
    /// Every subscriber has acknowledged, or the deadline passed: requests in
    /// flight are waited for.
    Acknowledged,
    /// The instance is out.
    Ended,
}

#[derive(Debug)]
struct Drain {
    step: DrainStep,
    /// The version that shows the drain, once it is published.
    shown_at: Option<ViewVersion>,
    deadline: Moment,
}

/// The drains of a directory; at most one an instance.
#[derive(Debug, Default)]
pub(super) struct Drains {
    by_id: BTreeMap<InstanceId, Drain>,
    /// Who was drained, until when it stays out; the oldest first.
    drained: VecDeque<(InstanceId, Owner, Moment)>,
}

impl Drains {
    pub(super) fn begin(&mut self, id: &InstanceId, deadline: Moment) {
        let drain = Drain {
            step: DrainStep::Waiting,
            shown_at: None,
            deadline,
        };
        self.by_id.insert(id.clone(), drain);
    }

    pub(super) fn contains(&self, id: &InstanceId) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn step(&self, id: &InstanceId) -> Option<DrainStep> {
        self.by_id.get(id).map(|drain| drain.step)
    }

    pub(super) fn end(&mut self, id: &InstanceId) {
        self.by_id.remove(id);
    }

    /// A view was published at `at`: drains of its service are shown by it.
    pub(super) fn published(&mut self, at: ViewVersion, is_of: impl Fn(&InstanceId) -> bool) {
        for (id, drain) in &mut self.by_id {
            let is_older = |shown: ViewVersion| shown.epoch != at.epoch;
            if drain.shown_at.is_none_or(is_older) && is_of(id) {
                drain.shown_at = Some(at);
            }
        }
    }

    /// Moves each drain on as far as it gets, and returns what moved. `behind`
    /// lists who has not acknowledged a version; unless `is_settled` there may be
    /// others.
    pub(super) fn advance(
        &mut self,
        now: Moment,
        requests_max: Duration,
        is_settled: bool,
        behind: impl Fn(&InstanceId, ViewVersion) -> Vec<SubscriberId>,
    ) -> Vec<(InstanceId, DrainStep, Vec<SubscriberId>)> {
        let mut moved = Vec::new();
        for (id, drain) in &mut self.by_id {
            let is_over = drain.deadline <= now;
            match (drain.step, drain.shown_at) {
                (DrainStep::Waiting, Some(at)) => {
                    let missing = behind(id, at);
                    if missing.is_empty() && is_settled || is_over {
                        drain.step = DrainStep::Acknowledged;
                        drain.deadline = now + requests_max;
                        moved.push((id.clone(), drain.step, missing));
                    }
                }
                (DrainStep::Acknowledged, _) if is_over => {
                    drain.step = DrainStep::Ended;
                    moved.push((id.clone(), drain.step, Vec::new()));
                }
                _ => {}
            }
        }
        moved
    }

    /// Keeps `owner` from registering `id` again until then.
    pub(super) fn remember(&mut self, id: &InstanceId, owner: Owner, until: Moment) {
        if self.drained.len() >= DRAINED_REMEMBERED_MAX {
            self.drained.pop_front();
        }
        self.drained.push_back((id.clone(), owner, until));
    }

    /// Whether `owner` was drained out of `id` lately. Cost: O(drained).
    pub(super) fn is_drained(&self, now: Moment, id: &InstanceId, owner: Owner) -> bool {
        let is_it = |one: &(InstanceId, Owner, Moment)| one.0 == *id && one.1 == owner;
        (self.drained.iter()).any(|one| is_it(one) && one.2 > now)
    }

    /// When the next drain moves on by itself. Cost: O(drains).
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        // One that is not published yet moves with the next poll for outputs.
        (self.by_id.values())
            .filter(|drain| drain.shown_at.is_some())
            .map(|drain| drain.deadline)
            .min()
    }
}
