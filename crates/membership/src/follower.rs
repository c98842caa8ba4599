//! A subscriber's core: the last known good views, and the guard on losses.

mod gone;
mod guard;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Moment, ServiceName};

use crate::directory::{Content, Watch};
use crate::ids::{InstanceId, SubscriberId};
use crate::instance::Instance;
use crate::limits::{FOLLOWED_SERVICES_MAX, VIEW_INSTANCES_MAX};
use crate::view::{ApplyError, Removal, View, ViewAck, ViewDelta, ViewVersion};
use gone::Gone;
use guard::Guard;

/// How a follower behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerConfig {
    /// For how long after a connection or a step backwards the source is
    /// suspect. Default 10 s. Longer guards against a registry that fills
    /// slowly, and keeps dead hosts of a real loss.
    pub suspect_for: Duration,
    /// Losses this close together count as one. Default 10 s.
    pub loss_window: Duration,
    /// For how long the guard keeps instances while the source insists. Default
    /// 20 s. Longer spares callers a false loss, and keeps dead hosts of a real
    /// one as suspects.
    pub guard_for: Duration,
    /// From how many losses on a source that is not suspect is doubted. Default
    /// 3, so that the end of one of two hosts is believed at once.
    pub trusted_loss_min: usize,
}

impl Default for FollowerConfig {
    fn default() -> Self {
        Self {
            suspect_for: Duration::from_secs(10),
            loss_window: Duration::from_secs(10),
            guard_for: Duration::from_secs(20),
            trusted_loss_min: 3,
        }
    }
}

/// What a follower wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowerOutput {
    /// Ask the source to watch.
    Subscribe {
        /// What.
        watch: Watch,
        /// The latest version held of anything.
        have: Option<ViewVersion>,
    },
    /// Ask the source for a whole view.
    Resync {
        /// Of which service.
        service: ServiceName,
    },
    /// Show this view to callers, then acknowledge.
    Changed {
        /// The view: what the source says, and what the guard keeps.
        view: Arc<View>,
        /// What is in it although the source says it is gone: suspects.
        kept: Vec<InstanceId>,
        /// What was shown before and is not in it, without its owner's word: its
        /// lease ran out, or nobody says why.
        lapsed: Vec<InstanceId>,
    },
    /// Tell the source what callers see.
    Ack(ViewAck),
    /// The source's versions went backwards: it was restored from an old state.
    Backwards {
        /// Of which service.
        service: ServiceName,
        /// The version held.
        had: ViewVersion,
        /// The version that came.
        got: ViewVersion,
    },
    /// The guard on losses was raised or cleared.
    Guard {
        /// Of which service.
        service: ServiceName,
        /// How many instances it keeps; zero when it was cleared.
        kept: usize,
    },
    /// A push was dropped, for a reason that a good source does not give.
    Dropped {
        /// Of which service.
        service: ServiceName,
        /// Why.
        reason: DropReason,
    },
}

/// Why a push was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It is about a service that is not watched.
    NotWatched,
    /// There are [`FOLLOWED_SERVICES_MAX`] services.
    TooManyServices,
    /// The view has more than [`VIEW_INSTANCES_MAX`] instances.
    TooManyInstances,
    /// An instance in it is not valid, or is filed under another id or service.
    InvalidInstance,
}

type Instances = BTreeMap<InstanceId, Arc<Instance>>;

#[derive(Debug)]
struct Followed {
    /// What the source said last, whatever callers see.
    source: Arc<View>,
    /// Whether the source said it on this connection; else it is from before.
    is_fresh: bool,
    /// Whether a whole view was asked for and is not here.
    is_resyncing: bool,
    shown: Arc<View>,
    guard: Guard,
}

