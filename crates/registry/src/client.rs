//! A client of a registry, whatever its backend.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use std::hash::{BuildHasher, Hasher, RandomState};

use waystation_base::{BackoffConfig, ShardId};
use waystation_membership::{Instance, InstanceId, SubscriberId, Watch};
use waystation_net::{NetConfig, Server, Shard};

use crate::backend::{Backend, Events, Key};
use crate::driver::Driver;
use crate::embedded::EmbeddedBackend;
use crate::error::Error;
use crate::etcd::Etcd;
use crate::file::FileBackend;
use crate::handle::{
    Draining, Listing, Question, QuestionKind, Registered, RegistrationSlot, WatchSlot, Watching,
};
use crate::hub::{Counted, Hub, Order};
use crate::limits::{CLOSE_WAIT, REGISTRY_BACKOFF, ROUTE_BACKOFF};
use crate::registry::{RegistrationOptions, Registry, Session, WatchOptions};
use crate::url::{RegistryUrl, resolve};
use crate::zookeeper::{Digest, Place, ZooKeeper};

/// A client of one registry. Clones share it. When the last of them is dropped
/// it is closed: what it registered is deregistered.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    hub: Arc<Hub>,
    takes_registrations: bool,
    /// The client's own thread, if it has one.
    server: Option<Server>,
}

/// What a backend is made of, on its way to the shard that runs it.
#[derive(Debug, Clone)]
enum Source {
    Embedded(SocketAddr),
    Route(SocketAddr),
    Etcd {
        members: Vec<SocketAddr>,
        prefix: String,
    },
    ZooKeeper(Place),
    File(std::path::PathBuf),
}

impl Client {
    /// A client on a thread of its own. The registry need not be there yet.
    /// Blocks while the name of its host is looked up.
    ///
    /// # Errors
    /// The host's name has no address, or the thread cannot be started.
    pub fn open(url: &RegistryUrl) -> Result<Self, Error> {
        let source = Source::of(url)?;
        let hub = Arc::new(Hub::new(url.to_string()));
        let config = NetConfig {
            seed: random_u64(),
            drain: CLOSE_WAIT,
            ..NetConfig::default()
        };
        let takes_registrations = source.takes_registrations();
        let inner = Arc::clone(&hub);
        let server = Server::builder(config)
            .on_shard(move |shard| source.clone().start(shard, &inner))
            .start()
            .map_err(Error::Start)?;
        Ok(Self::new(hub, takes_registrations, Some(server)))
    }

    /// A client that runs on a shard, beside what that serves. May be called
    /// from any thread. Blocks while the name of its host is looked up; an
    /// address needs no look-up.
    ///
    /// # Errors
    /// The host's name has no address, or the shard has ended.
    pub fn open_on(
        remote: &waystation_net::Remote,
        shard: ShardId,
        url: &RegistryUrl,
    ) -> Result<Self, Error> {
        let source = Source::of(url)?;
        let hub = Arc::new(Hub::new(url.to_string()));
        let takes_registrations = source.takes_registrations();
        let inner = Arc::clone(&hub);
        let start = move |shard: &Shard| source.start(shard, &inner);
        remote.run_on(shard, start).map_err(Error::Shard)?;
        Ok(Self::new(hub, takes_registrations, None))
    }

    fn new(hub: Arc<Hub>, takes_registrations: bool, server: Option<Server>) -> Self {
        let shared = Arc::new(Shared {
            hub,
            takes_registrations,
            server,
        });
        Self { shared }
    }

    /// Closes the client: deregisters what is registered and says goodbye.
    /// Nothing more is taken. Ready when that is done, at most
    /// [`CLOSE_WAIT`] later.
    pub async fn close(&self) {
        self.shared.hub.close();
        let is_over = |ended: &mut bool| ended.then_some(());
        self.shared.hub.ended.until(is_over).await;
    }

    /// Begins what [`Client::close`] waits for.
    pub(crate) fn begin_close(&self) {
        self.shared.hub.close();
    }

    /// Like [`Client::close`], for threads that are no shards.
    pub fn close_and_wait(&self) {
        self.shared.hub.close();
        let is_over = |ended: &mut bool| ended.then_some(());
        self.shared.hub.ended.wait(CLOSE_WAIT * 2, is_over);
    }

    /// Waits for a session that `is_wanted`. The caller puts a deadline on it.
    pub async fn session_until(&self, mut is_wanted: impl FnMut(&Session) -> bool) -> Session {
        let take = |session: &mut Session| is_wanted(session).then(|| session.clone());
        self.shared.hub.session.until(take).await
    }

    /// Blocks the thread until the session `is_wanted`; `None` when `timeout`
    /// passes first. Not for shards.
    pub fn wait_session(
        &self,
        timeout: std::time::Duration,
        mut is_wanted: impl FnMut(&Session) -> bool,
    ) -> Option<Session> {
        let take = |session: &mut Session| is_wanted(session).then(|| session.clone());
        self.shared.hub.session.wait(timeout, take)
    }

    /// What the registry is called.
    pub(crate) fn url(&self) -> &str {
        &self.shared.hub.url
    }

