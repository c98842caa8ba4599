//! The connection to etcd: found, caught up with, followed, looked after.

use std::convert::Infallible;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tonic::{Code, Streaming};
use waystation_base::{Backoff, Epoch};
use waystation_net::{Address, WaitsFor, waiting};

use super::entry::{Keys, epoch_of};
use super::proto::{Event, RangeRequest, TxnRequest, WatchResponse};
use super::replica::{Filling, Start, whole_revisions};
use super::store::{Etcd, Shared};
use super::txn::{compare_mod, found_in, get, put};
use super::wire::{Fault, Wire};
use crate::limits::{
    ENTRIES_PER_TURN, ETCD_PROBE_INTERVAL, EVENTS_MAX, STORE_TEND_INTERVAL, STORE_TRIES,
};
use crate::store::{Turns, backoff};

/// Connects to one member after another, for as long as the backend is used.
pub(super) async fn run(shared: Rc<Shared>) {
    let mut backoff = backoff(&shared.shard);
    // Clients that start together do not all go to the first member.
    let all = &shared.store.members;
    let first = shared.shard.random() % all.len() as u64;
    let members = all.iter().cycle();
    for member in members.skip(usize::try_from(first).unwrap_or(0)) {
        let session = Session {
            shared: &shared,
            member,
        };
        tokio::select! {
            biased;
            () = shared.closed() => return,
            fault = session.run(&mut backoff) => session.lost(&fault),
        }
        let pause = shared.shard.sleep(backoff.next_delay());
        tokio::select! {
            biased;
            () = shared.closed() => return,
            () = waiting(WaitsFor::plain("etcd pause"), pause) => {}
        }
    }
}

/// A connection to one member.
struct Session<'a> {
    shared: &'a Rc<Shared>,
    member: &'a Address,
}

/// What goes on until something is wrong.
type Outcome = Result<Infallible, Fault>;

