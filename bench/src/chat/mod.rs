//! `bench chat`: the chat under load, through all three layers.

mod console;
mod report;
mod search;
mod step;
mod system;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::search::{Next, Search, Verdict};
use self::step::Step;
use self::system::System;
use crate::machine::Watch;
use crate::results::{Benchmark, Run};

/// Introduction of the results file.
const BENCHMARK: Benchmark = Benchmark {
    name: "chat",
    about: include_str!("about.md"),
};

/// `bench chat`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Messages a second, one or several rates
    #[arg(long, value_name = "R,R", value_delimiter = ',', default_values_t = [500, 2_000, 5_000], value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rates: Vec<u32>,
    /// Times that each rate runs
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long messages are sent in each run
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Clients that are connected
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    clients: u32,
    /// Delivery p99 above which a rate is not sustained
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    p99_max: u32,
    /// Leave out the search for the highest rate
    #[arg(long)]
    no_search: bool,
    /// Where randomness starts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The program to measure, instead of building it
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The folder below which the chat keeps its data [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The results file [default: bench/results/chat.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    fn p99_max(&self) -> Duration {
        Duration::from_millis(self.p99_max.into())
    }

    fn settings(&self) -> String {
        let rates: Vec<String> = self.rates.iter().map(ToString::to_string).collect();
        format!(
            "--rates {} --rounds {} --seconds {} --clients {} --p99-max {} --seed {}{}",
            rates.join(","),
            self.rounds,
            self.seconds,
            self.clients,
            self.p99_max,
            self.seed,
            if self.no_search { " --no-search" } else { "" }
        )
    }
}

/// All steps of a run.
#[derive(Debug, Default)]
struct Measured {
    /// At the rates of the command line: for each rate its rounds.
    fixed: Vec<Vec<Step>>,
    /// On the way to the highest rate, with what was found of each.
    search: Vec<(Step, Verdict)>,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// The chat cannot be built or started, dies, loses, doubles or reorders a message, or the results
/// cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let program = match &args.binary {
        Some(binary) => std::path::absolute(binary).context("cannot find the program")?,
        None => system::build()?,
    };
    let watch = Watch::start();
    let mut measured = Measured {
        fixed: args.rates.iter().map(|_| Vec::new()).collect(),
        search: Vec::new(),
    };
    for round in 0..args.rounds as usize {
        let system = System::start(&program, args.data.as_deref())?;
        for rate in turns(args.rates.len(), round) {
            let step = step::run(&system, args, args.rates[rate])?;
            eprintln!("round {} of {}: {}", round + 1, args.rounds, step.line());
            measured.fixed[rate].push(step);
        }
        system.stop()?;
    }
    if !args.no_search {
        let system = System::start(&program, args.data.as_deref())?;
        measured.search = search(&system, args, &measured.fixed)?;
        system.stop()?;
    }
    let run = Run {
        facts: watch.finish(),
        settings: args.settings(),
        blocks: report::blocks(args, &measured),
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    Ok(())
}

/// The rates in their order, and in the opposite one in every other round.
fn turns(rates: usize, round: usize) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..rates).collect();
    if round % 2 == 1 {
        turns.reverse();
    }
    turns
}

/// Whatever else the machine does makes a run slower and never faster: a rate is sustained when
/// one of its runs is, and on the way a run that is not is done once more.
fn search(system: &System, args: &Args, fixed: &[Vec<Step>]) -> Result<Vec<(Step, Verdict)>> {
    let judge = |step: &Step| search::judge(&step.report, args.p99_max());
    let mut search = Search::new(args.rates.iter().copied().max().unwrap_or(1));
    for steps in fixed {
        if let Some(best) = search::best(steps.iter().map(judge)) {
            search.saw(steps[0].rate, best);
        }
    }
    let mut steps = Vec::new();
    while let Next::Try(rate) = search.next() {
        let mut verdicts = Vec::new();
        while verdicts.len() < search::TRIES && search::best(verdicts.iter().copied()) != SUSTAINED
        {
            let step = step::run(system, args, rate)?;
            let verdict = judge(&step);
            eprintln!("search: {}: {verdict}", step.line());
            verdicts.push(verdict);
            steps.push((step, verdict));
        }
        if let Some(best) = search::best(verdicts.iter().copied()) {
            search.saw(rate, best);
        }
    }
    Ok(steps)
}

const SUSTAINED: Option<Verdict> = Some(Verdict::Sustained);
