//! What each policy promises.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::time::Duration;

use common::{START, after, bare, ended, instance, number, ok, policies, view, view_of};
use waystation_balance::{
    Balancer, BalancerConfig, CallEnd, Fresh, HostName, Load, Maglev, NoPick, Outcome, P2c,
    Prequal, ProberConfig, Reason, RoundRobin, Weighted,
};
use waystation_base::{Moment, Rng, hash64};

fn name(balancer: &Balancer, host: u32) -> HostName {
    balancer.table().find(&common::id(host)).unwrap().name
}

fn load(in_flight: u32, latency_ms: u32) -> Load {
    Load {
        in_flight,
        latency_us: latency_ms * 1000,
    }
}

fn probe(balancer: &mut Balancer, now: Moment, host: u32, load: Load) {
    let name = name(balancer, host);
    balancer.handle_probe_answered(now, name, load);
}

#[test]
fn every_policy_serves_every_number_of_hosts() {
    for policy in policies() {
        let label = policy.name();
        let mut balancer = bare(policy);
        assert_eq!(balancer.pick(START, None), Err(NoPick::NoHosts), "{label}");
        for (round, count) in (0..).zip([1, 2, 3, 10, 0, 5]) {
            let now = after(round * 1000);
            balancer.handle_view(now, &view(count));
            if count == 0 {
                assert_eq!(balancer.pick(now, None), Err(NoPick::NoHosts), "{label}");
                continue;
            }
            let counts = common::spread(&mut balancer, now, 400, count);
            assert!(counts.iter().all(|&one| one > 0), "{label}: {counts:?}");
        }
    }
}

#[test]
fn round_robin_is_even_and_begins_anywhere() {
    let mut starts = Vec::new();
    for seed in 0..20 {
        let mut balancer = bare(Box::new(RoundRobin::new(seed)));
        balancer.handle_view(START, &view(10));
        let first = balancer.pick(START, None).unwrap();
        starts.push(number(&balancer, first.name.slot));
        let counts = common::spread(&mut balancer, START, 99, 10);
        assert!(
            counts.iter().all(|&one| one == 10 || one == 9),
            "{counts:?}"
        );
    }
    starts.sort_unstable();
    starts.dedup();
    assert!(
        starts.len() > 5,
        "callers must not walk in step: {starts:?}"
    );
}

#[test]
fn weighted_turns_follow_the_weights_and_are_spread() {
    let weights = [1, 10, 100, 50, 0];
    let mut balancer = bare(Box::new(Weighted::new(3)));
    let hosts = (0..5).map(|host| {
        let mut one = instance(host);
        one.weight = weights[host as usize];
        one
    });
    balancer.handle_view(START, &view_of(hosts));
    let counts = common::spread(&mut balancer, START, 16_100, 5);
    for (host, &weight) in weights.iter().enumerate() {
        let expect = weight * 100;
        assert!(
            counts[host].abs_diff(expect) <= 2 + expect / 50,
            "{counts:?}"
        );
    }
    // Host 2 has more than half of all: never three others in a row.
    let order: Vec<u32> = (0..200)
        .map(|_| {
            let picked = balancer.pick(START, None).unwrap();
            number(&balancer, picked.name.slot)
        })
        .collect();
    assert!(order.windows(4).all(|four| four.contains(&2)), "{order:?}");
}

#[test]
fn the_better_of_two_is_taken() {
    let mut balancer = bare(Box::new(P2c::default()));
    balancer.handle_view(START, &view(2));
    // Host 0 has calls in flight, host 1 none: both are drawn each time.
    let first = balancer.pick(START, None).unwrap().name;
    for _ in 0..20 {
        let picked = balancer.pick(START, None).unwrap();
        assert_ne!(picked.name, first);
        assert_eq!(picked.reason, Reason::LowerOfTwo);
        balancer.report(START, picked.name, &ok()).unwrap();
    }
}

#[test]
fn a_silent_host_is_left_before_its_first_timeout() {
    let mut balancer = bare(Box::new(P2c::default()));
    balancer.handle_view(START, &view(2));
    let silent = balancer.pick(START, None).unwrap().name;
    let mut to_silent = 0;
    for ms in 0..1000 {
        let now = after(ms);
        let picked = balancer.pick(now, None).unwrap();
        if picked.name == silent {
            to_silent += 1;
        } else {
            balancer.report(now, picked.name, &ok()).unwrap();
        }
    }
    assert_eq!(to_silent, 0);
}

