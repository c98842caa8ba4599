//! etcd as a store for a registry: keys that are attached to leases.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use waystation_base::{Epoch, FencingToken, Moment};
use waystation_membership::limits::{EPOCH_JUMP_MAX, TTL_MAX, TTL_MIN};
use waystation_membership::{DirectoryConfig, Instance, InstanceId, SubscriberId, ViewVersion};
use waystation_net::{Address, Shard};

use super::entry::{Keys, Place, epoch_of, instance_of, number_of};
use super::entry::{token_behind, token_of, token_to_come};
use super::lease::{Lease, Leases};
use super::proto::{RangeRequest, TxnRequest};
use super::replica::{Entry, Mark, Replica, entry_of};
use super::session::{self, write_epoch};
use super::txn::{compare_lease, delete, found_in, put, write};
use super::wire::{Fault, Wire};
use crate::backend::Events;
use crate::limits::{ETCD_TXN_OPS_MAX, STORE_TRIES};
use crate::store::{
    self, Bid, Held, How, Renewing, Store, StoreBackend, StoreFault, Subscriber, Turns, Written,
};

pub(super) type Shared = store::Shared<Etcd>;

/// A registry under a prefix of etcd.
pub(crate) struct Etcd {
    pub(super) keys: Keys,
    /// At least one.
    pub(super) members: Vec<Address>,
    pub(super) replica: RefCell<Replica>,
    leases: RefCell<Leases>,
}

impl Etcd {
    /// Starts to connect to one of the members, of which there is at least one.
    pub(crate) fn backend(
        shard: &Shard,
        url: String,
        members: Vec<Address>,
        prefix: &str,
        events: Events,
    ) -> StoreBackend<Self> {
        let keys = Keys::new(prefix);
        let store = Self {
            replica: RefCell::new(Replica::new(keys.clone())),
            leases: RefCell::default(),
            keys,
            members,
        };
        StoreBackend::new(shard, url, store, events)
    }

    /// Keeps the lease of this client's subscribers, if there is one.
    pub(super) async fn keep_subscribers(shared: &Shared, wire: &Wire) -> Result<(), Fault> {
        let lease = shared.subscribers.borrow().lease;
        if let Some(lease) = lease
            && wire.keep_alive(lease).await?.is_none()
        {
            shared.subscribers.borrow_mut().lose();
        }
        Ok(())
    }
}

impl StoreFault for Fault {
    fn is_refusal(&self) -> bool {
        self.is_refusal()
    }

    fn is_unkept(&self) -> bool {
        self.is_not_found()
    }

    fn overtaken() -> Self {
        Self::Nonsense("others are always faster")
    }
}

/// What a registration's key is attached to.
#[derive(Default)]
pub(crate) struct Keep {
    lease: RefCell<Option<Rc<Lease>>>,
    /// The epoch, and the revision at which it was written, where a write found
    /// another than is known.
    epoch: Cell<Option<(Epoch, i64)>>,
}

impl Keep {
    fn lease(&self) -> Option<Rc<Lease>> {
        self.lease.borrow().clone()
    }
}

impl Store for Etcd {
    type Wire = Wire;
    type Fault = Fault;
    type Mark = Mark;
    type Keep = Keep;

    const WRITE_TOGETHER: usize = ETCD_TXN_OPS_MAX;
    const MOVES: bool = true;

    async fn run(shared: Rc<Shared>) {
        session::run(shared).await;
    }

    async fn goodbye(shared: &Shared) {
        if shared.close_subscribers().await {
            if let Some(wire) = shared.wire() {
                // For the whole of its time from here on.
                let _ = Self::keep_subscribers(shared, &wire).await;
            }
            return;
        }
        let lease = shared.subscribers.borrow_mut().lease.take();
        if let (Some(wire), Some(lease)) = (shared.wire(), lease) {
            // Nobody waits for these subscribers any more; else they expire.
            let _ = wire.revoke(lease).await;
        }
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
        match known {
            Some(mark) => mark.mod_revision < held.mod_revision,
            None => self.replica.borrow().at().number < number_of(held.mod_revision),
        }
    }

    fn is_same(_known: &Mark, _held: &Mark) -> bool {
        // A token stands in its key, and is written anew by who takes that.
        false
    }

