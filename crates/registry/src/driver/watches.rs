//! The watches of a client.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use waystation_base::Moment;
use waystation_membership::{Follower, FollowerOutput, SubscriberId, ViewAck};

use crate::backend::{Ask, Backend};
use crate::handle::{Shown, WatchSlot};
use crate::registry::{Acks, Change};

struct Following {
    slot: Arc<WatchSlot>,
    core: Follower,
    /// When something is due of it.
    due: Option<Moment>,
}

/// All watches of a client.
#[derive(Default)]
pub(super) struct Watches {
    by_subscriber: BTreeMap<SubscriberId, Following>,
}

impl Watches {
    /// When something is due. Cost: O(watches).
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let due = |following: &Following| following.due;
        self.by_subscriber.values().filter_map(due).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Moment, backend: &dyn Backend) {
        for following in self.by_subscriber.values_mut() {
            if following.due.is_some_and(|at| at <= now) {
                following.core.handle_timeout(now);
                following.settle(backend);
            }
        }
    }

    pub(super) fn handle_connected(&mut self, now: Moment, backend: &dyn Backend) {
        for following in self.by_subscriber.values_mut() {
            following.core.handle_connected(now);
            following.settle(backend);
        }
    }

    pub(super) fn handle_disconnected(&mut self, backend: &dyn Backend) {
        for following in self.by_subscriber.values_mut() {
            following.core.handle_disconnected();
            following.settle(backend);
        }
    }

    /// Looks at what an owner wants; true when the watch is over.
    pub(super) fn handle_order(
        &mut self,
        now: Moment,
        slot: &Arc<WatchSlot>,
        is_connected: bool,
        backend: &dyn Backend,
    ) -> bool {
        let wish = {
            let mut wish = slot.wish.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *wish)
        };
        let following = (self.by_subscriber.entry(slot.subscriber)).or_insert_with(|| {
            let options = &slot.options;
            let mut core = Follower::new(slot.subscriber, slot.watch.clone(), options.follower);
            for view in &options.restored {
                core.restore(view.clone());
            }
            if is_connected {
                core.handle_connected(now);
            }
            Following {
                slot: Arc::clone(slot),
                core,
                due: None,
            }
        });
        if wish.refresh {
            following.core.handle_refresh();
        }
        following.settle(backend);
        for (service, at) in wish.acks {
            let subscriber = slot.subscriber;
            backend.handle(Ask::Ack(ViewAck {
                subscriber,
                service,
                at,
            }));
        }
        if wish.dropped {
            backend.handle(if slot.lingers() {
                Ask::Linger(slot.subscriber)
            } else {
                Ask::Unsubscribe(slot.subscriber)
            });
            self.by_subscriber.remove(&slot.subscriber);
        }
        wish.dropped
    }

    /// The client closes, with watches that nobody has dropped.
    pub(super) fn close(&self, backend: &dyn Backend) {
        for (subscriber, following) in &self.by_subscriber {
            if following.slot.lingers() {
                backend.handle(Ask::Linger(*subscriber));
            }
        }
    }

    /// A push. One to a watch that is over is nobody's.
    pub(super) fn handle(
        &mut self,
        subscriber: SubscriberId,
        backend: &dyn Backend,
        push: impl FnOnce(&mut Follower),
    ) {
        if let Some(following) = self.by_subscriber.get_mut(&subscriber) {
            push(&mut following.core);
            following.settle(backend);
        }
    }

    /// Everything that is there has been pushed, or nothing will be.
    pub(super) fn handle_subscribed(
        &mut self,
        subscriber: SubscriberId,
        outcome: Result<(), String>,
    ) {
        if let Some(following) = self.by_subscriber.get(&subscriber) {
            following.slot.shown.update(|shown| {
                shown.is_complete |= outcome.is_ok();
                shown.refusal = outcome.err();
            });
        }
    }
}

impl Following {
    /// Carries out what the core wants. Views are shown before they are
    /// acknowledged.
    fn settle(&mut self, backend: &dyn Backend) {
        let slot = &self.slot;
        let is_connected = self.core.is_connected();
        let core = &mut self.core;
        let mut asks = Vec::new();
        let mut apply = |shown: &mut Shown| {
            shown.is_connected = is_connected;
            while let Some(output) = core.poll_output() {
                asks.extend(Self::carry_out(slot, shown, output));
            }
        };
        slot.shown.update(&mut apply);
        self.due = self.core.poll_timeout();
        for ask in asks {
            backend.handle(ask);
        }
    }

    /// Shows what one output says; what the backend is to be asked.
    fn carry_out(slot: &WatchSlot, shown: &mut Shown, output: FollowerOutput) -> Option<Ask> {
        let subscriber = slot.subscriber;
        match output {
            FollowerOutput::Subscribe { watch, have } => Some(Ask::Subscribe {
                subscriber,
                watch,
                have,
            }),
            FollowerOutput::Resync { service } => Some(Ask::Resync {
                subscriber,
                service,
            }),
            FollowerOutput::Changed { view, kept, lapsed } => {
                let lapsed = lapsed.into_iter().collect();
                let change = Change { view, kept, lapsed };
                let before = shown.services.get(&change.view.service);
                let change = change.since(before);
                shown.show(change);
                None
            }
            FollowerOutput::Ack(ack) => (slot.options.acks == Acks::Shown).then_some(Ask::Ack(ack)),
            FollowerOutput::Backwards { service, had, got } => {
                tracing::warn!(%service, %had, %got, "the registry's versions went backwards");
                shown.steps_backwards += 1;
                None
            }
            FollowerOutput::Guard { service, kept } => {
                tracing::warn!(%service, kept, "the guard on losses keeps instances");
                None
            }
            FollowerOutput::Dropped { service, reason } => {
                tracing::warn!(%service, ?reason, "dropped a push");
                shown.drops += 1;
                None
            }
        }
    }
}
