//! The rule of Lars, number by number, and the faults that were seen there.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::time::Duration;

use common::{START, after, bare, ended, instance, number, ok, view, view_of};
use waystation_balance::{Balancer, CallEnd, HostName, Lars, LarsConfig, NoPick, Reason};
use waystation_base::Moment;

const SECOND: u64 = 1000;

fn lars(hosts: u32) -> Balancer {
    with(LarsConfig::default(), hosts)
}

fn with(config: LarsConfig, hosts: u32) -> Balancer {
    let mut balancer = bare(Box::new(Lars::new(config, 1)));
    balancer.handle_view(START, &view(hosts));
    balancer
}

fn name(balancer: &Balancer, host: u32) -> HostName {
    balancer.table().find(&common::id(host)).unwrap().name
}

/// Reports so many ends of one kind for a host.
fn report(balancer: &mut Balancer, now: Moment, host: u32, end: CallEnd, count: u32) {
    let name = name(balancer, host);
    for _ in 0..count {
        balancer.report(now, name, &ended(end)).unwrap();
    }
}

/// Whether the host is overloaded: then it is not among the idle ones of the
/// explanation.
fn is_overloaded(balancer: &Balancer, now: Moment, host: u32) -> bool {
    let name = name(balancer, host);
    let explained = balancer.explain(now, None);
    let considered = explained.choices[0].considered.iter();
    let notes: Vec<&str> = considered
        .filter(|one| one.slot == name.slot)
        .map(|one| one.note)
        .collect();
    assert_eq!(notes.len(), 1, "a host stands in one line");
    notes[0] == "overloaded"
}

#[test]
fn fifteen_errors_in_a_row_overload_a_host() {
    // Enough successes that the share of errors stays low.
    let mut balancer = lars(2);
    report(&mut balancer, START, 0, CallEnd::Ok, 1000);
    report(&mut balancer, START, 0, CallEnd::Failed, 14);
    assert!(!is_overloaded(&balancer, START, 0));
    report(&mut balancer, START, 0, CallEnd::Failed, 1);
    assert!(is_overloaded(&balancer, START, 0));
}

#[test]
fn twenty_one_errors_overload_a_clean_window() {
    let config = LarsConfig {
        contin_err_limit: 1000,
        ..LarsConfig::default()
    };
    let mut balancer = with(config, 2);
    report(&mut balancer, START, 0, CallEnd::Failed, 20);
    assert!(!is_overloaded(&balancer, START, 0));
    report(&mut balancer, START, 0, CallEnd::Failed, 1);
    assert!(is_overloaded(&balancer, START, 0));
}

#[test]
fn six_successes_bring_a_host_back() {
    let mut balancer = lars(2);
    report(&mut balancer, START, 0, CallEnd::Failed, 15);
    report(&mut balancer, START, 0, CallEnd::Ok, 5);
    assert!(is_overloaded(&balancer, START, 0));
    report(&mut balancer, START, 0, CallEnd::Ok, 1);
    assert!(!is_overloaded(&balancer, START, 0));
}

#[test]
fn fifteen_successes_in_a_row_bring_a_host_back_whatever_the_share() {
    let config = LarsConfig {
        init_err_cnt: 500,
        ..LarsConfig::default()
    };
    let mut balancer = with(config, 2);
    report(&mut balancer, START, 0, CallEnd::Failed, 15);
    report(&mut balancer, START, 0, CallEnd::Ok, 14);
    assert!(is_overloaded(&balancer, START, 0));
    report(&mut balancer, START, 0, CallEnd::Failed, 1);
    report(&mut balancer, START, 0, CallEnd::Ok, 14);
    assert!(is_overloaded(&balancer, START, 0), "the row was broken");
    report(&mut balancer, START, 0, CallEnd::Ok, 1);
    assert!(!is_overloaded(&balancer, START, 0));
}

#[test]
fn idle_hosts_take_turns() {
    let mut balancer = lars(3);
    let counts = common::spread(&mut balancer, START, 300, 3);
    assert_eq!(counts, [100, 100, 100]);
}

#[test]
fn every_eleventh_pick_tries_an_overloaded_host() {
    let mut balancer = lars(3);
    report(&mut balancer, START, 2, CallEnd::Failed, 15);
    let tried: Vec<bool> = (0..33)
        .map(|_| {
            let picked = balancer.pick(START, None).unwrap();
            let is_tried = number(&balancer, picked.name.slot) == 2;
            assert_eq!(picked.reason == Reason::OverloadedTurn, is_tried);
            is_tried
        })
        .collect();
    let expect: Vec<bool> = (1..=33).map(|n| n % 11 == 0).collect();
    assert_eq!(tried, expect);
}

