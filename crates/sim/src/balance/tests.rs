//! The short form of the simulation.

use std::time::Duration;

use super::contenders::{self, Contender, DEFAULT, SHARED};
use super::figures::Figures;
use super::report::{self, Results};
use super::workload::{self, Workload};
use super::{parse, world};

/// A workload of the tables with less to measure.
fn short(name: &str) -> Workload {
    let found = workload::all().into_iter().find(|one| one.name == name);
    let mut one = found.expect("it is in the tables");
    one.warm = Duration::from_secs(5);
    one.measured = Duration::from_secs(15);
    one
}

fn contender(name: &str) -> Contender {
    let found = contenders::all().into_iter().find(|one| one.name == name);
    found.expect("it is in the tables")
}

fn run(workload: &Workload, name: &str) -> Figures {
    world::run(workload, &contender(name), 0)
}

#[test]
fn the_default_keeps_its_bars_of_latency_and_errors() {
    let names = ["even-70", "even-90", "mixed-70", "mixed-90", "over-1.50"];
    let mut results = Results::new();
    for name in names {
        let workload = short(name);
        let rows = [
            "weighted RR",
            "C3",
            "C3, probed",
            "Prequal",
            DEFAULT,
            SHARED,
        ]
        .map(|who| (who.to_owned(), run(&workload, who)));
        results.push((workload, rows.into()));
    }
    let bars = report::bars(&results);
    assert_eq!(bars.len(), 26);
    for bar in &bars {
        assert!(bar.is_kept, "{}: {}", bar.what, bar.found);
    }
    // The bar means something: there, weighted round robin fails.
    let (_, rows) = results.last().expect("it ran");
    assert!(rows[0].1.errors() > 0);
}

#[test]
fn the_default_loses_few_calls_to_a_dead_host_and_leaves_a_stalled_one() {
    let mut results = Results::new();
    for name in ["dead", "black-hole", "stall"] {
        let mut workload = short(name);
        // The fault begins at 20 s and the stall ends at 50 s.
        workload.measured = Duration::from_secs(if name == "stall" { 55 } else { 30 });
        let rows = [DEFAULT, SHARED].map(|who| (who.to_owned(), run(&workload, who)));
        results.push((workload, rows.into()));
    }
    let bars = report::bars(&results);
    assert_eq!(bars.len(), 8);
    for bar in &bars {
        assert!(bar.is_kept, "{}: {}", bar.what, bar.found);
    }
}

/// A host that failed every call at once answered faster than all others, and so
/// got half of the traffic.
#[test]
fn a_host_that_fails_fast_attracts_no_traffic() {
    let mut workload = short("fail-fast");
    workload.measured = Duration::from_secs(30);
    let raw = run(&workload, "C3").failed;
    let ours = [DEFAULT, SHARED].map(|who| run(&workload, who).failed);
    assert!(raw > 1000, "the published rule falls for it: {raw}");
    assert!(ours.iter().all(|&failed| failed < 60), "{ours:?}");
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let workload = Workload {
        measured: Duration::from_secs(3),
        ..short("mixed-70")
    };
    for contender in contenders::all() {
        let [first, again, other] = [3, 3, 4].map(|seed| world::run(&workload, &contender, seed));
        assert_eq!(first.latencies_us, again.latencies_us, "{}", contender.name);
        assert_ne!(first.latencies_us, other.latencies_us, "{}", contender.name);
    }
}

#[test]
fn every_contender_gets_the_same_calls() {
    let workload = Workload {
        measured: Duration::from_secs(3),
        ..short("even-70")
    };
    let calls: Vec<u64> = contenders::all()
        .iter()
        .map(|one| world::run(&workload, one, 1).calls)
        .collect();
    assert!(calls[0] > 2000);
    assert!(calls.iter().all(|count| *count == calls[0]), "{calls:?}");
}

#[test]
fn every_pair_of_layers_keeps_its_promises_around_every_policy() {
    let table = super::pairs::table(1);
    assert_eq!(
        table.lines().filter(|line| line.contains("Zones")).count(),
        7 * 3
    );
}

#[test]
fn arguments_choose_what_runs() {
    let parse = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    };
    let options = parse("--seeds 2 --workload even --save x.md").unwrap();
    assert_eq!((options.seeds, options.workload.as_str()), (2, "even"));
    assert_eq!(options.save.as_deref(), Some("x.md"));
    assert_eq!(parse("").unwrap().seeds, super::SEEDS_DEFAULT);
    assert_eq!(parse("--seeds 0"), None);
    assert_eq!(parse("--seeds"), None);
    assert_eq!(parse("--other 1"), None);
}
