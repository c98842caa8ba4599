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
use waystation_registry::limits::RECORDED_MAX;
use waystation_registry::{
    Acks, Change, Client, Registered, RegistrationOptions, RegistrationStatus, Registry,
    WatchOptions, Watching,
};

use crate::embedded::Embedded;
use crate::fixture::{Ability, Fixture};
use crate::process::Process;
use crate::proxy::Mode;

/// No wait of a case is longer; none is meant to come near it.
pub const WAIT: Duration = Duration::from_secs(40);

/// The lease that nodes of the suite ask for.
pub const LEASE: Duration = Duration::from_secs(2);

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
        Self::register_for(client, instance, LEASE)
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
        let url = self.fixture.url().to_string();
        let ttl = LEASE.as_millis().to_string();
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

    /// From here on every view that a watch shows is remembered.
    pub fn record(watching: &Watching) {
        watching.recorded();
    }

    /// Every view that a watch has shown since [`World::record`], the oldest
    /// first; each has some of its service.
    ///
    /// # Panics
    /// When one has none.
    pub fn never_empty(watching: &Watching) -> Vec<Change> {
        let shown = watching.recorded();
        assert!(shown.len() < RECORDED_MAX, "not all of it is remembered");
        for change in &shown {
            assert!(
                !change.view.instances.is_empty(),
                "an empty view: {change:?}"
            );
        }
        shown
    }

    /// The same; each has these instances.
    ///
    /// # Panics
    /// When one has not.
    pub fn never_without(watching: &Watching, ids: &[&str]) -> Vec<Change> {
        let shown = Self::never_empty(watching);
        for (change, id) in shown
            .iter()
            .flat_map(|one| ids.iter().map(move |id| (one, id)))
        {
            let is_there = change.view.instances.contains_key(*id);
            assert!(is_there, "a view without {id}: {change:?}");
        }
        shown
    }

    /// Waits until a moment: for what may happen until then.
    pub fn wait_until(moment: Moment) {
        while now() < moment {
            std::thread::park_timeout(moment.saturating_since(now()));
        }
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

    /// Changes an instance's weight.
    pub fn update_weight(registered: &Registered, weight: u32) {
        let weight = Some(weight);
        let update = Update {
            weight,
            ..Update::default()
        };
        Self::update(registered, update);
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
