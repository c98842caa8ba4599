//! `bench hosts`: policies on real processes, two of which are slow.

mod host;
mod load;
mod report;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waystation_agent::{Agent, AgentConfig};
use waystation_balance::PolicyKind;
use waystation_base::ServiceName;
use waystation_client::{Caller, CallerConfig};
use waystation_membership::{Instance, InstanceId, Owner};
use waystation_registry::instance_to_json;

pub(crate) use self::host::{HostArgs, run_host};

use self::report::Level;
use crate::bars::Bars;
use crate::machine::Watch;
use crate::net::program::Program;
use crate::results::{Benchmark, Run};
use crate::timing::now;

const BENCHMARK: Benchmark = Benchmark {
    name: "hosts",
    about: include_str!("about.md"),
};

/// The service.
const SERVICE: &str = "bench";

/// Instances, and how many of them are slowed.
const HOSTS: usize = 8;
const SLOW: usize = 2;

/// The mean time of a call, in microseconds.
const WORK_US: u32 = 5_000;
const SLOWED_TIMES: u32 = 10;

/// Policies in the order of the tables; the first is the default.
const POLICIES: [PolicyKind; 5] = [
    PolicyKind::Fresh,
    PolicyKind::RoundRobin,
    PolicyKind::Lars,
    PolicyKind::P2c,
    PolicyKind::Prequal,
];

/// How long an agent may take to know its hosts.
const WAIT: Duration = Duration::from_secs(30);

/// `bench hosts`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Calls a second, a table for each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_000, 3_360], value_parser = clap::value_parser!(u32).range(10..=4_500))]
    rates: Vec<u32>,
    /// How long each policy is measured in a round
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Rounds, in each of which all policies have a turn at each rate
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// The results file [default: bench/results/hosts.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// A process does not start, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let mut levels: Vec<Level> = args.rates.iter().map(|&rate| Level::at(rate)).collect();
    for round in 0..args.rounds as usize {
        for level in &mut levels {
            for at in crate::stats::order(POLICIES.len(), round) {
                let policy = POLICIES[at];
                let outcomes = measure(policy, level.rate, args.seconds, round as u64);
                let outcomes = outcomes.with_context(|| format!("by {}", policy.name()))?;
                level.rounds[at].push(outcomes);
            }
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    let mut bars = Bars::default();
    let rates: Vec<String> = args.rates.iter().map(u32::to_string).collect();
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--rates {} --seconds {} --rounds {}",
            rates.join(","),
            args.seconds,
            args.rounds
        ),
        blocks: report::blocks(&mut levels, &mut bars),
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    bars.finish()
}

/// One policy, on processes of its own.
fn measure(policy: PolicyKind, rate: u32, seconds: u32, seed: u64) -> Result<load::Outcomes> {
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let times = if number < SLOW { SLOWED_TIMES } else { 1 };
        let work = (WORK_US * times).to_string();
        let number = number.to_string();
        let flags = ["bench-host", "--number", &number, "--work-us", &work];
        let own = std::env::current_exe().context("cannot find the running benchmark")?;
        hosts.push(Program::listening("a host", &own, &flags)?);
    }
    let folder = tempfile::tempdir()?;
    let agent = start_agent(folder.path(), policy, &hosts)?;
    let mut config = CallerConfig::new(SERVICE, agent.socket());
    config.timeout = WAIT;
    let outcomes = load::run(config, rate, seconds, seed);
    agent.drain();
    outcomes
}

fn start_agent(folder: &Path, policy: PolicyKind, hosts: &[Program]) -> Result<Agent> {
    let mut text = String::new();
    for (host, number) in hosts.iter().zip(0..) {
        let id = InstanceId::new(&format!("host-{number}"))?;
        let service = ServiceName::new(SERVICE)?;
        let one = Instance::new(id, service, host.address.into(), Owner::default());
        writeln!(text, "{}", instance_to_json(&one))?;
    }
    let nodes = folder.join("nodes");
    std::fs::write(&nodes, text)?;
    let url = format!("file://{}", nodes.display()).parse()?;
    let mut config = AgentConfig::new(folder.join("agent.sock"), url, 1);
    config.policy = policy;
    config.udp.clear();
    let agent = Agent::start(config)?;
    let mut config = CallerConfig::new(SERVICE, agent.socket());
    config.pause = Duration::ZERO;
    let mut caller = Caller::new(config);
    let end = now() + WAIT;
    while caller.get_route().map_or(0, |hosts| hosts.len()) < HOSTS {
        ensure!(now() < end, "the agent does not know its hosts");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(agent)
}
