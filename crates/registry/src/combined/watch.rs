//! A watch of several sources at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waystation_base::{Epoch, ServiceName};
use waystation_membership::{InstanceId, View, ViewVersion};

use super::merge::{Seen, merge};
use crate::error::Error;
use crate::handle::{Shown, WatchSlot, Watching};
use crate::limits::{COMBINED_ACKS_MAX, COMBINED_KNOWN_MAX};
use crate::registry::{Acks, Change, Registry, WatchOptions};

/// A watch, and the watches of the sources that it is made of.
#[derive(Debug)]
pub(crate) struct JoinedWatch {
    slot: Arc<WatchSlot>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    by_source: BTreeMap<u64, Part>,
    /// The latest version of any service.
    number: u64,
    made: BTreeMap<ServiceName, Made>,
    is_over: bool,
}

#[derive(Debug)]
struct Part {
    watching: Watching,
    was_fresh: bool,
    known: BTreeMap<ServiceName, BTreeSet<InstanceId>>,
}

/// Of what the latest versions of a service are made, the oldest first.
#[derive(Debug, Default)]
struct Made {
    of: Vec<(u64, BTreeMap<u64, ViewVersion>)>,
    acknowledged: u64,
}

/// What a source showed when it was looked at.
#[derive(Debug, Default)]
struct Look {
    /// Of the services that are looked at.
    services: BTreeMap<ServiceName, Change>,
    news: BTreeSet<ServiceName>,
    is_connected: bool,
    is_complete: bool,
    refusal: Option<String>,
    steps_backwards: u64,
    drops: u64,
}

