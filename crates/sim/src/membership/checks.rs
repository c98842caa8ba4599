//! What must hold, kept apart from what the product keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{FencingToken, Moment, ServiceName};
use waystation_membership::{
    FollowerConfig, Instance, InstanceId, Owner, State, View, ViewVersion,
};

/// What was promised so far.
pub(super) struct Checks {
    seed: u64,
    holders: BTreeMap<(InstanceId, FencingToken), Owner>,
    /// Who was granted each id last, whether or not it was told.
    held_by: BTreeMap<InstanceId, Owner>,
    /// The highest token of each id that was told, and to whom.
    highest: BTreeMap<InstanceId, (FencingToken, Owner)>,
    /// What the registry showed as draining, what it told the node to be, and
    /// what it told to be out.
    draining: BTreeSet<(InstanceId, FencingToken)>,
    told: BTreeSet<(InstanceId, FencingToken)>,
    out: BTreeSet<(InstanceId, FencingToken)>,
    /// Who was drained out since the registry's last start, and who was ever.
    drained: BTreeMap<InstanceId, Owner>,
    left: BTreeSet<(InstanceId, Owner)>,
    published: BTreeMap<(ServiceName, ViewVersion), Arc<View>>,
    followers: Vec<Follower>,
}

/// What a follower showed.
#[derive(Default)]
struct Follower {
    connected_at: Moment,
    services: BTreeMap<ServiceName, Shown>,
}

#[derive(Default)]
struct Shown {
    /// What is shown now, and what was, until when.
    present: BTreeMap<InstanceId, Arc<Instance>>,
    gone_at: BTreeMap<InstanceId, Moment>,
    raised_at: Option<Moment>,
}

impl Checks {
    pub(super) fn new(seed: u64, followers: usize) -> Self {
        Self {
            seed,
            holders: BTreeMap::new(),
            held_by: BTreeMap::new(),
            highest: BTreeMap::new(),
            draining: BTreeSet::new(),
            told: BTreeSet::new(),
            out: BTreeSet::new(),
            drained: BTreeMap::new(),
            left: BTreeSet::new(),
            published: BTreeMap::new(),
            followers: (0..followers).map(|_| Follower::default()).collect(),
        }
    }

