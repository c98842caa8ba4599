//! What a registration is to do, one thing after another.

use waystation_membership::{Attempt, Instance, Register};

use crate::backend::Registering;

/// What is to be done. Orders of one kind replace each other, so that a store
/// that is slow makes no queue.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an order of its own; any of them may wait with any other"
)]
pub(crate) struct Wanted {
    instance: Option<Box<Instance>>,
    register: Option<(Attempt, Box<Register>)>,
    renew: Option<Attempt>,
    is_update: bool,
    is_drain: bool,
    is_idle: bool,
    is_deregister: bool,
}

/// What is done next.
#[derive(Debug)]
pub(crate) enum Order {
    Register(Attempt, Box<Register>),
    Renew(Attempt),
    Update(Box<Instance>),
    Drain,
    Idle,
    Deregister,
}

/// What is asked for once, and has to be done again when nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Update,
    Drain,
    Idle,
}

impl Order {
    /// How to want it again, if nobody else does.
    pub(crate) fn again(&self) -> Option<Again> {
        match self {
            Self::Register(..) | Self::Renew(_) | Self::Deregister => None,
            Self::Update(_) => Some(Again::Update),
            Self::Drain => Some(Again::Drain),
            Self::Idle => Some(Again::Idle),
        }
    }
}

impl Wanted {
    pub(crate) fn want(&mut self, instance: Box<Instance>, what: Registering) {
        self.instance = Some(instance);
        match what {
            Registering::Register(attempt, register) => self.register = Some((attempt, register)),
            Registering::Renew(attempt) => self.renew = Some(attempt),
            Registering::Update(_) => self.is_update = true,
            Registering::Drain => self.is_drain = true,
            Registering::Idle => self.is_idle = true,
            Registering::Deregister => self.is_deregister = true,
        }
    }

    pub(crate) fn want_again(&mut self, what: Again) {
        match what {
            Again::Update => self.is_update = true,
            Again::Drain => self.is_drain = true,
            Again::Idle => self.is_idle = true,
        }
    }

    /// The next order. The last word of a registration comes last.
    pub(crate) fn next(&mut self) -> Option<Order> {
        if let Some((attempt, register)) = self.register.take() {
            return Some(Order::Register(attempt, register));
        }
        if let Some(attempt) = self.renew.take() {
            return Some(Order::Renew(attempt));
        }
        if std::mem::take(&mut self.is_update) {
            return self.instance.clone().map(Order::Update);
        }
        if std::mem::take(&mut self.is_drain) {
            return Some(Order::Drain);
        }
        if std::mem::take(&mut self.is_idle) {
            return Some(Order::Idle);
        }
        std::mem::take(&mut self.is_deregister).then_some(Order::Deregister)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::instance;

    #[test]
    fn orders_of_one_kind_are_one_and_the_last_word_comes_last() {
        let mut wanted = Wanted::default();
        let mut want = |weight: u32, what| {
            let mut instance = instance("a", "a-1");
            instance.weight = weight;
            wanted.want(Box::new(instance), what);
        };
        want(1, Registering::Deregister);
        want(1, Registering::Drain);
        for weight in [7, 8] {
            let update = waystation_membership::Update::default();
            want(weight, Registering::Update(update));
        }
        want(8, Registering::Renew(Attempt(4)));
        want(8, Registering::Renew(Attempt(5)));
        assert!(matches!(wanted.next(), Some(Order::Renew(Attempt(5)))));
        let Some(Order::Update(instance)) = wanted.next() else {
            panic!("the update is next")
        };
        assert_eq!(instance.weight, 8);
        assert!(matches!(wanted.next(), Some(Order::Drain)));
        assert!(matches!(wanted.next(), Some(Order::Deregister)));
        assert!(wanted.next().is_none());
    }
}
