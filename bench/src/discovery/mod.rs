//! `bench discovery`: how soon watchers see nodes come and go, on every backend.

mod bare;
mod churn;
mod report;
mod servers;
mod watchers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::machine::Watch;
use crate::net::program;
use crate::results::{Benchmark, Run};
use report::{BareSeries, Gone, Report, Row, Series};
use servers::{Backend, Running};

const BENCHMARK: Benchmark = Benchmark {
    name: "discovery",
    about: include_str!("about.md"),
};

/// The lease of every registration.
const SESSION: Duration = Duration::from_secs(4);

/// No wait is longer; none is meant to come near it.
const WAIT: Duration = Duration::from_mins(1);

/// Services of the instances under churn.
const SERVICES: usize = 100;

/// `bench discovery`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; in each, a node comes and goes before ours and before the bare watches
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Times of each kind at least, by more rounds where there are few watchers
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    samples: u32,
    /// Watchers
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,100,1000"
    )]
    watchers: Vec<usize>,
    /// Processes that are killed, one after another
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    kills: u32,
    /// Backends
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "embedded,etcd,zookeeper"
    )]
    backends: Vec<Backend>,
    /// Seconds of churn of an embedded registry's instances; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    churn: u64,
    /// Instances under churn, a multiple of their 100 services
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    churn_instances: usize,
    /// Watchers of these, a multiple of the services, too
    #[arg(long, value_name = "N", default_value_t = 1000)]
    churn_watchers: usize,
    /// Nothing but the churn
    #[arg(long)]
    churn_only: bool,
    /// The results file [default: bench/results/discovery.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// A server cannot be started, a watcher sees nothing in time, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let check = program::build("waystation-registry-check")?;
    let watch = Watch::start();
    let mut report = Report::default();
    let backends = if args.churn_only {
        &[][..]
    } else {
        &args.backends[..]
    };
    for &backend in backends {
        let server = Running::start(backend, &check);
        for &watchers in &args.watchers {
            let row = measure(&server, watchers, args.rounds_for(watchers))
                .with_context(|| format!("{} with {watchers} watchers", backend.name()))?;
            report.rows.push(row);
            eprintln!("{}: {watchers} watchers", backend.name());
        }
        let took = kills(&server, &check, args.kills)
            .with_context(|| format!("{}: killed processes", backend.name()))?;
        report.gone.push(Gone { backend, took });
    }
    if args.churn > 0 {
        let settings = churn::Settings {
            instances: args.churn_instances,
            services: SERVICES,
            watchers: args.churn_watchers,
            share: 0.01,
            time: Duration::from_secs(args.churn),
        };
        let churned = churn::run(&check, settings).context("churn")?;
        report.churned = Some(churned);
    }
    let run = Run {
        facts: watch.finish(),
        settings: args.words(backends),
        blocks: report.blocks(SESSION),
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    Ok(())
}

impl Args {
    /// How many rounds: of few times the slowest would be the 99th percentile.
    fn rounds_for(&self, watchers: usize) -> u32 {
        let watchers = u32::try_from(watchers).unwrap_or(u32::MAX).max(1);
        self.rounds.max(self.samples.div_ceil(watchers))
    }

    /// The arguments that make the same run.
    fn words(&self, backends: &[Backend]) -> String {
        let churn = format!(
            "--churn {} --churn-instances {} --churn-watchers {}",
            self.churn, self.churn_instances, self.churn_watchers
        );
        if self.churn_only {
            return format!("--churn-only {churn}");
        }
        let watchers: Vec<String> = self.watchers.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = backends.iter().map(|one| one.name()).collect();
        format!(
            "--rounds {} --samples {} --watchers {} --kills {} --backends {} {churn}",
            self.rounds,
            self.samples,
            watchers.join(","),
            self.kills,
            names.join(","),
        )
    }
}

fn measure(server: &Running, count: usize, rounds: u32) -> Result<Row> {
    let ours = watchers::Watchers::start(server, count)?;
    let bare = bare::Bare::start(server, count)?;
    let (mut come, mut leave) = (Series::default(), Series::default());
    let (mut bare_come, mut bare_leave) = (BareSeries::default(), BareSeries::default());
    for round in 0..rounds {
        // The first round is of connections that have carried nothing yet.
        let counts = round > 0 || rounds == 1;
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let (first, second) = ours.round()?;
                if counts {
                    come.add(&first);
                    leave.add(&second);
                }
            } else if let Some(bare) = &bare {
                let (first, second) = bare.round()?;
                if counts {
                    bare_come.add(&first);
                    bare_leave.add(&second);
                }
            }
        }
    }
    Ok(Row {
        backend: server.backend,
        watchers: count,
        come,
        leave,
        bare: bare.is_some().then_some((bare_come, bare_leave)),
    })
}

/// How long killed processes stay visible.
fn kills(server: &Running, check: &std::path::Path, kills: u32) -> Result<Vec<Duration>> {
    let ours = watchers::Watchers::start(server, 1)?;
    let mut took = Vec::new();
    for kill in 0..kills {
        took.push(ours.kill(server, check)?);
        eprintln!("{}: kill {} of {kills}", server.backend.name(), kill + 1);
    }
    Ok(took)
}
