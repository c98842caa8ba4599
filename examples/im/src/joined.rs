//! How a role finds the others and is found: by registration.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use waystation_base::ServiceName;
use waystation_client::CallerConfig;
use waystation_membership::{
    GrantError, Instance, InstanceId, Owner, OwnerId, Refusal, State, View, Watch,
};
use waystation_net::{Address, Label, Shard, WaitsFor, unix_time, waiting};
use waystation_registry::{
    Acks, Error as RegistryError, Place, Registries, Registry, WatchOptions,
};
use waystation_service::metrics::{self, Source};
use waystation_service::{App, Group, Health, ProbeConfig, Updated};

use crate::error::Error;
use crate::kept::Kept;
use crate::ousted::Ousted;
use crate::rival::{Standing, standing};
use crate::role::{RoleConfig, service_at};
use crate::standing::{LOOK as LOOK_AT_STANDINGS, Standings};

/// The service that roles of a kind are instances of.
pub(crate) const ENTRY: &str = "im.entry";
/// See [`ENTRY`].
pub(crate) const LOGIC: &str = "im.logic";
/// See [`ENTRY`].
pub(crate) const DAS: &str = "im.das";

/// How often a role that waits for others says for whom.
const LOOK: Duration = Duration::from_secs(1);

/// Shown in lists of tasks.
const CHANGES: WaitsFor = WaitsFor::plain("a change of the view");

/// Where nodes of one directory keep who they are.
const NODE_ID: &str = "node-id";

/// A role's ties to the registry.
pub(crate) struct Joined {
    registries: Registries,
    agent: Option<PathBuf>,
    /// The view of the service without which the role cannot serve.
    needs: Option<Kept>,
    site: Option<String>,
    standings: Arc<Standings>,
    /// Why the role does not serve yet; none once it does. What becomes of the
    /// registry after that is no matter of the role's health.
    waits_for: Arc<Mutex<Option<String>>>,
    ousted: Ousted,
}

/// What a role registers.
pub(crate) struct Entrant<'a> {
    pub(crate) role: &'a RoleConfig,
    pub(crate) id: InstanceId,
    pub(crate) service: &'static str,
    pub(crate) address: Address,
    /// What to do when another node has the id, for people.
    pub(crate) when_taken: &'static str,
    /// Whether all of the service must stand in one directory, whose content
    /// they share. While one of another directory serves this one does not.
    pub(crate) is_of_one_directory: bool,
    /// What has to come true before it serves, beside what it needs of others.
    pub(crate) after: Option<Awaited>,
}

/// Something that a role waits for before it serves.
pub(crate) struct Awaited {
    /// Why it does not serve yet, for people.
    pub(crate) reason: &'static str,
    /// Whether it has come true.
    pub(crate) is_true: watch::Receiver<bool>,
}

/// Of roles that may be many.
pub(crate) const TAKE_ANOTHER_INDEX: &str = "start this one with another --index";

/// The id of a role's process in the registry: `ROLE-N`.
pub(crate) fn instance_id(name: &str) -> Result<InstanceId, Error> {
    InstanceId::new(name).map_err(|error| Error::Instance(error.to_string()))
}

fn service_name(service: &str) -> ServiceName {
    ServiceName::new(service).expect("names of the chat's services are in rule")
}

impl Joined {
    /// Begins to talk to the registry, which need not be there, for the process
    /// `name`. Without an instance of `needs` the role cannot serve.
    ///
    /// # Errors
    /// Its host has no address, or no thread can be started.
    pub(crate) fn open(
        role: &RoleConfig,
        name: &str,
        needs: Option<&'static str>,
    ) -> Result<Self, Error> {
        let kept = |service| Kept::new(&role.dir, name, service_name(&role.registered(service)));
        Ok(Self {
            site: role.site.as_ref().map(|site| site.as_str().to_owned()),
            registries: Registries::open(&role.discovery.registries)?,
            agent: role.discovery.agent.clone(),
            needs: needs.map(kept),
            standings: Arc::default(),
            waits_for: Arc::new(Mutex::new(Some("it is starting".to_owned()))),
            ousted: Ousted::default(),
        })
    }

