use super::*;
use crate::test_support::instance;
use waystation_membership::{GrantError, Owner, OwnerId};

const EPOCH: Epoch = Epoch(1);

fn token(number: u64) -> FencingToken {
    FencingToken((1 << 40) + number)
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
        ttl: Duration::from_secs(6),
        token_seen,
    }
}

/// What start 2 of node 1 has written at revision 10, on lease 9.
fn stand() -> Entry {
    let mut one = wish(1, 2, FencingToken(0)).instance;
    one.token = token(10);
    Entry {
        instance: Some(Arc::new(one)),
        mod_revision: 10,
        lease: 9,
    }
}

fn written(plan: Plan) -> (FencingToken, State, i64) {
    let Plan::Write(instance, mod_revision) = plan else {
        panic!("nothing is written: {plan:?}")
    };
    (instance.token, instance.state, mod_revision)
}

#[test]
fn a_free_id_is_taken_only_if_it_still_is_free() {
    let plan = plan(&wish(1, 1, FencingToken(0)), None, EPOCH, None);
    assert_eq!(written(plan), (token_to_come(EPOCH), State::Serving, 0));
}

#[test]
fn an_id_of_another_is_refused_with_its_address() {
    let stand = stand();
    let refused = plan(&wish(2, 9, FencingToken(0)), Some(&stand), EPOCH, Some(9));
    let Plan::Refuse(Refusal::Lease { error, holder }) = refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(error, GrantError::Held { held } if held.owner.id == OwnerId(1)));
    assert_eq!(holder, Some("10.0.0.1:7000".parse().unwrap()));
    let refused = plan(&wish(1, 1, FencingToken(0)), Some(&stand), EPOCH, None);
    let Plan::Refuse(Refusal::Lease { error, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(error, GrantError::Superseded { .. }));
}

#[test]
fn a_later_start_replaces_its_own_entry_under_a_higher_token() {
    let stand = stand();
    let plan = plan(&wish(1, 3, FencingToken(0)), Some(&stand), EPOCH, None);
    assert_eq!(written(plan), (token(11), State::Serving, 10));
}

#[test]
fn who_comes_back_keeps_its_token_and_its_drain() {
    let mut stand = stand();
    let asked = wish(1, 2, token(10));
    let kept = plan(&asked, Some(&stand), EPOCH, Some(9));
    assert_eq!(kept, Plan::Keep(stand.instance.clone().unwrap()));
    // On another lease, or otherwise than it stands: the same, written again.
    let again = plan(&asked, Some(&stand), EPOCH, Some(8));
    assert_eq!(written(again), (token(10), State::Serving, 10));
    let mut heavier = asked.clone();
    heavier.instance.weight = 7;
    let again = plan(&heavier, Some(&stand), EPOCH, Some(9));
    assert_eq!(written(again), (token(10), State::Serving, 10));
    stand.instance = stand.instance.map(|one| Arc::new(draining(&one)));
    let kept = plan(&asked, Some(&stand), EPOCH, Some(9));
    assert_eq!(kept, Plan::Keep(stand.instance.clone().unwrap()));
}

/// The store was restored from a backup in which the node's own old entry
/// stands. Its token is below what the node had since, and would be for ever.
#[test]
fn an_entry_from_a_backup_is_replaced_above_all_that_was_seen() {
    let stand = stand();
    let asked = wish(1, 2, token(50));
    let plan = plan(&asked, Some(&stand), EPOCH, Some(9));
    assert_eq!(written(plan), (token(51), State::Serving, 10));
    let plan = super::plan(&asked, Some(&stand), Epoch(2), Some(9));
    let above = FencingToken((2 << 40) + 11);
    assert_eq!(written(plan), (above, State::Serving, 10));
}

#[test]
fn garbage_at_its_place_is_replaced() {
    let mut stand = stand();
    stand.instance = None;
    let plan = plan(&wish(1, 1, FencingToken(0)), Some(&stand), EPOCH, None);
    assert_eq!(written(plan), (token(11), State::Serving, 10));
}
