//! `ZooKeeper` as a store for a registry: nodes that live as long as a session.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{FencingToken, Moment};
use waystation_membership::limits::{TTL_MAX, TTL_MIN};
use waystation_membership::{Instance, InstanceId, SubscriberId, ViewVersion};
use waystation_net::Shard;

use super::entry::{Marks, Paths, data_of, instance_of};
use super::lease::{Lease, Leases};
use super::replica::{Entry, Mark, NUMBER_MAX, Replica, entry_of, marks_over};
use super::session;
use super::wire::{Fault, Place, Read, Wire};
use crate::backend::Events;
use crate::limits::{
    CALL_WAIT, LIFT_POLL, STORE_TRIES, ZOOKEEPER_NODES_MAX, ZOOKEEPER_READ_TOGETHER,
    ZOOKEEPER_WRITE_TOGETHER,
};
use crate::store::{
    self, Bid, Held, How, Renewing, Store, StoreBackend, StoreFault, Subscriber, Turns, Written,
};

pub(super) type Shared = store::Shared<ZooKeeper>;

/// A registry under a root of `ZooKeeper`.
pub(crate) struct ZooKeeper {
    pub(super) place: Place,
    pub(super) paths: Paths,
    pub(super) replica: RefCell<Replica>,
    leases: RefCell<Leases>,
}

impl ZooKeeper {
    /// Starts to connect to one of the servers.
    pub(crate) fn backend(
        shard: &Shard,
        url: String,
        place: Place,
        events: Events,
    ) -> StoreBackend<Self> {
        let store = Self {
            paths: Paths::new(&place.root),
            place,
            replica: RefCell::default(),
            leases: RefCell::default(),
        };
        StoreBackend::new(shard, url, store, events)
    }

    /// The version of a node that is held in this session, as far as was told. A
    /// node that was made in its place has another: see [`Wire::replace`].
    fn held_version(&self, wire: &Wire, id: &InstanceId, held: Option<Mark>) -> Option<i32> {
        let held = held.filter(|held| held.session == wire.session())?;
        let known = self.known(id).map(|entry| entry.mark);
        let known = known.filter(|known| known.czxid == held.czxid);
        let known = known.map_or(0, |known| known.version);
        Some(known.max(held.version))
    }

    /// A node as it stands after a write.
    fn written(&self, mut instance: Instance, stat: &zookeeper_client::Stat) -> Entry {
        instance.token = self.replica.borrow().marks().token(stat.czxid);
        Entry {
            instance: Some(Arc::new(instance)),
            closed: None,
            mark: Mark::of(stat),
        }
    }
}

impl StoreFault for Fault {
    fn is_refusal(&self) -> bool {
        self.is_refusal()
    }

    fn is_unkept(&self) -> bool {
        // A session that is over is lost with its connection.
        false
    }

    fn overtaken() -> Self {
        Self::Nonsense("others are always faster")
    }
}

/// The session that a registration's node lives with.
#[derive(Default)]
pub(crate) struct Keep {
    lease: RefCell<Option<Rc<Lease>>>,
}

impl Keep {
    /// The leader has answered something that was asked at `sent`.
    fn answered(&self, wire: &Wire, sent: Moment) {
        if let Some(lease) = &*self.lease.borrow() {
            lease.answered(wire, sent);
        }
    }

    fn ttl(&self, wire: &Wire, asked: Moment) -> Duration {
        let lease = self.lease.borrow();
        let ttl = |lease: &Rc<Lease>| lease.ttl(wire, asked);
        lease.as_ref().map_or(Duration::ZERO, ttl)
    }
}

impl Store for ZooKeeper {
    type Wire = Wire;
    type Fault = Fault;
    type Mark = Mark;
    type Keep = Keep;

    const WRITE_TOGETHER: usize = ZOOKEEPER_WRITE_TOGETHER;
    const MOVES: bool = false;

    async fn run(shared: Rc<Shared>) {
        session::run(shared).await;
    }

    async fn goodbye(shared: &Shared) {
        // With the session all the others go.
        shared.close_subscribers().await;
    }

    fn see(&self, version: ViewVersion) -> bool {
        self.replica.borrow_mut().see(version)
    }

    fn see_token(&self, token: FencingToken) -> bool {
        self.replica.borrow_mut().see_token(token)
    }

    fn known(&self, id: &InstanceId) -> Option<Entry> {
        self.replica.borrow().entry(id).cloned()
    }

    fn is_before(&self, known: Option<&Mark>, held: &Mark) -> bool {
        let replica = self.replica.borrow();
        match known {
            Some(mark) => mark.mzxid < held.mzxid && mark.czxid <= held.czxid,
            None => replica.at().number < replica.marks().number(held.mzxid),
        }
    }

    fn is_same(known: &Mark, held: &Mark) -> bool {
        known.czxid == held.czxid && known.session == held.session
    }

    fn version(&self, mark: &Mark) -> ViewVersion {
        self.replica.borrow().marks().version(mark.mzxid)
    }

