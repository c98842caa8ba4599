//! The embedded registry as a server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use waystation_base::{Epoch, FencingToken, MessageId, Moment, line_passes};
use waystation_membership::limits::NUMBERS_BASE_MAX;
use waystation_membership::{Directory, DirectoryConfig, HolderError, Instance, Refusal, ViewAck};
use waystation_net::native::{Control, Inbound, NativeProtocol, Router, reply_error};
use waystation_net::{
    Address, CloseReason, Conn, ConnectionLimits, Kind, Label, NetConfig, Sample, Server, Shard,
};
use waystation_wire::Status;

use super::calls::FnHandler;
use super::convert::{self, Malformed};
use super::disk::Folder;
use super::journal::{Journal, Opened, Record};
use super::proto::{self, id};
use super::state::Registry;
use crate::client::random_u64;
use crate::error::ServeError;
use crate::limits::{
    CONNECTIONS_MAX, KEEPALIVE_WAIT, LISTED_INSTANCES_MAX, REQUESTS_PER_CONNECTION,
};

/// Settings of an embedded registry.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Where its state stands.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: Address,
    /// Leases, drains, patience with lost subscribers.
    pub directory: DirectoryConfig,
    /// Connections at a time; one more is told so and closed.
    pub connections_max: usize,
    /// How long a stop may take.
    pub drain: Duration,
    /// Where its randomness starts.
    pub seed: u64,
}

impl EmbeddedConfig {
    /// The defaults for a directory and an address.
    pub fn new(dir: PathBuf, listen: Address) -> Self {
        Self {
            dir,
            listen,
            directory: DirectoryConfig::default(),
            connections_max: CONNECTIONS_MAX,
            drain: Duration::from_secs(2),
            seed: 0,
        }
    }
}

/// A running embedded registry. It ends when it is dropped.
pub struct EmbeddedServer {
    server: Server,
    folder: Arc<Folder>,
    restored: usize,
    skipped: usize,
    epoch: Epoch,
}

/// What the shard begins with.
struct Start {
    journal: Journal,
    instances: Vec<(Instance, Duration)>,
    folder: Arc<Folder>,
    epoch: Epoch,
}

impl EmbeddedServer {
    /// Reads the state and serves. Blocks while it reads.
    ///
    /// # Errors
    /// The directory cannot be used or is in use, or the address is.
    pub fn start(config: EmbeddedConfig) -> Result<Self, ServeError> {
        let folder = Arc::new(Folder::open(&config.dir)?);
        let epoch = folder.next_epoch()?;
        let path = folder.journal();
        let opened = Journal::open(path.clone());
        let opened = opened.map_err(|source| ServeError::Directory { path, source })?;
        let Opened {
            journal,
            instances,
            skipped,
        } = opened;
        for (line, reason) in &skipped {
            tracing::warn!(line, reason, "skipped a line of the journal");
        }
        let (restored, skipped) = (instances.len(), skipped.len());
        tracing::info!(%epoch, restored, skipped, "read the state");
        let start = Start {
            journal,
            instances,
            folder: Arc::clone(&folder),
            epoch,
        };
        let net = NetConfig {
            connections_max: config.connections_max,
            connection: ConnectionLimits {
                // Peers give a sign of life every second.
                idle: KEEPALIVE_WAIT * 2,
                // A new subscriber of everything gets all of it in one turn.
                output_bytes_max: 64 << 20,
                ..ConnectionLimits::default()
            },
            drain: config.drain,
            seed: config.seed,
            ..NetConfig::default()
        };
        let start = Mutex::new(Some(start));
        let directory = config.directory;
        let server = Server::builder(net)
            .on_shard(move |shard| {
                let start = start.lock().unwrap_or_else(PoisonError::into_inner).take();
                begin(shard, start.expect("a registry has one shard"), directory);
            })
            .listen(config.listen, |shard| {
                let registry = shard.extension::<Registry>();
                NativeProtocol::new(Rc::new(router(
                    &registry.expect("it was made when the shard began"),
                )))
            })
            .start()?;
        Ok(Self {
            server,
            folder,
            restored,
            skipped,
            epoch,
        })
    }

    /// Where it listens, with the port that was given.
    pub fn address(&self) -> &Address {
        &self.server.addresses()[0]
    }

    /// The server below.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Instances that it had from before.
    pub fn restored(&self) -> usize {
        self.restored
    }

