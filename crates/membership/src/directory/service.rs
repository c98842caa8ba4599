//! One service of a directory: its view, its changes, and who watches it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Content, Holding, Output};
use crate::ids::{InstanceId, SubscriberId};
use crate::instance::Instance;
use crate::limits::PUSHES_UNACKED_MAX;
use crate::view::{Removal, View, ViewAck, ViewDelta, ViewVersion};

/// What a subscriber was sent and has acknowledged.
#[derive(Debug, Default)]
struct Watcher {
    /// The version it has once all pushes arrive; `None` needs the whole view.
    sent: Option<ViewVersion>,
    acked: Option<ViewVersion>,
    unacked: VecDeque<ViewVersion>,
}

impl Watcher {
    /// Forgets what was on its way; it gets the whole view next.
    fn start_over(&mut self) {
        self.sent = None;
        self.unacked.clear();
    }

    /// Whether one that was held back is sent something again. It need not say so
    /// of each view: its last word may wait for a view that is not sent.
    fn has_caught_up(&self) -> bool {
        self.unacked.len() <= PUSHES_UNACKED_MAX / 2
    }

    /// Whether it is sent something now, on the way from one version to another,
    /// and then whether what changed is enough; that counts as sent.
    fn poll(&mut self, from: ViewVersion, to: ViewVersion) -> Option<bool> {
        if self.sent == Some(to) {
            return None;
        }
        if self.unacked.len() >= PUSHES_UNACKED_MAX {
            self.sent = None;
            return None;
        }
        let is_delta = self.sent == Some(from) && from.epoch == to.epoch;
        if self.sent.is_none() && !self.has_caught_up() {
            return None;
        }
        self.sent = Some(to);
        self.unacked.push_back(to);
        Some(is_delta)
    }
}

#[derive(Debug)]
pub(super) struct Service {
    published: Arc<View>,
    /// Changes since then: the new instance, or why there is none.
    changes: BTreeMap<InstanceId, Result<Arc<Instance>, Removal>>,
    watchers: BTreeMap<SubscriberId, Watcher>,
    /// Those of them that are there and were not sent the view: who comes costs
    /// nothing for each of the others.
    unsent: BTreeSet<SubscriberId>,
}

