//! What a registration is to do, one thing after another; renewals beside that.

use waystation_base::Moment;
use waystation_membership::{Attempt, Instance, Register};

use crate::backend::Registering;

/// An attempt, and when it came here: what its answer grants counts from then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) attempt: Attempt,
    pub(crate) at: Moment,
}

/// What is to be done. Orders of one kind replace each other, so that a store
/// that is slow makes no queue.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an order of its own; any of them may wait with any other"
)]
pub(crate) struct Wanted {
    instance: Option<Box<Instance>>,
    register: Option<(Asked, Box<Register>)>,
    renew: Option<Asked>,
    is_update: bool,
    is_drain: bool,
    is_idle: bool,
    is_deregister: bool,
}

/// What is done next.
#[derive(Debug)]
pub(crate) enum Order {
    Register(Asked, Box<Register>),
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
    Deregister,
}

impl Order {
    /// How to want it again, if nobody else does.
    pub(crate) fn again(&self) -> Option<Again> {
        match self {
            Self::Register(..) => None,
            Self::Deregister => Some(Again::Deregister),
            Self::Update(_) => Some(Again::Update),
            Self::Drain => Some(Again::Drain),
            Self::Idle => Some(Again::Idle),
        }
    }
}

impl Wanted {
    /// Something is wanted, from `at` on.
    pub(crate) fn want(&mut self, at: Moment, instance: Box<Instance>, what: Registering) {
        self.instance = Some(instance);
        match what {
            Registering::Register(attempt, register) => {
                self.register = Some((Asked { attempt, at }, register));
            }
            Registering::Renew(attempt) => self.renew = Some(Asked { attempt, at }),
            Registering::Update(_) => self.is_update = true,
            Registering::Drain => self.is_drain = true,
            Registering::Idle => self.is_idle = true,
            Registering::Deregister => self.is_deregister = true,
        }
    }

    /// Something is wanted once more; false when the registration is to end
    /// anyway: that would wait for as long as this is refused.
    pub(crate) fn want_again(&mut self, what: Again) -> bool {
        if self.is_deregister {
            return false;
        }
        match what {
            Again::Deregister => self.is_deregister = true,
            Again::Update => self.is_update = true,
            Again::Drain => self.is_drain = true,
            Again::Idle => self.is_idle = true,
        }
        true
    }

    /// The next renewal. It waits for no order: a lease ends meanwhile.
    pub(crate) fn next_renewal(&mut self) -> Option<Asked> {
        self.renew.take()
    }

    /// The next order. The last word of a registration comes last.
    pub(crate) fn next(&mut self) -> Option<Order> {
        if let Some((asked, register)) = self.register.take() {
            return Some(Order::Register(asked, register));
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
            let at = Moment::from_millis(weight.into());
            wanted.want(at, Box::new(instance), what);
        };
        want(1, Registering::Deregister);
        want(1, Registering::Drain);
        for weight in [7, 8] {
            let update = waystation_membership::Update::default();
            want(weight, Registering::Update(update));
        }
        want(8, Registering::Renew(Attempt(4)));
        want(8, Registering::Renew(Attempt(5)));
        let asked = Asked {
            attempt: Attempt(5),
            at: Moment::from_millis(8),
        };
        assert_eq!(wanted.next_renewal(), Some(asked));
        assert_eq!(wanted.next_renewal(), None);
        let Some(Order::Update(instance)) = wanted.next() else {
            panic!("the update is next")
        };
        assert_eq!(instance.weight, 8);
        assert!(matches!(wanted.next(), Some(Order::Drain)));
        assert!(!wanted.want_again(Again::Drain), "its end does not wait");
        let end = wanted.next().expect("its end is next");
        assert!(matches!(end, Order::Deregister));
        assert!(wanted.next().is_none());
        // Nobody has answered that: it stays the last word.
        assert!(end.again().is_some_and(|again| wanted.want_again(again)));
        assert!(!wanted.want_again(Again::Drain), "its end does not wait");
        assert!(matches!(wanted.next(), Some(Order::Deregister)));
        assert!(wanted.next().is_none());
        assert!(wanted.want_again(Again::Drain));
        assert!(matches!(wanted.next(), Some(Order::Drain)));
    }
}