/// The core of a subscriber.
///
/// Calling order: a `handle_*` with the present moment, then
/// [`Follower::poll_output`] until `None`, then sleep until
/// [`Follower::poll_timeout`].
///
/// A connection keeps its order and loses nothing as long as it is up; a shell
/// whose transport cannot promise that disconnects at the first loss.
///
/// A view that callers see is never replaced because the source was lost; and
/// what a source takes away all at once is kept for a while, as suspects. What
/// was deregistered is never kept.
#[derive(Debug)]
pub struct Follower {
    config: FollowerConfig,
    id: SubscriberId,
    watch: Watch,
    is_connected: bool,
    suspect_until: Moment,
    services: BTreeMap<ServiceName, Followed>,
    outputs: VecDeque<FollowerOutput>,
    steps: u64,
}

impl Follower {
    /// A follower that holds nothing yet.
    pub const fn new(id: SubscriberId, watch: Watch, config: FollowerConfig) -> Self {
        Self {
            config,
            id,
            watch,
            is_connected: false,
            suspect_until: Moment::ZERO,
            services: BTreeMap::new(),
            outputs: VecDeque::new(),
            steps: 0,
        }
    }

    /// Starts from a view that was kept on disk, so that a cold start without a
    /// source is not without hosts. Its version is not held against the source, which
    /// may be another one than it came from, or several joined. Ignored once there is a
    /// view.
    pub fn restore(&mut self, view: View) {
        let is_wanted = self.fault_of(&view).is_none();
        if is_wanted && !self.services.contains_key(&view.service) {
            let view = Arc::new(view);
            self.show(Arc::clone(&view), Vec::new(), Vec::new());
            let source = View {
                at: ViewVersion::default(),
                ..(*view).clone()
            };
            let followed = Followed {
                shown: view,
                ..Followed::new(Arc::new(source))
            };
            self.services
                .insert(followed.source.service.clone(), followed);
        }
    }

    /// Asks the source for whole views of what is held, although nothing is known
    /// to be missing. Ignored while disconnected.
    pub fn handle_refresh(&mut self) {
        if self.is_connected {
            let all: Vec<ServiceName> = self.services.keys().cloned().collect();
            for service in all {
                self.resync(&service);
            }
        }
    }

    /// The source can be talked to. It is suspect for a while.
    pub fn handle_connected(&mut self, now: Moment) {
        self.is_connected = true;
        self.suspect_until = now + self.config.suspect_for;
        let held = self.services.values().map(|one| one.source.at);
        let have = held.max().filter(|at| *at > ViewVersion::default());
        let watch = self.watch.clone();
        (self.outputs).push_back(FollowerOutput::Subscribe { watch, have });
        // What is watched by its name is pushed whole by that alone. Of a prefix
        // nobody tells of services that are gone.
        let is_told = matches!(self.watch, Watch::Service(_));
        for (service, followed) in &mut self.services {
            followed.is_fresh = false;
            followed.is_resyncing = true;
            if !is_told {
                let service = service.clone();
                self.outputs.push_back(FollowerOutput::Resync { service });
            }
        }
    }

    /// The source cannot be talked to. Nothing that callers see changes, and a
    /// guard does not end by time.
    pub fn handle_disconnected(&mut self) {
        self.is_connected = false;
        for followed in self.services.values_mut() {
            followed.is_fresh = false;
            followed.guard.hold();
        }
    }

    /// The source pushed something. Ignored while disconnected.
    pub fn handle_push(&mut self, now: Moment, content: &Content) {
        if !self.is_connected {
            return;
        }
        match content {
            Content::View(view) => self.handle_view(now, view),
            Content::Delta(delta) => self.handle_delta(now, delta, None),
        }
    }

    /// As [`Follower::handle_push`] of a delta, by a source that has the view at hand
    /// that it leads to, and shares it. Cost: O(delta · log instances).
    pub fn handle_step(&mut self, now: Moment, delta: &ViewDelta, newer: &Arc<View>) {
        if self.is_connected {
            self.handle_delta(now, delta, Some(newer));
        }
    }

