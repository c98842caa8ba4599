//! Picks of callers whose agent keeps a segment.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use waystation_balance::{
    Balancer, BalancerConfig, CallEnd, HostName, Load, Locality, Outcome, PolicyKind, Reason,
    WarmUpConfig,
};
use waystation_base::{Moment, ServiceName};
use waystation_membership::{Instance, InstanceId, Label, Owner, Verdict, View, ViewVersion};
use waystation_segment::{
    AttachError, Chosen, Keeper, Ledger, LedgerId, Miss, Picker, Place, RouteReader, RouteWriter,
    Word, create_ledger, ledger_words, zeroed,
};

type Words = Arc<Vec<Word>>;

const NAMES: (u64, u64) = (7, 1);

fn at(ms: u64) -> Moment {
    Moment::from_millis(10_000 + ms)
}

fn id(n: u32) -> InstanceId {
    InstanceId::new(&format!("host-{n}")).unwrap()
}

fn view(hosts: impl IntoIterator<Item = u32>) -> View {
    let service = ServiceName::new("logic").unwrap();
    let mut view = View::empty(service.clone(), ViewVersion::default());
    for n in hosts {
        let address = format!("10.0.{}.{}:7000", n / 250, n % 250 + 1)
            .parse()
            .unwrap();
        let one = Instance::new(id(n), service.clone(), address, Owner::default());
        view.instances.insert(id(n), Arc::new(one));
    }
    view
}

struct World {
    keeper: Keeper<Words, Words>,
    routes: Words,
    capacity: u32,
}

impl World {
    fn new(kind: PolicyKind, hosts: u32, config: BalancerConfig) -> Self {
        let capacity = Keeper::<Words, Words>::capacity_for(hosts as usize);
        let routes = Arc::new(zeroed(RouteWriter::<Words>::words(capacity)));
        let writer = RouteWriter::create(Arc::clone(&routes), capacity, NAMES.0, NAMES.1).unwrap();
        let mut keeper = Keeper::new(Balancer::new(config, kind.build(1), 1), writer);
        keeper.handle_view(at(0), &view(0..hosts));
        Self {
            keeper,
            routes,
            capacity,
        }
    }

    fn caller(&mut self, seed: u64) -> (Picker<Words, Words>, LedgerId) {
        let ledger = Arc::new(zeroed(ledger_words(self.capacity)));
        create_ledger(&ledger, self.capacity, NAMES).unwrap();
        let id = self.keeper.attach(Arc::clone(&ledger)).unwrap();
        let routes = RouteReader::attach(Arc::clone(&self.routes)).unwrap();
        let ledger = Ledger::attach(ledger).unwrap();
        (Picker::new(routes, ledger, seed).unwrap(), id)
    }

    /// Tells the agent the loads of the first hosts, as answers to probes.
    fn probe(&mut self, ms: u64, loads: &[(u32, u32)]) {
        for (slot, &(in_flight, latency_us)) in loads.iter().enumerate() {
            let name = self.keeper.balancer().table().names()[slot];
            let load = Load {
                in_flight,
                latency_us,
            };
            self.keeper
                .balancer_mut()
                .handle_probe_answered(at(ms), name, load);
        }
        self.keeper.handle_turn(at(ms));
    }

    fn in_flight(&self, slot: u32) -> u32 {
        self.keeper.balancer().local_standing(at(0), slot).1
    }
}

fn done(picker: &Picker<Words, Words>, chosen: &Chosen, end: CallEnd) {
    picker.report(chosen, end, Some(1_000_000), Load::default());
}

#[test]
fn the_cheapest_reported_host_is_picked_until_calls_make_it_dear() {
    let mut world = World::new(PolicyKind::Fresh, 10, BalancerConfig::default());
    world.probe(1, &[(2, 1000), (0, 1000), (20, 1000)]);
    let (mut picker, _) = world.caller(1);
    let chosen = picker.pick(at(1)).unwrap();
    assert_eq!((chosen.slot, chosen.reason), (1, Reason::LowestReported));
    assert_eq!(
        Some((chosen.generation, chosen.place)),
        picker.routes().host(1)
    );
    // Calls that were just sent count, without a word from the agent.
    let next: Vec<u32> = (0..6).map(|_| picker.pick(at(1)).unwrap().slot).collect();
    assert!(next.contains(&0), "{next:?}");
    // And those of one process are seen by the others.
    world.keeper.handle_turn(at(2));
    assert_eq!(world.keeper.counters().sent, 7);
    assert!(world.in_flight(1) >= 2);
    let (mut other, _) = world.caller(2);
    assert_ne!(other.pick(at(2)).unwrap().slot, 1);
}

