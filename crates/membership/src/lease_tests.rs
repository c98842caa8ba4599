use proptest::prelude::*;

use super::*;
use crate::ids::OwnerId;
use crate::test_support::{id, owner, seconds};

const TTL: Duration = Duration::from_secs(4);

#[test]
fn a_lease_expires_at_its_deadline_and_not_before() {
    let mut leases = Leases::new(Epoch(1));
    let lease = leases.grant(seconds(0), &id("a"), owner(1), TTL).unwrap();
    assert_eq!(leases.poll_timeout(), Some(seconds(4)));
    leases.renew(seconds(3), &id("a"), lease.token).unwrap();
    assert_eq!(leases.expire(seconds(6)), None);
    assert_eq!(leases.expire(seconds(7)).unwrap().0, id("a"));
    let late = leases.renew(seconds(7), &id("a"), lease.token);
    assert_eq!(late, Err(HolderError::Unknown));
    assert!(leases.is_empty() && leases.poll_timeout().is_none());
}

#[test]
fn an_owner_replaces_its_own_stale_entry_and_another_is_refused() {
    let mut leases = Leases::new(Epoch(1));
    let old = leases.grant(seconds(0), &id("a"), owner(1), TTL).unwrap();
    let other = leases.grant(seconds(9), &id("a"), owner(2), TTL);
    // Overdue, but not taken out yet: it lives.
    assert_eq!(other, Err(GrantError::Held { held: old }));
    let restarted = Owner {
        incarnation: 2,
        ..owner(1)
    };
    let new = leases.grant(seconds(1), &id("a"), restarted, TTL).unwrap();
    assert!(new.token > old.token);
    // The process that was paused meanwhile neither renews nor replaces.
    assert_eq!(
        leases.renew(seconds(1), &id("a"), old.token),
        Err(HolderError::Fenced { current: new.token })
    );
    assert_eq!(
        leases.grant(seconds(1), &id("a"), owner(1), TTL),
        Err(GrantError::Superseded { held: new })
    );
}

#[test]
fn a_registration_sent_twice_is_one() {
    let mut leases = Leases::new(Epoch(1));
    let first = leases.grant(seconds(0), &id("a"), owner(1), TTL).unwrap();
    let second = leases.grant(seconds(1), &id("a"), owner(1), TTL).unwrap();
    assert_eq!(first.token, second.token);
    assert_eq!(leases.len(), 1);
}

#[test]
fn tokens_rise_over_restarts_without_a_stored_counter() {
    let mut before = Leases::new(Epoch(1));
    let last = (0..100)
        .map(|n| before.grant(seconds(0), &id(&format!("a{n}")), owner(1), TTL))
        .last();
    let mut after = Leases::new(Epoch(2));
    let first = after.grant(seconds(0), &id("a"), owner(1), TTL).unwrap();
    assert!(first.token > last.unwrap().unwrap().token);
    assert_eq!(epoch_of(first.token), Epoch(2));
}

#[test]
fn spent_tokens_and_absurd_ttls_are_bounded() {
    let mut leases = Leases::new(Epoch(u64::MAX));
    let refused = leases.grant(seconds(0), &id("a"), owner(1), TTL);
    assert_eq!(refused, Err(GrantError::TokensSpent));
    // Sessions under 2 s lost nodes on cuts that healed.
    assert_eq!(TTL_MIN, Duration::from_secs(2));
    let mut leases = Leases::new(Epoch(1));
    for (wish, granted) in [(Duration::ZERO, TTL_MIN), (Duration::MAX, TTL_MAX)] {
        let lease = leases.grant(seconds(0), &id("a"), owner(1), wish).unwrap();
        assert_eq!(lease.ttl, granted);
    }
}

#[test]
fn a_stall_postpones_every_deadline() {
    let mut leases = Leases::new(Epoch(1));
    for n in 0..10 {
        leases
            .grant(seconds(n), &id(&format!("a{n}")), owner(1), TTL)
            .unwrap();
    }
    leases.postpone(seconds(10));
    assert_eq!(leases.expire(seconds(9)), None);
    let expired = std::iter::from_fn(|| leases.expire(seconds(10))).count();
    assert_eq!(expired, 7);
}

#[derive(Clone, Debug)]
enum Step {
    Grant { id: u8, owner: u8, incarnation: u64 },
    Renew { id: u8, back: u64 },
    Revoke { id: u8 },
    Wait { millis: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 0..3_u8, 0..3_u64).prop_map(|(id, owner, incarnation)| Step::Grant {
            id,
            owner,
            incarnation
        }),
        (0..3_u8, 0..3_u64).prop_map(|(id, back)| Step::Renew { id, back }),
        (0..3_u8).prop_map(|id| Step::Revoke { id }),
        (0..6000_u64).prop_map(|millis| Step::Wait { millis }),
        Just(Step::Restart),
    ]
}

proptest! {
    /// Over any history with restarts: a token belongs to one holder of an id,
    /// and each new holder's is higher than every one before.
    #[test]
    fn tokens_rise_with_every_new_holder(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut leases, mut now, mut epoch) = (Leases::new(Epoch(1)), Moment::ZERO, 1);
        let mut holders: BTreeMap<InstanceId, (FencingToken, Owner)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Grant { id: name, owner, incarnation } => {
                    let name = id(&name.to_string());
                    let owner = Owner { id: OwnerId(owner.into()), incarnation };
                    let Ok(lease) = leases.grant(now, &name, owner, TTL) else { continue };
                    let before = holders.insert(name, (lease.token, owner));
                    if let Some((token, holder)) = before {
                        prop_assert!(lease.token >= token);
                        prop_assert!(lease.token > token || holder == owner);
                    }
                }
                Step::Renew { id: name, back } => {
                    let name = id(&name.to_string());
                    let Some((token, _)) = holders.get(&name) else { continue };
                    let token = FencingToken(token.0 - back);
                    let held = leases.get(&name).map(|lease| lease.token);
                    let renewed = leases.renew(now, &name, token);
                    prop_assert_eq!(renewed.is_ok(), held == Some(token));
                }
                Step::Revoke { id: name } => {
                    let name = id(&name.to_string());
                    if let Some(lease) = leases.get(&name).copied() {
                        prop_assert_eq!(leases.revoke(&name, lease.token), Ok(lease));
                    }
                }
                Step::Wait { millis } => {
                    now += Duration::from_millis(millis);
                    while let Some((_, lease)) = leases.expire(now) {
                        prop_assert!(lease.deadline <= now);
                    }
                    prop_assert!(leases.poll_timeout().is_none_or(|next| next > now));
                }
                Step::Restart => {
                    epoch += 1;
                    let mut restarted = Leases::new(Epoch(epoch));
                    for name in ["0", "1", "2"].map(id) {
                        if let Some(lease) = leases.get(&name) {
                            restarted.restore(&name, *lease);
                        }
                    }
                    leases = restarted;
                }
            }
            prop_assert_eq!(leases.by_id.len(), leases.by_deadline.len());
        }
    }
}