    fn ask(&self, kind: QuestionKind) -> Result<Arc<Question>, Error> {
        let hub = &self.shared.hub;
        hub.admit(Counted::Question)?;
        let question = Arc::new(Question::new(kind));
        hub.order(Order::Question(Arc::clone(&question)));
        Ok(question)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.hub.close();
        if self.server.is_some() {
            // The thread drains then, and must not do so before the goodbye.
            let is_over = |ended: &mut bool| ended.then_some(());
            self.hub.ended.wait(CLOSE_WAIT, is_over);
        }
    }
}

impl Registry for Client {
    fn register(
        &self,
        instance: Instance,
        options: RegistrationOptions,
    ) -> Result<Registered, Error> {
        instance.validate()?;
        let hub = &self.shared.hub;
        if !self.shared.takes_registrations {
            let url = hub.url.clone();
            return Err(Error::ReadOnly { url });
        }
        let key = Key(hub.admit(Counted::Registration)?);
        let slot = Arc::new(RegistrationSlot::new(key, instance, options));
        hub.order(Order::Registration(Arc::clone(&slot)));
        Ok(Registered::new(slot, Arc::clone(hub)))
    }

    fn watch(&self, watch: Watch, options: WatchOptions) -> Result<Watching, Error> {
        let hub = &self.shared.hub;
        hub.admit(Counted::Watch)?;
        let subscriber = SubscriberId(u128::from(random_u64()) << 64 | u128::from(random_u64()));
        let slot = Arc::new(WatchSlot::new(subscriber, watch, options));
        hub.order(Order::Watch(Arc::clone(&slot)));
        Ok(Watching::new(slot, Arc::clone(hub)))
    }

    fn list(&self, watch: Watch, with_holders: bool) -> Result<Listing, Error> {
        let kind = QuestionKind::List {
            watch,
            with_holders,
        };
        self.ask(kind).map(Listing::new)
    }

    fn drain(&self, id: InstanceId) -> Result<Draining, Error> {
        self.ask(QuestionKind::Drain(id)).map(Draining::new)
    }

    fn session(&self) -> Session {
        self.shared.hub.session.read(Clone::clone)
    }
}

impl Source {
    fn of(url: &RegistryUrl) -> Result<Self, Error> {
        match url {
            RegistryUrl::Embedded { host } => find(host).map(Self::Embedded),
            RegistryUrl::Route { host } => find(host).map(Self::Route),
            RegistryUrl::Etcd { hosts, prefix } => {
                let members: Result<Vec<_>, Error> = hosts.iter().map(|host| find(host)).collect();
                let (members, prefix) = (members?, prefix.clone());
                Ok(Self::Etcd { members, prefix })
            }
            RegistryUrl::ZooKeeper {
                hosts,
                root,
                digest,
            } => {
                let found: Result<Vec<_>, Error> = hosts.iter().map(|host| find(host)).collect();
                let found: Vec<String> = found?.iter().map(ToString::to_string).collect();
                let digest = digest.as_ref().map(|path| {
                    Digest::read(path).map_err(|source| Error::Digest {
                        path: path.clone(),
                        source,
                    })
                });
                Ok(Self::ZooKeeper(Place {
                    servers: found.join(","),
                    servers_count: u32::try_from(found.len()).unwrap_or(u32::MAX),
                    root: format!("/{root}"),
                    digest: digest.transpose()?,
                }))
            }
            RegistryUrl::File { path } => Ok(Self::File(path.clone())),
        }
    }

    fn takes_registrations(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Route(_))
    }

    fn start(self, shard: &Shard, hub: &Arc<Hub>) {
        let events = Events::default();
        let backend: Rc<dyn Backend> = match self {
            Self::Embedded(address) => {
                embedded(shard, hub, address, REGISTRY_BACKOFF, events.clone())
            }
            Self::Route(address) => embedded(shard, hub, address, ROUTE_BACKOFF, events.clone()),
            Self::Etcd { members, prefix } => {
                let members = members.into_iter().map(Into::into).collect();
                let (url, events) = (hub.url.clone(), events.clone());
                Rc::new(Etcd::backend(shard, url, members, &prefix, events))
            }
            Self::ZooKeeper(place) => {
                let (url, events) = (hub.url.clone(), events.clone());
                Rc::new(ZooKeeper::backend(shard, url, place, events))
            }
            Self::File(path) => Rc::new(FileBackend::new(shard, path, events.clone())),
        };
        Driver::new(shard, Arc::clone(hub), backend, events).spawn();
    }
}

/// The backend of what speaks the embedded registry's protocol.
fn embedded(
    shard: &Shard,
    hub: &Hub,
    address: SocketAddr,
    backoff: BackoffConfig,
    events: Events,
) -> Rc<dyn Backend> {
    let url = hub.url.as_str();
    let backend = EmbeddedBackend::new(shard, url, &address.into(), backoff, events);
    Rc::new(backend)
}

/// The address of a registry's host. Blocks while a name is looked up.
fn find(host: &str) -> Result<SocketAddr, Error> {
    resolve(host).map_err(|source| Error::Resolve {
        host: host.to_owned(),
        source,
    })
}

/// A number that no other process has. The standard library draws the keys of
/// its hash maps from the system.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}
