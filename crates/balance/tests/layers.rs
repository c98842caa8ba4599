//! What stands around a policy; the complaints of users of other systems.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::time::Duration;

use common::{START, after, ended, id, in_zone, instance, number, ok, policies, view, view_of};
use waystation_balance::{
    Balancer, BalancerConfig, CallEnd, EjectReason, Load, Locality, NoPick, P2c, RoundRobin,
    ZoneConfig,
};
use waystation_membership::{Label, State, Verdict};

fn whole(hosts: u32) -> Balancer {
    let policy = Box::new(RoundRobin::new(1));
    let mut balancer = Balancer::new(BalancerConfig::default(), policy, 1);
    balancer.handle_view(START, &view(hosts));
    balancer
}

fn fail(balancer: &mut Balancer, host: u32, end: CallEnd, count: u32) {
    let name = balancer.table().find(&id(host)).unwrap().name;
    for _ in 0..count {
        balancer.report(START, name, &ended(end)).unwrap();
    }
}

fn used(balancer: &mut Balancer, now: waystation_base::Moment) -> Vec<u32> {
    let mut hosts: Vec<u32> = (0..200)
        .map(|_| {
            let picked = balancer.pick(now, None).unwrap();
            balancer.report(now, picked.name, &ok()).unwrap();
            number(balancer, picked.name.slot)
        })
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

fn locality(site: &str, zone: &str) -> Locality {
    Locality {
        site: Some(Label::new(site).unwrap()),
        zone: Some(Label::new(zone).unwrap()),
    }
}

#[test]
fn failures_in_a_row_eject_a_host_and_time_brings_it_back() {
    let mut balancer = whole(10);
    fail(&mut balancer, 3, CallEnd::Failed, 4);
    assert!(used(&mut balancer, START).contains(&3));
    fail(&mut balancer, 3, CallEnd::Failed, 5);
    assert!(!used(&mut balancer, START).contains(&3));
    assert_eq!(balancer.counters().ejected, 1);
    let slot = balancer.table().find(&id(3)).unwrap().name.slot;
    let (until, reason) = balancer.ejection().unwrap().is_out(slot).unwrap();
    assert_eq!((until, reason), (after(1000), EjectReason::Failures));
    assert_eq!(balancer.poll_timeout(START), Some(until));
    balancer.handle_timeout(until);
    assert!(used(&mut balancer, after(20_000)).contains(&3));
}

#[test]
fn who_was_unreachable_is_back_with_its_first_answer() {
    let mut balancer = whole(10);
    fail(&mut balancer, 3, CallEnd::Refused, 2);
    assert!(!used(&mut balancer, START).contains(&3));
    let name = balancer.table().find(&id(3)).unwrap().name;
    balancer.handle_probe_answered(after(10), name, Load::default());
    assert!(used(&mut balancer, after(20_000)).contains(&3));
}

#[test]
fn one_host_that_fails_far_more_often_than_the_others_is_ejected() {
    let mut balancer = whole(10);
    for round in 0..200 {
        for host in 0..10 {
            let name = balancer.table().find(&id(host)).unwrap().name;
            // Every third call to host 5 fails, never five in a row.
            let end = if host == 5 && round % 3 == 0 {
                CallEnd::Failed
            } else {
                CallEnd::Ok
            };
            balancer.report(START, name, &ended(end)).unwrap();
        }
    }
    balancer.handle_timeout(after(10_001));
    assert!(!used(&mut balancer, after(10_001)).contains(&5));
}

/// Ejection took too many hosts, or all: one bad answer from a shared database
/// made every host look broken, and the service was gone.
#[test]
fn ejection_never_takes_more_than_its_share() {
    for hosts in [1, 2, 5, 30] {
        let mut balancer = whole(hosts);
        for host in 0..hosts {
            fail(&mut balancer, host, CallEnd::Failed, 5);
            fail(&mut balancer, host, CallEnd::Refused, 5);
        }
        let out_max = if hosts == 1 { 0 } else { (hosts / 10).max(1) };
        let out = balancer.ejection().unwrap().out();
        assert_eq!(out, out_max as usize);
        assert_eq!(used(&mut balancer, START).len(), (hosts - out_max) as usize);
        assert!(balancer.counters().not_ejected > 0 || hosts == 0);
    }
}

/// The control plane was cut off, all instances were declared unhealthy, and no
/// call went anywhere although every one of them worked.
#[test]
fn when_too_many_are_suspect_all_are_used() {
    let mut balancer = whole(10);
    for host in 0..5 {
        balancer.handle_verdict(START, &id(host), Verdict::Suspect);
    }
    assert_eq!(used(&mut balancer, START), [5, 6, 7, 8, 9]);
    assert!(!balancer.is_panic());
    balancer.handle_verdict(START, &id(5), Verdict::Suspect);
    assert!(balancer.is_panic());
    assert_eq!(used(&mut balancer, START).len(), 10);
    assert!(balancer.pick(START, None).unwrap().is_panic);
    for host in 6..10 {
        balancer.handle_verdict(START, &id(host), Verdict::Suspect);
    }
    assert_eq!(used(&mut balancer, START).len(), 10);
    balancer.handle_verdict(START, &id(0), Verdict::Use);
    for host in 1..5 {
        balancer.handle_verdict(START, &id(host), Verdict::Use);
    }
    assert_eq!(used(&mut balancer, START), [0, 1, 2, 3, 4]);
}

/// Callers were stuck on a dead address until they were restarted: the last
/// hosts of a list were kept for ever.
#[test]
fn who_is_gone_is_never_picked_not_even_in_panic() {
    for policy in policies() {
        let label = policy.name();
        let mut balancer = Balancer::new(BalancerConfig::default(), policy, 1);
        balancer.handle_view(START, &view(4));
        balancer.handle_verdict(START, &id(0), Verdict::Gone);
        for host in 1..4 {
            balancer.handle_verdict(START, &id(host), Verdict::Suspect);
        }
        assert_eq!(used(&mut balancer, START), [1, 2, 3], "{label}");
        for host in 1..4 {
            balancer.handle_verdict(START, &id(host), Verdict::Gone);
        }
        assert_eq!(balancer.pick(START, None), Err(NoPick::NoHosts), "{label}");
    }
}

#[test]
fn who_drains_starts_or_has_no_weight_takes_no_calls() {
    let mut hosts: Vec<_> = (0..4).map(instance).collect();
    hosts[1].state = State::Draining;
    hosts[2].state = State::Starting;
    hosts[3].weight = 0;
    for policy in policies() {
        let mut balancer = Balancer::new(BalancerConfig::default(), policy, 1);
        balancer.handle_view(START, &view_of(hosts.clone()));
        assert_eq!(used(&mut balancer, START), [0]);
    }
}

/// A new host had nothing in flight and no history, so that every caller sent it
/// everything, and it fell over before it was warm.
#[test]
fn a_new_host_is_not_flooded() {
    for policy in policies() {
        let label = policy.name();
        let mut balancer = Balancer::new(BalancerConfig::default(), policy, 1);
        balancer.handle_view(START, &view(10));
        balancer.handle_view(START, &view(11));
        let share_of_new = |balancer: &mut Balancer, from: u64| {
            let mut to_new = 0;
            for n in 0..1000 {
                let now = after(from + n);
                let key = Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let picked = balancer.pick(now, key).unwrap();
                to_new += u32::from(number(balancer, picked.name.slot) == 10);
                while let Some(name) = balancer.poll_probe(now) {
                    // The new host reports that it has nothing to do.
                    let is_new = number(balancer, name.slot) == 10;
                    let load = Load {
                        in_flight: if is_new { 0 } else { 5 },
                        latency_us: 10_000,
                    };
                    balancer.handle_probe_answered(now, name, load);
                }
                balancer.report(now, picked.name, &ok()).unwrap();
            }
            to_new
        };
        // Its even share would be 91 of 1,000. A caller that is told to prefer
        // it may take it more often, but far from always.
        let at_first = share_of_new(&mut balancer, 0);
        assert!(at_first < 250, "{label}: {at_first}");
        // After the warm-up it is a host like the others.
        let warm = share_of_new(&mut balancer, 10_000);
        assert!(warm >= 40, "{label}: {warm}");
        assert!(warm > at_first, "{label}: {warm} after {at_first}");
    }
}

#[test]
fn the_first_view_is_warm() {
    let mut balancer = whole(3);
    let picked = balancer.pick(START, None).unwrap();
    assert_eq!(picked.discarded, 0);
    assert_eq!(used(&mut balancer, START).len(), 3);
}

#[test]
fn near_hosts_come_first_and_far_ones_when_near_ones_fail() {
    let config = BalancerConfig {
        locality: locality("a", "a1"),
        panic_below: 0.0,
        warm_up: None,
        ..BalancerConfig::default()
    };
    let mut balancer = Balancer::new(config, Box::new(RoundRobin::new(1)), 1);
    let hosts = [
        in_zone(0, "a", "a1"),
        in_zone(1, "a", "a1"),
        in_zone(2, "a", "a2"),
        in_zone(3, "b", "b1"),
    ];
    balancer.handle_view(START, &view_of(hosts));
    assert_eq!(used(&mut balancer, START), [0, 1]);
    // Half of the zone is suspect: it keeps 70 % of its calls.
    balancer.handle_verdict(START, &id(0), Verdict::Suspect);
    assert_eq!(used(&mut balancer, START), [1, 2]);
    let shares = balancer.explain(START, None).tier_shares;
    assert!((shares[0] - 0.7).abs() < 1e-9 && (shares[1] - 0.3).abs() < 1e-9);
    balancer.handle_verdict(START, &id(1), Verdict::Suspect);
    assert_eq!(used(&mut balancer, START), [2]);
    balancer.handle_verdict(START, &id(2), Verdict::Suspect);
    assert_eq!(used(&mut balancer, START), [3]);
}

#[test]
fn calls_spill_over_from_a_near_host_that_has_far_more_to_do() {
    let config = BalancerConfig {
        locality: locality("a", "a1"),
        ..BalancerConfig::default()
    };
    let mut balancer = Balancer::new(config, Box::new(P2c::default()), 1);
    let hosts = [in_zone(0, "a", "a1"), in_zone(1, "a", "a2")];
    balancer.handle_view(START, &view_of(hosts));
    let mut near = 0;
    for n in 1..=40 {
        let picked = balancer.pick(START, None).unwrap();
        let is_near = number(&balancer, picked.name.slot) == 0;
        near += u32::from(is_near);
        let zones = ZoneConfig::default();
        assert!(is_near || near >= zones.spill_from, "too early, at {n}");
        assert_eq!(picked.is_spilled, !is_near);
        assert_eq!(picked.tier, u8::from(!is_near));
    }
    // The near one keeps twice as many, about.
    assert!((25..=30).contains(&near), "{near}");
    assert_eq!(balancer.counters().spilled, u64::from(40 - near));
}

/// Nobody could say why a host was picked.
#[test]
fn every_pick_goes_as_it_was_explained() {
    for policy in policies() {
        let label = policy.name();
        let config = BalancerConfig {
            locality: locality("a", "a1"),
            ..BalancerConfig::default()
        };
        let mut balancer = Balancer::new(config, policy, 5);
        let mut hosts: Vec<_> = (0..6).map(|host| in_zone(host, "a", "a1")).collect();
        hosts.extend((6..9).map(|host| in_zone(host, "a", "a2")));
        balancer.handle_view(START, &view_of(hosts[..5].to_vec()));
        balancer.handle_view(START, &view_of(hosts));
        for ms in 0..500 {
            let now = after(ms);
            let key = ms.is_multiple_of(3).then_some(ms);
            let explained = balancer.explain(now, key);
            let picked = balancer.pick(now, key);
            assert_eq!(explained.result, picked, "{label}");
            let picked = picked.unwrap();
            let last = explained.choices.last().unwrap();
            assert_eq!(last.policy, label);
            let mut seen = explained.choices.iter().flat_map(|one| &one.considered);
            assert!(
                seen.any(|one| one.slot == picked.name.slot),
                "{label}: the picked host is among those that were considered"
            );
            while let Some(name) = balancer.poll_probe(now) {
                let load = Load {
                    in_flight: name.slot,
                    latency_us: 1000,
                };
                balancer.handle_probe_answered(now, name, load);
            }
            if ms % 4 != 0 {
                let outcome = if ms % 7 == 0 {
                    ended(CallEnd::Failed)
                } else {
                    ok()
                };
                balancer.report(now, picked.name, &outcome).unwrap();
            }
        }
    }
}

#[test]
fn a_process_that_restarts_under_its_id_is_a_new_host() {
    let mut balancer = whole(3);
    let old = balancer.table().find(&id(1)).unwrap().name;
    balancer.pick(START, None).unwrap();
    let mut hosts: Vec<_> = (0..3).map(instance).collect();
    hosts[1].owner.incarnation = 2;
    let merged = balancer.handle_view(START, &view_of(hosts));
    assert_eq!(merged.removed, [old]);
    let new = balancer.table().find(&id(1)).unwrap().name;
    assert_ne!(new, old);
    assert!(balancer.report(START, old, &ok()).is_err());
    assert_eq!(balancer.counters().stale_results, 1);
}

#[test]
fn a_host_without_answers_to_probes_costs_a_bounded_number_of_them() {
    let policy = policies().pop().unwrap();
    let mut balancer = Balancer::new(BalancerConfig::default(), policy, 1);
    balancer.handle_view(START, &view(1000));
    let mut sent = 0;
    for ms in 0..100_000 {
        let now = START + Duration::from_micros(ms);
        balancer.pick(now, None).unwrap();
        while balancer.poll_probe(now).is_some() {
            sent += 1;
        }
    }
    // 500 a second, 8 at once.
    assert!((40..=58).contains(&sent), "{sent}");
}

/// A dead host was found by calls only: each of many callers lost one to it.
#[test]
fn probes_that_find_nobody_eject_a_host_before_any_call_does() {
    let mut balancer = whole(10);
    let name = balancer.table().find(&id(4)).unwrap().name;
    for _ in 0..2 {
        balancer.handle_probe_refused(START, name);
    }
    assert!(!used(&mut balancer, START).contains(&4));
}

/// Services that know no probes never answer one; they must not look dead.
#[test]
fn silence_to_probes_counts_only_after_an_answer() {
    let policy = policies().pop().unwrap();
    let mut balancer = Balancer::new(BalancerConfig::default(), policy, 1);
    balancer.handle_view(START, &view(2));
    let silent_for = |balancer: &mut Balancer, from: u64| {
        for ms in from..from + 500 {
            let picked = balancer.pick(after(ms), None).unwrap();
            balancer.report(after(ms), picked.name, &ok()).unwrap();
            while balancer.poll_probe(after(ms)).is_some() {}
            balancer.handle_timeout(after(ms));
        }
    };
    silent_for(&mut balancer, 0);
    assert_eq!(balancer.counters().ejected, 0);
    for host in 0..2 {
        let name = balancer.table().find(&id(host)).unwrap().name;
        let load = Load {
            in_flight: 1,
            latency_us: 100,
        };
        balancer.handle_probe_answered(after(500), name, load);
    }
    silent_for(&mut balancer, 501);
    assert!(balancer.counters().ejected > 0);
}
