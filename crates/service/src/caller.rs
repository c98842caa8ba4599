//! Who asks: what one caller has in progress on a shard, and what it may try
//! again. So one that floods is refused, and nobody else.
//!
//! Source of the share in a full shard and in a drained budget: Choudhury and
//! Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! 1998, with a factor of 1: who has more than is left for everyone else gets
//! no more. One that floods alone gets up to half, n of them an n-th less each,
//! and as much as each of them has stays free. A caller that is alone may have
//! all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use waystation_base::Moment;
use waystation_net::Conn;

use crate::budget::Budget;

/// A connection, or all connections of a shard under one name
/// ([`Peer::set_caller`](crate::Peer::set_caller)).
#[derive(Default)]
pub(crate) struct Caller {
    requests: Cell<usize>,
    budget: RefCell<Budget>,
    named: Option<(String, Weak<Callers>)>,
}

impl Caller {
    /// Requests in progress.
    pub(crate) fn requests(&self) -> usize {
        self.requests.get()
    }

    /// One request more.
    pub(crate) fn begin_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// One request less.
    pub(crate) fn end_request(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
    }

    /// A step begins that may be tried again.
    pub(crate) fn begin_step(&self, now: Moment) {
        self.budget.borrow_mut().begin(now);
    }

    /// Takes one retry, when its own steps have earned it, or when it has not
    /// had more of what others left than is left now.
    pub(crate) fn take_retry(&self, now: Moment, left: u64) -> bool {
        let mut budget = self.budget.borrow_mut();
        let over = budget.over(now);
        let may = over.is_none_or(|over| over < left);
        if may {
            budget.count_retry(now);
        }
        may
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let Some((name, callers)) = self.named.take() else {
            return;
        };
        if let Some(callers) = callers.upgrade() {
            let mut names = callers.names.borrow_mut();
            // Another one may have its name by now.
            if names
                .get(&name)
                .is_some_and(|caller| caller.strong_count() == 0)
            {
                names.remove(&name);
            }
        }
    }
}

/// The callers of a shard that have names.
#[derive(Default)]
pub(crate) struct Callers {
    names: RefCell<HashMap<String, Weak<Caller>>>,
}

impl Callers {
    /// The caller of that name.
    pub(crate) fn named(self: &Rc<Self>, name: &str) -> Rc<Caller> {
        let known = self.names.borrow().get(name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let caller = Rc::new(Caller {
                requests: Cell::new(0),
                budget: RefCell::default(),
                named: Some((name.to_owned(), Rc::downgrade(self))),
            });
            let mut names = self.names.borrow_mut();
            names.insert(name.to_owned(), Rc::downgrade(&caller));
            caller
        })
    }
}

/// Whose share the requests of a connection count in: its own, unless it got
/// a name.
pub(crate) fn caller_of(conn: &Conn) -> Rc<Caller> {
    conn.property::<Caller>().unwrap_or_else(|| {
        let caller = Rc::<Caller>::default();
        conn.set_property(caller.clone());
        caller
    })
}

/// Whether one that has `own` of the `taken` places may have another, when
/// there are `most` in all and at most `share` for each.
pub(crate) fn has_share(own: usize, taken: usize, most: usize, share: usize) -> bool {
    let alone = own == taken;
    own < share && (alone || own <= most.saturating_sub(taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RETRY_PER_SECOND, RETRY_WINDOW_SECONDS};

    /// One user with 60 connections held all places of a shard, and everyone
    /// else was refused.
    #[test]
    fn those_who_flood_leave_room_for_those_who_come() {
        for flooders in 1..=40 {
            let mut own = vec![0_usize; flooders];
            // Beside them there is one who asks little.
            let taken = |own: &[usize]| 1 + own.iter().sum::<usize>();
            loop {
                let gets = |n: &usize| has_share(own[*n], taken(&own), 1000, 300);
                let Some(next) = (0..flooders).filter(gets).min_by_key(|n| own[*n]) else {
                    break;
                };
                own[next] += 1;
            }
            let left = 1000 - taken(&own);
            let most = own.iter().max().copied().unwrap_or_default();
            // Each took its last place before the others took theirs.
            assert!(
                left > 0 && most <= 300.min(left + flooders + 1),
                "{left} {own:?}"
            );
        }
        assert!(has_share(1, 1, 2, 300), "who is alone may have all");
    }

    #[test]
    fn a_name_is_one_caller_and_is_forgotten_with_its_last_connection() {
        let callers = Rc::<Callers>::default();
        let first = callers.named("ada");
        let second = callers.named("ada");
        assert!(Rc::ptr_eq(&first, &second));
        assert!(!Rc::ptr_eq(&first, &callers.named("bob")));
        assert_eq!(callers.names.borrow().len(), 1);
        drop((first, second));
        assert!(callers.names.borrow().is_empty());
    }

    /// The budget was one for the shard: a user whose every call failed used
    /// it up, and calls of others failed at their first try.
    #[test]
    fn one_caller_does_not_drain_the_retries_of_others() {
        let now = Moment::from_millis(70_000);
        let mut pool = Budget::default();
        let (flooder, user) = (Caller::default(), Caller::default());
        let mut take = |caller: &Caller| {
            let left = pool.left(now);
            let took = caller.take_retry(now, left);
            if took {
                pool.count_retry(now);
            }
            took
        };
        let taken = (0..10_000).filter(|_| take(&flooder)).count();
        let reserve = RETRY_PER_SECOND * u64::from(RETRY_WINDOW_SECONDS);
        assert_eq!(taken as u64, reserve / 2, "without steps of its own");
        let taken = (0..10_000).filter(|_| take(&user)).count();
        assert_eq!(taken as u64, reserve / 4);
        for _ in 0..200 {
            user.begin_step(now);
        }
        // What its own steps earned is its own, whatever is left.
        assert!(user.take_retry(now, 0));
        assert!(!flooder.take_retry(now, 0));
    }
}
