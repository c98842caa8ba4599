//! What cases are written with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{BackoffConfig, Clock, Moment, ServiceName};
use waystation_membership::{
    FollowerConfig, Instance, InstanceId, Owner, OwnerId, RegistrationConfig, Update, View, Watch,
};
use waystation_net::MonotonicClock;
use waystation_registry::{
    Acks, Client, Registered, RegistrationOptions, RegistrationStatus, Registry, WatchOptions,
    Watching,
};

use crate::embedded::Embedded;
use crate::fixture::{Ability, Fixture};
use crate::process::Process;
use crate::proxy::Mode;

/// No wait of a case is longer; none is meant to come near it.
pub const WAIT: Duration = Duration::from_secs(40);

/// The lease that nodes of the suite ask for, in milliseconds.
const TTL_MS: u64 = 2000;

/// One case's registry, and what belongs to it.
pub struct World<F> {
    /// The registry.
    pub fixture: F,
    program: PathBuf,
}

/// An instance that stands in a registry for as long as this lives.
pub enum Present {
    /// By a registration.
    Registered(Registered),
    /// By hand.
    ByHand(Instance),
}

impl<F: Fixture> World<F> {
    /// A world whose registry is not started yet. One that is not alone is never
    /// killed.
    pub fn new(program: &Path, is_alone: bool) -> Self {
        Self {
            fixture: F::new(program, is_alone),
            program: program.to_owned(),
        }
    }

    /// An embedded registry beside this one, started.
    pub fn beside(&self) -> World<Embedded> {
        let mut world = World::<Embedded>::new(&self.program, true);
        world.fixture.start();
        world
    }

    /// Whether the backend can do that.
    pub fn can(ability: Ability) -> bool {
        F::ABILITIES.contains(&ability)
    }

    /// A client that no fault of the network meets.
    pub fn client(&self) -> Client {
        Client::open(&self.fixture.url()).expect("a client starts")
    }

    /// A client by way of the proxy.
    pub fn proxied_client(&self) -> Client {
        Client::open(&self.fixture.proxied_url()).expect("a client starts")
    }

    /// What the network of proxied clients does from now on.
    pub fn network(&self, mode: Mode) {
        self.fixture.proxy().set(mode);
    }

    /// An instance of a node of its own.
    pub fn instance(service: &str, id: &str) -> Instance {
        Self::owned(service, id, id.bytes().map(u128::from).sum(), 1)
    }

    /// An instance of a certain start of a certain node.
    pub fn owned(service: &str, id: &str, owner: u128, incarnation: u64) -> Instance {
        let owner = Owner {
            id: OwnerId(owner),
            incarnation,
        };
        let address = "10.0.0.1:7000".parse().expect("an address");
        let id = InstanceId::new(id).expect("an id");
        Instance::new(id, Self::service(service), address, owner)
    }

    /// A service's name.
    pub fn service(name: &str) -> ServiceName {
        ServiceName::new(name).expect("a name")
    }

    /// Registers with a short lease and little patience.
    pub fn register(client: &Client, instance: Instance) -> Registered {
        Self::register_for(client, instance, Duration::from_millis(TTL_MS))
    }

    /// Registers with a lease of one's own choice.
    pub fn register_for(client: &Client, instance: Instance, ttl: Duration) -> Registered {
        let config = RegistrationConfig {
            ttl,
            fence_margin: Duration::from_millis(500),
            answer_max: Duration::from_secs(1),
            backoff: BackoffConfig {
                max: Duration::from_millis(500),
                ..BackoffConfig::default()
            },
            ..RegistrationConfig::default()
        };
        let options = RegistrationOptions {
            config,
            ..RegistrationOptions::default()
        };
        client.register(instance, options).expect("it is taken")
    }

    /// Puts an instance into the registry, in the way that it has.
    pub fn add(&mut self, client: &Client, instance: Instance) -> Present {
        if Self::can(Ability::Register) {
            return Present::Registered(Self::register(client, instance));
        }
        self.fixture.put(&instance);
        Present::ByHand(instance)
    }

    /// Takes an instance out of the registry, in the way that it has.
    pub fn remove(&mut self, present: Present) {
        match present {
            Present::Registered(registered) => drop(registered),
            Present::ByHand(instance) => self.fixture.take(&instance),
        }
    }

    /// A process that registers an instance, once it has.
    pub fn node_process(&self, service: &str, id: &str) -> Process {
        let (url, ttl) = (self.fixture.url().to_string(), TTL_MS.to_string());
        let args = ["node", &url, service, id, "10.0.0.9:7000", &ttl];
        Process::start(&self.program, &args)
    }

    /// Watches a service.
    pub fn watch(client: &Client, service: &str) -> Watching {
        Self::watch_with(client, Watch::Service(Self::service(service)), Acks::Shown)
    }

    /// Watches something.
    pub fn watch_with(client: &Client, watch: Watch, acks: Acks) -> Watching {
        let follower = FollowerConfig {
            suspect_for: Duration::from_secs(2),
            loss_window: Duration::from_secs(2),
            guard_for: Duration::from_secs(3),
            trusted_loss_min: 3,
        };
        let options = WatchOptions {
            acks,
            follower,
            restored: Vec::new(),
        };
        client.watch(watch, options).expect("it is taken")
    }

    /// Waits until a watch shows just these instances.
    ///
    /// # Panics
    /// When it does not, and what it shows instead.
    pub fn shows(watching: &Watching, service: &str, ids: &[&str]) -> Arc<View> {
        let wanted: BTreeSet<&str> = ids.iter().copied().collect();
        let is_it = |view: &View| {
            view.instances
                .keys()
                .map(InstanceId::as_str)
                .eq(wanted.iter().copied())
        };
        let view = watching.wait_view(service, WAIT, is_it);
        view.unwrap_or_else(|| {
            let shown = watching.view(service);
            panic!("{service}: {wanted:?} is not shown, but {shown:#?}")
        })
    }

    /// Waits for a status of a registration.
    ///
    /// # Panics
    /// When it does not come, and how the registration stands instead.
    pub fn stands(
        registered: &Registered,
        what: &str,
        is_wanted: impl FnMut(&RegistrationStatus) -> bool,
    ) -> RegistrationStatus {
        let status = registered.wait_until(WAIT, is_wanted);
        status.unwrap_or_else(|| panic!("not {what}: {:#?}", registered.status()))
    }

    /// Changes an instance.
    pub fn update(registered: &Registered, update: Update) {
        registered.update(update).expect("it is within the rules");
    }

    /// Waits until an instance is registered.
    pub fn is_registered(registered: &Registered) -> RegistrationStatus {
        Self::stands(registered, "registered", |status| status.is_registered)
    }

    /// Waits until a node knows that it may serve no longer.
    pub fn is_fenced(registered: &Registered) -> RegistrationStatus {
        Self::stands(registered, "fenced", |status| !status.is_registered)
    }
}

/// The time now, for what the table shows.
pub(crate) fn now() -> Moment {
    MonotonicClock.now()
}

/// The time since then.
pub(crate) fn since(start: Moment) -> Duration {
    now().saturating_since(start)
}
