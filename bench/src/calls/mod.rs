//! `bench report`: results of calls into a report server and on into `MariaDB`.

mod database;
mod load;
mod report;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use waystation_report::ask_status;
use waystation_test_process::MariaDb;

use crate::bars::Bars;
use crate::machine::Watch;
use crate::net::program;
use crate::procfs;
use crate::results::{Benchmark, Run};
use crate::timing;
use load::Plan;
use report::Figures;

const BENCHMARK: Benchmark = Benchmark {
    name: "report",
    about: include_str!("about.md"),
};

/// No answer takes longer.
const WAIT: Duration = Duration::from_secs(30);

/// `bench report`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Results a second
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    rate: u32,
    /// Connections, each an agent
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Services of each agent
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    services: u32,
    /// Hosts of each service: so many results are in a message
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=200))]
    hosts: u32,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=3_600))]
    seconds: u32,
    /// The results file [default: bench/results/report.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// `MariaDB` is not there, a program does not start, a count is wrong, or the results cannot be
/// written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = program::build("waystation")?;
    let mariadb = MariaDb::start(&["--innodb-buffer-pool-size=256M"]);
    let mariadb = mariadb.context("install mariadb-server")?;
    let watch = Watch::start();
    let url = database::create(&mariadb)?;
    let bare = database::bare(&url, Duration::from_secs(5))?;
    eprintln!("one statement a result: {bare:.0} a second");
    let server = ReportServer::start(&binary, &url)?;
    let plan = Plan {
        rate: args.rate,
        connections: args.connections,
        services: args.services,
        hosts: args.hosts,
        seconds: args.seconds,
    };
    let figures = measure(&plan, &server, &mariadb, &url, bare)?;
    let mut bars = Bars::default();
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--rate {} --connections {} --services {} --hosts {} --seconds {}",
            args.rate, args.connections, args.services, args.hosts, args.seconds
        ),
        blocks: figures.blocks(&plan, &mut bars),
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    bars.finish()
}

fn measure(
    plan: &Plan,
    server: &ReportServer,
    mariadb: &MariaDb,
    url: &str,
    bare: f64,
) -> Result<Figures> {
    let database = mariadb.pid().context("MariaDB has ended")?;
    let cpu = || -> Result<[f64; 3]> {
        let own = std::process::id();
        Ok([
            procfs::cpu_seconds(server.child.id())?,
            procfs::cpu_seconds(database)?,
            procfs::cpu_seconds(own)?,
        ])
    };
    let began = timing::now();
    let before = cpu()?;
    let reader = database::Reader::start(url, began, plan.keys())?;
    let memory = Memory::start(server.child.id())?;
    let sent = load::run(plan, server.address, began)?;
    let took = timing::now().saturating_since(began);
    let after = cpu()?;
    let memory = memory.finish();
    let seen = reader.finish()?;
    settle(server.address, sent.results)?;
    let stored = database::sum_of_history(url)?;
    let status = ask_status(server.address, WAIT)?;
    let share = |at: usize| (after[at] - before[at]) / took.as_secs_f64();
    ensure!(
        stored == sent.last_totals,
        "history has {stored} calls, {} were told",
        sent.last_totals
    );
    Ok(Figures {
        bare,
        took,
        results: sent.results,
        late_ms: sent.late_ms,
        cpu: [share(0), share(1), share(2)],
        seen_ms: seen,
        memory_kib: memory,
        batches: status["store"]["written"].as_u64().unwrap_or_default(),
        rows: status["rows"].as_u64().unwrap_or_default(),
        stored,
    })
}

/// Waits until all is in the store.
fn settle(address: SocketAddr, results: u64) -> Result<()> {
    let end = timing::now() + WAIT;
    loop {
        let status = ask_status(address, WAIT)?;
        let is_all = status["records"] == results
            && status["waiting_cells"] == 0
            && status["store"]["written"] == status["batches"];
        if is_all {
            return Ok(());
        }
        ensure!(timing::now() < end, "not all results arrive: {status}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// `waystation report serve`, killed when it is dropped.
struct ReportServer {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl ReportServer {
    fn start(binary: &Path, url: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = Command::new(binary)
            .args([
                "report",
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "warn",
            ])
            .args(["--store", url, "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let out = child.stdout.take().context("the child has no output")?;
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            _folder: folder,
        };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().strip_prefix("ready ");
        let address = address.with_context(|| format!("it says {line:?}"))?;
        server.address = address.parse()?;
        Ok(server)
    }
}

impl Drop for ReportServer {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks at a process' memory once a second.
struct Memory {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<u64>>,
}

impl Memory {
    fn start(pid: u32) -> Result<Self> {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let path = format!("/proc/{pid}/status");
        let look = move || {
            let mut all = Vec::new();
            loop {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let resident = procfs::field(&text, "VmRSS");
                all.extend(
                    resident.and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok()),
                );
                let waited = stopped.recv_timeout(Duration::from_secs(1));
                if waited != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return all;
                }
            }
        };
        let thread = std::thread::Builder::new().name("memory".to_owned());
        Ok(Self {
            stop,
            thread: thread.spawn(look)?,
        })
    }

    /// KiB, second by second.
    fn finish(self) -> Vec<u64> {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}