    /// Lines of its journal that it skipped, since they are not its own or broken;
    /// each was named in the log.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The epoch of this start.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What a page of metrics shows of its state on disk, asked again each time.
    pub fn samples(&self) -> impl Fn() -> Vec<Sample> + Send + Sync + 'static {
        let folder = Arc::clone(&self.folder);
        let numbers = [self.restored, self.skipped].map(|number| number as u64);
        let [restored, skipped] = numbers;
        let sample = |name, kind, help, value| Sample {
            name,
            help,
            kind,
            value,
        };
        move || {
            vec![
                sample(
                    "waystation_registry_restored",
                    Kind::Gauge,
                    "Instances that this registry had from before its start.",
                    restored,
                ),
                sample(
                    "waystation_registry_skipped_lines",
                    Kind::Gauge,
                    "Lines of its journal that were broken; the log names each.",
                    skipped,
                ),
                sample(
                    "waystation_registry_was_old",
                    Kind::Counter,
                    "Times that a peer had seen more than this registry, as behind an old backup.",
                    folder.went_back(),
                ),
            ]
        }
    }

    /// Stops: answers what it has been asked, and closes.
    pub fn drain(self) {
        self.server.drain();
    }
}

fn begin(shard: &Shard, start: Start, config: DirectoryConfig) {
    let now = shard.now();
    let mut directory = new_directory(now, start.epoch, config);
    for (instance, ttl) in start.instances {
        directory.restore(now, instance, ttl);
    }
    let registry = Registry::new(shard, directory, start.folder);
    registry.touch();
    shard.set_extension(Rc::clone(&registry));
    let mut journal = start.journal;
    let append = move |records: &[Record]| journal.append(records);
    let storing = Rc::clone(&registry).keep_journal(append);
    shard.spawn(Label::of("registry journal"), storing);
    shard.spawn(Label::of("registry time"), registry.keep_time());
}

/// A directory whose numbers begin somewhere.
pub(super) fn new_directory(now: Moment, epoch: Epoch, config: DirectoryConfig) -> Directory {
    let mut directory = Directory::new(now, epoch, config);
    directory.begin_at(random_u64() % NUMBERS_BASE_MAX);
    directory
}

struct Closing(Rc<Registry>);

impl Control for Closing {
    fn on_close(&self, conn: &Conn, _reason: CloseReason) {
        self.0.handle_close(conn);
    }
}

/// What concerns subscribers and listings.
pub(super) const VIEW_ROUTES: &[(&str, MessageId, Run)] = &[
    ("registry list", id::LIST, list),
    ("registry subscribe", id::SUBSCRIBE, subscribe),
    ("registry resync", id::RESYNC, resync),
    ("registry ack", id::ACK, acknowledge),
    ("registry unsubscribe", id::UNSUBSCRIBE, unsubscribe),
];