#[test]
fn without_reports_calls_spread_over_all() {
    let mut world = World::new(PolicyKind::Fresh, 5, BalancerConfig::default());
    let (mut picker, _) = world.caller(1);
    let mut counts = BTreeMap::new();
    for ms in 0..500 {
        let chosen = picker.pick(at(ms)).unwrap();
        assert_eq!(chosen.reason, Reason::LowerOfTwo);
        *counts.entry(chosen.slot).or_insert(0) += 1;
        done(&picker, &chosen, CallEnd::Ok);
        world.keeper.handle_turn(at(ms));
    }
    assert_eq!(counts.len(), 5);
    assert!(counts.values().all(|count| *count > 30), "{counts:?}");
    assert_eq!(world.keeper.counters().ended[0], 500);
    assert!((0..5).all(|slot| world.in_flight(slot) == 0));
}

#[test]
fn a_host_that_fails_is_left_and_one_alone_is_not() {
    let mut world = World::new(PolicyKind::P2c, 4, BalancerConfig::default());
    let (mut picker, _) = world.caller(1);
    let mut late = 0;
    for ms in 0..2000 {
        let chosen = picker.pick(at(ms)).unwrap();
        let end = if chosen.slot == 2 {
            late += u32::from(ms >= 1000);
            CallEnd::Failed
        } else {
            CallEnd::Ok
        };
        done(&picker, &chosen, end);
        world.keeper.handle_turn(at(ms));
    }
    assert!(late < 30, "{late}");
    let mut alone = World::new(PolicyKind::P2c, 1, BalancerConfig::default());
    let (mut picker, _) = alone.caller(1);
    assert_eq!(picker.pick(at(0)).unwrap().reason, Reason::Only);
}

#[test]
fn a_host_is_not_picked_once_its_agent_knows_that_it_left() {
    let mut world = World::new(PolicyKind::Fresh, 4, BalancerConfig::default());
    world.probe(1, &[(0, 10), (50, 10), (50, 10), (50, 10)]);
    let (mut picker, _) = world.caller(1);
    assert_eq!(picker.pick(at(1)).unwrap().slot, 0);
    world.keeper.handle_view(at(1), &view(1..4));
    for _ in 0..100 {
        assert_ne!(picker.pick(at(1)).unwrap().slot, 0);
    }
    world.keeper.handle_verdict(at(1), &id(1), Verdict::Gone);
    for _ in 0..100 {
        assert!(picker.pick(at(1)).unwrap().slot > 1);
    }
    world.keeper.handle_view(at(2), &view([]));
    assert_eq!(picker.pick(at(2)), Err(Miss::NoHosts));
}

/// What was counted of each host since the last time: ok and failed.
fn ends(world: &mut World) -> BTreeMap<String, (u64, u64)> {
    let mut ends = BTreeMap::new();
    world.keeper.drain_ends(|one| {
        ends.insert(one.instance.id.to_string(), (one.ok, one.failed));
    });
    ends
}

/// Story: nothing was counted of a call that was picked by socket when its host left
/// before it ended.
#[test]
fn a_result_of_a_host_that_has_left_is_a_call_all_the_same() {
    let mut world = World::new(PolicyKind::RoundRobin, 1, BalancerConfig::default());
    let name = world.keeper.balancer().table().entries().next();
    let name = name.unwrap().name;
    world.keeper.balancer_mut().handle_sent(at(1), name, 1);
    world.keeper.handle_view(at(2), &view([5]));
    let failed = Outcome::of(CallEnd::Failed);
    assert!(world.keeper.report(at(3), name, &failed).is_err());
    let told = BTreeMap::from([("host-0".to_owned(), (0, 1))]);
    assert_eq!(ends(&mut world), told);
    // Nobody knows whose call this one was.
    let another = HostName {
        generation: name.generation + 1,
        ..name
    };
    assert!(world.keeper.report(at(3), another, &failed).is_err());
    assert_eq!(ends(&mut world), BTreeMap::new());
}

