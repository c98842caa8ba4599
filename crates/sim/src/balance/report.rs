//! The tables.

use std::fmt::Write as _;
use std::time::Duration;

use super::contenders::{DEFAULT, SHARED};
use super::figures::Figures;
use super::workload::{Fault, Workload};

/// A contender's name with its figures.
pub(crate) type Row = (String, Figures);

/// Everything that was run: a workload with its rows.
pub(crate) type Results = Vec<(Workload, Vec<Row>)>;

/// What the figures mean; opens the file of results.
pub(crate) const ABOUT: &str = "\
# `cargo xtask sim balance`

Policies beside each other in simulated worlds, in virtual time. The same seeds give the same tables.

- Callers do not see each other's load. Each has a balancer of its own; calls arrive at random
  callers, open loop, as a Poisson process.
- A host has an allocation of one processor. Requests share processors evenly (processor sharing),
  one processor each at most. Their work has a mean of 80 ms. Load is stated against the allocation
  of all hosts.
- *Even* hosts are alike and have nothing to spare. In *mixed* worlds every other host is half as
  fast, and each host has between 0 and 2 allocations to spare, drawn anew every 10 s or so; so on
  average twice the allocation is there, and a host may have none at all to spare.
- One way through the network takes 150 to 350 µs. A caller waits 5 s; then the call has failed, and
  the host drops it.
- Failures are counted before any retry: *refused* found nobody or was cut off, *black-holed* went
  to a host that answered nothing, *late* missed its deadline at a host that was there, *failed* was
  answered with a failure. Quantiles are those of answers and of missed deadlines, in ms.
- *RIF* is the largest number of requests in flight on one host; *probes* are those sent for each
  call; *wrong ejections* hit hosts with which nothing was wrong.
- *Lost* are failed calls of the faulty host, the most of any run. *Drained* is the time from the
  fault until it got less than 5 % of its share for good; *back* the time from the fault's end until
  it got half of its share within a second, the longest of any run.
- The published rules run as they were published, without what this project puts around a policy.
  `C3` scores all hosts by what replies report; `C3, probed` scores a pool of probes like
  Prequal's. `weighted RR` is gRPC's A58, its weights known to all callers at once. The
  oracle knows every host's state at every moment. `ours` have ejection, panic, zones and warm-up
  around them.
- In `ours: fresh, shared` each caller is a process beside an agent, as crate `segment` has it: it
  picks from shared memory, and the agent, which knows and decides, hears of what happens 2 ms later
  and writes every 20 ms when nothing does.
";

/// One workload as a table.
pub(crate) fn table(workload: &Workload, rows: &[Row]) -> String {
    let has_fault = matches!(workload.fault, Fault::One { .. });
    let mut text = format!(
        "\n## {}\n\n{}. {} hosts, {} callers, load {:.2}, {:.0} calls/s.\n\n",
        workload.name,
        workload.about,
        workload.hosts,
        workload.callers,
        workload.load,
        workload.rate(),
    );
    let mut header = "| policy | p50 | p99 | p99.9 | errors | refused | black-holed | late | failed | RIF | probes | wrong ejections |".to_owned();
    let mut rule = "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|".to_owned();
    if has_fault {
        header.push_str(" lost | drained | back |");
        rule.push_str("---:|---:|---:|");
    }
    let _ = writeln!(text, "{header}\n{rule}");
    for (name, figures) in rows {
        let _ = write!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {} |",
            ms(figures.quantile_ms(0.5)),
            ms(figures.quantile_ms(0.99)),
            ms(figures.quantile_ms(0.999)),
            percent(figures.errors(), figures.calls),
            figures.refused,
            figures.black_holed,
            figures.timed_out,
            figures.failed + figures.unpicked,
            figures.in_flight_max,
            ratio(figures.probes, figures.calls),
            figures.wrong_ejections,
        );
        if has_fault {
            let lost = figures.fault_failures.iter().max().copied();
            let _ = write!(
                text,
                " {} | {} | {} |",
                lost.unwrap_or(0),
                seconds(figures.drained.iter().max().copied()),
                back(figures),
            );
        }
        text.push('\n');
    }
    text
}

