use waystation_base::ShardId;

use super::*;

const PAIR: LarsPair = LarsPair {
    modid: -5,
    cmdid: 7,
};

fn conn(slot: u32) -> ConnName {
    ConnName {
        shard: ShardId(0),
        slot,
        generation: 1,
    }
}

fn hosts(count: u32) -> Vec<HostInfo> {
    let host = |n: u32| HostInfo {
        ip: (0xc800_0000 + n).cast_signed(),
        port: 7000,
    };
    (0..count).map(host).collect()
}

fn told(frame: &Bytes) -> Vec<HostInfo> {
    let Ok(Scan::Frame(frame)) = scan(frame) else {
        panic!("no frame");
    };
    match Message::parse(frame.id, frame.body) {
        Ok(Message::GetRouteResponse(route)) => {
            assert_eq!((route.modid, route.cmdid), (-5, 7));
            route.hosts
        }
        other => panic!("{other:?}"),
    }
}

/// A push crashed the reference. Each subscriber gets it, encoded once.
#[test]
fn a_change_is_encoded_once_for_all_who_are_subscribed() {
    let mut table = LarsTable::default();
    for slot in 0..100 {
        assert_eq!(told(&table.ask(conn(slot), PAIR)), []);
    }
    assert_eq!(table.counters.encoded, 1);
    let (frame, to) = table.put(PAIR, hosts(3)).unwrap();
    assert_eq!(told(&frame), hosts(3));
    assert_eq!(to.len(), 100);
    assert_eq!(table.counters.encoded, 2);
    assert_eq!(table.put(PAIR, hosts(3)), None, "nothing is different");
    assert_eq!(told(&table.ask(conn(100), PAIR)), hosts(3));
    assert_eq!(table.counters.encoded, 2);
    // The deletion of the last host is a push too.
    let (frame, to) = table.put(PAIR, Vec::new()).unwrap();
    assert_eq!((told(&frame).len(), to.len()), (0, 101));
}

/// The reference pushed to a descriptor that another peer had by then.
#[test]
fn who_is_gone_gets_nothing_and_leaves_nothing() {
    let mut table = LarsTable::default();
    for slot in 0..10 {
        table.ask(conn(slot), PAIR);
        table.ask(conn(slot), LarsPair { modid: 0, cmdid: 0 });
        table.ask(conn(slot), PAIR);
    }
    assert_eq!(table.subscriptions(), 20);
    for slot in 1..10 {
        table.forget(conn(slot));
        table.forget(conn(slot));
    }
    let (_, to) = table.put(PAIR, hosts(1)).unwrap();
    assert_eq!(to, [conn(0)]);
    table.forget(conn(0));
    assert_eq!(table.subscriptions(), 0);
    assert_eq!(table.pairs.len(), 1, "the one that has a host");
    assert_eq!(table.put(PAIR, Vec::new()), None);
    assert_eq!((table.pairs.len(), table.by_conn.len()), (0, 0));
}

#[test]
fn who_asks_for_everything_is_answered_and_bounded() {
    let mut table = LarsTable::default();
    let count = PAIRS_PER_CONNECTION + 50;
    for modid in 0..i32::try_from(count).unwrap() {
        table.ask(conn(1), LarsPair { modid, cmdid: 0 });
    }
    assert_eq!(table.subscriptions(), PAIRS_PER_CONNECTION);
    assert_eq!(table.pairs.len(), PAIRS_PER_CONNECTION);
    assert_eq!(table.counters.unsubscribed, 50);
}

/// Routes over 64 KB could not be answered.
#[test]
fn a_large_route_is_told_in_parts_that_take_turns() {
    let mut table = LarsTable::default();
    assert_eq!(table.put(PAIR, hosts(10_000)), None);
    let mut seen = HashSet::new();
    for _ in 0..4 {
        let part = told(&table.ask(conn(1), PAIR));
        assert!(part.len() > 3000);
        seen.extend(part);
    }
    assert_eq!(seen.len(), 10_000, "all of them within four answers");
    assert!(table.counters.left_out > 10_000);
}
