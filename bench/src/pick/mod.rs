//! `bench pick`: a pick and its report, from another process' memory.

mod agent;
mod caller;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use waystation_segment::TURN_EVERY;

use crate::bars::Bars;
use crate::figures::{count, figure, spread};
use crate::machine::Watch;
use crate::results::{Benchmark, Block, Run};
use crate::stats::{Summary, number};
use crate::table::{Align, Table};
use agent::{Door, Side};

pub(crate) use caller::CallerArgs;
pub(crate) use caller::run as run_caller;

const BENCHMARK: Benchmark = Benchmark {
    name: "pick",
    about: include_str!("about.md"),
};

/// Hosts of the service, row by row; the bars are about the second, and about the
/// last beside the first.
const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];

/// How often as long a pick among most hosts may take as one among the fewest.
const GROWTH_MAX: f64 = 1.5;

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

/// How the caller picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// As programs do.
    Caller,
    /// What is below that.
    Picker,
}

impl By {
    const ALL: [Self; 2] = [Self::Caller, Self::Picker];

    const fn name(self) -> &'static str {
        match self {
            Self::Caller => "`client::Caller`",
            Self::Picker => "`segment::Picker`",
        }
    }
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

/// The rounds of each size, by each way.
type Series = [[Vec<Measured>; SIZES.len()]; By::ALL.len()];

/// Runs the benchmark, prints its results and writes its file.
///
/// # Errors
/// Memory cannot be shared, the other process fails, the results cannot be written, or a bar is
/// missed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let mut series: Series = By::ALL.map(|_| SIZES.map(|_| Vec::new()));
    for round in 0..args.rounds as usize {
        for turn in crate::stats::order(SIZES.len() * By::ALL.len(), round) {
            let (way, size) = (turn % By::ALL.len(), turn / By::ALL.len());
            let by = By::ALL[way];
            let measured = measure(by, SIZES[size], args.pairs)
                .with_context(|| format!("{} with {} hosts", by.name(), SIZES[size]))?;
            ensure!(
                measured.compared * 10 > measured.picks * 9,
                "the pool was empty for most picks: {measured:?}"
            );
            series[way][size].push(measured);
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    let mut bars = Bars::default();
    let run = Run {
        facts: watch.finish(),
        settings: format!("--rounds {} --pairs {}", args.rounds, args.pairs),
        blocks: blocks(&series, &mut bars),
    };
    run.print()?;
    let path = run.replace(BENCHMARK, args.out.as_deref())?;
    eprintln!("wrote {}", path.display());
    bars.finish()
}

/// The other process, killed when it is dropped.
struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    fn start(by: By, door: &Door, [routes, ledger]: &[OwnedFd; 2], pairs: u32) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("pick-caller");
        // It opens the files of this process, which have no names of their own.
        let file = |one: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), one.as_raw_fd());
        match by {
            By::Caller => command.arg("--socket").arg(door.path()),
            By::Picker => command.args(["--routes", &file(routes), "--ledger", &file(ledger)]),
        };
        let mut child = command
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

fn measure(by: By, hosts: u32, pairs: u32) -> Result<Measured> {
    let mut side = Side::new(hosts)?;
    let door = Door::new()?;
    let mut caller = Caller::start(by, &door, &side.files, pairs)?;
    let files = [side.files[0].try_clone()?, side.files[1].try_clone()?];
    let (tx, rx) = std::sync::mpsc::channel();
    let mut line = String::new();
    caller.input.write_all(b"go\n")?;
    std::thread::scope(|scope| {
        if by == By::Caller {
            // It ends with the caller, which attaches first of all.
            scope.spawn(|| {
                if let Err(error) = door.serve(&files) {
                    eprintln!("the socket: {error:#}");
                }
            });
        }
        let output = &mut caller.output;
        let line = &mut line;
        scope.spawn(move || {
            let read = output.read_line(line);
            // The agent's side may have failed; then nobody waits.
            let _unheard = tx.send(read);
        });
        loop {
            side.handle_turn();
            match rx.recv_timeout(TURN_EVERY) {
                Ok(read) => break read.context("the caller said nothing"),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(error) => return Err(error.into()),
            }
        }
    })?;
    serde_json::from_str(&line).context("the caller failed")
}

fn blocks(series: &Series, bars: &mut Bars) -> Vec<Block> {
    let mut table = Table::new(&[
        ("hosts", Align::Right),
        ("by", Align::Left),
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
    for (by, series) in By::ALL.iter().zip(series) {
        for (size, rounds) in SIZES.iter().zip(series) {
            let of = |one: fn(&Measured) -> f64| shown(rounds.iter().map(one).collect());
            table.row([
                count(u64::from(*size)),
                by.name().to_owned(),
                of(|one| one.pick_p50),
                of(|one| one.pick_p99),
                of(|one| number(one.pair_p50)),
                of(|one| number(one.pair_p99)),
                of(million_pairs),
            ]);
        }
    }
    vec![
        Block::Table("median of the rounds (extremes)".to_owned(), table),
        Block::Table(
            "Bars, through `client::Caller`".to_owned(),
            judged(&series[0], bars),
        ),
    ]
}

/// Whether the bars are met, by the medians of the rounds.
fn judged(series: &[Vec<Measured>; SIZES.len()], bars: &mut Bars) -> Table {
    let mut table = Table::new(&[
        ("bar", Align::Left),
        ("wanted", Align::Right),
        ("reached", Align::Right),
        ("", Align::Left),
    ]);
    let [fewest, hundred, .., most] = series;
    let mut row = |name: &str, wanted: String, reached: f64, is_kept: bool| {
        let word = bars.word(name, is_kept).to_owned();
        table.row([name.to_owned(), wanted, figure(reached), word]);
    };
    let pick = median(hundred, |one| one.pick_p50);
    row(
        "100 hosts, pick p50, ns",
        "under 60".to_owned(),
        pick,
        pick < 60.0,
    );
    let pair = median(hundred, |one| number(one.pair_p50));
    row(
        "100 hosts, pair p50, ns",
        "under 150".to_owned(),
        pair,
        pair < 150.0,
    );
    let slow = median(hundred, |one| number(one.pair_p99));
    row(
        "100 hosts, pair p99, ns",
        "under 500".to_owned(),
        slow,
        slow < 500.0,
    );
    let pairs = median(hundred, million_pairs);
    row(
        "100 hosts, M pairs/s",
        "at least 5".to_owned(),
        pairs,
        pairs >= 5.0,
    );
    let growth = |one: fn(&Measured) -> f64| median(most, one) / median(fewest, one);
    let times = format!("at most {GROWTH_MAX} times");
    let picks = growth(|one| one.pick_p50);
    row(
        "pick p50, 10,000 hosts to 10",
        times.clone(),
        picks,
        picks <= GROWTH_MAX,
    );
    let pairs = growth(|one| number(one.pair_p50));
    row(
        "pair p50, 10,000 hosts to 10",
        times,
        pairs,
        pairs <= GROWTH_MAX,
    );
    table
}

fn median(rounds: &[Measured], one: impl Fn(&Measured) -> f64) -> f64 {
    let values: Vec<f64> = rounds.iter().map(one).collect();
    Summary::of(&values).map_or(f64::NAN, |summary| summary.median)
}

fn million_pairs(one: &Measured) -> f64 {
    number(one.pairs) * 1e3 / number(one.total_ns.max(1))
}