    /// What follows views, from other threads.
    pub(crate) fn follower(&self) -> Follower {
        Follower {
            registries: self.registries.clone(),
            agent: self.agent.clone(),
            standings: self.standings.clone(),
            site: self.site.clone(),
            restored: self.needs.as_ref().and_then(Kept::load),
        }
    }

    /// How it stands with its registries, and what its shards think of the nodes
    /// that they call.
    pub(crate) fn metrics(&self) -> Source {
        let (registries, standings) = (self.registries.clone(), self.standings.clone());
        Arc::new(move |page| {
            metrics::families(page, "registry", &registries.samples());
            standings.show(page);
        })
    }

    /// Whether the role serves, or why not yet.
    pub(crate) fn health(&self) -> Health {
        let waits_for = self.waits_for.clone();
        Arc::new(move || {
            let waits_for = waits_for.lock().unwrap_or_else(PoisonError::into_inner);
            waits_for.clone().map_or(Ok(()), Err)
        })
    }

    /// Whether another node has its place.
    pub(crate) fn ousted(&self) -> Ousted {
        self.ousted.clone()
    }

    fn set_waits_for(&self, reason: Option<String>) {
        *(self.waits_for.lock()).unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Serves until SIGTERM or SIGINT, or until somebody drains the node; then
    /// leaves in order: nothing new comes, what is in flight ends, the node is
    /// out.
    ///
    /// # Errors
    /// The role cannot be registered, or signals cannot be waited for.
    pub(crate) fn run(self, app: App, entrant: &Entrant<'_>) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(Error::Signals)?;
        let place = runtime.block_on(self.serve(entrant))?;
        app.drain();
        if let Some(place) = place {
            runtime.block_on(place.leave());
        }
        Ok(())
    }

    /// Ready when nothing new comes any more.
    async fn serve(&self, entrant: &Entrant<'_>) -> Result<Option<Place>, Error> {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
        let waits = entrant.role.discovery.drain;
        let place = match Place::take(&self.registries, entrant.instance()?, waits) {
            Ok(place) => Some(place),
            // Whoever edits the list knows of this role.
            Err(RegistryError::ReadOnly { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let (found, is_found) = watch::channel(self.needs.is_none());
        let serves = async {
            self.begin(is_found, place.as_ref(), entrant).await?;
            match &place {
                Some(place) => place.until_drained().await,
                None => std::future::pending().await,
            }
            Ok::<_, Error>("drain")
        };
        let reason = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            reason = serves => reason?,
            error = self.look_for_needs(found) => return Err(error),
            never = self.ousted.follow(place.as_ref()) => match never {},
        };
        tracing::info!(id = %entrant.id, reason, "draining");
        if let Some(place) = &place {
            place.announce_end().await;
        }
        Ok(place)
    }

    /// Keeps the view of what the role needs, on disk too, and tells when one
    /// serves. Returns only with an error.
    async fn look_for_needs(&self, found: watch::Sender<bool>) -> Error {
        let Some(needs) = &self.needs else {
            return std::future::pending().await;
        };
        let options = WatchOptions {
            restored: needs.load().into_iter().collect(),
            ..WatchOptions::default()
        };
        let what = Watch::Service(needs.service().clone());
        let watching = match self.registries.watch(what, options) {
            Ok(watching) => watching,
            Err(error) => return error.into(),
        };
        loop {
            for change in watching.changes().await {
                needs.store(&change.view);
                if any_serves(&change.view) {
                    // Whoever waited may have heard of another.
                    let _ = found.send(true);
                }
            }
        }
    }

    /// Waits for what the role needs, then says that it serves.
    async fn begin(
        &self,
        mut is_found: watch::Receiver<bool>,
        place: Option<&Place>,
        entrant: &Entrant<'_>,
    ) -> Result<(), Error> {
        if let Some(needs) = &self.needs {
            let service = needs.service();
            self.set_waits_for(Some(format!("no instance of {service} serves")));
            // Its sender lives as long as this.
            let _ = is_found.wait_for(|is_found| *is_found).await;
        }
        if let Some(Awaited { reason, is_true }) = &entrant.after {
            self.set_waits_for(Some((*reason).to_owned()));
            if is_true.clone().wait_for(|is_true| *is_true).await.is_err() {
                // Whoever would say so is gone, so it never comes true.
                return std::future::pending().await;
            }
        }
        if let Some(place) = place {
            if entrant.is_of_one_directory {
                self.wait_for_the_directory(place, entrant).await?;
            }
            let served = place.serve();
            tokio::pin!(served);
            while tokio::time::timeout(LOOK, &mut served).await.is_err() {
                self.say_why_not(entrant, self.why_not_registered(place, entrant));
            }
        }
        self.set_waits_for(None);
        Ok(())
    }

    /// Waits until no node of another directory serves.
    async fn wait_for_the_directory(
        &self,
        place: &Place,
        entrant: &Entrant<'_>,
    ) -> Result<(), Error> {
        let owner = node_id(&entrant.role.dir)?;
        let service = entrant.role.registered(entrant.service);
        let what = Watch::Service(service_name(&service));
        let watching = self.registries.watch(what, WatchOptions::default())?;
        loop {
            let is_complete = watching.is_complete();
            let view = watching.view(&service);
            let view = view.filter(|_| is_complete);
            let standing = view.as_ref().map(|view| standing(view, &entrant.id, owner));
            let reason = match standing {
                Some(Standing::Free) => return Ok(()),
                Some(Standing::After(other)) => format!(
                    "{} of {} has another directory: start this one there, or stop that one",
                    other.id, other.address
                ),
                Some(Standing::Unlisted) | None => self.why_not_registered(place, entrant),
            };
            let news = async {
                if is_complete {
                    watching.changes().await;
                } else {
                    watching.complete().await;
                }
            };
            // Most wait for a moment only, until the registry has listed them.
            if tokio::time::timeout(LOOK, news).await.is_err() {
                self.say_why_not(entrant, reason);
            }
        }
    }

    /// Says why the role does not serve yet, once for each reason.
    fn say_why_not(&self, entrant: &Entrant<'_>, reason: String) {
        let mut waits_for = (self.waits_for.lock()).unwrap_or_else(PoisonError::into_inner);
        if waits_for.as_ref() != Some(&reason) {
            tracing::warn!(id = %entrant.id, reason, "does not serve yet");
            *waits_for = Some(reason);
        }
    }

    fn why_not_registered(&self, place: &Place, entrant: &Entrant<'_>) -> String {
        let refusal = place.registered().status().refusal;
        let fault = self.registries.session().fault;
        match (refusal, fault) {
            (
                Some(
                    refusal @ Refusal::Lease {
                        error: GrantError::Held { .. },
                        ..
                    },
                ),
                _,
            ) => {
                let Entrant { id, when_taken, .. } = entrant;
                format!("{id} is not registered: {refusal}; {when_taken}")
            }
            (Some(refusal), _) => format!("not registered: {refusal}"),
            (None, Some(fault)) => format!("not registered: {fault}"),
            (None, None) => "not registered yet".to_owned(),
        }
    }
}

/// The service that Logics of a site are instances of.
pub(crate) fn logics_at(site: &str) -> String {
    service_at(LOGIC, site)
}

fn any_serves(view: &View) -> bool {
    let mut instances = view.instances.values();
    instances.any(|instance| instance.state == State::Serving)
}

/// Follows the views of a registry, on any shard.
#[derive(Clone)]
pub(crate) struct Follower {
    registries: Registries,
    agent: Option<PathBuf>,
    standings: Arc<Standings>,
    site: Option<String>,
    /// What was known when this process last ran.
    restored: Option<View>,
}

impl Follower {
    /// The site of this process, if there are several.
    pub(crate) fn site(&self) -> Option<&str> {
        self.site.as_deref()
    }

    /// What `service` is called at this process' site.
    fn own(&self, service: &str) -> String {
        let own = self.site.as_ref();
        own.map_or_else(|| service.to_owned(), |site| service_at(service, site))
    }

    /// Keeps `group` to the views of `service` at this site and to what the agent
    /// of this machine knows, and acknowledges each view once no caller on this
    /// shard goes by an older one. `on_update` sees what
    /// changed. `probe` says how its nodes are probed, if they are.
    pub(crate) fn follow(
        &self,
        shard: &Shard,
        service: &str,
        group: &Group,
        probe: Option<&ProbeConfig>,
        on_update: impl Fn(Updated) + 'static,
    ) {
        self.follow_named(shard, &self.own(service), group, probe, on_update);
    }

    /// As [`Follower::follow`], of a service by its whole name.
    pub(crate) fn follow_named(
        &self,
        shard: &Shard,
        service: &str,
        group: &Group,
        probe: Option<&ProbeConfig>,
        on_update: impl Fn(Updated) + 'static,
    ) {
        let restored = self.restored.iter();
        let restored = restored.filter(|view| view.service.as_str() == service);
        let options = WatchOptions {
            acks: Acks::ByCaller,
            restored: restored.cloned().collect(),
            ..WatchOptions::default()
        };
        let watch = Watch::Service(service_name(service));
        let watching = self.registries.watch(watch, options);
        let watching = match watching {
            Ok(watching) => watching,
            Err(error) => {
                tracing::error!(service, %error, "cannot follow a service");
                return;
            }
        };
        if let Some(agent) = &self.agent {
            group.follow_agent(shard, CallerConfig::new(service, agent));
        }
        if let Some(probe) = probe {
            group.probe(shard, probe.clone());
        }
        let (standings, own, noted) = (self.standings.clone(), shard.clone(), group.clone());
        let service: Arc<str> = service.into();
        let name = service.clone();
        shard.spawn(Label::of("note standings"), async move {
            loop {
                standings.note(&name, own.id().0, &noted);
                own.sleep(LOOK_AT_STANDINGS).await;
            }
        });
        let group = group.clone();
        shard.spawn(Label::of("follow a service"), async move {
            waystation_net::describe_task(service.to_string());
            loop {
                for change in waiting(CHANGES, watching.changes()).await {
                    let updated = group.update_lapsed(&change.view, &change.kept, &change.lapsed);
                    on_update(updated);
                    watching.acknowledge(&change.view.service, change.view.at);
                }
            }
        });
    }
}

impl Entrant<'_> {
    fn instance(&self) -> Result<Instance, Error> {
        let fault = |error: &dyn std::error::Error| Error::Instance(error.to_string());
        let address = match self.role.discovery.advertise {
            Some(at) => at.into(),
            None => registered(&self.address).map_err(|error| fault(&error))?,
        };
        let owner = Owner {
            id: node_id(&self.role.dir)?,
            incarnation: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
        };
        let service = service_name(&self.role.registered(self.service));
        let mut instance = Instance::new(self.id.clone(), service, address, owner);
        let site = self.role.site.as_ref();
        instance.site = site.and_then(|site| waystation_membership::Label::new(site.as_str()).ok());
        instance.validate().map_err(|error| {
            let error: &dyn std::error::Error = &error;
            error.source().map_or_else(|| fault(error), fault)
        })?;
        Ok(instance)
    }
}

/// An address as others reach it: a socket's path is absolute.
fn registered(address: &Address) -> io::Result<waystation_membership::Address> {
    Ok(match address {
        Address::Tcp(at) => (*at).into(),
        Address::Unix(path) => {
            let path = std::path::absolute(path)?;
            waystation_membership::Address::Unix(path.to_string_lossy().into())
        }
        Address::Memory(_) => return Err(io::ErrorKind::Unsupported.into()),
    })
}

/// Who the nodes of this directory are, over their restarts: drawn once and
/// kept there, so that a start replaces the entry that a killed process left,
/// and nobody else does.
fn node_id(dir: &Path) -> Result<OwnerId, Error> {
    let path = dir.join(NODE_ID);
    let fault = |source| Error::Directory {
        path: path.clone(),
        source,
    };
    for _ in 0..2 {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let id = u128::from_str_radix(text.trim(), 16);
                let id = id.map_err(|error| fault(io::Error::other(error)))?;
                return Ok(OwnerId(id));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fault(error)),
        }
        // The standard library draws the keys of its hash maps from the system.
        let half = || u128::from(RandomState::new().build_hasher().finish());
        let drawn = OwnerId(half() << 64 | half());
        // Several roles may start at once: whose link is first is who they are.
        let draft = dir.join(format!("{NODE_ID}.{}", std::process::id()));
        std::fs::write(&draft, format!("{drawn}\n")).map_err(fault)?;
        let linked = std::fs::hard_link(&draft, &path);
        let _ = std::fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fault(error)),
            _ => {}
        }
    }
    Err(fault(io::ErrorKind::NotFound.into()))
}