#[test]
fn when_all_are_overloaded_every_eleventh_pick_gets_one_in_turn() {
    let mut balancer = lars(2);
    report(&mut balancer, START, 0, CallEnd::Failed, 15);
    report(&mut balancer, START, 1, CallEnd::Failed, 15);
    let mut tried = Vec::new();
    for n in 1..=44 {
        match balancer.pick(START, None) {
            Ok(picked) => {
                assert_eq!(n % 11, 0);
                tried.push(number(&balancer, picked.name.slot));
            }
            Err(error) => assert_eq!(error, NoPick::Overloaded),
        }
    }
    tried.sort_unstable();
    assert_eq!(tried, [0, 0, 1, 1]);
}

#[test]
fn a_bad_window_overloads_at_its_end() {
    // Shares and rows that overload at once are out of reach.
    let config = LarsConfig {
        err_rate: 1.0,
        contin_err_limit: 1000,
        ..LarsConfig::default()
    };
    let mut balancer = with(config, 2);
    report(&mut balancer, START, 0, CallEnd::Failed, 7);
    report(&mut balancer, START, 0, CallEnd::Ok, 3);
    let end = after(15 * SECOND);
    report(&mut balancer, end, 1, CallEnd::Ok, 1);
    assert!(
        !is_overloaded(&balancer, end, 0),
        "not longer than the window"
    );
    balancer.handle_timeout(end + Duration::from_millis(3));
    assert!(is_overloaded(&balancer, end, 0), "7 of 10 is the limit");
}

#[test]
fn a_good_window_starts_clean_counts() {
    let mut balancer = lars(2);
    // One error short of being overloaded; then a new window.
    report(&mut balancer, START, 0, CallEnd::Failed, 14);
    report(&mut balancer, START, 0, CallEnd::Ok, 7);
    let later = after(15 * SECOND + 1);
    report(&mut balancer, later, 0, CallEnd::Ok, 1);
    report(&mut balancer, later, 0, CallEnd::Failed, 14);
    assert!(!is_overloaded(&balancer, later, 0));
}

#[test]
fn calls_given_up_count_for_nothing() {
    let mut balancer = lars(2);
    report(&mut balancer, START, 0, CallEnd::Cancelled, 100);
    assert!(!is_overloaded(&balancer, START, 0));
}

/// After a host was removed, the agent served garbage and died.
#[test]
fn a_removed_host_is_never_served_and_its_results_are_dropped() {
    let mut balancer = lars(3);
    let gone = name(&balancer, 1);
    report(&mut balancer, START, 1, CallEnd::Failed, 15);
    balancer.handle_view(START, &view_of([instance(0), instance(2)]));
    for _ in 0..100 {
        let picked = balancer.pick(START, None).unwrap();
        assert_ne!(number(&balancer, picked.name.slot), 1);
    }
    assert!(balancer.report(START, gone, &ok()).is_err());
    // Its slot's next host begins clean, and is not taken for it.
    balancer.handle_view(START, &view_of([instance(0), instance(2), instance(7)]));
    assert!(
        balancer
            .report(START, gone, &ended(CallEnd::Failed))
            .is_err()
    );
    assert!(!is_overloaded(&balancer, START, 7));
    balancer.handle_view(START, &view_of([]));
    assert_eq!(balancer.pick(START, None), Err(NoPick::NoHosts));
    balancer.handle_timeout(after(60 * SECOND));
}

/// Fresh hosts had uninitialised counters: one first error overloaded them.
#[test]
fn one_first_error_does_not_overload_a_fresh_host() {
    let mut balancer = lars(1);
    report(&mut balancer, START, 0, CallEnd::Failed, 1);
    assert!(!is_overloaded(&balancer, START, 0));
    balancer.handle_view(START, &view(2));
    report(&mut balancer, START, 1, CallEnd::Failed, 1);
    assert!(!is_overloaded(&balancer, START, 1));
}

/// Window and timeout rules ran only when a report for that host arrived, so a
/// host that got no calls never recovered by itself.
#[test]
fn an_overloaded_host_without_calls_recovers_by_time() {
    let mut balancer = lars(2);
    report(&mut balancer, START, 0, CallEnd::Failed, 15);
    let due = balancer.poll_timeout(START).unwrap();
    assert!(due <= after(15 * SECOND + 2), "somebody has to be woken");
    balancer.handle_timeout(after(15 * SECOND));
    assert!(is_overloaded(&balancer, after(15 * SECOND), 0));
    let over = after(15 * SECOND + 3);
    balancer.handle_timeout(over);
    assert!(!is_overloaded(&balancer, over, 0));
}

#[test]
fn a_clock_that_goes_back_does_not_lose_the_end_of_a_window() {
    let mut balancer = lars(2);
    report(&mut balancer, START, 0, CallEnd::Failed, 15);
    balancer.handle_timeout(after(3600 * SECOND));
    report(&mut balancer, START, 0, CallEnd::Failed, 15);
    balancer.handle_timeout(START);
    balancer.handle_timeout(after(3700 * SECOND));
    assert!(!is_overloaded(&balancer, after(3700 * SECOND), 0));
}