    fn handle_delta(&mut self, now: Moment, delta: &ViewDelta, newer: Option<&Arc<View>>) {
        let Some(followed) = self.services.get_mut(&delta.service) else {
            return self.resync(&delta.service);
        };
        let newer = newer.filter(|newer| newer.at == delta.to);
        let applied = if let Some(newer) = newer {
            (followed.source.check(delta)).map(|()| Arc::clone(newer))
        } else {
            let mut source = (*followed.source).clone();
            self.steps += source.instances.len() as u64;
            source.apply(delta).map(|()| Arc::new(source))
        };
        match applied {
            Ok(source) if followed.is_fresh => {
                // What was there before was looked at when it came.
                let news = delta.added.iter().chain(&delta.changed);
                if let Some(reason) = fault_among(&source, news) {
                    return self.drop_push(&source.service, reason);
                }
                self.accept(now, source, Gone::Just(&delta.removed));
            }
            Err(ApplyError::Old { .. }) => {}
            Ok(_) | Err(_) => self.resync(&delta.service),
        }
    }

    fn handle_view(&mut self, now: Moment, view: &Arc<View>) {
        if let Some(reason) = self.fault_of(view) {
            if let Some(followed) = self.services.get_mut(&view.service) {
                // This was the answer; what comes next may ask once more.
                followed.is_resyncing = false;
            }
            return self.drop_push(&view.service, reason);
        }
        if let Some(followed) = self.services.get(&view.service) {
            let had = followed.source.at;
            if view.at < had {
                if followed.is_fresh && !followed.is_resyncing {
                    return; // overtaken on the way
                }
                self.suspect_until = now + self.config.suspect_for;
                self.outputs.push_back(FollowerOutput::Backwards {
                    service: view.service.clone(),
                    had,
                    got: view.at,
                });
            }
        }
        self.accept(now, Arc::clone(view), Gone::Any);
    }

    /// Ends guards whose time is over.
    pub fn handle_timeout(&mut self, now: Moment) {
        let due: Vec<ServiceName> = (self.services.iter())
            .filter(|(_, one)| one.guard.poll_timeout().is_some_and(|at| at <= now))
            .map(|(service, _)| service.clone())
            .collect();
        for service in due {
            let Some(followed) = self.services.get_mut(&service) else {
                continue;
            };
            followed.guard.clear();
            self.settle(&service, Gone::Any);
            let kept = 0;
            (self.outputs).push_back(FollowerOutput::Guard { service, kept });
        }
    }

    /// When to call [`Follower::handle_timeout`] next. Cost: O(services).
    pub fn poll_timeout(&self) -> Option<Moment> {
        let guards = self.services.values();
        guards.filter_map(|one| one.guard.poll_timeout()).min()
    }

    /// What to do next. Call until `None`.
    pub fn poll_output(&mut self) -> Option<FollowerOutput> {
        self.outputs.pop_front()
    }

    /// What callers see of a service.
    pub fn view(&self, service: &str) -> Option<&Arc<View>> {
        self.services.get(service).map(|one| &one.shown)
    }

    /// Instances that it has looked at for pushes since it began: what that comes
    /// to, whatever the machine.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the source can be talked to.
    pub const fn is_connected(&self) -> bool {
        self.is_connected
    }
}

/// Helpers, in the order in which they are called.
impl Follower {
    fn fault_of(&self, view: &View) -> Option<DropReason> {
        if !self.watch.covers(&view.service) {
            return Some(DropReason::NotWatched);
        }
        let is_new = !self.services.contains_key(&view.service);
        if is_new && self.services.len() >= FOLLOWED_SERVICES_MAX {
            return Some(DropReason::TooManyServices);
        }
        fault_in(view)
    }

    fn drop_push(&mut self, service: &ServiceName, reason: DropReason) {
        let service = service.clone();
        (self.outputs).push_back(FollowerOutput::Dropped { service, reason });
    }