impl Session<'_> {
    async fn run(&self, backoff: &mut Backoff) -> Fault {
        let Err(fault) = self.try_run(backoff).await;
        fault
    }

    async fn try_run(&self, backoff: &mut Backoff) -> Outcome {
        let wire = Wire::connect(&self.shared.shard, self.member).await?;
        self.catch_up(&wire).await?;
        let stream = self.watch(&wire).await?;
        backoff.reset();
        self.shared.connected(&wire);
        // Each is looked at when it is woken, and not with each event.
        let all: [LocalBoxFuture<'_, Outcome>; 4] = [
            Box::pin(self.follow(&wire, stream)),
            Box::pin(self.probe(&wire)),
            Box::pin(self.tend(&wire)),
            Box::pin(wire.ended().map(|()| Err(ended("the connection ended")))),
        ];
        let mut all: FuturesUnordered<_> = all.into_iter().collect();
        let first = all.next().await;
        first.unwrap_or_else(|| Err(ended("nothing is left to do")))
    }

    fn lost(&self, fault: &Fault) {
        self.shared.lost(format!("{}: {fault}", self.member));
    }

    /// Looks at how the store stands, and lists it if the watch cannot go on
    /// from where it was.
    async fn catch_up(&self, wire: &Wire) -> Result<(), Fault> {
        for _ in 0..STORE_TRIES {
            match self.look(wire).await? {
                (Start::Resume(_), _) => return Ok(()),
                (Start::List, _) => match self.list(wire).await {
                    Ok(()) => return Ok(()),
                    Err(fault) if fault.is_compacted() => {}
                    Err(fault) => return Err(fault),
                },
                (Start::Epoch(epoch), found_at) => self.write(wire, epoch, found_at).await?,
                (Start::Backwards(epoch), found_at) => {
                    let floor = self.shared.store.replica.borrow().floor();
                    self.shared.went_back(floor);
                    self.write(wire, epoch, found_at).await?;
                }
            }
        }
        Err(Fault::Nonsense("its epoch does not settle"))
    }

    /// How to go on, and the revision at which the epoch was written.
    async fn look(&self, wire: &Wire) -> Result<(Start, i64), Fault> {
        let floor = self.shared.store.replica.borrow().floor();
        let request = RangeRequest {
            key: self.shared.store.keys.epoch().into(),
            ..RangeRequest::default()
        };
        let answer = wire.range(request).await?;
        let header = answer.header.ok_or(Fault::Nonsense("no header"))?;
        let epoch = answer.kvs.first();
        let start = self
            .shared
            .store
            .replica
            .borrow()
            .start(floor, &header, epoch);
        Ok((start, epoch.map_or(0, |kv| kv.mod_revision)))
    }

    /// Writes an epoch, unless another client was faster.
    async fn write(&self, wire: &Wire, epoch: Epoch, found_at: i64) -> Result<(), Fault> {
        let keys = &self.shared.store.keys;
        write_epoch(wire, keys, epoch, found_at).await.map(drop)
    }

    async fn list(&self, wire: &Wire) -> Result<(), Fault> {
        let store = &self.shared.store;
        let (header, kvs) = wire.list(store.keys.all()).await?;
        let (mut filling, mut turns) = (Filling::default(), Turns::new());
        for kv in kvs {
            filling.note(&store.keys, &kv);
            turns.took(1).await;
        }
        let at = filling.at(&header);
        if at.epoch < store.replica.borrow().floor().epoch {
            return Err(reset());
        }
        let instances = filling.instances().collect();
        let take_in = || store.replica.borrow_mut().fill(&header, filling);
        let fits = self.shared.show_all(at, instances, take_in).await;
        fits.then_some(()).ok_or_else(too_slow)
    }

    async fn watch(&self, wire: &Wire) -> Result<Streaming<WatchResponse>, Fault> {
        let number = self.shared.store.replica.borrow().at().number;
        let from = i64::try_from(number).unwrap_or(i64::MAX).saturating_add(1);
        wire.watch(self.shared.store.keys.all(), from).await
    }

    async fn follow(&self, wire: &Wire, mut stream: Streaming<WatchResponse>) -> Outcome {
        let mut events = Vec::new();
        // Of all answers: those that are there are handled one after the other.
        let mut turns = Turns::new();
        loop {
            let answer = waiting(WaitsFor::plain("etcd watch"), stream.message()).await?;
            let answer = answer.ok_or_else(|| ended("the watch ended"))?;
            if answer.canceled {
                if answer.compact_revision == 0 {
                    return Err(ended(&answer.cancel_reason));
                }
                // The changes that are missing are gone: what is there is not.
                tracing::info!(
                    registry = self.shared.url,
                    revision = answer.compact_revision,
                    "what was to be caught up with is compacted: listing"
                );
                events.clear();
                self.list(wire).await?;
                stream = self.watch(wire).await?;
                continue;
            }
            events.extend(answer.events);
            if events.len() > EVENTS_MAX {
                return Err(ended("too many changes at once"));
            }
            if answer.fragment {
                continue;
            }
            if events.is_empty() {
                let revision = answer.header.map_or(0, |header| header.revision);
                if !answer.created {
                    self.shared.store.replica.borrow_mut().progress(revision);
                }
                continue;
            }
            self.apply(&events, &mut turns).await?;
            events.clear();
        }
    }

    /// Shows whole revisions, a few at a time.
    async fn apply(&self, mut events: &[Event], turns: &mut Turns) -> Result<(), Fault> {
        let shared = self.shared;
        while !events.is_empty() {
            let count = whole_revisions(events, ENTRIES_PER_TURN);
            let (some, others) = events.split_at(count);
            let news = shared.store.replica.borrow_mut().apply(some);
            if news.is_reset {
                return Err(reset());
            }
            let at = shared.store.replica.borrow().at();
            if !shared.show(at, news.changes, &news.touched, news.skipped) {
                return Err(too_slow());
            }
            events = others;
            turns.took(count).await;
        }
        Ok(())
    }

    /// Asks for a sign of life again and again, from a quorum: a watch is silent
    /// whether nothing changes or nobody is there. Where a lease is kept that is one,
    /// since only a leader keeps it.
    async fn probe(&self, wire: &Wire) -> Outcome {
        loop {
            let is_kept = self.shared.subscribers.borrow().lease.is_some();
            let pause = if is_kept {
                STORE_TEND_INTERVAL
            } else {
                ETCD_PROBE_INTERVAL
            };
            let pause = self.shared.shard.sleep(pause);
            tokio::select! {
                () = waiting(WaitsFor::plain("etcd pause"), pause) => {}
                () = self.shared.doubted() => {}
            }
            match self.look(wire).await?.0 {
                Start::Resume(_) | Start::List => {}
                Start::Epoch(_) | Start::Backwards(_) => return Err(reset()),
            }
        }
    }

    /// Keeps the lease of this client's subscribers, and writes down what they
    /// hold.
    async fn tend(&self, wire: &Wire) -> Outcome {
        let (shared, shard) = (self.shared, &self.shared.shard);
        let mut write_at = shard.now();
        loop {
            Etcd::keep_subscribers(shared, wire).await?;
            if shared.subscribers.borrow().lease.is_none() {
                write_at = shard.now();
            }
            let next = shard.now() + ETCD_PROBE_INTERVAL;
            while shard.now() < next {
                if write_at <= shard.now() {
                    shared.write_subscribers(wire).await?;
                    write_at = shard.now() + STORE_TEND_INTERVAL;
                }
                let pause = shard.sleep_until(next.min(write_at));
                tokio::select! {
                    () = waiting(WaitsFor::plain("etcd pause"), pause) => {}
                    () = shared.urgent.notified() => write_at = shard.now(),
                }
            }
        }
    }
}

/// Writes an epoch over the one that was written at that revision, unless another
/// client was faster. Which stands there now, and its revision.
pub(super) async fn write_epoch(
    wire: &Wire,
    keys: &Keys,
    epoch: Epoch,
    found_at: i64,
) -> Result<(Epoch, i64), Fault> {
    let key = keys.epoch();
    let request = TxnRequest {
        compare: vec![compare_mod(&key, found_at)],
        success: vec![put(key.clone(), epoch.to_string().into(), 0)],
        failure: vec![get(key)],
    };
    let answer = wire.txn(request).await?;
    if answer.succeeded {
        let header = answer.header.ok_or(Fault::Nonsense("no header"))?;
        return Ok((epoch, header.revision));
    }
    let [found, _] = found_in(answer);
    let found_at = found.as_ref().map_or(0, |kv| kv.mod_revision);
    Ok((epoch_of(found.as_ref()), found_at))
}

fn ended(text: &str) -> Fault {
    Fault::Status {
        code: Code::Unavailable,
        text: text.to_owned(),
    }
}

fn too_slow() -> Fault {
    ended("the client cannot keep up")
}

fn reset() -> Fault {
    ended("the store was emptied or went back")
}
