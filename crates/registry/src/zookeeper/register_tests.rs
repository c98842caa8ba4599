use super::*;
use crate::test_support::instance;
use waystation_membership::{GrantError, OwnerId};

/// The session of who asks.
const OURS: i64 = 7;

fn token(number: u64) -> FencingToken {
    FencingToken(number)
}

/// The wish of start `incarnation` of node `owner` for the id `a-1`.
fn wish(owner: u128, incarnation: u64, token_seen: FencingToken) -> Register {
    let mut one = instance("a", "a-1");
    one.owner = Owner {
        id: OwnerId(owner),
        incarnation,
    };
    one.token = token_seen;
    Register {
        instance: one,
        ttl: std::time::Duration::from_secs(6),
        token_seen,
    }
}

/// What start 2 of node 1 has created by transaction 10, in a session.
fn stand(session: i64) -> Entry {
    let mut one = wish(1, 2, token(0)).instance;
    one.token = token(10);
    Entry {
        instance: Some(Arc::new(one)),
        czxid: 10,
        mzxid: 12,
        version: 3,
        session,
        is_closed: false,
    }
}

fn is_replaced(plan: &Plan) -> bool {
    matches!(plan, Plan::Replace(instance, 3) if instance.state == State::Serving)
}

#[test]
fn a_free_id_is_taken() {
    let asked = wish(1, 1, token(0));
    let plan = plan(&asked, None, OURS);
    assert_eq!(plan, Plan::Create(Box::new(asked.instance)));
}

#[test]
fn an_id_of_another_is_refused_with_its_address() {
    let stand = stand(OURS);
    let refused = plan(&wish(2, 9, token(0)), Some(&stand), OURS);
    let Plan::Refuse(Refusal::Lease { error, holder }) = refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(error, GrantError::Held { held } if held.owner.id == OwnerId(1)));
    assert_eq!(holder, Some("10.0.0.1:7000".parse().unwrap()));
    let refused = plan(&wish(1, 1, token(0)), Some(&stand), OURS);
    let Plan::Refuse(Refusal::Lease { error, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(error, GrantError::Superseded { .. }));
}

#[test]
fn a_later_start_replaces_its_own_entry() {
    let plan = plan(&wish(1, 3, token(0)), Some(&stand(6)), OURS);
    assert!(is_replaced(&plan), "{plan:?}");
}

#[test]
fn who_attaches_to_its_session_again_keeps_its_token_and_its_drain() {
    let mut stand = stand(OURS);
    let asked = wish(1, 2, token(10));
    let kept = plan(&asked, Some(&stand), OURS);
    assert_eq!(kept, Plan::Keep(stand.instance.clone().unwrap()));
    let mut heavier = asked.clone();
    heavier.instance.weight = 7;
    let changed = plan(&heavier, Some(&stand), OURS);
    assert_eq!(
        changed,
        Plan::Change(Box::new(heavier.instance), 3),
        "the node stays, and with it the token"
    );
    stand.instance = stand.instance.map(|one| Arc::new(draining(&one)));
    let kept = plan(&asked, Some(&stand), OURS);
    assert_eq!(kept, Plan::Keep(stand.instance.clone().unwrap()));
}

/// A node's own entry of a session that it has lost stood until that session was
/// over, and then went, although the node lived.
#[test]
fn an_entry_of_a_session_that_is_lost_is_replaced() {
    let plan = plan(&wish(1, 2, token(10)), Some(&stand(6)), OURS);
    assert!(is_replaced(&plan), "{plan:?}");
}

/// The store was restored from a backup in which the node's own old entry
/// stands. Its token is below what the node had since, and would be for ever.
#[test]
fn an_entry_from_a_backup_is_replaced() {
    let plan = plan(&wish(1, 2, token(50)), Some(&stand(OURS)), OURS);
    assert!(is_replaced(&plan), "{plan:?}");
}

#[test]
fn garbage_at_its_place_is_replaced() {
    let mut stand = stand(0);
    stand.instance = None;
    let plan = plan(&wish(1, 1, token(0)), Some(&stand), OURS);
    assert!(is_replaced(&plan), "{plan:?}");
}

/// Whoever may delete in the folder could put its own in place of what it may not
/// even read.
#[test]
fn what_may_not_be_read_is_not_replaced() {
    let mut stand = stand(0);
    (stand.instance, stand.is_closed) = (None, true);
    let plan = plan(&wish(1, 1, token(0)), Some(&stand), OURS);
    assert!(matches!(plan, Plan::Refuse(Refusal::Other(_))), "{plan:?}");
}
