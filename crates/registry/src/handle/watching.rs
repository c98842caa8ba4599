//! A watch, seen from its owner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use waystation_base::ServiceName;
use waystation_membership::{SubscriberId, View, ViewVersion, Watch};

use crate::combined::JoinedWatch;
use crate::hub::{Hub, Order};
use crate::limits::RECORDED_MAX;
use crate::observed::Observed;
use crate::registry::{Change, WatchOptions};

/// What callers see.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) services: BTreeMap<ServiceName, Change>,
    /// Services that changed since changes were last taken.
    pub(crate) news: BTreeSet<ServiceName>,
    pub(crate) is_connected: bool,
    pub(crate) is_complete: bool,
    pub(crate) refusal: Option<String>,
    pub(crate) steps_backwards: u64,
    pub(crate) drops: u64,
    /// All that was shown, the oldest first, once somebody wants to know.
    recorded: Option<Vec<Change>>,
}

impl Shown {
    /// What callers see of a service from now on.
    pub(crate) fn show(&mut self, change: Change) {
        let service = change.view.service.clone();
        let recorded = self.recorded.as_mut();
        if let Some(recorded) = recorded.filter(|all| all.len() < RECORDED_MAX) {
            recorded.push(change.clone());
        }
        self.news.insert(service.clone());
        self.services.insert(service, change);
    }
}

#[derive(Debug, Default)]
pub(crate) struct WatchWish {
    pub(crate) acks: BTreeMap<ServiceName, ViewVersion>,
    pub(crate) refresh: bool,
    pub(crate) dropped: bool,
    pub(crate) is_queued: bool,
}

/// What a watch's handle and the driver share.
#[derive(Debug)]
pub(crate) struct WatchSlot {
    pub(crate) subscriber: SubscriberId,
    pub(crate) watch: Watch,
    pub(crate) options: WatchOptions,
    pub(crate) wish: Mutex<WatchWish>,
    /// The registry is not told that the watch is over.
    lingers: AtomicBool,
    pub(crate) shown: Observed<Shown>,
}

impl WatchSlot {
    pub(crate) fn new(subscriber: SubscriberId, watch: Watch, options: WatchOptions) -> Self {
        Self {
            subscriber,
            watch,
            options,
            wish: Mutex::default(),
            lingers: AtomicBool::new(false),
            shown: Observed::default(),
        }
    }

    /// Whether the registry finds out by itself that the watch is over.
    pub(crate) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Acquire)
    }
}

/// The views of a service or a prefix, kept up to date. A view that is shown is
/// never taken back because the registry was lost.
#[derive(Debug)]
pub struct Watching {
    slot: Arc<WatchSlot>,
    route: Route,
}

/// Who looks at what the owner wants.
#[derive(Debug)]
enum Route {
    Driver(Arc<Hub>),
    Joined(Arc<JoinedWatch>),
}

impl Watching {
    pub(crate) fn new(slot: Arc<WatchSlot>, hub: Arc<Hub>) -> Self {
        let route = Route::Driver(hub);
        Self { slot, route }
    }

    pub(crate) fn joined(joined: Arc<JoinedWatch>) -> Self {
        Self {
            slot: joined.slot(),
            route: Route::Joined(joined),
        }
    }

    pub(crate) fn slot(&self) -> &WatchSlot {
        &self.slot
    }

    fn wish(&self, change: impl FnOnce(&mut WatchWish)) {
        let mut wish = (self.slot.wish.lock()).unwrap_or_else(PoisonError::into_inner);
        change(&mut wish);
        let is_news = !std::mem::replace(&mut wish.is_queued, true);
        drop(wish);
        match &self.route {
            Route::Driver(hub) if is_news => hub.order(Order::Watch(Arc::clone(&self.slot))),
            Route::Driver(_) => {}
            Route::Joined(joined) => joined.forward(),
        }
    }

    /// Who the registry takes this watch for.
    pub fn subscriber(&self) -> SubscriberId {
        self.slot.subscriber
    }

    /// The view of a service; none before the registry was heard of it. Cost: a
    /// lock and a look-up.
    pub fn view(&self, service: &str) -> Option<Arc<View>> {
        let look = |shown: &Shown| shown.services.get(service).map(|one| Arc::clone(&one.view));
        self.slot.shown.read(look)
    }

    /// All that is watched. Cost: O(services).
    pub fn views(&self) -> Vec<Change> {
        (self.slot.shown).read(|shown| shown.services.values().cloned().collect())
    }

