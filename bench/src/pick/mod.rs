//! `bench pick`: a pick and its report, from another process' memory.

mod caller;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use waystation_balance::{Balancer, BalancerConfig, Load, PolicyKind};
use waystation_base::{Rng, ServiceName};
use waystation_client::{Access, Mapping, machine_now};
use waystation_membership::{Instance, InstanceId, Owner, View, ViewVersion};
use waystation_segment::{Keeper, RouteWriter, TURN_EVERY, create_ledger, ledger_words};

use crate::figures::{count, figure, spread};
use crate::machine::Watch;
use crate::results::{Benchmark, Block, Run};
use crate::stats::{Summary, number};
use crate::table::{Align, Table};

pub(crate) use caller::CallerArgs;
pub(crate) use caller::run as run_caller;

const BENCHMARK: Benchmark = Benchmark {
    name: "pick",
    about: include_str!("about.md"),
};

/// Hosts of the service, row by row; the bars are about the second.
const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];

/// `bench pick`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, every size has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Pairs that are timed in a round
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000_000))]
    pairs: u32,
    /// The results file [default: bench/results/pick.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a caller measured, in nanoseconds.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Measured {
    pub(crate) pick_p50: f64,
    pub(crate) pick_p99: f64,
    pub(crate) pair_p50: u64,
    pub(crate) pair_p99: u64,
    pub(crate) pairs: u64,
    pub(crate) total_ns: u64,
    /// Picks that compared reported hosts, and all.
    pub(crate) compared: u64,
    pub(crate) picks: u64,
}

