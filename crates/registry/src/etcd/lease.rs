//! Leases for registrations: those of a client that ask for the same length
//! share one, so that only the first of them has to wait for it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;

use super::wire::{Fault, Wire};

/// A lease for registrations, granted when the first of them needs it.
pub(super) struct Lease {
    length: Duration,
    /// The one that was granted last and is not known to be over, and for how
    /// long it lives.
    granted: Cell<Option<(i64, Duration)>>,
    /// Held by who asks for one.
    granting: Mutex<()>,
}

/// The leases of one client.
#[derive(Default)]
pub(super) struct Leases {
    by_length: BTreeMap<Duration, Weak<Lease>>,
}

impl Leases {
    /// The lease of this length.
    pub(super) fn of(&mut self, length: Duration) -> Rc<Lease> {
        self.by_length.retain(|_, lease| lease.strong_count() > 0);
        let known = self.by_length.get(&length).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lease = Rc::new(Lease {
                length,
                granted: Cell::new(None),
                granting: Mutex::new(()),
            });
            self.by_length.insert(length, Rc::downgrade(&lease));
            lease
        })
    }

    /// A registration lets go of its lease: which is to be revoked, if nobody
    /// else has it. Nobody gets it any more then.
    pub(super) fn release(&mut self, lease: Rc<Lease>) -> Option<i64> {
        let lease = Rc::into_inner(lease)?;
        self.by_length.remove(&lease.length);
        lease.id()
    }
}

impl Lease {
    /// Which it is, if there is one.
    pub(super) fn id(&self) -> Option<i64> {
        self.granted.get().map(|(id, _)| id)
    }

    /// For how long it lives from its last sign of life on.
    pub(super) fn ttl(&self) -> Duration {
        self.granted.get().map_or(Duration::ZERO, |(_, ttl)| ttl)
    }

    /// Which it is, and whether it was granted just now. One that was there may
    /// be over.
    pub(super) async fn get(&self, wire: &Wire) -> Result<(i64, bool), Fault> {
        let _granting = self.granting.lock().await;
        if let Some(id) = self.id() {
            return Ok((id, false));
        }
        let granted = wire.grant(self.length).await?;
        self.granted.set(Some(granted));
        Ok((granted.0, true))
    }

    /// Prolongs a lease that was got here; for how long, or `None` when it is
    /// over.
    pub(super) async fn prolong(&self, wire: &Wire, id: i64) -> Result<Option<Duration>, Fault> {
        let ttl = wire.keep_alive(id).await?;
        match ttl {
            Some(ttl) if self.id() == Some(id) => self.granted.set(Some((id, ttl))),
            Some(_) => {}
            None => self.lose(id),
        }
        Ok(ttl)
    }

    /// This one is over: the next that needs one gets another.
    pub(super) fn lose(&self, id: i64) {
        if self.id() == Some(id) {
            self.granted.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(6);

    #[test]
    fn registrations_of_one_length_share_a_lease_that_the_last_gives_back() {
        let mut leases = Leases::default();
        let (first, second) = (leases.of(LENGTH), leases.of(LENGTH));
        let other = leases.of(LENGTH * 2);
        first.granted.set(Some((7, LENGTH)));
        assert_eq!((second.id(), other.id()), (Some(7), None));
        assert_eq!(leases.release(first), None, "another has it");
        assert_eq!(leases.release(second), Some(7));
        assert_eq!(leases.of(LENGTH).id(), None, "that one is given back");
    }

    #[test]
    fn only_the_present_lease_is_lost() {
        let lease = Leases::default().of(LENGTH);
        lease.granted.set(Some((7, LENGTH)));
        lease.lose(6);
        assert_eq!(lease.id(), Some(7));
        lease.lose(7);
        assert_eq!((lease.id(), lease.ttl()), (None, Duration::ZERO));
    }
}
