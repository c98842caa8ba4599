//! `bench net`: `resp_server` beside redis-server, a bare epoll loop and a bare tokio loop.

mod bare;
pub(crate) mod load;
pub(crate) mod program;
mod redis_benchmark;
pub(crate) mod report;
pub(crate) mod serve;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::load::{Clients, PING, Plan};
use self::program::Program;
use self::report::{Bar, Case, Sides};
use crate::machine::Watch;
use crate::results::{Benchmark, Run};
use crate::stats::order;

pub(crate) use self::bare::{LISTENER, events, listen};

const BENCHMARK: Benchmark = Benchmark {
    name: "net",
    about: include_str!("about.md"),
};

/// Who puts the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    /// The benchmark's own generator
    Own,
    /// redis-benchmark
    RedisBenchmark,
}

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::RedisBenchmark => "redis-benchmark",
        }
    }
}

/// `bench net`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, every server has its turn
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Connections
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,50,500,5000"
    )]
    connections: Vec<usize>,
    /// Requests that a connection has under way
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,16,64"
    )]
    pipelines: Vec<usize>,
    /// How long each load is measured, after a third of it to warm up
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    milliseconds: u64,
    /// Who puts the load
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "own,redis-benchmark"
    )]
    load: Vec<Load>,
    /// The results file [default: bench/results/net.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the table's last columns compare with.
const BARS: &[Bar] = &[
    Bar::new(OURS, REDIS, 1, 1.1),
    Bar::new(OURS, REDIS, 16, 1.5),
    Bar::new(OURS, TOKIO, 1, 0.95),
    Bar::new(OURS, TOKIO, 16, 0.95),
    Bar::new(SPLIT, OURS, 16, 0.7),
];

const OURS: &str = "resp_server";
const SPLIT: &str = "resp_server, split";
const REDIS: &str = "redis-server";
const TOKIO: &str = "tokio loop";

/// Runs the benchmark, prints its results and writes its file.
///
/// # Errors
/// A program cannot be started or answers wrongly, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let server = program::build("resp_server")?;
    let watch = Watch::start();
    let programs = [
        Program::listening(OURS, &server, &[])?,
        Program::listening(SPLIT, &server, &["--io-shards", "1"])?,
        Program::redis()?,
        Program::own("epoll loop", &["epoll"])?,
        Program::own(TOKIO, &["tokio"])?,
    ];
    // The generator has a CPU of its own, where there are two: a server that shares one with it is
    // measured by the scheduler's moods.
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
        program::pin(None, 1)?;
        for program in &programs {
            program.pin(0)?;
        }
    }
    let mut sides: Vec<(Load, Sides)> = Vec::new();
    for &load in &args.load {
        let names = programs.iter().map(|program| program.name);
        sides.push((load, Sides::new(names)));
    }
    for round in 0..args.rounds as usize {
        for (load, sides) in &mut sides {
            for &connections in &args.connections {
                for side in order(programs.len(), round) {
                    let program = &programs[side];
                    measure(args, *load, program, connections, &mut |case, measured| {
                        sides.add(side, case, measured);
                    })
                    .with_context(|| format!("{} under {connections} connections", program.name))?;
                }
            }
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    drop(programs);
    program::unpin()?;
    let blocks = sides
        .iter()
        .flat_map(|(load, sides)| sides.blocks(load.name(), BARS));
    let run = Run {
        facts: watch.finish(),
        settings: settings(args),
        blocks: blocks.collect(),
    };
    run.print()?;
    let path = run.replace(BENCHMARK, args.out.as_deref())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// As the command line takes them.
fn settings(args: &Args) -> String {
    let loads: Vec<&str> = args.load.iter().map(|load| load.name()).collect();
    format!(
        "--rounds {} --connections {} --pipelines {} --milliseconds {} --load {}",
        args.rounds,
        list(&args.connections),
        list(&args.pipelines),
        args.milliseconds,
        loads.join(","),
    )
}

/// Numbers with commas between them.
pub(crate) fn list(list: &[usize]) -> String {
    let words: Vec<String> = list.iter().map(ToString::to_string).collect();
    words.join(",")
}

fn measure(
    args: &Args,
    load: Load,
    program: &Program,
    connections: usize,
    add: &mut dyn FnMut(Case, load::Measured),
) -> Result<()> {
    let mut clients = match load {
        Load::Own => Some(Clients::connect(program.address, connections)?),
        Load::RedisBenchmark => None,
    };
    for &pipeline in &args.pipelines {
        let measured = if let Some(clients) = &mut clients {
            clients.run(PING, &plan(args.milliseconds, pipeline), program)?
        } else {
            // About as long as one of our own loads, by what such a load reaches.
            let rate = if pipeline == 1 { 70 } else { 900 };
            let requests = (args.milliseconds * rate).max(10 * connections as u64);
            redis_benchmark::run(program, PING, connections, pipeline, requests)?
        };
        let case = Case {
            question: PING.name,
            connections,
            pipeline,
        };
        add(case, measured);
    }
    Ok(())
}

pub(crate) fn plan(milliseconds: u64, pipeline: usize) -> Plan {
    Plan {
        pipeline,
        warm: Duration::from_millis(milliseconds / 3),
        measured: Duration::from_millis(milliseconds),
    }
}
