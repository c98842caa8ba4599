//! `bench sync`: publishes, apply, catch-up and join.

mod apply;
mod capture;
mod join;
mod publish;
mod report;
mod rows;
mod stores;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::machine::Watch;
use crate::results::{Benchmark, Run};
use crate::stats::order;
use capture::Triggers;
use report::{Applied, Publishes, Report};
use stores::Store;

const BENCHMARK: Benchmark = Benchmark {
    name: "sync",
    about: include_str!("about.md"),
};

/// Longest wait for anything.
const WAIT: Duration = Duration::from_mins(5);

/// `bench sync`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, every side has its turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long publishes are counted
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Row changes of the catch-up
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    rows: u64,
    /// Rows that are inserted, changed and deleted where writes are captured
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    written: u64,
    /// Size of the file that is joined
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    mib: u64,
    /// Connections and outstanding publishes of each
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1x1,1x16,8x1,8x16,64x1,64x16"
    )]
    loads: Vec<Load>,
    /// Parts that are measured [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<Part>,
    /// The results file [default: bench/results/sync.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How many publish at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) outstanding: usize,
}

impl std::str::FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (connections, outstanding) = text.split_once('x')?;
            let load = Self {
                connections: connections.parse().ok()?,
                outstanding: outstanding.parse().ok()?,
            };
            (load.connections > 0 && load.outstanding > 0).then_some(load)
        };
        parse().ok_or_else(|| format!("`{text}` is not as 64x16"))
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {}", self.connections, self.outstanding)
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Publishes,
    Applied,
    CatchUp,
    Captured,
    Join,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// Something cannot be started, does not come about in time, or differs in the end.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let report = measure(args)?;
    let loads: Vec<String> = (args.loads.iter())
        .map(|load| format!("{}x{}", load.connections, load.outstanding))
        .collect();
    let only: Vec<String> = (args.only.iter())
        .filter_map(clap::ValueEnum::to_possible_value)
        .map(|part| part.get_name().to_owned())
        .collect();
    let only = match only.as_slice() {
        [] => String::new(),
        parts => format!(" --only {}", parts.join(",")),
    };
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--rounds {} --seconds {} --rows {} --written {} --mib {} --loads {}{only}",
            args.rounds,
            args.seconds,
            args.rows,
            args.written,
            args.mib,
            loads.join(",")
        ),
        blocks: report.blocks(),
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    Ok(())
}

/// All parts that are wanted.
fn measure(args: &Args) -> Result<Report> {
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let mut report = Report::default();
    if wants(Part::Publishes) {
        for &load in &args.loads {
            let row = publishes(args, load).with_context(|| format!("publishes at {load}"))?;
            report.publishes.push(row);
            eprintln!("publishes: {load}");
        }
    }
    if wants(Part::Applied) {
        for per_second in [200, 2000] {
            let took = apply::latency(per_second, Duration::from_secs(args.seconds))?;
            report.applied.push(Applied { per_second, took });
            eprintln!("publish to applied: {per_second}/s");
        }
    }
    if wants(Part::CatchUp) {
        catch_ups(args, &mut report)?;
    }
    if wants(Part::Captured) {
        captured(args, &mut report)?;
    }
    if wants(Part::Join) {
        joins(args, &mut report)?;
    }
    Ok(report)
}

fn catch_ups(args: &Args, report: &mut Report) -> Result<()> {
    for round in 0..args.rounds {
        for side in order(2, round as usize) {
            if side == 0 {
                report.catch_up.ours.push(apply::catch_up(args.rows)?);
            } else {
                report.catch_up.peer.push(apply::plain(args.rows)?);
            }
        }
        eprintln!("catch-up: round {}", round + 1);
    }
    Ok(())
}

fn captured(args: &Args, report: &mut Report) -> Result<()> {
    for round in 0..args.rounds {
        for side in order(Triggers::ALL.len(), round as usize) {
            let rates = capture::writes(Triggers::ALL[side], args.written)?;
            report.captured[side].push(rates);
        }
        eprintln!("captured writes: round {}", round + 1);
    }
    Ok(())
}

fn joins(args: &Args, report: &mut Report) -> Result<()> {
    let donor = join::Donor::new(args.mib)?;
    for round in 0..args.rounds {
        for side in order(2, round as usize) {
            if side == 0 {
                report.join.ours.push(join::ours(&donor)?);
            } else {
                report.join.peer.push(join::peer(&donor)?);
            }
        }
        eprintln!("join: round {}", round + 1);
    }
    Ok(())
}

/// All stores under one load, and what the disk allows.
fn publishes(args: &Args, load: Load) -> Result<Publishes> {
    let window = Duration::from_secs(args.seconds);
    let mut row = Publishes::of(load);
    for round in 0..args.rounds {
        row.fdatasync
            .push(publish::fdatasync(window.min(Duration::from_secs(2)))?);
        for side in order(Store::ALL.len(), round as usize) {
            let store = Store::ALL[side];
            let figures = publish::measure(store, load, window);
            row.stores[side].push(figures.with_context(|| store.name().to_owned())?);
        }
    }
    Ok(row)
}
