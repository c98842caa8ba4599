//! `bench gateway`: `resp_gateway` beside nutcracker (twemproxy) and a bare epoll proxy.

pub(crate) mod proxy;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::machine::Watch;
use crate::net::load::{Clients, GET, PING, Question, SET};
use crate::net::program::{self, Program};
use crate::net::report::{Bar, Case, Sides};
use crate::net::{list, plan};
use crate::results::{Benchmark, Run};
use crate::stats::order;

const BENCHMARK: Benchmark = Benchmark {
    name: "gateway",
    about: include_str!("about.md"),
};

/// `bench gateway`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, every proxy has its turn
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Connections
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "50,500"
    )]
    connections: Vec<usize>,
    /// Requests that a connection has under way
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,16"
    )]
    pipelines: Vec<usize>,
    /// How long each load is measured, after a third of it to warm up
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    milliseconds: u64,
    /// The results file [default: bench/results/gateway.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const OURS: &str = "resp_gateway";
const NUTCRACKER: &str = "nutcracker";
const BARE: &str = "epoll proxy";

const BARS: &[Bar] = &[
    Bar::new(OURS, NUTCRACKER, 1, 1.5),
    Bar::new(OURS, NUTCRACKER, 16, 4.0),
    Bar::lower_p99(OURS, NUTCRACKER, 1),
    Bar::lower_p99(OURS, NUTCRACKER, 16),
    Bar::new(OURS, BARE, 1, 0.9),
    Bar::new(OURS, BARE, 16, 0.9),
];

/// Runs the benchmark, prints its results and writes its file.
///
/// # Errors
/// A program cannot be started or answers wrongly, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let gateway = program::build("resp_gateway")?;
    let watch = Watch::start();
    let redis = Program::redis()?;
    redis.until_answer(SET.request, SET.answer)?;
    let upstream = redis.address.to_string();
    let programs = [
        Program::listening(
            OURS,
            &gateway,
            &["--upstream", &upstream, "--connections", "1"],
        )?,
        Program::nutcracker(redis.address)?,
        Program::own(BARE, &["proxy", "--upstream", &upstream])?,
    ];
    for program in &programs {
        program.until_answer(GET.request, GET.answer)?;
    }
    // The proxy under load has a CPU of its own, where there are two.
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
        program::pin(None, 1)?;
        redis.pin(1)?;
        for program in &programs {
            program.pin(0)?;
        }
    }
    let mut sides = Sides::new(programs.iter().map(|program| program.name));
    for round in 0..args.rounds as usize {
        for &connections in &args.connections {
            for side in order(programs.len(), round) {
                let program = &programs[side];
                let mut clients = Clients::connect(program.address, connections)?;
                for (question, &pipeline) in pairs(&args.pipelines, program.name) {
                    let measured = clients
                        .run(question, &plan(args.milliseconds, pipeline), program)
                        .with_context(|| format!("{} under {connections}", program.name))?;
                    let case = Case {
                        question: question.name,
                        connections,
                        pipeline,
                    };
                    sides.add(side, case, measured);
                }
            }
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    drop(programs);
    program::unpin()?;
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--rounds {} --connections {} --pipelines {} --milliseconds {}",
            args.rounds,
            list(&args.connections),
            list(&args.pipelines),
            args.milliseconds,
        ),
        blocks: sides.blocks("own generator", BARS),
    };
    run.print()?;
    let path = run.replace(BENCHMARK, args.out.as_deref())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// What is asked of a proxy. nutcracker answers PING itself, which compares with nothing.
fn pairs<'a>(
    pipelines: &'a [usize],
    name: &str,
) -> impl Iterator<Item = (Question, &'a usize)> + use<'a> {
    let questions: &[Question] = if name == NUTCRACKER {
        &[SET, GET]
    } else {
        &[SET, GET, PING]
    };
    let questions = questions.to_vec();
    questions
        .into_iter()
        .flat_map(|question| pipelines.iter().map(move |pipeline| (question, pipeline)))
}
