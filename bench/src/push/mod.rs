//! `bench push`: from the commit of a changed route to the callers that pick by it.

mod report;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use waystation_agent::{Agent, AgentConfig};
use waystation_base::{Moment, ShardId};
use waystation_client::{Caller, CallerConfig};
use waystation_membership::Watch as Watched;
use waystation_net::{NetConfig, Server};
use waystation_registry::{Client, Registry as _, RegistryUrl, WatchOptions, Watching};
use waystation_route::{AdminClient, PatchForm, RouteConfig, RouteForm, RouteServer, StoreUrl};

use self::report::{Figures, block};
use self::store::Timed;
use crate::bars::Bars;
use crate::machine::Watch;
use crate::results::{Benchmark, Run};
use crate::timing::now;

const BENCHMARK: Benchmark = Benchmark {
    name: "push",
    about: include_str!("about.md"),
};

/// The service whose only host comes and goes.
const SERVICE: &str = "bench";

/// Its host.
const HOST: &str = "127.0.0.1:9001";

/// How long a change is waited for.
const WAIT: Duration = Duration::from_secs(30);

/// Between two looks into shared memory. Shorter takes the CPU from those who work.
const LOOK: Duration = Duration::from_micros(20);

/// `bench push`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Changes that are measured, for each number of subscribers
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    changes: u32,
    /// Numbers of subscribed agents
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 100, 1_000], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: Vec<u32>,
    /// The results file [default: bench/results/push.md]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the benchmark, prints its results and adds them to its file.
///
/// # Errors
/// A change does not arrive, or the results cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start();
    let mut measured = Vec::new();
    for &subscribers in &args.subscribers {
        let figures = measure(subscribers, args.changes);
        let figures = figures.with_context(|| format!("with {subscribers} subscribers"))?;
        eprintln!("{subscribers} subscribers are done");
        measured.push((subscribers, figures));
    }
    let subscribers: Vec<String> = args.subscribers.iter().map(u32::to_string).collect();
    let mut bars = Bars::default();
    let run = Run {
        facts: watch.finish(),
        settings: format!(
            "--changes {} --subscribers {}",
            args.changes,
            subscribers.join(",")
        ),
        blocks: block(&measured, &mut bars),
    };
    run.print()?;
    let path = run.append(BENCHMARK, args.out.as_deref())?;
    eprintln!("added to {}", path.display());
    bars.finish()
}

/// A route server, an agent with a caller, and what was committed last, when.
struct World {
    server: RouteServer,
    agent: Agent,
    admin: AdminClient,
    caller: Caller,
    committed_ns: Arc<AtomicU64>,
}

impl World {
    fn start(folder: &Path) -> Result<Self> {
        let path = folder.join("routes.db");
        let url = StoreUrl::Sqlite(path.clone());
        let config = RouteConfig::new(folder.to_owned(), "127.0.0.1:0".parse()?, url);
        let committed_ns = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&committed_ns);
        let server = RouteServer::start_with(config, move || Box::new(Timed::new(path, noted)))?;
        let host = server.address().to_string();
        let admin = AdminClient::new(host.parse()?);
        admin.add(&RouteForm::new(SERVICE, HOST))?;
        let url = RegistryUrl::Route { host };
        let mut config = AgentConfig::new(folder.join("agent.sock"), url, 1);
        config.udp.clear();
        let agent = Agent::start(config)?;
        let mut config = CallerConfig::new(SERVICE, agent.socket());
        config.timeout = WAIT;
        config.pause = Duration::ZERO;
        Ok(Self {
            caller: Caller::new(config),
            server,
            agent,
            admin,
            committed_ns,
        })
    }

    fn url(&self) -> RegistryUrl {
        let host = self.server.address().to_string();
        RegistryUrl::Route { host }
    }

    /// When the last change was committed.
    fn committed(&self) -> Moment {
        Moment::from_nanos(self.committed_ns.load(Ordering::Acquire))
    }

    /// Waits until the caller picks the host, or nobody.
    fn wait(&mut self, is_there: bool) -> Result<()> {
        let end = now() + WAIT;
        while self.caller.pick().is_ok() != is_there {
            ensure!(now() < end, "a change did not arrive in the segment");
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// One change; how long each of its ways took.
    fn measure(&mut self, others: &Others, figures: &mut Figures) -> Result<()> {
        set(&self.admin, 0)?;
        self.wait(false)?;
        others.wait(0)?;
        let asked = now();
        let admin = self.admin.clone();
        let (seen, last) = std::thread::scope(|scope| -> Result<(Moment, Moment)> {
            let setting = scope.spawn(move || set(&admin, 100));
            let last = scope.spawn(|| others.wait(100).map(|()| now()));
            self.wait(true)?;
            let seen = now();
            let died = |_| anyhow!("a thread died");
            setting.join().map_err(died)??;
            Ok((seen, last.join().map_err(died)??))
        })?;
        let committed = self.committed();
        ensure!(asked <= committed, "the change was not committed");
        figures.commit.push(committed.saturating_since(asked));
        figures.segment.push(seen.saturating_since(committed));
        figures.last.push(last.saturating_since(committed));
        Ok(())
    }
}

fn measure(subscribers: u32, changes: u32) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let mut world = World::start(folder.path())?;
    let others = Others::start(subscribers - 1, &world.url())?;
    world.wait(true)?;
    let mut figures = Figures::default();
    for _ in 0..changes {
        world.measure(&others, &mut figures)?;
    }
    drop(others);
    world.agent.drain();
    world.server.drain();
    Ok(figures)
}

/// Subscribers beside the agent, on a thread of their own, each with a connection.
struct Others {
    watches: Vec<(Client, Watching)>,
    _server: Server,
}

impl Others {
    fn start(count: u32, url: &RegistryUrl) -> Result<Self> {
        let server = Server::builder(NetConfig::default()).start()?;
        let mut watches = Vec::new();
        for _ in 0..count {
            let client = Client::open_on(server.remote(), ShardId(0), url)?;
            let service = Watched::Service(SERVICE.parse()?);
            let watching = client.watch(service, WatchOptions::default())?;
            watches.push((client, watching));
        }
        for (_, watching) in &watches {
            ensure!(watching.wait_complete(WAIT), "a subscriber hears nothing");
        }
        Ok(Self {
            watches,
            _server: server,
        })
    }

    /// Waits until each has a view with this weight.
    fn wait(&self, weight: u32) -> Result<()> {
        for (_, watching) in &self.watches {
            let seen = watching.wait_view(SERVICE, WAIT, |view| {
                view.instances.values().any(|one| one.weight == weight)
            });
            seen.context("a subscriber missed a change")?;
        }
        Ok(())
    }
}

fn set(admin: &AdminClient, weight: u32) -> Result<()> {
    admin.set(&PatchForm {
        service: SERVICE.to_owned(),
        address: HOST.to_owned(),
        weight: Some(weight),
        ..PatchForm::default()
    })?;
    Ok(())
}