    fn resync(&mut self, service: &ServiceName) {
        if let Some(followed) = self.services.get_mut(service) {
            if followed.is_resyncing {
                return;
            }
            followed.is_resyncing = true;
        } else if !self.watch.covers(service) {
            return self.drop_push(service, DropReason::NotWatched);
        }
        let service = service.clone();
        self.outputs.push_back(FollowerOutput::Resync { service });
    }

    /// The source says `source`, and what went since it spoke last.
    fn accept(&mut self, now: Moment, source: Arc<View>, gone: Gone<'_>) {
        let service = source.service.clone();
        let at = source.at;
        let followed = (self.services.entry(service.clone()))
            .or_insert_with(|| Followed::new(Arc::new(View::empty(service.clone(), at))));
        let kept_before = followed.guard.kept();
        let is_suspect = now < self.suspect_until;
        let shown = &followed.shown.instances;
        self.steps += gone.count(shown);
        (followed.guard).observe(now, &self.config, is_suspect, shown, &source, gone);
        followed.source = source;
        followed.is_fresh = true;
        followed.is_resyncing = false;
        // What a guard kept may go beside what the source takes away.
        let kept = followed.guard.kept();
        let is_guarded = kept > 0 || kept_before > 0;
        self.settle(&service, if is_guarded { gone.or_more() } else { gone });
        if kept != kept_before {
            let service = service.clone();
            (self.outputs).push_back(FollowerOutput::Guard { service, kept });
        }
        let subscriber = self.id;
        let ack = ViewAck {
            subscriber,
            service,
            at,
        };
        self.outputs.push_back(FollowerOutput::Ack(ack));
    }

    /// Shows what the source says together with what the guard keeps. Cost: O(gone
    /// + kept), or O(instances) where it is not known what went.
    fn settle(&mut self, service: &ServiceName, gone: Gone<'_>) {
        let Some(followed) = self.services.get_mut(service) else {
            return;
        };
        let mut view = Arc::clone(&followed.source);
        let mut kept = Vec::new();
        for (id, instance) in followed.guard.instances() {
            let instances = &mut Arc::make_mut(&mut view).instances;
            instances.insert(id.clone(), Arc::clone(instance));
            kept.push(id.clone());
        }
        let before = &followed.shown.instances;
        self.steps += gone.count(before);
        let lapsed = gone.of(before).filter(|(id, why)| {
            *why != Some(Removal::Deregistered) && !view.instances.contains_key(*id)
        });
        let lapsed = lapsed.map(|(id, _)| id.clone()).collect();
        followed.shown = view;
        let view = Arc::clone(&followed.shown);
        self.show(view, kept, lapsed);
    }

    fn show(&mut self, view: Arc<View>, kept: Vec<InstanceId>, lapsed: Vec<InstanceId>) {
        (self.outputs).push_back(FollowerOutput::Changed { view, kept, lapsed });
    }
}

impl Followed {
    fn new(view: Arc<View>) -> Self {
        Self {
            shown: Arc::clone(&view),
            source: view,
            is_fresh: false,
            is_resyncing: false,
            guard: Guard::default(),
        }
    }
}

/// What is wrong with a view that came from outside. Cost: O(instances).
fn fault_in(view: &View) -> Option<DropReason> {
    let is_misfiled = |(id, one): (&InstanceId, &Arc<Instance>)| *id != one.id;
    fault_among(view, view.instances.values()).or_else(|| {
        let is_bad = view.instances.iter().any(is_misfiled);
        is_bad.then_some(DropReason::InvalidInstance)
    })
}

/// What is wrong with these of a view. Cost: O(these).
fn fault_among<'a>(
    view: &View,
    mut these: impl Iterator<Item = &'a Arc<Instance>>,
) -> Option<DropReason> {
    if view.instances.len() > VIEW_INSTANCES_MAX {
        return Some(DropReason::TooManyInstances);
    }
    let is_good = |one: &Arc<Instance>| one.service == view.service && one.validate().is_ok();
    (!these.all(is_good)).then_some(DropReason::InvalidInstance)
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