/// A result that came after its host had left was counted for the next host of
/// the slot.
#[test]
fn a_slot_has_no_other_host_while_a_call_to_the_last_one_is_under_way() {
    let mut world = World::new(PolicyKind::Fresh, 1, BalancerConfig::default());
    let (mut picker, _) = world.caller(1);
    let old = picker.pick(at(1)).unwrap();
    world.keeper.handle_turn(at(1));
    world.keeper.handle_view(at(2), &view([5]));
    let new = picker.pick(at(2)).unwrap();
    assert_ne!(new.slot, old.slot);
    // However long that is, within minutes.
    for ms in [1_000, 3_000, 5_001, 100_000] {
        world.keeper.handle_turn(at(ms));
        world.keeper.handle_view(at(ms), &view([5, 6]));
        world.keeper.handle_view(at(ms), &view([5]));
        assert!(world.keeper.balancer().table().former(old.slot).is_some());
    }
    done(&picker, &old, CallEnd::Failed);
    world.keeper.handle_turn(at(100_001));
    assert_eq!(world.keeper.counters().ended, [0, 1, 0, 0, 0, 0]);
    assert_eq!(world.keeper.counters().stale, 1);
    assert_eq!(world.in_flight(new.slot), 1, "that of the new host");
    let told = |name: &str, counts| BTreeMap::from([(name.to_owned(), counts)]);
    assert_eq!(
        ends(&mut world),
        told("host-0", (0, 1)),
        "it is a call all the same"
    );
    done(&picker, &new, CallEnd::Ok);
    world.keeper.handle_turn(at(103_000));
    assert_eq!(world.in_flight(new.slot), 0);
    assert_eq!(ends(&mut world), told("host-5", (1, 0)));
    // It has rested, and nobody calls there any more.
    assert!(world.keeper.balancer().table().former(old.slot).is_none());
    let merged = world.keeper.handle_view(at(103_001), &view([5, 7, 8]));
    assert!(merged.added.iter().any(|name| name.slot == old.slot));
}

/// A caller looked whether its host was still there, the agent gave the slot to
/// another one, and only then was the result added: to that one.
#[test]
fn a_result_that_was_being_added_when_its_host_left_is_not_booked_to_the_next() {
    let mut world = World::new(PolicyKind::Fresh, 1, BalancerConfig::default());
    let ledger = Arc::new(zeroed(ledger_words(world.capacity)));
    create_ledger(&ledger, world.capacity, NAMES).unwrap();
    world.keeper.attach(Arc::clone(&ledger)).unwrap();
    let its = Ledger::attach(ledger).unwrap();
    // Sent and looked at; and the agent has not seen that yet.
    for _ in 0..2 {
        its.handle_sent(0);
    }
    for ms in 0..20 {
        let next = u32::try_from(ms).unwrap() + 1;
        world.keeper.handle_view(at(ms * 1_000), &view([next]));
        world.keeper.handle_turn(at(ms * 1_000));
    }
    // Now it goes on.
    its.handle_ended(0, CallEnd::Failed, None, Load::default());
    world.keeper.handle_turn(at(20_000));
    assert_eq!(
        ends(&mut world),
        BTreeMap::from([("host-0".to_owned(), (0, 1))])
    );
    let table = world.keeper.balancer().table();
    assert!(table.entry_at(0).is_none());
    assert!(
        table.names().len() <= 5,
        "others are used again: {:?}",
        table.names()
    );
    // The other one is never heard of again, and some day the slot is needed.
    world.keeper.handle_turn(at(700_000));
    world.keeper.handle_view(at(700_000), &view(20..30));
    assert!(world.keeper.balancer().table().entry_at(0).is_some());
    let (mut picker, _) = world.caller(3);
    while picker.pick(at(700_000)).unwrap().slot != 0 {}
    // Its caller sees another generation by now, and says that it gave up.
    its.handle_ended(0, CallEnd::Cancelled, None, Load::default());
    world.keeper.handle_turn(at(700_001));
    assert_eq!(world.in_flight(0), 1, "that of the picker");
    assert_eq!(ends(&mut world), BTreeMap::new());
}