    fn version(&self, mark: &Mark) -> ViewVersion {
        ViewVersion {
            epoch: self.replica.borrow().at().epoch,
            number: number_of(mark.mod_revision),
        }
    }

    /// By its epoch, which every client learns of as of any other change.
    async fn lift(bid: &Bid<'_, Self>, token: FencingToken) -> Result<bool, Fault> {
        let (store, keep) = (&bid.shared.store, bid.keep);
        for _ in 0..STORE_TRIES {
            let (epoch, epoch_mod) = keep.epoch.get().unwrap_or_else(|| {
                let replica = store.replica.borrow();
                (replica.at().epoch, replica.epoch_mod())
            });
            let Some(wanted) = epoch_above(token, epoch) else {
                return Ok(true);
            };
            if wanted.0 - epoch.0 > EPOCH_JUMP_MAX {
                return Ok(false);
            }
            let written = write_epoch(bid.wire, &store.keys, wanted, epoch_mod).await?;
            keep.epoch.set(Some(written));
        }
        Err(Fault::overtaken())
    }

    async fn read(&self, wire: &Wire, id: &InstanceId) -> Result<Option<Entry>, Fault> {
        let request = RangeRequest {
            key: self.keys.instance(id).into(),
            ..RangeRequest::default()
        };
        let answer = wire.range(request).await?;
        Ok(answer.kvs.first().map(|kv| entry_of(id, kv).0))
    }

    async fn read_all(&self, wire: &Wire) -> Result<(ViewVersion, Vec<Instance>), Fault> {
        let (header, kvs) = wire.list(self.keys.all()).await?;
        let epoch = self.replica.borrow().at().epoch;
        let number = number_of(header.revision);
        let (mut instances, mut turns) = (Vec::new(), Turns::new());
        for kv in kvs {
            if let Ok(Place::Instance(id)) = self.keys.place(&kv.key) {
                instances.extend(instance_of(&id, &kv).ok());
            }
            turns.took(1).await;
        }
        Ok((ViewVersion { epoch, number }, instances))
    }

    async fn read_subscribers(&self, wire: &Wire) -> Result<Vec<Subscriber>, Fault> {
        let (_, kvs) = wire.list(self.keys.subscribers()).await?;
        let (mut subscribers, mut turns) = (Vec::new(), Turns::new());
        for kv in kvs {
            let id = self.keys.subscriber_of(&kv.key);
            subscribers.extend(id.and_then(|id| Subscriber::read(id, &kv.value)));
            turns.took(1).await;
        }
        Ok(subscribers)
    }

    async fn write_subscribers(
        shared: &Shared,
        wire: &Wire,
        subscribers: Vec<(SubscriberId, Option<Vec<u8>>)>,
    ) -> Result<(), Fault> {
        let lease = shared.subscribers.borrow().lease;
        let lease = if let Some(lease) = lease {
            lease
        } else {
            let (lease, _) = wire.grant(DirectoryConfig::default().linger).await?;
            shared.subscribers.borrow_mut().lease = Some(lease);
            lease
        };
        let operations = subscribers.into_iter().map(|(id, value)| {
            let key = shared.store.keys.subscriber(id);
            match value {
                Some(value) => put(key, value, lease),
                None => delete(key),
            }
        });
        let request = TxnRequest {
            success: operations.collect(),
            ..TxnRequest::default()
        };
        wire.txn(request).await.map(drop)
    }

    async fn change(
        &self,
        wire: &Wire,
        entry: &Entry,
        instance: &Instance,
    ) -> Result<Written<Mark>, Fault> {
        let Mark {
            mod_revision,
            lease,
        } = entry.mark;
        let request = write(&self.keys, instance, lease, mod_revision, None);
        let answer = wire.txn(request).await?;
        let header = answer.header.ok_or(Fault::Nonsense("no header"))?;
        if answer.succeeded {
            return Ok(Written::Done(written(
                instance.clone(),
                header.revision,
                lease,
            )));
        }
        let [found, _] = found_in(answer);
        Ok(Written::Beaten(
            found.map(|kv| entry_of(&instance.id, &kv).0),
        ))
    }

    fn takes_orders(shared: &Shared) -> bool {
        shared.wire().is_some()
    }