    /// Whether everything that the registry had when the watch began is shown.
    pub fn is_complete(&self) -> bool {
        self.slot.shown.read(|shown| shown.is_complete)
    }

    /// Whether what is shown is kept up to date, and not from before the
    /// registry was lost.
    pub fn is_connected(&self) -> bool {
        self.slot.shown.read(|shown| shown.is_connected)
    }

    /// Why the registry refuses the watch. It is asked again at the next
    /// connection.
    pub fn refusal(&self) -> Option<String> {
        self.slot.shown.read(|shown| shown.refusal.clone())
    }

    /// How often the registry's versions went backwards: it was restored from an
    /// old state.
    pub fn steps_backwards(&self) -> u64 {
        self.slot.shown.read(|shown| shown.steps_backwards)
    }

    /// Pushes that were dropped, since a good registry does not send them.
    pub fn drops(&self) -> u64 {
        self.slot.shown.read(|shown| shown.drops)
    }

    /// Says that the callers see a service at a version; see
    /// [`Acks::ByCaller`](crate::Acks::ByCaller).
    pub fn acknowledge(&self, service: &ServiceName, at: ViewVersion) {
        self.wish(|wish| {
            wish.acks.insert(service.clone(), at);
        });
    }

    /// Has the registry tell all of it again, although nothing is known to be
    /// missing. Of several registries that are used as one it changes nothing.
    pub fn refresh(&self) {
        self.wish(|wish| wish.refresh = true);
    }

    /// When this is dropped the registry is not told, and takes it for lost once the
    /// client closes: for a while drains wait for who goes on by what was shown here.
    /// That is 10 s, and 4 to 6 s in `ZooKeeper`.
    pub fn linger(&self) {
        self.slot.lingers.store(true, Ordering::Release);
        if let Route::Joined(joined) = &self.route {
            joined.linger();
        }
    }

    /// Waits for changes, and takes them: the latest view of each service that
    /// changed since the last call. The caller puts a deadline on it.
    pub async fn changes(&self) -> Vec<Change> {
        self.slot.shown.until(take).await
    }

    /// Blocks the thread until there are changes, and takes them; nothing when
    /// `timeout` passes first. Not for shards.
    pub fn wait_changes(&self, timeout: Duration) -> Vec<Change> {
        self.slot.shown.wait(timeout, take).unwrap_or_default()
    }

    /// Every change since this was first called, the oldest first, behind what was
    /// shown then; not more than [`RECORDED_MAX`]. For tests: what is taken by
    /// [`Watching::changes`] is the latest of each service, and says nothing of
    /// what was shown for a moment in between.
    #[doc(hidden)]
    pub fn recorded(&self) -> Vec<Change> {
        self.slot.shown.look(|shown| {
            let now = &shown.services;
            let begun = || now.values().cloned().collect();
            shown.recorded.get_or_insert_with(begun).clone()
        })
    }

    /// Blocks the thread until the view of `service` `is_wanted`, and gives it;
    /// `None` when `timeout` passes first. Not for shards.
    pub fn wait_view(
        &self,
        service: &str,
        timeout: Duration,
        mut is_wanted: impl FnMut(&View) -> bool,
    ) -> Option<Arc<View>> {
        let look = |shown: &mut Shown| {
            let view = &shown.services.get(service)?.view;
            is_wanted(view).then(|| Arc::clone(view))
        };
        self.slot.shown.wait(timeout, look)
    }

    /// Waits until everything that the registry had when the watch began is
    /// shown. The caller puts a deadline on it.
    pub async fn complete(&self) {
        self.slot.shown.until(complete).await;
    }

    /// Blocks the thread until everything that the registry had when the watch
    /// began is shown; false when `timeout` passes first. Not for shards.
    pub fn wait_complete(&self, timeout: Duration) -> bool {
        self.slot.shown.wait(timeout, complete).is_some()
    }
}

fn complete(shown: &mut Shown) -> Option<()> {
    shown.is_complete.then_some(())
}

fn take(shown: &mut Shown) -> Option<Vec<Change>> {
    let news = std::mem::take(&mut shown.news);
    let changes: Vec<Change> = news
        .iter()
        .filter_map(|service| shown.services.get(service).cloned())
        .collect();
    (!changes.is_empty()).then_some(changes)
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.wish(|wish| wish.dropped = true);
    }
}
