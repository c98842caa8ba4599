//! Leases for registrations: those of a client that ask for the same length
//! share one, so that only the first of them has to wait for it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use waystation_base::Moment;

use super::wire::{Fault, Wire};

/// A lease for registrations, granted when the first of them needs it.
pub(super) struct Lease {
    length: Duration,
    /// The one that was granted last and is not known to be over.
    granted: Cell<Option<Granted>>,
    /// Held by who asks for one.
    granting: Mutex<()>,
}

/// A lease as it was granted or prolonged.
#[derive(Debug, Clone, Copy)]
struct Granted {
    id: i64,
    /// For how long it lives from then on.
    ttl: Duration,
    /// When that was asked for.
    since: Moment,
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
        self.granted.get().map(|granted| granted.id)
    }

    /// For how long it lives, counted from `asked`.
    pub(super) fn ttl(&self, asked: Moment) -> Duration {
        let granted = self.granted.get();
        granted.map_or(Duration::ZERO, |one| {
            (one.since + one.ttl).saturating_since(asked)
        })
    }

    /// Whether it lives on for most of its time, unless the store has lost it.
    pub(super) fn lives_on(&self, now: Moment) -> bool {
        let granted = self.granted.get();
        granted.is_some_and(|one| self.ttl(now) >= one.ttl / 4 * 3)
    }

    /// Which it is. One that was there may be over.
    pub(super) async fn get(&self, wire: &Wire) -> Result<i64, Fault> {
        let _granting = self.granting.lock().await;
        if let Some(id) = self.id() {
            return Ok(id);
        }
        let since = wire.now();
        let (id, ttl) = wire.grant(self.length).await?;
        self.granted.set(Some(Granted { id, ttl, since }));
        Ok(id)
    }

    /// Prolongs a lease that was got here; for how long, or `None` when it is
    /// over.
    pub(super) async fn prolong(&self, wire: &Wire, id: i64) -> Result<Option<Duration>, Fault> {
        let since = wire.now();
        let ttl = wire.keep_alive(id).await?;
        match ttl {
            Some(ttl) => self.prolonged(Granted { id, ttl, since }),
            None => self.lose(id),
        }
        Ok(ttl)
    }

    /// Answers may come in another order than they were asked for.
    fn prolonged(&self, now: Granted) {
        let before = self.granted.get().filter(|before| before.id == now.id);
        let is_later = |before: Granted| before.since + before.ttl < now.since + now.ttl;
        if before.is_some_and(is_later) {
            self.granted.set(Some(now));
        }
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

    const SECOND: Duration = Duration::from_secs(1);
    const LENGTH: Duration = Duration::from_secs(6);

    /// Lease 7, prolonged at this second.
    fn granted(second: u64) -> Granted {
        Granted {
            id: 7,
            ttl: LENGTH,
            since: Moment::from_millis(second * 1000),
        }
    }

    #[test]
    fn registrations_of_one_length_share_a_lease_that_the_last_gives_back() {
        let mut leases = Leases::default();
        let (first, second) = (leases.of(LENGTH), leases.of(LENGTH));
        let other = leases.of(LENGTH * 2);
        first.granted.set(Some(granted(0)));
        assert_eq!((second.id(), other.id()), (Some(7), None));
        assert_eq!(leases.release(first), None, "another has it");
        assert_eq!(leases.release(second), Some(7));
        assert_eq!(leases.of(LENGTH).id(), None, "that one is given back");
    }

    #[test]
    fn only_the_present_lease_is_lost() {
        let lease = Leases::default().of(LENGTH);
        lease.granted.set(Some(granted(0)));
        lease.lose(6);
        assert_eq!(lease.id(), Some(7));
        lease.lose(7);
        let ttl = lease.ttl(Moment::ZERO);
        assert_eq!((lease.id(), ttl), (None, Duration::ZERO));
    }

    /// Each registration prolonged the lease that it shares with others, and who
    /// watched saw it later for that.
    #[test]
    fn a_lease_that_was_prolonged_lately_is_known_to_live() {
        let lease = Leases::default().of(LENGTH);
        assert!(!lease.lives_on(Moment::ZERO), "there is none");
        lease.granted.set(Some(granted(0)));
        assert_eq!(lease.ttl(Moment::from_millis(2_000)), 4 * SECOND);
        assert!(lease.lives_on(Moment::from_millis(1_000)));
        assert!(!lease.lives_on(Moment::from_millis(2_000)));
        lease.prolonged(granted(4));
        assert!(lease.lives_on(Moment::from_millis(5_000)));
        lease.prolonged(granted(2));
        assert_eq!(
            lease.ttl(Moment::from_millis(4_000)),
            LENGTH,
            "that is older"
        );
        lease.prolonged(Granted {
            id: 6,
            ..granted(9)
        });
        assert_eq!(lease.ttl(Moment::from_millis(4_000)), LENGTH, "another's");
    }
}