/// A segment that was left is never written again: its callers saw the host of a
/// slot there for ever, and what they reported went to whoever had the slot.
#[test]
fn a_result_from_a_segment_that_was_left_is_not_booked_to_another_host() {
    let mut world = World::new(PolicyKind::Fresh, 50, BalancerConfig::default());
    let (mut picker, _) = world.caller(1);
    let mut calls: Vec<_> = (0..200).map(|_| picker.pick(at(1)).unwrap()).collect();
    calls.sort_by_key(|one| one.slot);
    calls.dedup_by_key(|one| one.slot);
    let late = calls.pop().unwrap();
    world.keeper.handle_view(at(1), &view(0..100));
    let routes = Arc::new(zeroed(RouteWriter::<Words>::words(128)));
    let writer = RouteWriter::create(Arc::clone(&routes), 128, NAMES.0, NAMES.1).unwrap();
    world.keeper.handle_moved(at(2), writer);
    (world.routes, world.capacity) = (routes, 128);
    // All are replaced, and again.
    for (ms, hosts) in [(3, 100..200), (3_000, 200..300), (6_000, 300..400)] {
        world.keeper.handle_view(at(ms), &view(hosts));
        world.keeper.handle_turn(at(ms));
    }
    for one in &calls {
        done(&picker, one, CallEnd::Failed);
    }
    world.keeper.handle_turn(at(6_001));
    let counted = ends(&mut world);
    let name = |one: &Chosen| match one.place {
        Place::Ip(SocketAddr::V4(address)) => format!("host-{}", address.ip().octets()[3] - 1),
        other => panic!("{other:?}"),
    };
    let called = calls.iter().map(|one| (name(one), (0, 1)));
    assert_eq!(counted, called.collect());
    // One that ends after its slot was needed counts for nobody.
    for ms in [606_000, 606_100] {
        world.keeper.handle_turn(at(ms));
        world.keeper.handle_view(at(ms), &view(400..1_000));
    }
    let table = world.keeper.balancer().table();
    assert!(table.entry_at(late.slot).is_some(), "{late:?}");
    done(&picker, &late, CallEnd::Failed);
    world.keeper.handle_turn(at(606_200));
    assert_eq!(ends(&mut world), BTreeMap::new());
}

#[test]
fn what_a_dead_caller_left_is_given_up_and_what_it_did_counts() {
    let mut world = World::new(PolicyKind::P2c, 3, BalancerConfig::default());
    let (mut picker, id) = world.caller(1);
    let (mut other, _) = world.caller(2);
    let kept = other.pick(at(1)).unwrap();
    for _ in 0..10 {
        let chosen = picker.pick(at(1)).unwrap();
        done(&picker, &chosen, CallEnd::Ok);
    }
    for _ in 0..5 {
        picker.pick(at(1)).unwrap();
    }
    drop(picker);
    world.keeper.detach(at(2), id);
    world.keeper.handle_turn(at(2));
    assert_eq!(world.keeper.counters().abandoned, 5);
    assert_eq!(world.keeper.counters().ended, [10, 0, 0, 0, 0, 0]);
    let left: u32 = (0..3).map(|slot| world.in_flight(slot)).sum();
    assert_eq!((left, world.in_flight(kept.slot)), (1, 1));
}

#[test]
fn a_silent_agent_and_a_moved_segment_are_told() {
    let mut world = World::new(PolicyKind::Fresh, 3, BalancerConfig::default());
    let (mut picker, _) = world.caller(1);
    assert!(picker.pick(at(2000)).is_ok());
    assert_eq!(picker.pick(at(2001)), Err(Miss::Stale));
    world.keeper.handle_turn(at(2001));
    assert!(picker.pick(at(2001)).is_ok());
    world.keeper.retire();
    assert_eq!(picker.pick(at(2001)), Err(Miss::Retired));
    let mut asked = World::new(PolicyKind::Lars, 3, BalancerConfig::default());
    let (mut picker, _) = asked.caller(1);
    assert_eq!(picker.pick(at(1)), Err(Miss::AskAgent));
}