    async fn open(shared: &Rc<Shared>, keep: &Keep, ttl: Duration) -> Result<Wire, Fault> {
        keep.epoch.set(None);
        if keep.lease.borrow().is_none() {
            let mut leases = shared.store.leases.borrow_mut();
            let lease = leases.of(ttl.clamp(TTL_MIN, TTL_MAX));
            *keep.lease.borrow_mut() = Some(lease);
        }
        Self::wire_of(shared, keep).await
    }

    async fn wire_of(shared: &Shared, _keep: &Keep) -> Result<Wire, Fault> {
        shared.wire().ok_or(Fault::NoAnswer)
    }

    fn is_kept(_wire: &Wire, keep: &Keep, mark: &Mark) -> bool {
        keep.lease().and_then(|lease| lease.id()) == Some(mark.lease)
    }

    async fn write(
        bid: &Bid<'_, Self>,
        how: How,
        mut instance: Box<Instance>,
        stand: Option<&Entry>,
    ) -> Result<Written<Mark>, Fault> {
        let (store, keep) = (&bid.shared.store, bid.keep);
        let (epoch, epoch_mod) = keep.epoch.get().unwrap_or_else(|| {
            let replica = store.replica.borrow();
            (replica.at().epoch, replica.epoch_mod())
        });
        let mod_revision = stand.map_or(0, |entry| entry.mark.mod_revision);
        let token_seen = bid.register.token_seen;
        if let Some(token) = token_for(how, epoch, mod_revision, token_seen) {
            instance.token = token;
        }
        let kept = keep.lease().ok_or(Fault::Nonsense("there is no lease"))?;
        let lease = kept.get(bid.wire).await?;
        let request = write(&store.keys, &instance, lease, mod_revision, Some(epoch_mod));
        let writing = bid.wire.txn(request);
        // What is granted must be known to live for a while. A lease that others
        // prolonged lately does, if the write finds it; else nobody who watches has
        // to wait for that.
        let prolonging = async {
            if kept.lives_on(bid.wire.now()) {
                return Ok(true);
            }
            kept.prolong(bid.wire, lease).await.map(|ttl| ttl.is_some())
        };
        let (answer, lives) = futures_util::future::join(writing, prolonging).await;
        let answer = match answer {
            Err(fault) if fault.is_not_found() => {
                kept.lose(lease);
                return Ok(Written::Unsure);
            }
            answer => answer?,
        };
        if !lives? {
            return Ok(Written::Unsure);
        }
        let header = answer.header.ok_or(Fault::Nonsense("no header"))?;
        if answer.succeeded {
            return Ok(Written::Done(written(*instance, header.revision, lease)));
        }
        let [found, of_epoch] = found_in(answer);
        let of_epoch = of_epoch.as_ref();
        let epoch_mod = of_epoch.map_or(0, |kv| kv.mod_revision);
        keep.epoch.set(Some((epoch_of(of_epoch), epoch_mod)));
        Ok(Written::Beaten(
            found.map(|kv| entry_of(&instance.id, &kv).0),
        ))
    }

    async fn prolong(bid: &Bid<'_, Self>) -> Result<bool, Fault> {
        let lease = bid.keep.lease();
        match lease.and_then(|lease| Some((lease.id()?, lease))) {
            Some((id, lease)) => Ok(lease.prolong(bid.wire, id).await?.is_some()),
            None => Ok(false),
        }
    }

    fn ttl(_wire: &Wire, keep: &Keep, asked: Moment) -> Duration {
        keep.lease()
            .map_or(Duration::ZERO, |lease| lease.ttl(asked))
    }

    async fn let_go(bid: &Bid<'_, Self>) -> Result<(), Fault> {
        let lease = bid.keep.lease.take();
        let lease = lease.and_then(|one| bid.shared.store.leases.borrow_mut().release(one));
        match lease {
            Some(lease) => bid.wire.revoke(lease).await,
            None => Ok(()),
        }
    }

    async fn renew(
        &self,
        wire: &Wire,
        keep: &Keep,
        _id: &InstanceId,
        held: &Held<Mark>,
        _asked: Moment,
    ) -> Result<Renewing, Fault> {
        let lease = keep.lease().ok_or(Fault::Nonsense("there is no lease"))?;
        let ttl = lease.prolong(wire, held.mark.lease).await?;
        Ok(ttl.map_or(Renewing::Over(None), Renewing::Kept))
    }

