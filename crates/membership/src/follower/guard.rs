//! The guard on losses of one service.

use std::collections::BTreeMap;
use std::sync::Arc;

use waystation_base::Moment;

use super::gone::Gone;
use super::{FollowerConfig, Instances};
use crate::ids::InstanceId;
use crate::instance::Instance;
use crate::view::{Removal, View};

/// What was lost lately and, while raised, is kept.
///
/// Raised when more than half of what there was within the window is lost
/// without a word of its owners; of a source that is not suspect, only from a
/// number of losses on. It clears by itself: when enough of the lost is back,
/// or when the source has insisted for the configured time.
#[derive(Debug, Default)]
pub(super) struct Guard {
    lost: BTreeMap<InstanceId, (Moment, Arc<Instance>)>,
    raised: Option<Raised>,
}

#[derive(Clone, Copy, Debug)]
enum Raised {
    /// Until then, unless the source is lost.
    Until(Moment),
    /// The source is lost: until it was back for the configured time.
    Held,
}

impl Guard {
    /// Compares what callers see with what the source says now.
    pub(super) fn observe(
        &mut self,
        now: Moment,
        config: &FollowerConfig,
        is_suspect: bool,
        shown: &Instances,
        source: &View,
        gone: Gone<'_>,
    ) {
        let now_there = &source.instances;
        // What is kept is shown beside what the source says.
        let is_raised = self.raised.is_some();
        let maybe = if is_raised { gone.or_more() } else { gone };
        for (id, _) in maybe.of(shown) {
            if !now_there.contains_key(id) && !self.lost.contains_key(id) {
                self.lost.insert(id.clone(), (now, Arc::clone(&shown[id])));
            }
        }
        for (id, why) in gone.told() {
            if *why == Removal::Deregistered {
                self.lost.remove(id);
            }
        }
        self.lost.retain(|id, (at, _)| {
            let is_recent = is_raised || now.saturating_since(*at) <= config.loss_window;
            is_recent && !now_there.contains_key(id)
        });
        let lost = self.lost.len();
        let is_mass = lost * 2 > lost + now_there.len();
        let is_doubted = is_suspect || is_raised || lost >= config.trusted_loss_min;
        self.raised = match self.raised {
            _ if !(is_mass && is_doubted) => None,
            Some(Raised::Until(until)) => Some(Raised::Until(until)),
            Some(Raised::Held) | None => Some(Raised::Until(now + config.guard_for)),
        };
        if is_raised && self.raised.is_none() {
            self.lost.clear();
        }
    }

    /// The source is lost: what is kept stays.
    pub(super) fn hold(&mut self) {
        if self.raised.is_some() {
            self.raised = Some(Raised::Held);
        }
    }

    /// The source has insisted for long enough.
    pub(super) fn clear(&mut self) {
        self.raised = None;
        self.lost.clear();
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match self.raised {
            Some(Raised::Until(until)) => Some(until),
            Some(Raised::Held) | None => None,
        }
    }

    /// What it keeps.
    pub(super) fn instances(&self) -> impl Iterator<Item = (&InstanceId, &Arc<Instance>)> {
        let lost = self.raised.is_some().then_some(&self.lost);
        lost.into_iter().flatten().map(|(id, (_, one))| (id, one))
    }

    pub(super) fn kept(&self) -> usize {
        self.raised.map_or(0, |_| self.lost.len())
    }
}
