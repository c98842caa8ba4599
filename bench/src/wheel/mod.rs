//! `bench timers`: the deadline wheel of `waystation-base` beside other timers.

mod delay_queue;
mod heap;
mod own;
mod report;
mod rounds;
mod sleep;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use waystation_base::Moment;

use crate::machine::Watch;
use crate::results::{Benchmark, Run};

use rounds::Plan;

/// Introduction of the results file.
const BENCHMARK: Benchmark = Benchmark {
    name: "timers",
    about: include_str!("about.md"),
};

/// `bench timers`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, every timer has its turn
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Deadlines pending at once
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=20_000_000))]
    pending: u32,
    /// Over how long the deadlines are spread; each round waits as long for the last one
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    spread: u32,
    /// Where randomness starts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The results file [default: bench/results/timers.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark, prints its results and writes its file.
///
/// Takes a little more than `rounds` times `spread`, most of it asleep.
///
/// # Errors
/// A timer loses a deadline, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let plan = Plan {
        pending: args.pending as usize,
        spread: Duration::from_secs(args.spread.into()),
        lead: LEAD,
        seed: args.seed,
    };
    let measured = rounds::run(&plan, args.rounds as usize)?;
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--rounds {} --pending {} --spread {} --seed {}",
            args.rounds, args.pending, args.spread, args.seed
        ),
        blocks: report::blocks(&plan, &measured),
    };
    run.print()?;
    let path = run.replace(BENCHMARK, args.out.as_deref())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The first deadline lies so far ahead of its making that it is inserted in time, and that every
/// timer is filled before it comes.
const LEAD: Duration = Duration::from_secs(4);

/// The same moment on each clock that a timer may want.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    moment: Moment,
    instant: Instant,
}

impl Origin {
    /// The present. The two clocks are the same one; their readings lie some 50 ns apart.
    fn now() -> Self {
        Self {
            moment: crate::timing::now(),
            instant: Instant::now(),
        }
    }
}

/// What a timer starts from.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    origin: Origin,
    lead: Duration,
    runtime: Rc<Runtime>,
}

/// What all timers can do. The loops of a benchmark are generic over it, so that each call is
/// a direct one.
pub(crate) trait Timer {
    /// A deadline in the form in which `insert` wants it. Its making is not timed.
    type Deadline;
    /// What names a pending deadline.
    type Key;

    /// Its name in the tables.
    const NAME: &'static str;

    /// An empty timer. Everything on it happens within the setting's runtime, which no other timer uses, but
    /// not on one of its tasks: a task may do only so much before it has to yield.
    fn new(setting: &Setting) -> Self;

    /// A deadline `after` the timer's origin.
    fn deadline(&self, after: Duration) -> Self::Deadline;

    /// Adds a deadline.
    fn insert(&mut self, at: Self::Deadline, value: u64) -> Self::Key;

    /// Takes a pending deadline out.
    fn cancel(&mut self, key: Self::Key);

    /// Yields everything that is due. Returns how many deadlines that was, if that is known here.
    fn expire(&mut self) -> Option<usize>;

    /// How many of `keys` have neither been yielded nor cancelled. Not timed.
    fn pending(&self, keys: &[Self::Key]) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Summary;

    /// Every timer keeps every deadline of a small run: `rounds::run` fails otherwise.
    #[test]
    fn each_operation_of_each_timer_is_measured_in_each_round() {
        let plan = Plan {
            pending: 200,
            spread: Duration::from_millis(30),
            lead: Duration::from_secs(1),
            seed: 7,
        };
        let measured = rounds::run(&plan, 2).unwrap();
        assert_eq!(measured.timers.len(), 4);
        for timer in &measured.timers {
            for (operation, series) in rounds::OPERATIONS.iter().zip(&timer.cpu_ns) {
                assert_eq!(series.len(), 2, "{} {operation}", timer.name);
                let summary = Summary::of(series).unwrap();
                assert!(summary.min > 0.0, "{} {operation}: {summary:?}", timer.name);
            }
        }
        let blocks = report::blocks(&plan, &measured);
        assert!(!blocks.is_empty());
    }
}