/// Callers that picked from shared memory stayed in their zone however busy its
/// hosts were, while those that asked the agent went on.
#[test]
fn calls_go_to_the_next_zone_when_it_has_far_less_to_do() {
    let zone = |name: &str| Some(Label::new(name).unwrap());
    let config = BalancerConfig {
        locality: Locality {
            site: None,
            zone: zone("near"),
        },
        warm_up: None,
        ..BalancerConfig::default()
    };
    let spilled = |loads: &[(u32, u32)]| {
        let mut world = World::new(PolicyKind::Fresh, 0, config.clone());
        let mut all = view(0..4);
        for (n, (_, one)) in all.instances.iter_mut().enumerate() {
            let mut host = Instance::clone(one);
            host.zone = zone(if n < 2 { "near" } else { "far" });
            *one = Arc::new(host);
        }
        world.keeper.handle_view(at(0), &all);
        world.probe(1, loads);
        let (mut picker, _) = world.caller(1);
        let chosen = picker.pick(at(1)).unwrap();
        assert_eq!(chosen.reason, Reason::LowestReported);
        // What was looked at in vain costs nobody anything.
        world.keeper.handle_turn(at(2));
        assert_eq!(world.keeper.counters().sent, 1);
        chosen.slot >= 2
    };
    let near = |load: u32, far: u32| [(load, 1000), (load, 1000), (far, 1000), (far, 1000)];
    assert!(!spilled(&near(2, 0)), "the near ones have little to do");
    assert!(!spilled(&near(20, 15)), "the far ones have as much");
    assert!(spilled(&near(20, 2)));
}

#[test]
fn a_ledger_of_another_segment_is_refused() {
    let mut world = World::new(PolicyKind::Fresh, 3, BalancerConfig::default());
    let routes = RouteReader::attach(Arc::clone(&world.routes)).unwrap();
    let ledger = Arc::new(zeroed(ledger_words(64)));
    create_ledger(&ledger, 64, (8, 1)).unwrap();
    let mine = Ledger::attach(Arc::clone(&ledger)).unwrap();
    let refused = Picker::new(routes, mine, 1).unwrap_err();
    assert_eq!(refused, AttachError::Mismatch);
    let small = Arc::new(zeroed(ledger_words(8)));
    create_ledger(&small, 8, NAMES).unwrap();
    assert_eq!(world.keeper.attach(small), Err(AttachError::Mismatch));
}

#[test]
fn a_host_that_warms_up_gets_its_share() {
    let config = BalancerConfig {
        warm_up: Some(WarmUpConfig::default()),
        ..BalancerConfig::default()
    };
    let mut world = World::new(PolicyKind::P2c, 4, config);
    world.keeper.handle_view(at(1), &view(0..5));
    let (mut picker, _) = world.caller(1);
    let mut fresh = 0;
    for _ in 0..2000 {
        world.keeper.handle_turn(at(1));
        let chosen = picker.pick(at(1)).unwrap();
        fresh += u32::from(chosen.slot == 4);
        done(&picker, &chosen, CallEnd::Cancelled);
    }
    // A tenth of its fifth, about.
    assert!((5..150).contains(&fresh), "{fresh}");
}

#[test]
fn a_service_that_grows_moves_to_another_segment() {
    let mut world = World::new(PolicyKind::P2c, 10, BalancerConfig::default());
    let (mut picker, _) = world.caller(1);
    assert_eq!(world.capacity, 64);
    world.keeper.handle_view(at(1), &view(0..100));
    assert_eq!(world.keeper.counters().left_out, 36);
    let routes = Arc::new(zeroed(RouteWriter::<Words>::words(128)));
    let writer = RouteWriter::create(Arc::clone(&routes), 128, NAMES.0, NAMES.1).unwrap();
    world.keeper.handle_moved(at(2), writer);
    (world.routes, world.capacity) = (routes, 128);
    assert_eq!(picker.pick(at(2)), Err(Miss::Retired));
    let (mut picker, _) = world.caller(2);
    assert_eq!(picker.routes().hosts().unwrap().len(), 100);
    assert!(picker.pick(at(2)).is_ok());
    assert_eq!(world.keeper.counters().left_out, 0);
}