    /// The registry starts again with what it kept. Who was drained it need not
    /// know any more, a drain that nobody told its node may be undone, and who was
    /// granted an id without being told does not hold it: that may be an earlier
    /// start of the node again, whose drain is not the later one's.
    pub(super) fn restarted<'a>(&mut self, kept: impl Iterator<Item = &'a (Instance, Duration)>) {
        self.drained.clear();
        self.held_by.clear();
        self.draining.retain(|one| self.told.contains(one));
        for (one, _) in kept {
            self.held_by.insert(one.id.clone(), one.owner);
            let is_out = self.out.contains(&(one.id.clone(), one.token));
            let (seed, id) = (self.seed, &one.id);
            assert!(!is_out, "seed {seed}: {id} is kept, and was told to be out");
        }
    }

    /// A node was told that it drains, or that it is out.
    pub(super) fn told(&mut self, id: &InstanceId, token: FencingToken, is_end: bool) {
        self.told.insert((id.clone(), token));
        if is_end {
            self.out.insert((id.clone(), token));
        }
    }

    /// Each holder has a token of its own, and later ones higher ones.
    pub(super) fn granted(&mut self, id: &InstanceId, owner: Owner, token: FencingToken) {
        let seed = self.seed;
        let holder = self.holders.insert((id.clone(), token), owner);
        assert!(
            holder.is_none_or(|one| one == owner),
            "seed {seed}: one token, two holders"
        );
        let (highest, last) = (self.highest.entry(id.clone())).or_insert((token, owner));
        let rises = token > *highest || token == *highest && owner == *last;
        assert!(
            rises,
            "seed {seed}: {id} is granted {token} behind {highest}"
        );
        (*highest, *last) = (token, owner);
    }

    /// The registry grants an id. Who was drained out of it stays out.
    pub(super) fn held(&mut self, id: &InstanceId, owner: Owner) {
        let seed = self.seed;
        self.held_by.insert(id.clone(), owner);
        assert_ne!(
            self.drained.get(id),
            Some(&owner),
            "seed {seed}: {id} was drained and is back"
        );
    }

    /// The drain of an instance is over.
    pub(super) fn drained(&mut self, id: &InstanceId) {
        if let Some(owner) = self.held_by.get(id) {
            self.drained.insert(id.clone(), *owner);
            self.left.insert((id.clone(), *owner));
        }
    }

    /// The registry shows this. A drain is not undone.
    pub(super) fn published(&mut self, view: &Arc<View>) {
        let at = (view.service.clone(), view.at);
        if let Some(known) = self.published.get(&at) {
            let (seed, service) = (self.seed, &view.service);
            assert!(
                known == view,
                "seed {seed}: {service} at {} is two things",
                view.at
            );
            return;
        }
        self.published.insert(at, Arc::clone(view));
        self.no_drain_undone(view, "the registry");
        for one in view.instances.values() {
            if one.state == State::Draining {
                self.draining.insert((one.id.clone(), one.token));
            }
        }
    }

    fn no_drain_undone(&self, view: &View, who: &str) {
        let undone = view.instances.values().find(|one| {
            one.state == State::Serving && self.draining.contains(&(one.id.clone(), one.token))
        });
        assert!(
            undone.is_none(),
            "seed {}: {who} shows {:?}, whose drain was shown",
            self.seed,
            undone.map(|one| &one.id)
        );
    }

    /// A follower is connected; its source is suspect for a while.
    pub(super) fn connected(&mut self, now: Moment, n: usize) {
        self.followers[n].connected_at = now;
    }

    /// The guard of a follower was raised or cleared. It keeps for as long as is
    /// promised, unless what was lost is back.
    pub(super) fn guarded(&mut self, now: Moment, n: usize, service: &ServiceName, kept: usize) {
        let shown = self.followers[n]
            .services
            .entry(service.clone())
            .or_default();
        if kept > 0 {
            shown.raised_at.get_or_insert(now);
            return;
        }
        shown.raised_at = None;
        // What is lost from here on counts anew.
        shown.gone_at.clear();
    }

    /// A follower shows this, of which it keeps some against its source. Without
    /// those it is what the registry published at this version.
    pub(super) fn shown(&mut self, now: Moment, n: usize, view: &Arc<View>, kept: &[InstanceId]) {
        let seed = self.seed;
        let at = (view.service.clone(), view.at);
        let published = self.published.get(&at);
        let kept_out = |id: &InstanceId| !kept.contains(id);
        let source = view.instances.iter().filter(|(id, _)| kept_out(id));
        let is_same = published.is_some_and(|one| source.eq(one.instances.iter()));
        assert!(
            is_same,
            "seed {seed}: follower {n} shows {view:?}, keeping {kept:?} of {published:?}"
        );
        self.no_collapse(now, n, view);
    }

    /// Callers are not left with nothing, or less than half of what there was, by a
    /// source that has just come back, or takes away much at once, unless it
    /// insists.
    fn no_collapse(&mut self, now: Moment, n: usize, view: &View) {
        let config = FollowerConfig::default();
        let follower = &mut self.followers[n];
        let shown = follower.services.entry(view.service.clone()).or_default();
        for (id, one) in &shown.present {
            // Who left by a drain is not lost, however late that is heard.
            let is_meant = self.left.contains(&(id.clone(), one.owner));
            if !is_meant && !view.instances.contains_key(id) {
                shown.gone_at.insert(id.clone(), now);
            }
        }
        shown.gone_at.retain(|id, at| {
            let is_recent = now.saturating_since(*at) <= config.loss_window;
            is_recent && !view.instances.contains_key(id)
        });
        shown.present = view.instances.clone();
        let (lost, left) = (shown.gone_at.len(), shown.present.len());
        let is_collapsed = lost > left;
        // One that insisted for the guard's time is believed.
        let has_insisted =
            (shown.raised_at).is_some_and(|at| now.saturating_since(at) >= config.guard_for);
        let is_suspect = now.saturating_since(follower.connected_at) < config.suspect_for;
        let is_doubtful = is_suspect && lost > 0 || lost >= config.trusted_loss_min;
        assert!(
            !is_collapsed || has_insisted || !is_doubtful,
            "seed {}: follower {n} is left with {left} of {}: {lost} were lost at once",
            self.seed,
            view.service
        );
    }
}