impl JoinedWatch {
    pub(super) fn new(slot: Arc<WatchSlot>) -> Arc<Self> {
        Arc::new(Self {
            slot,
            parts: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot(&self) -> Arc<WatchSlot> {
        Arc::clone(&self.slot)
    }

    /// Watches one more source.
    pub(super) fn add(self: &Arc<Self>, source: u64, registry: &dyn Registry) -> Result<(), Error> {
        let mut parts = self.lock();
        let mut options = self.slot.options.clone();
        if !parts.by_source.is_empty() {
            // One that was heard shows more than what was kept from before.
            options.restored = Vec::new();
        }
        let watching = registry.watch(self.slot.watch.clone(), options)?;
        let me = Arc::downgrade(self);
        watching.slot().shown.on_change(Box::new(move || {
            if let Some(me) = me.upgrade() {
                me.refresh();
            }
        }));
        let part = Part {
            watching,
            was_fresh: false,
            known: BTreeMap::new(),
        };
        parts.by_source.insert(source, part);
        drop(parts);
        // What it showed before it was listened to.
        self.refresh();
        Ok(())
    }

    /// Watches a source no more.
    pub(super) fn remove(&self, source: u64) {
        let removed = self.lock().by_source.remove(&source);
        if removed.is_some() {
            self.refresh_all();
        }
    }

    /// Whether every source shows all that it has.
    pub(super) fn is_settled(&self) -> bool {
        let parts = self.lock();
        let mut all = parts.by_source.values();
        all.all(|part| part.watching.is_complete() && part.watching.is_connected())
    }

    /// What `source` shows and none of the others does.
    pub(super) fn only_in(&self, source: u64) -> Vec<InstanceId> {
        let parts = self.lock();
        let Some(part) = parts.by_source.get(&source) else {
            return Vec::new();
        };
        let mut only = Vec::new();
        for change in part.watching.views() {
            let service = change.view.service.as_str();
            only.extend(
                change
                    .view
                    .instances
                    .keys()
                    .filter(|id| {
                        let others = parts
                            .by_source
                            .iter()
                            .filter(|(other, _)| **other != source);
                        let has = |view: Arc<View>| view.instances.contains_key(*id);
                        !others
                            .into_iter()
                            .any(|(_, other)| other.watching.view(service).is_some_and(has))
                    })
                    .cloned(),
            );
        }
        only
    }

    /// Takes what the owner wants.
    pub(crate) fn forward(&self) {
        let wish = {
            let mut wish = (self.slot.wish.lock()).unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *wish)
        };
        let mut parts = self.lock();
        if wish.dropped {
            parts.is_over = true;
            let ended = std::mem::take(&mut parts.by_source);
            drop(parts);
            // Each of them tells its own client.
            drop(ended);
            return;
        }
        for (service, at) in wish.acks {
            parts.acknowledge(&service, at.number);
        }
    }

    /// As [`Watching::linger`], of each source.
    pub(crate) fn linger(&self) {
        for part in self.lock().by_source.values() {
            part.watching.linger();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn refresh(&self) {
        self.refresh_where(false);
    }

    fn refresh_all(&self) {
        self.refresh_where(true);
    }

    /// Shows what the sources show, of the services that changed or of all.
    fn refresh_where(&self, of_all: bool) {
        let acks = self.slot.options.acks;
        let mut parts = self.lock();
        if parts.is_over {
            return;
        }
        let mut looks = BTreeMap::new();
        let mut changed = BTreeSet::new();
        let mut is_turned = of_all;
        for (source, part) in &mut parts.by_source {
            let mut look = part.look();
            let is_fresh = look.is_fresh();
            is_turned |= std::mem::replace(&mut part.was_fresh, is_fresh) != is_fresh;
            changed.append(&mut look.news);
            looks.insert(*source, look);
        }
        if is_turned {
            for part in parts.by_source.values() {
                changed.extend(part.services());
            }
            changed.extend(parts.made.keys().cloned());
        }
        for (source, look) in &mut looks {
            if let Some(part) = parts.by_source.get_mut(source) {
                part.look_at(&changed, look);
            }
        }
        let mut shown = BTreeMap::new();
        for service in changed {
            let one = |shown: &Shown| shown.services.get(&service).cloned();
            let before = self.slot.shown.read(one);
            let now = parts.merge(&service, &looks, before.as_ref(), acks);
            shown.extend(now.map(|change| (service, change)));
        }
        let of = |look: fn(&Look) -> u64| looks.values().map(look).sum::<u64>();
        let is_connected = looks.values().any(|look| look.is_connected);
        // A source that cannot be reached keeps nobody waiting.
        let is_complete = looks.values().any(|look| look.is_complete)
            && looks
                .values()
                .all(|look| look.is_complete || !look.is_connected);
        let refusal = looks.values().find_map(|look| look.refusal.clone());
        let (steps_backwards, drops) = (of(|look| look.steps_backwards), of(|look| look.drops));
        self.slot.shown.update(|all| {
            for change in shown.into_values() {
                all.show(change);
            }
            all.is_connected = is_connected;
            all.is_complete |= is_complete;
            all.refusal = refusal;
            all.steps_backwards = steps_backwards;
            all.drops = drops;
        });
    }
}

impl Look {
    fn is_fresh(&self) -> bool {
        self.is_connected && self.is_complete
    }
}

impl Part {
    /// How the source is, and which services it shows otherwise than before.
    fn look(&self) -> Look {
        self.watching.slot().shown.look(|shown: &mut Shown| Look {
            services: BTreeMap::new(),
            news: std::mem::take(&mut shown.news),
            is_connected: shown.is_connected,
            is_complete: shown.is_complete,
            refusal: shown.refusal.clone(),
            steps_backwards: shown.steps_backwards,
            drops: shown.drops,
        })
    }

    /// Every service that the source shows.
    fn services(&self) -> Vec<ServiceName> {
        let names = |shown: &Shown| shown.services.keys().cloned().collect();
        self.watching.slot().shown.read(names)
    }

    /// Takes what the source shows of `services` into `look`, and remembers whom
    /// it had while it was fresh. Cost: of these services, not of all.
    fn look_at(&mut self, services: &BTreeSet<ServiceName>, look: &mut Look) {
        let is_fresh = self.watching.slot().shown.read(|shown| {
            for service in services {
                let change = shown.services.get(service);
                look.services
                    .extend(change.map(|change| (service.clone(), change.clone())));
            }
            shown.is_connected && shown.is_complete
        });
        if !(is_fresh && look.is_fresh()) {
            return;
        }
        for (service, change) in &look.services {
            let known = self.known.entry(service.clone()).or_default();
            known.extend(change.view.instances.keys().cloned());
            if known.len() > COMBINED_KNOWN_MAX {
                known.retain(|id| change.view.instances.contains_key(id));
            }
        }
    }
}

impl Parts {
    /// A service as it is to be shown now; none when it is shown so already.
    fn merge(
        &mut self,
        service: &ServiceName,
        looks: &BTreeMap<u64, Look>,
        before: Option<&Change>,
        acks: Acks,
    ) -> Option<Change> {
        let nobody = BTreeSet::new();
        let seen: Vec<Seen<'_>> = (self.by_source.iter())
            .filter_map(|(source, part)| {
                let look = looks.get(source)?;
                Some(Seen {
                    change: look.services.get(service),
                    is_fresh: part.was_fresh,
                    known: part.known.get(service).unwrap_or(&nobody),
                })
            })
            .collect();
        if before.is_none() && seen.iter().all(|seen| seen.change.is_none()) {
            return None;
        }
        let (instances, kept) = merge(&seen);
        let lapsed = seen.iter().filter_map(|seen| seen.change);
        let lapsed = lapsed.flat_map(|change| change.lapsed.iter().cloned());
        let lapsed = lapsed.collect();
        let of: BTreeMap<u64, ViewVersion> = (looks.iter())
            .filter_map(|(source, look)| Some((*source, look.services.get(service)?.view.at)))
            .collect();
        let is_same = |change: &Change| change.view.instances == instances && change.kept == kept;
        let is_news = !before.is_some_and(is_same);
        if is_news {
            self.number += 1;
        }
        let number = self.number;
        if acks == Acks::ByCaller {
            self.made_of(service, number, of, is_news);
        }
        let change = || Change {
            view: Arc::new(View {
                service: service.clone(),
                at: ViewVersion {
                    epoch: Epoch(1),
                    number,
                },
                instances,
            }),
            kept,
            lapsed,
        };
        is_news.then(|| change().since(before))
    }

    /// Remembers of what a version is made. What callers hold already is
    /// acknowledged under its new name.
    fn made_of(
        &mut self,
        service: &ServiceName,
        number: u64,
        of: BTreeMap<u64, ViewVersion>,
        is_news: bool,
    ) {
        let made = self.made.entry(service.clone()).or_default();
        if is_news || made.of.is_empty() {
            made.of.push((number, of));
            let excess = made.of.len().saturating_sub(COMBINED_ACKS_MAX);
            made.of.drain(..excess);
            return;
        }
        if let Some(last) = made.of.last_mut() {
            last.1 = of;
        }
        let acknowledged = made.acknowledged;
        self.acknowledge(service, acknowledged);
    }

    /// Callers see a service at a version: tells every source what that is made
    /// of.
    fn acknowledge(&mut self, service: &ServiceName, number: u64) {
        let Some(made) = self.made.get_mut(service) else {
            return;
        };
        made.acknowledged = made.acknowledged.max(number);
        let seen = made.of.iter().rev().find(|(one, _)| *one <= number);
        for (source, at) in seen.iter().flat_map(|(_, of)| of) {
            if let Some(part) = self.by_source.get(source) {
                part.watching.acknowledge(service, *at);
            }
        }
    }
}

/// The slot of a watch that no driver knows.
pub(super) fn slot(
    subscriber: waystation_membership::SubscriberId,
    watch: waystation_membership::Watch,
    options: WatchOptions,
) -> Arc<WatchSlot> {
    Arc::new(WatchSlot::new(subscriber, watch, options))
}
