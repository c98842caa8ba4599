//! The one interface of all backends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::Moment;
use waystation_membership::{
    DirectoryConfig, FollowerConfig, Instance, InstanceId, RegistrationConfig, SubscriberId, View,
    ViewVersion, Watch,
};
use waystation_net::{Kind, Sample};

use crate::error::Error;
use crate::handle::{Draining, Listing, Registered, Watching};
use crate::limits::LAPSED_MAX;

/// Node discovery, whatever keeps it.
///
/// Nothing here waits, and an absent registry is no error: what is asked for
/// happens as soon as the registry can be talked to, and again whenever it was
/// lost. Handles work on a shard (`async`) and on any other thread (`wait_*`).
/// Dropping a handle ends what it stands for.
///
/// ```no_run
/// use waystation_base::ServiceName;
/// use waystation_membership::Watch;
/// use waystation_registry::{Client, Registry, WatchOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Client::open(&"embedded://127.0.0.1:7071".parse()?)?;
/// let logic = ServiceName::new("im.logic")?;
/// let watching = registry.watch(Watch::Service(logic), WatchOptions::default())?;
/// for change in watching.wait_changes(std::time::Duration::from_secs(5)) {
///     println!("{} instances", change.view.instances.len());
/// }
/// # Ok(())
/// # }
/// ```
pub trait Registry: Send + Sync {
    /// Keeps `instance` registered until the handle is dropped or its drain is
    /// over: through refusals, lost connections, lost leases and restarts of the
    /// registry.
    ///
    /// # Errors
    /// The instance is out of rule, the backend takes no registrations, or a
    /// bound is reached.
    fn register(
        &self,
        instance: Instance,
        options: RegistrationOptions,
    ) -> Result<Registered, Error>;

    /// Watches a service or a prefix, before its first instance if need be.
    ///
    /// # Errors
    /// A bound is reached.
    fn watch(&self, watch: Watch, options: WatchOptions) -> Result<Watching, Error>;

    /// Asks once what is there, and on wish who holds which version of it.
    ///
    /// # Errors
    /// A bound is reached.
    fn list(&self, watch: Watch, with_holders: bool) -> Result<Listing, Error>;

    /// Begins to drain an instance, whoever owns it.
    ///
    /// # Errors
    /// A bound is reached.
    fn drain(&self, id: InstanceId) -> Result<Draining, Error>;

    /// Whether the registry can be talked to.
    fn session(&self) -> Session;
}

/// How an instance is kept registered.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RegistrationOptions {
    /// Leases, margins and pauses.
    pub config: RegistrationConfig,
    /// How long its drain may take. The embedded registry has its own word on
    /// that, for all that are registered there.
    pub drain: DrainWaits,
}

/// How long a drain waits for others. The same everywhere is best: a node that
/// waits for less leaves before the registry lets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainWaits {
    /// Until all subscribers have acknowledged. Default 10 s. A subscriber that
    /// hangs delays the drain by so much.
    pub acknowledged: Duration,
    /// Until no request is in flight, after that. Default 30 s.
    pub requests: Duration,
}

impl Default for DrainWaits {
    fn default() -> Self {
        let config = DirectoryConfig::default();
        Self {
            acknowledged: config.drain_ack_max,
            requests: config.drain_requests_max,
        }
    }
}

/// When a view counts as seen by a subscriber's callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// As soon as [`Watching::view`] gives it.
    #[default]
    Shown,
    /// When [`Watching::acknowledge`] is called, by a subscriber that hands
    /// views on and knows when they have arrived.
    ByCaller,
}

/// How a watch behaves.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// When views are acknowledged.
    pub acks: Acks,
    /// The guard on losses.
    pub follower: FollowerConfig,
    /// Views kept from before, shown until the registry has been heard: for a
    /// cold start without it.
    pub restored: Vec<View>,
}

/// What callers see of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The view.
    pub view: Arc<View>,
    /// What is in it although the registry says that it is gone: suspects that
    /// the guard on losses keeps for a while.
    pub kept: Vec<InstanceId>,
    /// What was in it and is not any more, without its owner's word: its lease ran
    /// out, or nobody says why. Not longer than [`LAPSED_MAX`]; the latest of them
    /// when changes come together.
    pub lapsed: BTreeSet<InstanceId>,
}

impl Change {
    /// Goes on from what was shown before: what had lapsed and is not back still
    /// has.
    pub(crate) fn since(mut self, before: Option<&Self>) -> Self {
        let before = before.into_iter().flat_map(|before| &before.lapsed);
        let before: Vec<InstanceId> = before.cloned().collect();
        let instances = &self.view.instances;
        self.lapsed.retain(|id| !instances.contains_key(id));
        for id in before {
            if self.lapsed.len() < LAPSED_MAX && !instances.contains_key(&id) {
                self.lapsed.insert(id);
            }
        }
        while self.lapsed.len() > LAPSED_MAX {
            self.lapsed.pop_first();
        }
        self
    }
}

/// Whether a registry can be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What the client is doing.
    pub state: SessionState,
    /// Since when, by the process's clock.
    pub since: Moment,
    /// Why it could not be talked to last.
    pub fault: Option<String>,
    /// Entries of the source that were skipped, since they are not ours or
    /// malformed.
    pub skipped: u64,
    /// The latest of them: the place, and what is wrong there.
    pub skipped_places: Vec<(String, String)>,
    /// How the registry was last found to come from an old state, as one that was
    /// restored from a backup does: what had been given out before. All goes on
    /// above that. Of several clients of one in a store only the first to see it
    /// may say so.
    pub went_back: Option<String>,
    /// How often that was so, of which the latest stands above.
    pub went_back_times: u64,
}

impl Session {
    /// What a page of metrics shows of it.
    pub fn samples(&self) -> Vec<Sample> {
        let sample = |name, kind, help, value| Sample {
            name,
            help,
            kind,
            value,
        };
        vec![
            sample(
                "waystation_registry_connected",
                Kind::Gauge,
                "Whether the registry can be talked to.",
                u64::from(self.state == SessionState::Connected),
            ),
            sample(
                "waystation_registry_skipped",
                Kind::Counter,
                "Entries of the registry that are not ours or malformed; the log names each.",
                self.skipped,
            ),
            sample(
                "waystation_registry_went_back",
                Kind::Counter,
                "Times that the registry was found to come from an old state, as from a backup.",
                self.went_back_times,
            ),
        ]
    }
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// The registry cannot be talked to; the client goes on trying.
    Connecting,
    /// The registry can be talked to.
    Connected,
    /// The client was closed.
    Closed,
}

/// A service as a registry lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedService {
    /// Its view.
    pub view: Arc<View>,
    /// Who watches it, if that was asked for.
    pub holders: Vec<Holder>,
}

/// Which version a subscriber holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub subscriber: SubscriberId,
    /// What it was sent last.
    pub sent: Option<ViewVersion>,
    /// What its callers see, as far as it said.
    pub acknowledged: Option<ViewVersion>,
    /// Where it is connected from; none while it is not.
    pub peer: Option<String>,
    /// The instance that the same client registered, the first if it did several;
    /// none if it registered nothing.
    pub node: Option<InstanceId>,
}