#[test]
fn of_cold_hosts_the_fastest_is_picked_and_of_hot_ones_the_idlest() {
    let mut balancer = bare(Box::new(Prequal::default()));
    balancer.handle_view(START, &view(10));
    // Enough reports that 5 requests in flight are hot and 1 is not.
    for round in 0..10 {
        for host in 0..10 {
            probe(&mut balancer, after(round), host, load(1, 50));
        }
    }
    let now = after(2000);
    probe(&mut balancer, now, 1, load(5, 10));
    probe(&mut balancer, now, 2, load(1, 40));
    probe(&mut balancer, now, 3, load(1, 30));
    let picked = balancer.pick(now, None).unwrap();
    assert_eq!(number(&balancer, picked.name.slot), 3);
    assert_eq!(picked.reason, Reason::Cold);
    // Old news are no news: without two reports the pick is random.
    let later = now + Duration::from_secs(2);
    assert_eq!(balancer.pick(later, None).unwrap().reason, Reason::Random);
    probe(&mut balancer, later, 4, load(9, 10));
    probe(&mut balancer, later, 5, load(7, 90));
    let picked = balancer.pick(later, None).unwrap();
    assert_eq!(number(&balancer, picked.name.slot), 5);
    assert_eq!(picked.reason, Reason::AllHot);
}

/// Picks for five seconds at this rate, every probe answered at once; of each ten
/// hosts two are slow. How many picks were drawn for want of reports, how many went
/// to slow hosts, and how many there were.
fn prequal_under_load(hosts: u32, picks_per_second: u64) -> (u64, u64, u64) {
    let config = BalancerConfig {
        prober: ProberConfig::default(),
        ..BalancerConfig::bare()
    };
    let mut balancer = Balancer::new(config, Box::new(Prequal::default()), 7);
    balancer.handle_view(START, &view(hosts));
    let is_slow = |host: u32| host % 10 < 2;
    let (mut random, mut slow) = (0, 0);
    let picks = 5 * picks_per_second;
    for pick in 0..picks {
        let now = START + Duration::from_micros(pick * 1_000_000 / picks_per_second);
        let picked = balancer.pick(now, None).unwrap();
        let is_warm = pick > picks_per_second / 10;
        random += u64::from(is_warm && picked.reason == Reason::Random);
        slow += u64::from(is_warm && is_slow(number(&balancer, picked.name.slot)));
        balancer.report(now, picked.name, &ok()).unwrap();
        while let Some(name) = balancer.poll_probe(now) {
            let answer = if is_slow(number(&balancer, name.slot)) {
                load(9, 500)
            } else {
                load(1, 10)
            };
            balancer.handle_probe_answered(now, name, answer);
        }
    }
    (random, slow, picks)
}

/// Each pick took a report out of the pool, while at most 500 probes a second
/// filled it: at 1,000 picks a second nine of ten were left to chance, and slow
/// hosts got as much as in turn.
#[test]
fn prequal_knows_its_hosts_at_any_rate_of_picks() {
    for (hosts, rate) in [(10, 100), (10, 2_000), (10, 20_000), (100, 2_000)] {
        let (random, slow, picks) = prequal_under_load(hosts, rate);
        assert!(
            random * 20 < picks,
            "{random} of {picks} drawn, {hosts} hosts at {rate}"
        );
        assert!(
            slow * 20 < picks,
            "{slow} of {picks} to slow, {hosts} hosts at {rate}"
        );
    }
}

#[test]
fn replies_renew_what_prequal_knows_of_a_host() {
    let mut balancer = bare(Box::new(Prequal::default()));
    balancer.handle_view(START, &view(3));
    probe(&mut balancer, START, 0, load(1, 10));
    probe(&mut balancer, START, 1, load(1, 20));
    let picked = balancer.pick(START, None).unwrap();
    assert_eq!(number(&balancer, picked.name.slot), 0);
    let slower = Outcome {
        load: load(1, 30),
        ..ok()
    };
    balancer.report(START, picked.name, &slower).unwrap();
    let next = balancer.pick(START, None).unwrap();
    assert_eq!(number(&balancer, next.name.slot), 1);
}

