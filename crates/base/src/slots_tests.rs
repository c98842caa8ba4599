use super::*;
use crate::rng::Rng;

fn table(capacity: u32) -> Slots<String> {
    Slots::new(ShardId(3), capacity)
}

/// A peer closed while the worker still had its packets queued, its slot went to
/// a new peer, and the handler's reply reached the wrong one.
#[test]
fn a_reply_never_reaches_the_next_owner_of_the_slot() {
    let mut slots = table(1);
    let old = slots.insert("old peer".into()).unwrap();
    assert_eq!(slots.close(old), Ok("old peer".into()));
    // The worker has not consumed the close: nobody gets the slot yet.
    assert_eq!(
        slots.insert("new peer".into()),
        Err(SlotsFull { capacity: 1 })
    );
    assert_eq!(slots.get(old), Err(Stale::Closed));
    slots.release(old).unwrap();
    let new = slots.insert("new peer".into()).unwrap();
    assert_eq!(new.slot, old.slot);
    assert_eq!(slots.get(old), Err(Stale::Reused));
    assert_eq!(slots.get_mut(old), Err(Stale::Reused));
    assert_eq!(slots.close(old), Err(Stale::Reused));
    assert_eq!(slots.get(new).unwrap(), "new peer");
}

/// The first release handshake leaked every slot.
#[test]
fn churn_returns_to_the_baseline() {
    let mut slots = table(16);
    let mut rng = Rng::from_seed(1);
    let mut open = Vec::new();
    let mut closing = Vec::new();
    for round in 0..1600 {
        match slots.insert(format!("peer {round}")) {
            Ok(name) => open.push(name),
            Err(SlotsFull { capacity: 16 }) => assert_eq!(open.len() + closing.len(), 16),
            Err(other) => panic!("{other}"),
        }
        if rng.chance(0.6) && !open.is_empty() {
            let name = open.swap_remove(round % open.len());
            slots.close(name).unwrap();
            closing.push(name);
        }
        if rng.chance(0.6) && !closing.is_empty() {
            slots
                .release(closing.swap_remove(round % closing.len()))
                .unwrap();
        }
        assert_eq!(
            (slots.len_open(), slots.len_closing()),
            (open.len(), closing.len())
        );
    }
    for name in open {
        slots.close(name).unwrap();
        closing.push(name);
    }
    for name in closing {
        slots.release(name).unwrap();
    }
    assert_eq!((slots.len_open(), slots.len_closing()), (0, 0));
    assert_eq!(
        (0..16)
            .filter(|n| slots.insert(n.to_string()).is_ok())
            .count(),
        16
    );
}

#[test]
fn a_slot_is_closed_once_and_released_once() {
    let mut slots = table(4);
    let name = slots.insert("peer".into()).unwrap();
    assert_eq!(slots.release(name), Err(Stale::StillOpen));
    slots.close(name).unwrap();
    assert_eq!(slots.close(name), Err(Stale::Closed));
    slots.release(name).unwrap();
    assert_eq!(slots.release(name), Err(Stale::Reused));
    assert_eq!(slots.close(name), Err(Stale::Reused));
    assert_eq!((slots.len_open(), slots.len_closing()), (0, 0));
    // A second release must not have put the slot on the list twice.
    let a = slots.insert("a".into()).unwrap();
    let b = slots.insert("b".into()).unwrap();
    assert_ne!(a.slot, b.slot);
}

#[test]
fn names_of_other_shards_and_forged_names_lead_nowhere() {
    let mut slots = table(4);
    let name = slots.insert("peer".into()).unwrap();
    let elsewhere = ConnName {
        shard: ShardId(4),
        ..name
    };
    assert_eq!(slots.get(elsewhere), Err(Stale::WrongShard));
    assert_eq!(slots.close(elsewhere), Err(Stale::WrongShard));
    assert_eq!(
        slots.get(ConnName { slot: 9, ..name }),
        Err(Stale::NoSuchSlot)
    );
    assert_eq!(
        slots.get(ConnName {
            shard: ShardId(3),
            ..ConnName::default()
        }),
        Err(Stale::Reused)
    );
    slots.close(name).unwrap();
    slots.release(name).unwrap();
    // The generation that the next owner will get does not exist yet.
    let next = ConnName {
        generation: name.generation + 1,
        ..name
    };
    assert_eq!(slots.get(next), Err(Stale::NoSuchSlot));
    assert_eq!(slots.close(next), Err(Stale::NoSuchSlot));
    assert_eq!(slots.release(next), Err(Stale::NoSuchSlot));
}

#[test]
fn generations_wrap_past_zero() {
    let mut slots = Slots::with_first_generation(ShardId(0), 1, u32::MAX - 1);
    let mut seen = Vec::new();
    for round in 0..4 {
        let name = slots.insert(round).unwrap();
        assert!(seen.iter().all(|&old| slots.get(old) == Err(Stale::Reused)));
        seen.push(name);
        slots.close(name).unwrap();
        slots.release(name).unwrap();
    }
    let generations: Vec<u32> = seen.iter().map(|name| name.generation).collect();
    assert_eq!(generations, [u32::MAX - 1, u32::MAX, 1, 2]);
}

#[test]
fn insert_with_tells_the_name_and_is_not_called_when_full() {
    let mut slots = Slots::new(ShardId(1), 1);
    let name = slots.insert_with(|name| name).unwrap();
    assert_eq!(slots.get(name), Ok(&name));
    let refused = slots.insert_with(|_| unreachable!("the table is full"));
    assert_eq!(refused.unwrap_err().to_string(), "all 1 slots are in use");
}

#[test]
fn iteration_shows_open_slots_only() {
    let mut slots = Slots::new(ShardId(0), 8);
    let names: Vec<ConnName> = (0..4).map(|n| slots.insert(n).unwrap()).collect();
    slots.close(names[1]).unwrap();
    slots.close(names[2]).unwrap();
    slots.release(names[2]).unwrap();
    for (_, value) in slots.iter_mut() {
        *value += 10;
    }
    let open: Vec<(ConnName, i32)> = slots.iter().map(|(name, value)| (name, *value)).collect();
    assert_eq!(open, [(names[0], 10), (names[3], 13)]);
}
