//! A registration, seen from its owner.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use waystation_base::{Clock, FencingToken, Moment};
use waystation_membership::{DrainStep, Instance, InstanceError, Refusal, Update};
use waystation_net::MonotonicClock;

use crate::backend::Key;
use crate::combined::JoinedRegistration;
use crate::hub::{Hub, Order};
use crate::observed::Observed;
use crate::registry::RegistrationOptions;

/// How a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationStatus {
    /// The instance as it is or will be registered, with its latest token.
    pub instance: Instance,
    /// Whether the node may serve, as of the last news. [`Registered::may_serve`]
    /// knows the time as well.
    pub is_registered: bool,
    /// How far its drain is, if it is draining.
    pub drain: Option<DrainStep>,
    /// Why the registry refuses it, until it does no longer.
    pub refusal: Option<Refusal>,
    /// How often it was refused.
    pub refusals: u64,
}

/// What the owner wants and the driver does not know yet.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of its own; any of them may come with any other"
)]
pub(crate) struct RegistrationWish {
    pub(crate) update: Option<Update>,
    pub(crate) lift: Option<FencingToken>,
    pub(crate) drain: bool,
    pub(crate) idle: bool,
    pub(crate) dropped: bool,
    /// Whether an order to look here is on its way.
    pub(crate) is_queued: bool,
}

/// What a registration's handle and the driver share.
#[derive(Debug)]
pub(crate) struct RegistrationSlot {
    pub(crate) key: Key,
    pub(crate) options: RegistrationOptions,
    pub(crate) wish: Mutex<RegistrationWish>,
    pub(crate) status: Observed<RegistrationStatus>,
    /// Until when the node may serve, in nanoseconds of the process's clock; 0
    /// when it may not.
    pub(crate) serves_until_ns: AtomicU64,
}

impl RegistrationSlot {
    pub(crate) fn new(key: Key, instance: Instance, options: RegistrationOptions) -> Self {
        Self {
            key,
            options,
            wish: Mutex::default(),
            status: Observed::new(RegistrationStatus {
                instance,
                is_registered: false,
                drain: None,
                refusal: None,
                refusals: 0,
            }),
            serves_until_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_serves_until(&self, until: Option<Moment>) {
        let nanos = until.map_or(0, Moment::as_nanos);
        self.serves_until_ns.store(nanos, Ordering::Release);
    }
}

/// One instance that is kept registered. Dropping it deregisters the instance
/// at once, requests in flight or not; to leave in order drain it first.
#[derive(Debug)]
pub struct Registered {
    slot: Arc<RegistrationSlot>,
    route: Route,
}

/// Who looks at what the owner wants.
#[derive(Debug)]
enum Route {
    Driver(Arc<Hub>),
    Joined(Arc<JoinedRegistration>),
}

impl Registered {
    pub(crate) fn new(slot: Arc<RegistrationSlot>, hub: Arc<Hub>) -> Self {
        let route = Route::Driver(hub);
        Self { slot, route }
    }

    pub(crate) fn joined(joined: Arc<JoinedRegistration>) -> Self {
        Self {
            slot: joined.slot(),
            route: Route::Joined(joined),
        }
    }

    pub(crate) fn slot(&self) -> &RegistrationSlot {
        &self.slot
    }

    fn wish(&self, change: impl FnOnce(&mut RegistrationWish)) {
        let mut wish = (self.slot.wish.lock()).unwrap_or_else(PoisonError::into_inner);
        change(&mut wish);
        let is_news = !std::mem::replace(&mut wish.is_queued, true);
        drop(wish);
        match &self.route {
            Route::Driver(hub) if is_news => {
                hub.order(Order::Registration(Arc::clone(&self.slot)));
            }
            Route::Driver(_) => {}
            Route::Joined(joined) => joined.forward(),
        }
    }

    /// Changes weight, metadata, or starting to serving: now, or with the next
    /// registration.
    ///
    /// # Errors
    /// The instance would be out of rule; nothing is changed then.
    pub fn update(&self, update: Update) -> Result<(), InstanceError> {
        let mut instance = self.slot.status.read(|status| status.instance.clone());
        let mut result = Ok(());
        self.wish(|wish| {
            let mut merged = wish.update.clone().unwrap_or_default();
            merged.merge(update);
            merged.apply(&mut instance);
            result = instance.validate();
            if result.is_ok() {
                wish.update = Some(merged);
            }
        });
        result
    }

    /// Begins to drain: subscribers are told to send nothing new. When the
    /// status says [`DrainStep::Acknowledged`], answer what is in flight and call
    /// [`Registered::idle`].
    pub fn drain(&self) {
        self.wish(|wish| wish.drain = true);
    }

    /// Another registry has granted `token`: this one is to grant a higher one.
    pub(crate) fn lift(&self, token: FencingToken) {
        self.wish(|wish| wish.lift = wish.lift.max(Some(token)));
    }

    /// Nothing is in flight any more: the last step of a drain.
    pub fn idle(&self) {
        self.wish(|wish| wish.idle = true);
    }

    /// Whether the node may serve, and write under its token, now. False from
    /// before the moment at which its peers may evict it, whether or not anybody
    /// runs that could tell. Cost: one clock read.
    pub fn may_serve(&self) -> bool {
        let until = self.slot.serves_until_ns.load(Ordering::Acquire);
        until > 0 && MonotonicClock.now() < Moment::from_nanos(until)
    }

    /// How it stands.
    pub fn status(&self) -> RegistrationStatus {
        self.slot.status.read(Clone::clone)
    }

    /// Waits for a status that `is_wanted`. The caller puts a deadline on it.
    pub async fn until(
        &self,
        mut is_wanted: impl FnMut(&RegistrationStatus) -> bool,
    ) -> RegistrationStatus {
        let take = |status: &mut RegistrationStatus| is_wanted(status).then(|| status.clone());
        self.slot.status.until(take).await
    }

    /// Blocks the thread until a status `is_wanted`; `None` when `timeout` passes
    /// first. Not for shards.
    pub fn wait_until(
        &self,
        timeout: Duration,
        mut is_wanted: impl FnMut(&RegistrationStatus) -> bool,
    ) -> Option<RegistrationStatus> {
        let take = |status: &mut RegistrationStatus| is_wanted(status).then(|| status.clone());
        self.slot.status.wait(timeout, take)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.slot.set_serves_until(None);
        self.wish(|wish| wish.dropped = true);
    }
}
