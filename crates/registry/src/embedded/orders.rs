//! What is ordered about registrations and not answered yet.
//!
//! The core of a registration orders once. A registry that has too much to do,
//! or cannot store, refuses on a connection that stays; so an order is kept until
//! it is answered. What is ordered meanwhile is one with it, so that a registry
//! that is slow makes no queue, and nothing is overtaken by what came before it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use waystation_membership::Update;

use crate::backend::Key;

/// Who works off the orders of a registration: one at a time, until the
/// registration is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round(u64);

/// The open orders of one client.
#[derive(Debug, Default)]
pub(super) struct Orders {
    by_key: RefCell<BTreeMap<Key, (Round, Wanted)>>,
    rounds: Cell<u64>,
}

/// The open orders of one registration.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    update: Option<Update>,
    is_drain: bool,
    is_idle: bool,
}

/// What is done next.
#[derive(Debug)]
pub(super) enum Order {
    Update(Update),
    Drain,
    Idle,
}

impl Orders {
    /// Adds an order. Says who has to work it off, unless somebody does.
    pub(super) fn want(&self, key: Key, change: impl FnOnce(&mut Wanted)) -> Option<Round> {
        let mut by_key = self.by_key.borrow_mut();
        if let Some((_, wanted)) = by_key.get_mut(&key) {
            change(wanted);
            return None;
        }
        self.rounds.set(self.rounds.get() + 1);
        let round = Round(self.rounds.get());
        let mut wanted = Wanted::default();
        change(&mut wanted);
        by_key.insert(key, (round, wanted));
        Some(round)
    }

    /// The next order of a round; `None` ends it.
    pub(super) fn next(&self, key: Key, round: Round) -> Option<Order> {
        let mut by_key = self.by_key.borrow_mut();
        let (_, wanted) = by_key.get_mut(&key).filter(|(its, _)| *its == round)?;
        let next = wanted.next();
        if next.is_none() {
            by_key.remove(&key);
        }
        next
    }

    /// An order has no answer: it is due again, with what was ordered since.
    pub(super) fn again(&self, key: Key, round: Round, order: Order) {
        let mut by_key = self.by_key.borrow_mut();
        if let Some((_, wanted)) = by_key.get_mut(&key).filter(|(its, _)| *its == round) {
            match order {
                Order::Update(mut update) => {
                    if let Some(later) = wanted.update.take() {
                        update.merge(later);
                    }
                    wanted.update = Some(update);
                }
                Order::Drain => wanted.is_drain = true,
                Order::Idle => wanted.is_idle = true,
            }
        }
    }

    /// Nothing of before is wanted any more.
    pub(super) fn forget(&self, key: Key) {
        self.by_key.borrow_mut().remove(&key);
    }

    /// The same, unless another round has begun.
    pub(super) fn forget_round(&self, key: Key, round: Round) {
        let mut by_key = self.by_key.borrow_mut();
        if by_key.get(&key).is_some_and(|(its, _)| *its == round) {
            by_key.remove(&key);
        }
    }
}

impl Wanted {
    pub(super) fn update(&mut self, update: Update) {
        match &mut self.update {
            Some(before) => before.merge(update),
            None => self.update = Some(update),
        }
    }

    pub(super) fn drain(&mut self) {
        self.is_drain = true;
    }

    pub(super) fn idle(&mut self) {
        self.is_idle = true;
    }

    fn next(&mut self) -> Option<Order> {
        if let Some(update) = self.update.take() {
            return Some(Order::Update(update));
        }
        if std::mem::take(&mut self.is_drain) {
            return Some(Order::Drain);
        }
        std::mem::take(&mut self.is_idle).then_some(Order::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heavy(weight: u32) -> Update {
        Update {
            weight: Some(weight),
            ..Update::default()
        }
    }

    #[test]
    fn an_update_that_has_no_answer_does_not_undo_a_later_one() {
        let orders = Orders::default();
        let key = Key(1);
        let round = orders.want(key, |wanted| wanted.update(heavy(7))).unwrap();
        let order = orders.next(key, round).unwrap();
        assert_eq!(orders.want(key, |wanted| wanted.update(heavy(8))), None);
        orders.again(key, round, order);
        let Some(Order::Update(update)) = orders.next(key, round) else {
            panic!("the update is due again")
        };
        assert_eq!(update, heavy(8));
        assert!(orders.next(key, round).is_none());
    }

    #[test]
    fn what_was_ordered_before_a_registration_is_not_done_behind_it() {
        let orders = Orders::default();
        let key = Key(1);
        let first = orders.want(key, |wanted| wanted.update(heavy(7))).unwrap();
        let order = orders.next(key, first).unwrap();
        orders.forget(key);
        let second = orders.want(key, Wanted::drain).unwrap();
        orders.again(key, first, order);
        orders.forget_round(key, first);
        assert!(orders.next(key, first).is_none());
        assert!(matches!(orders.next(key, second), Some(Order::Drain)));
        assert!(orders.next(key, second).is_none());
    }
}