#[test]
fn keys_keep_their_hosts_when_others_come_and_go() {
    let keys: Vec<u64> = (0..2000_u64)
        .map(|key| hash64(&key.to_le_bytes()))
        .collect();
    let owners = |balancer: &mut Balancer| -> Vec<u32> {
        keys.iter()
            .map(|&key| {
                let picked = balancer.pick(START, Some(key)).unwrap();
                assert_eq!(picked.reason, Reason::Key);
                number(balancer, picked.name.slot)
            })
            .collect()
    };
    let mut balancer = bare(Box::new(Maglev::new()));
    balancer.handle_view(START, &view(10));
    let before = owners(&mut balancer);
    // Evenly: 200 keys each, within six standard deviations.
    for host in 0..10 {
        let count = before.iter().filter(|&&one| one == host).count();
        assert!((120..280).contains(&count), "{count}");
    }
    // Another caller that learnt the hosts in another order agrees.
    let mut other = bare(Box::new(Maglev::new()));
    other.handle_view(START, &view_of((5..10).map(instance)));
    other.handle_view(START, &view(10));
    assert_eq!(owners(&mut other), before);
    // One host less: nearly only its keys move.
    balancer.handle_view(START, &view(9));
    let moved = before
        .iter()
        .zip(owners(&mut balancer))
        .filter(|(was, is)| **was != 9 && **was != *is)
        .count();
    assert!(moved < 100, "{moved} of 1,800");
}

#[test]
fn maglev_follows_weights() {
    let mut balancer = bare(Box::new(Maglev::new()));
    let hosts = (0..3).map(|host| {
        let mut one = instance(host);
        one.weight = [100, 100, 200][host as usize];
        one
    });
    balancer.handle_view(START, &view_of(hosts));
    let counts = common::spread(&mut balancer, START, 4000, 3);
    assert!((1850..2150).contains(&counts[2]), "{counts:?}");
}

#[test]
fn fresh_news_decides_and_each_use_adds_to_it() {
    let mut balancer = bare(Box::new(Fresh::default()));
    balancer.handle_view(START, &view(10));
    for host in 0..10 {
        probe(&mut balancer, START, host, load(3, 50));
    }
    probe(&mut balancer, START, 6, load(0, 50));
    let first = balancer.pick(START, None).unwrap();
    assert_eq!(number(&balancer, first.name.slot), 6);
    assert_eq!(first.reason, Reason::LowestReported);
    // Its news is used up after a while, though nothing new came.
    let picks: Vec<u32> = (0..5)
        .map(|_| {
            let picked = balancer.pick(START, None).unwrap();
            number(&balancer, picked.name.slot)
        })
        .collect();
    assert!(picks.iter().any(|&host| host != 6), "{picks:?}");
}

#[test]
fn news_turns_into_the_mean_and_then_into_nothing() {
    let mut balancer = bare(Box::new(Fresh::default()));
    balancer.handle_view(START, &view(10));
    // Host 1 was idle 300 ms ago, host 2 has one request now; both are fast.
    probe(&mut balancer, START, 1, load(0, 20));
    let now = after(300);
    probe(&mut balancer, now, 2, load(1, 20));
    for host in 3..10 {
        probe(&mut balancer, now, host, load(8, 20));
    }
    let picked = balancer.pick(now, None).unwrap();
    assert_eq!(number(&balancer, picked.name.slot), 2);
    let later = after(1000);
    assert_eq!(
        balancer.pick(later, None).unwrap().reason,
        Reason::LowerOfTwo
    );
}

#[test]
fn failures_met_here_outweigh_good_news() {
    let mut balancer = bare(Box::new(Fresh::default()));
    balancer.handle_view(START, &view(3));
    for host in 0..3 {
        probe(&mut balancer, START, host, load(u32::from(host > 0), 50));
    }
    let best = balancer.pick(START, None).unwrap().name;
    assert_eq!(number(&balancer, best.slot), 0);
    balancer
        .report(START, best, &ended(CallEnd::Failed))
        .unwrap();
    let next = balancer.pick(START, None).unwrap().name;
    assert_ne!(next, best);
}

/// All equal costs must not always give the first host.
#[test]
fn policies_use_all_of_many_equal_hosts() {
    for policy in policies() {
        let label = policy.name();
        let mut balancer = bare(policy);
        balancer.handle_view(START, &view(50));
        let mut rng = Rng::from_seed(9);
        let mut counts = [0_u32; 50];
        for ms in 0..5000 {
            let now = after(ms);
            let picked = balancer.pick(now, None).unwrap();
            counts[number(&balancer, picked.name.slot) as usize] += 1;
            while let Some(name) = balancer.poll_probe(now) {
                balancer.handle_probe_answered(now, name, load(u32::from(rng.chance(0.5)), 10));
            }
            balancer.report(now, picked.name, &ok()).unwrap();
        }
        let most = counts.iter().max().unwrap();
        assert!(counts.iter().all(|&one| one > 20), "{label}: {counts:?}");
        assert!(*most < 300, "{label}: {counts:?}");
    }
}