/// Runs the benchmark, prints its results and writes its file.
///
/// # Errors
/// Memory cannot be shared, the other process fails, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let mut series = SIZES.map(|_| Vec::new());
    for round in 0..args.rounds as usize {
        for size in crate::stats::order(SIZES.len(), round) {
            let measured = measure(SIZES[size], args.pairs)
                .with_context(|| format!("with {} hosts", SIZES[size]))?;
            ensure!(
                measured.compared * 10 > measured.picks * 9,
                "the pool was empty for most picks: {measured:?}"
            );
            series[size].push(measured);
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    let run = Run {
        facts: watch.finish(),
        settings: format!("--rounds {} --pairs {}", args.rounds, args.pairs),
        blocks: blocks(&series),
    };
    run.print()?;
    let path = run.replace(BENCHMARK, args.out.as_deref())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

fn view(hosts: u32) -> Result<View> {
    let service = ServiceName::new("bench")?;
    let mut view = View::empty(service.clone(), ViewVersion::default());
    for n in 0..hosts {
        let id = InstanceId::new(&format!("host-{n}"))?;
        let address = format!("10.0.{}.{}:7000", n / 250, n % 250 + 1).parse()?;
        let one = Instance::new(id.clone(), service.clone(), address, Owner::default());
        view.instances.insert(id, Arc::new(one));
    }
    Ok(view)
}

/// The other process, killed when it is dropped.
struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    fn start(routes: &OwnedFd, ledger: &OwnedFd, pairs: u32) -> Result<Self> {
        // It opens the files of this process, which have no names of their own.
        let file = |one: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), one.as_raw_fd());
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "pick-caller",
                "--routes",
                &file(routes),
                "--ledger",
                &file(ledger),
            ])
            .args(["--pairs", &pairs.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the caller")?;
        let input = child.stdin.take().context("it has an input")?;
        let output = child.stdout.take().context("it has an output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn measure(hosts: u32, pairs: u32) -> Result<Measured> {
    let capacity = Keeper::<Mapping, Mapping>::capacity_for(hosts as usize);
    let words = RouteWriter::<Mapping>::words(capacity);
    let (memory, routes) = Mapping::create("bench-routes", words, Access::Read)?;
    let writer = RouteWriter::create(memory, capacity, 1, 1)?;
    let balancer = Balancer::new(BalancerConfig::default(), PolicyKind::Fresh.build(1), 1);
    let mut keeper = Keeper::new(balancer, writer);
    keeper.handle_view(machine_now(), &view(hosts)?);
    let words = ledger_words(capacity);
    let (memory, ledger) = Mapping::create("bench-ledger", words, Access::Write)?;
    create_ledger(&memory, capacity, (1, 1))?;
    keeper.attach(memory)?;
    let mut caller = Caller::start(&routes, &ledger, pairs)?;
    let (tx, rx) = std::sync::mpsc::channel();
    let mut line = String::new();
    caller.input.write_all(b"go\n")?;
    std::thread::scope(|scope| {
        let output = &mut caller.output;
        let line = &mut line;
        scope.spawn(move || {
            let read = output.read_line(line);
            // The agent's side may have failed; then nobody waits.
            let _unheard = tx.send(read);
        });
        let mut rng = Rng::from_seed(7);
        loop {
            serve(&mut keeper, &mut rng);
            match rx.recv_timeout(TURN_EVERY) {
                Ok(read) => break read.context("the caller said nothing"),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(error) => return Err(error.into()),
            }
        }
    })?;
    serde_json::from_str(&line).context("the caller failed")
}

/// A turn of the agent, with answers to its probes.
fn serve(keeper: &mut Keeper<Mapping, Mapping>, rng: &mut Rng) {
    let now = machine_now();
    keeper.handle_turn(now);
    while let Some(name) = keeper.poll_probe(now) {
        let load = Load {
            in_flight: u32::try_from(rng.below(8)).unwrap_or(0),
            latency_us: 1_000 + u32::try_from(rng.below(1_000)).unwrap_or(0),
        };
        keeper.balancer_mut().handle_probe_answered(now, name, load);
    }
}

fn blocks(series: &[Vec<Measured>; SIZES.len()]) -> Vec<Block> {
    let mut table = Table::new(&[
        ("hosts", Align::Right),
        ("pick p50, ns", Align::Right),
        ("p99", Align::Right),
        ("pair p50, ns", Align::Right),
        ("p99", Align::Right),
        ("M pairs/s", Align::Right),
    ]);
    let shown = |values: Vec<f64>| {
        let summary = Summary::of(&values);
        summary.map_or_else(String::new, |one| {
            format!("{} ({})", figure(one.median), spread(&one))
        })
    };
    for (size, rounds) in SIZES.iter().zip(series) {
        let of = |one: fn(&Measured) -> f64| shown(rounds.iter().map(one).collect());
        table.row([
            count(u64::from(*size)),
            of(|one| one.pick_p50),
            of(|one| one.pick_p99),
            of(|one| number(one.pair_p50)),
            of(|one| number(one.pair_p99)),
            of(|one| number(one.pairs) * 1e3 / number(one.total_ns.max(1))),
        ]);
    }
    vec![
        Block::Table("median of the rounds (extremes)".to_owned(), table),
        Block::Text(bars(&series[1])),
    ]
}

/// Whether the bars of 100 hosts are met, by the medians of the rounds.
fn bars(rounds: &[Measured]) -> String {
    let median = |one: fn(&Measured) -> f64| {
        let values: Vec<f64> = rounds.iter().map(one).collect();
        Summary::of(&values).map_or(0.0, |summary| summary.median)
    };
    let word = |is_met: bool| if is_met { "met" } else { "missed" };
    let pairs = median(|one| number(one.pairs) * 1e3 / number(one.total_ns.max(1)));
    format!(
        "With 100 hosts: pick p50 under 60 ns {}, pair p50 under 150 ns {}, pair p99 under 500 ns \
         {}, 5 M pairs/s {}.",
        word(median(|one| one.pick_p50) < 60.0),
        word(median(|one| number(one.pair_p50)) < 150.0),
        word(median(|one| number(one.pair_p99)) < 500.0),
        word(pairs >= 5.0),
    )
}