fn ms(value: f64) -> String {
    if value >= 4999.95 {
        "TO".to_owned()
    } else {
        format!("{value:.0}")
    }
}

fn percent(part: u64, all: u64) -> String {
    if part == 0 {
        return "0".to_owned();
    }
    format!("{:.3} %", ratio(part, all) * 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls")]
fn ratio(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("–".to_owned(), |time| {
        format!("{:.2} s", time.as_secs_f64())
    })
}

/// The longest recovery; "never" when one run had none.
fn back(figures: &Figures) -> String {
    if figures.recovered.iter().any(Option::is_none) {
        return "never".to_owned();
    }
    seconds(figures.recovered.iter().flatten().max().copied())
}

/// A promise and whether it is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) found: String,
    pub(crate) is_kept: bool,
    /// Whether it was promised; others are shown beside them.
    pub(crate) is_promised: bool,
}

/// Our default against what it promises, as far as the results tell: in one
/// process, and by shared memory.
pub(crate) fn bars(results: &Results) -> Vec<Bar> {
    let mut bars = bars_of(DEFAULT, results);
    for bar in bars_of(SHARED, results) {
        bars.push(Bar {
            what: format!("shared: {}", bar.what),
            ..bar
        });
    }
    bars
}

fn bars_of(who: &str, results: &Results) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (workload, rows) in results {
        let of = |name: &str| rows.iter().find(|(one, _)| one == name).map(|(_, all)| all);
        let Some(ours) = of(who) else {
            continue;
        };
        match workload.name {
            "even-70" | "even-90" | "mixed-70" | "mixed-90" | "heavy-70" | "heavy-90" => {
                for other in ["Prequal", "C3", "C3, probed"] {
                    let Some(other_figures) = of(other) else {
                        continue;
                    };
                    let (mine, its) = (ours.quantile_ms(0.99), other_figures.quantile_ms(0.99));
                    bars.push(Bar {
                        what: format!("{}: p99 at or below that of {other}", workload.name),
                        found: format!("{} for {}", ms(mine), ms(its)),
                        is_kept: mine <= its,
                        // A rule of our own making out of two.
                        is_promised: other != "C3, probed",
                    });
                }
            }
            name if name.starts_with("over-") && workload.load <= 1.5 => {
                let weighted = of("weighted RR").map_or(0, Figures::errors);
                bars.push(Bar {
                    what: format!("{name}: no errors"),
                    found: format!("{}; weighted RR {weighted}", ours.errors()),
                    is_kept: ours.errors() == 0,
                    is_promised: true,
                });
            }
            "dead" | "black-hole" => {
                let lost = ours
                    .fault_failures
                    .iter()
                    .max()
                    .copied()
                    .unwrap_or(u64::MAX);
                bars.push(Bar {
                    what: format!("{}: at most 10 failed calls", workload.name),
                    found: lost.to_string(),
                    is_kept: lost <= 10,
                    is_promised: true,
                });
            }
            "stall" => bars.extend(stall_bars(ours)),
            _ => {}
        }
    }
    bars
}

fn stall_bars(ours: &Figures) -> [Bar; 2] {
    let drained = ours.drained.iter().max().copied();
    let is_back = |time: &Option<Duration>| time.is_some_and(|one| one <= Duration::from_secs(5));
    [
        Bar {
            what: "stall: drained within 500 ms".to_owned(),
            found: seconds(drained),
            is_kept: drained.is_some_and(|one| one <= Duration::from_millis(500)),
            is_promised: true,
        },
        Bar {
            what: "stall: used again within 5 s".to_owned(),
            found: back(ours),
            is_kept: !ours.recovered.is_empty() && ours.recovered.iter().all(is_back),
            is_promised: true,
        },
    ]
}

/// The bars as a table.
pub(crate) fn bars_table(bars: &[Bar]) -> String {
    let mut text = format!(
        "\n## Bars for the default, `{DEFAULT}`\n\n| bar | found | kept |\n|---|---:|---|\n"
    );
    for bar in bars {
        let kept = match (bar.is_kept, bar.is_promised) {
            (true, _) => "yes",
            (false, true) => "**no**",
            (false, false) => "no, nor promised",
        };
        let _ = writeln!(text, "| {} | {} | {kept} |", bar.what, bar.found);
    }
    text
}