/// A handler of the registry.
pub(super) type Run = fn(&Registry, &Conn, Inbound<'_>) -> Result<(), Malformed>;

/// What concerns leases.
pub(super) const LEASE_ROUTES: &[(&str, MessageId, Run)] = &[
    ("registry register", id::REGISTER, register),
    ("registry renew", id::RENEW, renew),
    ("registry update", id::UPDATE, update),
    ("registry drain", id::DRAIN, drain),
    ("registry idle", id::IDLE, idle),
    ("registry deregister", id::DEREGISTER, deregister),
];

fn router(registry: &Rc<Registry>) -> Router {
    let mut router = Router::new();
    put_routes(registry, &mut router, LEASE_ROUTES);
    put_routes(registry, &mut router, VIEW_ROUTES);
    router.set_control(Rc::new(Closing(Rc::clone(registry))));
    router.set_concurrency(REQUESTS_PER_CONNECTION);
    router
}

/// Has the router serve these by this registry.
pub(super) fn put_routes(
    registry: &Rc<Registry>,
    router: &mut Router,
    routes: &[(&str, MessageId, Run)],
) {
    for &(name, message, run) in routes {
        let registry = Rc::clone(registry);
        let handler = FnHandler::new(name, move |conn, inbound| {
            serve(&registry, conn, inbound, run);
        });
        let routed = router.route(message, handler);
        routed.expect("message ids of one service differ");
    }
}

/// Has a request carried out.
pub(super) fn serve(registry: &Registry, conn: &Conn, inbound: Inbound<'_>, run: Run) {
    let header = *inbound.header;
    let result = run(registry, conn, inbound);
    registry.touch();
    if let Err(error) = result {
        if let Some(unsaid) = line_passes!(conn.shard().now()) {
            tracing::warn!(peer = %conn.peer(), %error, unsaid, "a request makes no sense");
        }
        if header.call.0 == 0 {
            // A push cannot be answered, and its sender is not to be trusted.
            conn.close(CloseReason::Protocol("registry"));
        } else {
            // A connection that closes meanwhile counts it itself.
            let _ = reply_error(conn, &header, Status::InvalidRequest, &error.0);
        }
    }
}

fn decode<M: Message + Default>(inbound: Inbound<'_>) -> Result<M, Malformed> {
    M::decode(inbound.body).map_err(|error| Malformed(error.to_string()))
}

/// Whether a change can be taken; refused at once where it cannot.
fn has_room(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> bool {
    let has_room = registry.has_room();
    if !has_room {
        let reason = "too many changes wait to be stored";
        let _ = reply_error(conn, inbound.header, Status::Overloaded, reason);
    }
    has_room
}

fn register(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    use proto::registered::Outcome;
    let register = convert::register(decode(inbound)?)?;
    if !has_room(registry, conn, inbound) {
        return Ok(());
    }
    let id = register.instance.id.clone();
    let now = registry.shard.now();
    let granted = registry
        .directory
        .borrow_mut()
        .handle_register(now, register);
    let outcome = match granted {
        Ok(granted) => {
            registry.own(&id, granted.token, conn);
            Outcome::Granted(convert::granted_message(granted))
        }
        Err(refusal) => Outcome::Refused(convert::refused_message(&refusal)),
    };
    let answer = proto::Registered {
        outcome: Some(outcome),
    };
    registry.answer(conn, inbound.header, &answer);
    Ok(())
}

fn renew(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    use proto::renewed::Outcome;
    let held: proto::Held = decode(inbound)?;
    let (id, token) = (convert::instance_id(&held.id)?, FencingToken(held.token));
    let now = registry.shard.now();
    let renewed = registry
        .directory
        .borrow_mut()
        .handle_renew(now, &id, token);
    let outcome = match renewed {
        Ok(renewed) => {
            registry.own(&id, token, conn);
            Outcome::Renewal(convert::renewed_message(renewed))
        }
        Err(error) => Outcome::Refused(convert::refused_message(&Refusal::Holder(error))),
    };
    let answer = proto::Renewed {
        outcome: Some(outcome),
    };
    registry.answer(conn, inbound.header, &answer);
    Ok(())
}

fn update(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let (held, update) = convert::update(decode(inbound)?)?;
    if !has_room(registry, conn, inbound) {
        return Ok(());
    }
    let (id, token) = (convert::instance_id(&held.id)?, FencingToken(held.token));
    let now = registry.shard.now();
    let mut directory = registry.directory.borrow_mut();
    let result = directory.handle_update(now, &id, token, &update);
    drop(directory);
    done(registry, conn, inbound, result, String::new());
    Ok(())
}

fn drain(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let held: proto::Held = decode(inbound)?;
    if !has_room(registry, conn, inbound) {
        return Ok(());
    }
    let id = convert::instance_id(&held.id)?;
    let token = (held.token != 0).then_some(FencingToken(held.token));
    let now = registry.shard.now();
    let mut directory = registry.directory.borrow_mut();
    let result = directory.handle_drain(now, &id, token);
    let service = directory.service_of(&id).map(ToString::to_string);
    drop(directory);
    let result = result.map_err(Refusal::Holder);
    done(registry, conn, inbound, result, service.unwrap_or_default());
    Ok(())
}

fn idle(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let held: proto::Held = decode(inbound)?;
    let (id, token) = (convert::instance_id(&held.id)?, FencingToken(held.token));
    let now = registry.shard.now();
    let result = registry.directory.borrow_mut().handle_idle(now, &id, token);
    let result = result.map_err(Refusal::Holder);
    done(registry, conn, inbound, result, String::new());
    Ok(())
}

fn deregister(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let (id, owner) = convert::leave(&decode(inbound)?)?;
    let now = registry.shard.now();
    let mut directory = registry.directory.borrow_mut();
    let held = directory.lease(&id).copied();
    let result = match held {
        Some(lease) if lease.owner == owner => directory.handle_deregister(now, &id, lease.token),
        Some(lease) => Err(HolderError::Fenced {
            current: lease.token,
        }),
        None => Err(HolderError::Unknown),
    };
    drop(directory);
    let result = result.map_err(Refusal::Holder);
    done(registry, conn, inbound, result, String::new());
    Ok(())
}

fn done(
    registry: &Registry,
    conn: &Conn,
    inbound: Inbound<'_>,
    result: Result<(), Refusal>,
    service: String,
) {
    let refused = result.err();
    let answer = proto::Done {
        refused: refused.map(|refusal| convert::refused_message(&refusal)),
        service,
    };
    registry.answer(conn, inbound.header, &answer);
}

fn list(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let message: proto::List = decode(inbound)?;
    let watch = convert::watch(message.watch)?;
    // What came before is in the views.
    registry.flush();
    let nodes = if message.holders {
        registry.nodes()
    } else {
        BTreeMap::new()
    };
    let directory = registry.directory.borrow();
    let mut answer = proto::Listed::default();
    let mut instances = 0;
    for service in directory.services() {
        if service.as_str() <= message.after.as_str() || !watch.covers(service) {
            continue;
        }
        if instances >= LISTED_INSTANCES_MAX {
            answer.more = true;
            break;
        }
        let Some(view) = directory.view(service.as_str()) else {
            continue;
        };
        // Each service counts, so that empty ones are bounded too.
        instances += 1 + view.instances.len();
        let holders = directory
            .holders(service.as_str())
            .map(|holding| proto::Holder {
                subscriber: convert::subscriber_bytes(holding.subscriber),
                sent: holding.sent.map(convert::version_message),
                acked: holding.acked.map(convert::version_message),
                peer: registry.peer(holding.subscriber).unwrap_or_default(),
                node: (nodes.get(&holding.subscriber))
                    .map_or_else(String::new, ToString::to_string),
            });
        answer.services.push(proto::ListedService {
            holders: holders.filter(|_| message.holders).collect(),
            view: Some(convert::view_message(&view)),
        });
    }
    drop(directory);
    registry.answer(conn, inbound.header, &answer);
    Ok(())
}

fn subscribe(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let message: proto::Subscribe = decode(inbound)?;
    let subscriber = convert::subscriber(&message.subscriber)?;
    let watch = convert::watch(message.watch)?;
    let have = message.have.map(convert::version);
    registry.place(subscriber, conn);
    let now = registry.shard.now();
    let mut directory = registry.directory.borrow_mut();
    let result = directory.handle_subscribe(now, subscriber, &watch, have);
    drop(directory);
    registry.flush();
    let refusal = result
        .err()
        .map_or_else(String::new, |error| error.to_string());
    registry.tell_subscribed(conn, subscriber, refusal);
    Ok(())
}

fn resync(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let message: proto::ServiceAt = decode(inbound)?;
    let subscriber = convert::subscriber(&message.subscriber)?;
    let service = convert::service(&message.service)?;
    if registry.is_at(subscriber, conn) {
        let now = registry.shard.now();
        let mut directory = registry.directory.borrow_mut();
        directory.handle_resync(now, subscriber, &service);
    }
    Ok(())
}

fn acknowledge(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let message: proto::ServiceAt = decode(inbound)?;
    let at = message.at.map(convert::version);
    let ack = ViewAck {
        subscriber: convert::subscriber(&message.subscriber)?,
        service: convert::service(&message.service)?,
        at: at.ok_or_else(|| Malformed("the version is absent".to_owned()))?,
    };
    if registry.is_at(ack.subscriber, conn) {
        let now = registry.shard.now();
        registry.directory.borrow_mut().handle_ack(now, &ack);
    }
    Ok(())
}

fn unsubscribe(registry: &Registry, conn: &Conn, inbound: Inbound<'_>) -> Result<(), Malformed> {
    let message: proto::ServiceAt = decode(inbound)?;
    let subscriber = convert::subscriber(&message.subscriber)?;
    if registry.is_at(subscriber, conn) {
        registry.displace(subscriber);
        let now = registry.shard.now();
        let mut directory = registry.directory.borrow_mut();
        directory.handle_unsubscribe(now, subscriber);
    }
    Ok(())
}