    /// By the marks of the folder, which every client reads when they change. Ready
    /// when this one has. The tokens of all nodes that stand rise with them: see
    /// [`Event::Raised`](crate::backend::Event::Raised).
    async fn lift(bid: &Bid<'_, Self>, token: FencingToken) -> Result<bool, Fault> {
        if token.0 > NUMBER_MAX {
            return Ok(false);
        }
        let (store, wire) = (&bid.shared.store, bid.wire);
        let folder = store.paths.instances();
        let deadline = wire.now() + CALL_WAIT;
        while wire.now() < deadline {
            let Some((data, stat)) = wire.get(&folder).await? else {
                // It is made with the first node.
                return Ok(true);
            };
            let found = Marks::read(&data);
            if let Some(marks) = marks_over(found, stat.pzxid, token) {
                let version = Some(stat.version);
                let written = wire.set(&folder, marks.text().as_bytes(), version).await;
                match written {
                    Err(fault) if !fault.is_conflict() => return Err(fault),
                    Ok(_) | Err(_) => continue,
                }
            }
            if store.replica.borrow().marks() == found {
                return Ok(true);
            }
            wire.pause(LIFT_POLL).await;
        }
        Err(Fault::Late)
    }

    async fn read(&self, wire: &Wire, id: &InstanceId) -> Result<Option<Entry>, Fault> {
        let found = wire.get(&self.paths.instance(id)).await?;
        let marks = self.replica.borrow().marks();
        Ok(found.map(|found| entry_of(id.as_str(), &found, &marks).0))
    }

    async fn read_all(&self, wire: &Wire) -> Result<(ViewVersion, Vec<Instance>), Fault> {
        wire.sync().await?;
        let folder = self.paths.instances();
        let Some((data, stat)) = wire.get(&folder).await? else {
            return Ok((self.replica.borrow().at(), Vec::new()));
        };
        let marks = Marks::read(&data);
        let names = wire.children(&folder).await?;
        if names.len() > ZOOKEEPER_NODES_MAX {
            return Err(Fault::TooMany(names.len()));
        }
        let mut zxid = stat.pzxid.max(stat.mzxid);
        let (mut instances, mut turns) = (Vec::new(), Turns::new());
        for some in names.chunks(ZOOKEEPER_READ_TOGETHER) {
            let paths: Vec<String> = some.iter().map(|name| self.paths.name(name)).collect();
            for (name, found) in some.iter().zip(wire.get_all(&paths).await?) {
                turns.took(1).await;
                // What is gone by now, foreign or malformed is left out.
                let Read::Node((data, stat)) = found else {
                    continue;
                };
                zxid = zxid.max(stat.mzxid);
                instances.extend(instance_of(name, &data, &stat, &marks).ok());
            }
        }
        Ok((marks.version(zxid), instances))
    }

    async fn read_subscribers(&self, wire: &Wire) -> Result<Vec<Subscriber>, Fault> {
        wire.sync().await?;
        let folder = self.paths.subscribers();
        let names = wire.children(&folder).await?;
        let (mut subscribers, mut turns) = (Vec::new(), Turns::new());
        for some in names.chunks(ZOOKEEPER_READ_TOGETHER) {
            let paths = some.iter().map(|name| format!("{folder}/{name}"));
            let paths: Vec<String> = paths.collect();
            for (name, found) in some.iter().zip(wire.get_all(&paths).await?) {
                let (id, Read::Node((data, _))) = (Paths::subscriber_of(name), found) else {
                    continue;
                };
                subscribers.extend(id.and_then(|id| Subscriber::read(id, &data)));
                turns.took(1).await;
            }
        }
        Ok(subscribers)
    }

    async fn write_subscribers(
        shared: &Shared,
        wire: &Wire,
        subscribers: Vec<(SubscriberId, Option<Vec<u8>>)>,
    ) -> Result<(), Fault> {
        let paths = &shared.store.paths;
        let nodes = subscribers.into_iter();
        let nodes: Vec<_> = nodes
            .map(|(id, value)| (paths.subscriber(id), value))
            .collect();
        match wire.write_all(&nodes).await {
            Err(fault) if fault.is_no_node() => {
                wire.make_folders(&paths.subscribers()).await?;
                wire.write_all(&nodes).await
            }
            written => written,
        }
    }

    async fn change(
        &self,
        wire: &Wire,
        entry: &Entry,
        instance: &Instance,
    ) -> Result<Written<Mark>, Fault> {
        // A node that was made anew counts its versions from zero again, and may
        // be taken for the one that was meant. Its owner sees then that what it
        // holds is another's, and replaces it: see `Registrant::check`.
        let (path, version) = (self.paths.instance(&instance.id), entry.mark.version);
        match wire.set(&path, &data_of(instance), Some(version)).await {
            Ok(stat) if stat.czxid == entry.mark.czxid => {
                Ok(Written::Done(self.written(instance.clone(), &stat)))
            }
            Ok(_) => Ok(Written::Unsure),
            Err(fault) if fault.is_conflict() => Ok(Written::Unsure),
            Err(fault) => Err(fault),
        }
    }