    async fn give_back(
        shared: &Shared,
        keep: &Keep,
        id: &InstanceId,
        _held: Option<Mark>,
    ) -> Result<(), Fault> {
        let Some(lease) = keep.lease().and_then(|lease| lease.id()) else {
            return Ok(());
        };
        let wire = Self::wire_of(shared, keep).await?;
        let keys = &shared.store.keys;
        let (key, left) = (keys.instance(id), keys.left(lease));
        // Whether or not it was granted: an answer may have been lost.
        let leave = |success| TxnRequest {
            compare: vec![compare_lease(&key, lease)],
            success,
            failure: Vec::new(),
        };
        // In this order: watchers hear of it in this order.
        let word = put(left, id.to_string().into(), lease);
        let with_word = vec![word, delete(key.clone())];
        let gone = match wire.txn(leave(with_word)).await {
            // A store that is full takes no word, but lets go of what it has.
            Err(fault) if fault.is_refusal() && !fault.is_not_found() => {
                wire.txn(leave(vec![delete(key.clone())])).await
            }
            gone => gone,
        };
        match gone {
            Err(fault) if !fault.is_not_found() => return Err(fault),
            Ok(_) | Err(_) => {}
        }
        let kept = keep.lease.take();
        let last = kept.and_then(|one| shared.store.leases.borrow_mut().release(one));
        if let Some(lease) = last
            && let Err(fault) = wire.revoke(lease).await
        {
            tracing::debug!(%id, %fault, "a lease is left to end by itself");
        }
        Ok(())
    }
}

/// An instance's key as it stands after it was written at that revision.
fn written(mut instance: Instance, revision: i64, lease: i64) -> Entry {
    instance.token = token_of(instance.token, revision);
    Entry {
        instance: Some(instance.into()),
        closed: None,
        mark: Mark {
            mod_revision: revision,
            lease,
        },
    }
}

/// The token to write to a key that was last written at that revision; `None`
/// for the one that it has.
fn token_for(
    how: How,
    epoch: Epoch,
    mod_revision: i64,
    token_seen: FencingToken,
) -> Option<FencingToken> {
    match how {
        How::New => Some(token_to_come(epoch)),
        How::Over => None,
        // Never below what was seen, since that is of this store's past.
        How::Anew => {
            let above_seen = FencingToken(token_seen.0.saturating_add(1));
            Some(token_behind(epoch, mod_revision).max(above_seen))
        }
    }
}

/// The epoch that has all its tokens above this one of another registry, unless the
/// present one has.
fn epoch_above(token: FencingToken, present: Epoch) -> Option<Epoch> {
    let of_token = waystation_membership::epoch_of(token);
    (present <= of_token).then_some(Epoch(of_token.0 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_raised_above_a_token_of_another_registry() {
        let of = |epoch: u64| FencingToken(epoch << 40 | 7);
        assert_eq!(epoch_above(of(3), Epoch(4)), None);
        assert_eq!(epoch_above(of(4), Epoch(4)), Some(Epoch(5)));
        assert_eq!(epoch_above(of(9), Epoch(4)), Some(Epoch(10)));
    }

    const EPOCH: Epoch = Epoch(1);

    fn token(number: u64) -> FencingToken {
        FencingToken((1 << 40) + number)
    }

    #[test]
    fn a_key_that_is_replaced_gets_a_higher_token() {
        let none_seen = FencingToken(0);
        let new = token_for(How::New, EPOCH, 0, none_seen);
        assert_eq!(new, Some(token_to_come(EPOCH)));
        let anew = token_for(How::Anew, EPOCH, 10, none_seen);
        assert_eq!(anew, Some(token(11)));
        assert_eq!(token_for(How::Over, EPOCH, 10, token(10)), None);
    }

    /// The store was restored from a backup in which the node's own old entry
    /// stands. Its token is below what the node had since, and would be for ever.
    #[test]
    fn an_entry_from_a_backup_is_replaced_above_all_that_was_seen() {
        let anew = token_for(How::Anew, EPOCH, 10, token(50));
        assert_eq!(anew, Some(token(51)));
        let anew = token_for(How::Anew, Epoch(2), 10, token(50));
        assert_eq!(anew, Some(FencingToken((2 << 40) + 11)));
    }
}
