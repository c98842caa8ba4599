//! What to do about what stands at an id, for who asks for it.

use std::sync::Arc;

use waystation_membership::{Instance, Refusal, Register, State};

use super::claim::{Claim, claim};
use super::shape::Entry;

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    Refuse(Refusal),
    /// It stands as it should, and lives with what keeps this registration.
    Keep(Arc<Instance>),
    Write(How, Box<Instance>),
}

/// How to write an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Where nothing stands.
    New,
    /// Over what stands there, under the same token.
    Over,
    /// In place of what stands there, under a token above that.
    Anew,
}

/// What to do about an entry that stands so. `is_kept` when it lives with what
/// keeps this registration; `moves` when it could be made to in place.
pub(crate) fn plan<M>(
    register: &Register,
    stand: Option<&Entry<M>>,
    is_kept: bool,
    moves: bool,
) -> Plan {
    let mut wanted = register.instance.clone();
    let Some(entry) = stand else {
        return Plan::Write(How::New, Box::new(wanted));
    };
    if let Some(text) = &entry.closed {
        return Plan::Refuse(Refusal::Other((**text).into()));
    }
    let Some(held) = &entry.instance else {
        return Plan::Write(How::Anew, Box::new(wanted));
    };
    match claim(register, held) {
        Claim::Refused(refusal) => return Plan::Refuse(refusal),
        Claim::Behind => return Plan::Write(How::Anew, Box::new(wanted)),
        Claim::Same if !is_kept && !moves => {
            // It would go with what does not keep this registration any more.
            return Plan::Write(How::Anew, Box::new(wanted));
        }
        Claim::Same => {}
    }
    wanted.token = held.token;
    if held.state == State::Draining {
        wanted.state = State::Draining;
    }
    if is_kept && wanted == **held {
        return Plan::Keep(Arc::clone(held));
    }
    Plan::Write(How::Over, Box::new(wanted))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use waystation_base::FencingToken;
    use waystation_membership::{GrantError, Owner, OwnerId};

    use super::*;
    use crate::store::claim::draining;
    use crate::test_support::instance;

    /// The wish of start `incarnation` of node `owner` for the id `a-1`.
    fn wish(owner: u128, incarnation: u64, token_seen: u64) -> Register {
        let mut one = instance("a", "a-1");
        one.owner = Owner {
            id: OwnerId(owner),
            incarnation,
        };
        one.token = FencingToken(token_seen);
        Register {
            instance: one,
            ttl: Duration::from_secs(6),
            token_seen: FencingToken(token_seen),
            lift: FencingToken(0),
        }
    }

    /// What start 2 of node 1 has written, under token 10.
    fn stand() -> Entry<()> {
        let mut one = wish(1, 2, 0).instance;
        one.token = FencingToken(10);
        Entry {
            instance: Some(Arc::new(one)),
            closed: None,
            mark: (),
        }
    }

    fn how(plan: Plan) -> (How, State, FencingToken) {
        let Plan::Write(how, instance) = plan else {
            panic!("nothing is written: {plan:?}")
        };
        (how, instance.state, instance.token)
    }

    #[test]
    fn a_free_id_is_taken() {
        let asked = wish(1, 1, 0);
        let plan = plan::<()>(&asked, None, false, true);
        assert_eq!(plan, Plan::Write(How::New, Box::new(asked.instance)));
    }

    #[test]
    fn an_id_of_another_is_refused_with_its_address() {
        let stand = stand();
        let refused = plan(&wish(2, 9, 0), Some(&stand), true, true);
        let Plan::Refuse(Refusal::Lease { error, holder }) = refused else {
            panic!("{refused:?}")
        };
        assert!(matches!(error, GrantError::Held { held } if held.owner.id == OwnerId(1)));
        assert_eq!(holder, Some("10.0.0.1:7000".parse().unwrap()));
        let refused = plan(&wish(1, 1, 0), Some(&stand), false, true);
        let Plan::Refuse(Refusal::Lease { error, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert!(matches!(error, GrantError::Superseded { .. }));
    }

    #[test]
    fn a_later_start_replaces_its_own_entry() {
        for moves in [false, true] {
            let plan = plan(&wish(1, 3, 0), Some(&stand()), false, moves);
            assert_eq!(how(plan), (How::Anew, State::Serving, FencingToken(0)));
        }
    }

    #[test]
    fn who_comes_back_keeps_its_token_and_its_drain() {
        let mut stand = stand();
        let asked = wish(1, 2, 10);
        for moves in [false, true] {
            let kept = plan(&asked, Some(&stand), true, moves);
            assert_eq!(kept, Plan::Keep(stand.instance.clone().unwrap()));
        }
        let mut heavier = asked.clone();
        heavier.instance.weight = 7;
        let again = plan(&heavier, Some(&stand), true, false);
        assert_eq!(how(again), (How::Over, State::Serving, FencingToken(10)));
        stand.instance = stand.instance.map(|one| Arc::new(draining(&one)));
        let kept = plan(&asked, Some(&stand), true, true);
        assert_eq!(kept, Plan::Keep(stand.instance.clone().unwrap()));
        let moved = plan(&asked, Some(&stand), false, true);
        assert_eq!(how(moved), (How::Over, State::Draining, FencingToken(10)));
    }

    /// A node's own entry of a session that it has lost stood until that session
    /// was over, and then went, although the node lived.
    #[test]
    fn an_entry_of_a_session_that_is_lost_is_moved_or_replaced() {
        let asked = wish(1, 2, 10);
        let moved = plan(&asked, Some(&stand()), false, true);
        assert_eq!(how(moved), (How::Over, State::Serving, FencingToken(10)));
        let replaced = plan(&asked, Some(&stand()), false, false);
        assert_eq!(how(replaced).0, How::Anew);
    }

    /// The store was restored from a backup in which the node's own old entry
    /// stands. Its token is below what the node had since, and would be for ever.
    #[test]
    fn an_entry_from_a_backup_is_replaced() {
        let plan = plan(&wish(1, 2, 50), Some(&stand()), true, true);
        assert_eq!(how(plan).0, How::Anew);
    }

    #[test]
    fn garbage_at_its_place_is_replaced() {
        let mut stand = stand();
        stand.instance = None;
        let plan = plan(&wish(1, 1, 0), Some(&stand), false, true);
        assert_eq!(how(plan).0, How::Anew);
    }

    /// Whoever may delete in the folder could put its own in place of what it may
    /// not even read.
    #[test]
    fn what_may_not_be_read_is_not_replaced() {
        let mut stand = stand();
        (stand.instance, stand.closed) = (None, Some("not yours".into()));
        let plan = plan(&wish(1, 1, 0), Some(&stand), true, true);
        assert_eq!(plan, Plan::Refuse(Refusal::Other("not yours".into())));
    }
}