    fn takes_orders(_shared: &Shared) -> bool {
        // Registrations have sessions of their own, and wait for those.
        true
    }

    async fn open(shared: &Rc<Shared>, keep: &Keep, ttl: Duration) -> Result<Wire, Fault> {
        if keep.lease.borrow().is_none() {
            let mut leases = shared.store.leases.borrow_mut();
            let lease = leases.of(shared, ttl.clamp(TTL_MIN, TTL_MAX));
            *keep.lease.borrow_mut() = Some(lease);
        }
        Self::wire_of(shared, keep).await
    }

    async fn wire_of(shared: &Shared, keep: &Keep) -> Result<Wire, Fault> {
        let lease = keep.lease.borrow().clone();
        let lease = lease.ok_or(Fault::Expired)?;
        let deadline = shared.shard.now() + CALL_WAIT;
        let wire = lease.wire_until(&shared.shard, deadline).await;
        wire.ok_or(Fault::Late)
    }

    fn is_kept(wire: &Wire, _keep: &Keep, mark: &Mark) -> bool {
        mark.session == wire.session()
    }

    async fn write(
        bid: &Bid<'_, Self>,
        how: How,
        instance: Box<Instance>,
        stand: Option<&Entry>,
    ) -> Result<Written<Mark>, Fault> {
        let (store, wire) = (&bid.shared.store, bid.wire);
        let path = store.paths.instance(&instance.id);
        let (data, version) = (data_of(&instance), stand.map_or(0, |one| one.mark.version));
        let sent = wire.now();
        let written = match how {
            How::New => {
                let made = wire.create(&path, &data).await;
                if made.as_ref().is_err_and(Fault::is_no_node) {
                    wire.make_folders(&store.paths.instances()).await?;
                    return Ok(Written::Beaten(None));
                }
                made
            }
            How::Over => wire.set(&path, &data, Some(version)).await,
            How::Anew => wire.replace(&path, version, &data).await,
        };
        match written {
            Ok(stat) if stat.ephemeral_owner == wire.session() => {
                bid.keep.answered(wire, sent);
                Ok(Written::Done(store.written(*instance, &stat)))
            }
            Err(fault) if !fault.is_conflict() => Err(fault),
            Ok(_) | Err(_) => Ok(Written::Unsure),
        }
    }

    async fn prolong(bid: &Bid<'_, Self>) -> Result<bool, Fault> {
        let sent = bid.wire.now();
        bid.wire.sync().await?;
        bid.keep.answered(bid.wire, sent);
        Ok(true)
    }

    fn ttl(wire: &Wire, keep: &Keep, asked: Moment) -> Duration {
        keep.ttl(wire, asked)
    }

    async fn let_go(_bid: &Bid<'_, Self>) -> Result<(), Fault> {
        Ok(())
    }

    /// Looks whether its node stands, and asks the leader whether the session
    /// lives: a server that is cut off from it answers the first by itself.
    async fn renew(
        &self,
        wire: &Wire,
        keep: &Keep,
        id: &InstanceId,
        held: &Held<Mark>,
        asked: Moment,
    ) -> Result<Renewing, Fault> {
        let sent = wire.now();
        // In this order: what is read is what was known behind the other.
        let (synced, stand) = futures_util::join!(wire.sync(), self.read(wire, id));
        synced?;
        keep.answered(wire, sent);
        let stand = stand?;
        let is_ours = |mark: &Mark| mark.czxid == held.mark.czxid && mark.session == wire.session();
        if stand.as_ref().is_some_and(|entry| is_ours(&entry.mark)) {
            return Ok(Renewing::Kept(keep.ttl(wire, asked)));
        }
        Ok(Renewing::Over(stand.and_then(|entry| entry.instance)))
    }

    async fn give_back(
        shared: &Shared,
        keep: &Keep,
        id: &InstanceId,
        held: Option<Mark>,
    ) -> Result<(), Fault> {
        if keep.lease.borrow().is_none() {
            return Ok(());
        }
        let wire = Self::wire_of(shared, keep).await?;
        let paths = &shared.store.paths;
        let (path, word) = (paths.instance(id), paths.left(id));
        let mut version = shared.store.held_version(&wire, id, held);
        for _ in 0..STORE_TRIES {
            // Whether or not it was granted: an answer may have been lost. And whether
            // or not it stands, when this was asked for before: who came behind that has
            // the same version. What was asked in this session, over whichever
            // connection, is done before this is read or never.
            if version.is_none() {
                let stand = shared.store.read(&wire, id).await?;
                let mark = stand.map(|entry| entry.mark);
                let ours = mark.filter(|mark| mark.session == wire.session());
                version = ours.map(|mark| mark.version);
            }
            let Some(version) = version.take() else {
                *keep.lease.borrow_mut() = None;
                return Ok(());
            };
            match wire.delete_with_word(&path, version, &word).await {
                Err(fault) if fault.is_conflict() => {}
                Err(fault) => return Err(fault),
                Ok(()) => {
                    *keep.lease.borrow_mut() = None;
                    return Ok(());
                }
            }
        }
        Err(Fault::overtaken())
    }
}
