//! Sessions that keep registrations alive, apart from the one that watches: each
//! as long as the lease that its registrations ask for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use waystation_base::Moment;
use waystation_net::{Shard, WaitsFor, until, waiting};

use super::store::Shared;
use super::wire::{Attached, Fault, Wire};
use crate::limits::ZOOKEEPER_LEASES_MAX;
use crate::store::backoff;

/// A session for registrations. It ends when nobody holds this any more.
pub(super) struct Lease {
    inner: Rc<Inner>,
}

struct Inner {
    length: Duration,
    wire: RefCell<Option<Wire>>,
    wired: Notify,
    is_over: Cell<bool>,
    ending: Notify,
}

/// The leases of one client.
#[derive(Default)]
pub(super) struct Leases {
    by_length: BTreeMap<Duration, Weak<Lease>>,
}

impl Leases {
    /// The lease of this length; its session is opened if it is the first.
    pub(super) fn of(&mut self, shared: &Rc<Shared>, length: Duration) -> Rc<Lease> {
        self.by_length.retain(|_, lease| lease.strong_count() > 0);
        let known = self.by_length.get(&length).and_then(Weak::upgrade);
        if let Some(lease) = known {
            return lease;
        }
        if self.by_length.len() >= ZOOKEEPER_LEASES_MAX {
            let longer = self.by_length.range(length..).next();
            let nearest = longer.or_else(|| self.by_length.last_key_value());
            if let Some(lease) = nearest.and_then(|(_, lease)| lease.upgrade()) {
                return lease;
            }
        }
        let inner = Rc::new(Inner {
            length,
            wire: RefCell::default(),
            wired: Notify::new(),
            is_over: Cell::new(false),
            ending: Notify::new(),
        });
        let lease = Rc::new(Lease {
            inner: Rc::clone(&inner),
        });
        self.by_length.insert(length, Rc::downgrade(&lease));
        shared.spawn_session(run(Rc::clone(shared), inner));
        lease
    }
}

impl Lease {
    /// Its session, as soon as there is a connection; `None` when there is none
    /// until then.
    pub(super) async fn wire_until(&self, shard: &Shard, deadline: Moment) -> Option<Wire> {
        let wired = async {
            loop {
                let notified = self.inner.wired.notified();
                if let Some(wire) = self.inner.wire.borrow().clone() {
                    return wire;
                }
                notified.await;
            }
        };
        let wired = waiting(WaitsFor::plain("zookeeper session"), wired);
        until(shard, deadline, wired).await.ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.is_over.set(true);
        self.inner.ending.notify_one();
    }
}

impl Inner {
    async fn over(&self) {
        let notified = self.ending.notified();
        if !self.is_over.get() {
            notified.await;
        }
    }
}

async fn run(shared: Rc<Shared>, inner: Rc<Inner>) {
    let mut backoff = backoff(&shared.shard);
    let mut known = None;
    loop {
        let attaching = Attached::new(
            &shared.shard,
            &shared.store.place,
            inner.length,
            known.clone(),
        );
        let fault = tokio::select! {
            biased;
            () = shared.closed() => return,
            () = inner.over() => return,
            attached = attaching => match attached {
                Ok(mut attached) => {
                    known = Some(attached.known.clone());
                    backoff.reset();
                    let end = tokio::select! {
                        biased;
                        fault = serve(&inner, &mut attached) => Some(fault),
                        () = shared.closed() => None,
                        () = inner.over() => None,
                    };
                    *inner.wire.borrow_mut() = None;
                    match end {
                        Some(fault) => fault,
                        None => return attached.close().await,
                    }
                }
                Err(fault) => fault,
            },
        };
        tracing::debug!(%fault, "a session of registrations has no connection");
        if matches!(fault, Fault::Expired) {
            known = None;
        }
        let pause = shared.shard.sleep(backoff.next_delay());
        tokio::select! {
            biased;
            () = shared.closed() => return,
            () = inner.over() => return,
            () = waiting(WaitsFor::plain("zookeeper pause"), pause) => {}
        }
    }
}

/// Lets registrations use the session until its connection is over.
async fn serve(inner: &Inner, attached: &mut Attached) -> Fault {
    let wire = attached.wire.clone();
    // What is read from here on is not older than what was granted elsewhere.
    let synced = tokio::select! {
        biased;
        fault = attached.over() => return fault,
        synced = wire.sync() => synced,
    };
    if let Err(fault) = synced {
        return fault;
    }
    *inner.wire.borrow_mut() = Some(wire);
    inner.wired.notify_waiters();
    attached.over().await
}