impl Service {
    pub(super) fn new(view: View) -> Self {
        Self {
            published: Arc::new(view),
            changes: BTreeMap::new(),
            watchers: BTreeMap::new(),
            unsent: BTreeSet::new(),
        }
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.published)
    }

    /// Whether it has no instance, published or not, and every watcher was told.
    pub(super) fn is_settled_empty(&self) -> bool {
        let is_told = |watcher: &Watcher| watcher.sent == Some(self.published.at);
        self.published.instances.is_empty()
            && self.changes.is_empty()
            && self.watchers.values().all(is_told)
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The instance as it will be published next.
    pub(super) fn instance(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        match self.changes.get(id) {
            Some(change) => change.as_ref().ok(),
            None => self.published.instances.get(id),
        }
    }

    /// Sets an instance; false when it is as it was.
    pub(super) fn put(&mut self, instance: Arc<Instance>) -> bool {
        if self.instance(&instance.id) == Some(&instance) {
            return false;
        }
        self.changes.insert(instance.id.clone(), Ok(instance));
        true
    }

    pub(super) fn take(&mut self, id: &InstanceId, why: Removal) {
        if self.published.instances.contains_key(id) {
            self.changes.insert(id.clone(), Err(why));
        } else {
            self.changes.remove(id);
        }
    }

    /// Adds a watcher, or starts one over that came back.
    pub(super) fn watch(&mut self, subscriber: SubscriberId) {
        self.watchers.entry(subscriber).or_default().start_over();
        self.unsent.insert(subscriber);
    }

    pub(super) fn unwatch(&mut self, subscriber: SubscriberId) {
        self.watchers.remove(&subscriber);
        self.unsent.remove(&subscriber);
    }

    /// Who watches it, by its name or by a prefix.
    pub(super) fn watchers(&self) -> impl Iterator<Item = &SubscriberId> {
        self.watchers.keys()
    }

    /// Forgets what was on its way to the watcher; it gets the whole view next.
    pub(super) fn resync(&mut self, subscriber: SubscriberId) {
        if let Some(watcher) = self.watchers.get_mut(&subscriber) {
            watcher.start_over();
            self.unsent.insert(subscriber);
        }
    }

    /// Forgets what was on its way to a watcher that is away. It is sent nothing
    /// until it watches again.
    pub(super) fn lose(&mut self, subscriber: SubscriberId) {
        if let Some(watcher) = self.watchers.get_mut(&subscriber) {
            watcher.start_over();
            self.unsent.remove(&subscriber);
        }
    }

    /// As [`Service::resync`], for all of them.
    pub(super) fn resync_all(&mut self) {
        for (subscriber, watcher) in &mut self.watchers {
            watcher.start_over();
            self.unsent.insert(*subscriber);
        }
    }

    /// Takes an acknowledgement of something that was sent; true when the
    /// watcher, held back until now, is to be sent the whole view.
    pub(super) fn acknowledge(&mut self, ack: &ViewAck) -> bool {
        let Some(watcher) = self.watchers.get_mut(&ack.subscriber) else {
            return false;
        };
        let Some(index) = watcher.unacked.iter().position(|at| *at == ack.at) else {
            return false;
        };
        watcher.unacked.drain(..=index);
        watcher.acked = Some(ack.at);
        watcher.has_caught_up() && watcher.sent.is_none()
    }

    /// Brings the view to `at` if it changed, and every watcher to the view. Cost:
    /// O(changes · log instances + watchers); O(watchers that were sent nothing)
    /// without changes. Says how many of them it looked at.
    pub(super) fn publish(
        &mut self,
        at: ViewVersion,
        is_lost: impl Fn(&SubscriberId) -> bool,
        outputs: &mut VecDeque<Output>,
    ) -> u64 {
        let from = self.published.at;
        let mut steps = self.changes.len() as u64;
        let mut delta = None;
        if !self.changes.is_empty() || from.epoch != at.epoch {
            delta = Some(Arc::new(self.take_delta(at)));
        }
        let published = &self.published;
        let mut bring = |subscriber: SubscriberId, watcher: &mut Watcher| {
            let Some(is_delta) = watcher.poll(from, published.at) else {
                return;
            };
            let content = match &delta {
                Some(delta) if is_delta => Content::Delta(Arc::clone(delta)),
                _ => Content::View(Arc::clone(published)),
            };
            outputs.push_back(Output::Push {
                subscriber,
                content,
            });
        };
        let mut unsent = std::mem::take(&mut self.unsent);
        if delta.is_some() {
            unsent.clear();
            for (subscriber, watcher) in &mut self.watchers {
                steps += 1;
                if !is_lost(subscriber) {
                    bring(*subscriber, watcher);
                    if watcher.sent.is_none() {
                        unsent.insert(*subscriber);
                    }
                }
            }
        } else {
            // All others have what is published.
            unsent.retain(|subscriber| {
                steps += 1;
                let Some(watcher) = self.watchers.get_mut(subscriber) else {
                    return false;
                };
                if !is_lost(subscriber) {
                    bring(*subscriber, watcher);
                }
                watcher.sent.is_none()
            });
        }
        self.unsent = unsent;
        steps
    }

    /// Applies the changes to the view, in place if nobody else holds it, and
    /// returns them.
    fn take_delta(&mut self, to: ViewVersion) -> ViewDelta {
        let view = Arc::make_mut(&mut self.published);
        let mut delta = ViewDelta {
            service: view.service.clone(),
            from: view.at,
            to,
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
        };
        for (id, change) in std::mem::take(&mut self.changes) {
            match change {
                Err(why) => {
                    view.instances.remove(&id);
                    delta.removed.push((id, why));
                }
                Ok(instance) => {
                    let old = view.instances.insert(id, Arc::clone(&instance));
                    let list = match old {
                        None => &mut delta.added,
                        Some(_) => &mut delta.changed,
                    };
                    list.push(instance);
                }
            }
        }
        view.at = to;
        delta
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = Holding> {
        self.watchers.iter().map(|(subscriber, watcher)| Holding {
            subscriber: *subscriber,
            sent: watcher.sent,
            acked: watcher.acked,
        })
    }

    /// Who has not acknowledged `at` or later.
    pub(super) fn behind(&self, at: ViewVersion) -> Vec<SubscriberId> {
        let is_behind = |watcher: &Watcher| watcher.acked.is_none_or(|acked| acked < at);
        (self.watchers.iter())
            .filter(|(_, watcher)| is_behind(watcher))
            .map(|(id, _)| *id)
            .collect()
    }
}
