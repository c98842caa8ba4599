//! Churn: instances of many services come and go under the eyes of many watchers.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waystation_base::{Moment, ServiceName, ShardId};
use waystation_membership::{Instance, InstanceId, Owner, OwnerId, View, Watch};
use waystation_net::{Label, NetConfig, Server, Shard};
use waystation_registry::{
    Client, Registered, RegistrationOptions, Registry, WatchOptions, Watching,
};

use super::WAIT;
use super::report::Series;
use super::servers::{Backend, Running};
use crate::procfs;
use crate::timing::now;

/// For how long nothing comes or goes before the churn, to know what leases and connections cost.
pub(crate) const REST: Duration = Duration::from_secs(10);

/// What may wait of each watcher to be looked at: some seconds of 1 % of 100
/// instances. With more the thread that measures is too slow for this.
const TOLD_EACH_MAX: usize = 16;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) instances: usize,
    pub(crate) services: usize,
    pub(crate) watchers: usize,
    /// Of all instances, replaced each second.
    pub(crate) share: f64,
    pub(crate) time: Duration,
}

impl Settings {
    /// Every service has as many instances and watchers as the others.
    fn check(&self) -> Result<()> {
        for count in [self.instances, self.watchers] {
            let is_even = count > 0 && count.is_multiple_of(self.services);
            ensure!(is_even, "{count} is no multiple of {}", self.services);
        }
        Ok(())
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Churned {
    pub(crate) settings: Settings,
    pub(crate) come: Series,
    pub(crate) leave: Series,
    /// Instances that were replaced.
    pub(crate) replaced: u64,
    /// What the registry's process takes of one CPU.
    pub(crate) registry: Use,
    /// The same of this process: all nodes and all watchers.
    pub(crate) own: Use,
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    /// Of one CPU, while nothing comes or goes.
    pub(crate) cpu_at_rest: f64,
    /// Of one CPU, under churn.
    pub(crate) cpu: f64,
    /// Its memory without instances and watchers.
    pub(crate) empty_bytes: u64,
    /// With all of them, before the churn.
    pub(crate) full_bytes: u64,
    /// At the end.
    pub(crate) end_bytes: u64,
}

/// A watcher sees an instance come or go.
struct Seen {
    service: usize,
    number: u64,
    is_there: bool,
    at: Moment,
}

/// One service: its node, which holds all instances, the oldest first.
struct Service {
    node: Client,
    present: VecDeque<(u64, Registered)>,
    next: u64,
}

/// Runs it against an embedded registry. `check` is the program of the conformance suite.
pub(crate) fn run(check: &Path, settings: Settings) -> Result<Churned> {
    settings.check()?;
    let server = Running::start(Backend::Embedded, check);
    let pid = server.pid().context("the registry has a process")?;
    let own = std::process::id();
    let empty = [procfs::resident_bytes(pid)?, procfs::resident_bytes(own)?];
    let one_shard = || {
        Server::builder(NetConfig {
            shards: 1,
            ..NetConfig::default()
        })
        .start()
    };
    let (nodes, watchers) = (one_shard()?, one_shard()?);
    let mut services = start_nodes(&server, &nodes, settings)?;
    let (_clients, seen) = start_watchers(&server, &watchers, settings, services[0].next)?;
    let full = [procfs::resident_bytes(pid)?, procfs::resident_bytes(own)?];
    let at_rest = cpu_during([pid, own], || wait(&seen, REST))?;
    let mut starts = HashMap::new();
    let mut told = Vec::new();
    let mut replaced = 0;
    let under_churn = cpu_during([pid, own], || {
        let pause = Duration::from_secs(1).div_f64(number(settings.instances) * settings.share);
        let (begin, end) = (now(), now() + settings.time);
        while now() < end {
            let due = begin + pause.mul_f64(number(replaced));
            collect_until(&seen, due, &mut told)?;
            let service = replaced % services.len();
            replace(&mut services, service, &mut starts)?;
            replaced += 1;
        }
        Ok(())
    })?;
    let each = settings.watchers / settings.services;
    let expected = replaced * 2 * each;
    while told.len() < expected {
        let one = seen.recv_timeout(WAIT);
        told.push(one.context("a watcher does not see all that comes and goes")?);
    }
    ensure!(told.len() == expected, "watchers saw what did not happen");
    let end = [procfs::resident_bytes(pid)?, procfs::resident_bytes(own)?];
    let (come, leave) = series(&told, &starts)?;
    let of = |which: usize| Use {
        cpu_at_rest: at_rest[which],
        cpu: under_churn[which],
        empty_bytes: empty[which],
        full_bytes: full[which],
        end_bytes: end[which],
    };
    Ok(Churned {
        settings,
        come,
        leave,
        replaced: replaced as u64,
        registry: of(0),
        own: of(1),
    })
}

/// What processes take of one CPU while something is done.
fn cpu_during(pids: [u32; 2], work: impl FnOnce() -> Result<()>) -> Result<[f64; 2]> {
    let read = || -> Result<[f64; 2]> {
        Ok([procfs::cpu_seconds(pids[0])?, procfs::cpu_seconds(pids[1])?])
    };
    let (start, before) = (now(), read()?);
    work()?;
    let took = now().saturating_since(start).as_secs_f64();
    let after = read()?;
    Ok([0, 1].map(|which| (after[which] - before[which]) / took))
}

/// Waits, while nothing is to be seen.
fn wait(seen: &Receiver<Seen>, time: Duration) -> Result<()> {
    match seen.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(one) => anyhow::bail!(
            "a watcher of {} sees {} although nothing comes or goes",
            service_name(one.service)?,
            one.number
        ),
        Err(error) => Err(error.into()),
    }
}

/// Takes what watchers see until then.
fn collect_until(seen: &Receiver<Seen>, due: Moment, told: &mut Vec<Seen>) -> Result<()> {
    loop {
        match seen.recv_timeout(due.saturating_since(now())) {
            Ok(one) => told.push(one),
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// When each began to come, or to leave.
type Starts = HashMap<(usize, u64, bool), Moment>;

/// The oldest instance of a service leaves, and a new one comes.
fn replace(services: &mut [Service], index: usize, starts: &mut Starts) -> Result<()> {
    let service = services.get_mut(index).context("there is such a service")?;
    let (oldest, registered) = service.present.pop_front().context("it has instances")?;
    starts.insert((index, oldest, false), now());
    drop(registered);
    let next = service.next;
    let instance = instance(index, next)?;
    starts.insert((index, next, true), now());
    let registered = service
        .node
        .register(instance, RegistrationOptions::default())?;
    service.present.push_back((next, registered));
    service.next += 1;
    Ok(())
}

/// How long it took each watcher, of what came and what left.
fn series(told: &[Seen], starts: &Starts) -> Result<(Series, Series)> {
    let (mut come, mut leave) = (Series::default(), Series::default());
    let mut by_change: HashMap<(usize, u64, bool), Vec<Duration>> = HashMap::new();
    for one in told {
        let change = (one.service, one.number, one.is_there);
        let start = starts.get(&change);
        let start = start.context("a watcher saw what did not happen")?;
        let took = one.at.saturating_since(*start);
        by_change.entry(change).or_default().push(took);
    }
    for ((_, _, is_there), took) in by_change {
        if is_there {
            come.add(&took);
        } else {
            leave.add(&took);
        }
    }
    Ok((come, leave))
}

/// One node of each service, and all its instances.
fn start_nodes(server: &Running, shards: &Server, settings: Settings) -> Result<Vec<Service>> {
    let each = settings.instances / settings.services;
    let mut services = Vec::with_capacity(settings.services);
    for index in 0..settings.services {
        let node = Client::open_on(shards.remote(), ShardId(0), &server.url())?;
        let mut present = VecDeque::with_capacity(each);
        for number in 0..each as u64 {
            let instance = instance(index, number)?;
            let registered = node.register(instance, RegistrationOptions::default())?;
            present.push_back((number, registered));
        }
        services.push(Service {
            node,
            present,
            next: each as u64,
        });
    }
    for (_, registered) in services.iter().flat_map(|one| &one.present) {
        let is_registered = registered.wait_until(WAIT, |status| status.is_registered);
        is_registered.context("an instance is not registered")?;
    }
    Ok(services)
}

/// Watchers of the services in turn, when each sees all of its own.
fn start_watchers(
    server: &Running,
    shards: &Server,
    settings: Settings,
    instances_each: u64,
) -> Result<(Vec<Client>, Receiver<Seen>)> {
    let (tell, told) = mpsc::sync_channel(settings.watchers * TOLD_EACH_MAX);
    let mut clients = Vec::with_capacity(settings.watchers);
    for number in 0..settings.watchers {
        let service = number % settings.services;
        let name = service_name(service)?;
        let client = Client::open_on(shards.remote(), ShardId(0), &server.url())?;
        let watching = client.watch(Watch::Service(name.clone()), WatchOptions::default())?;
        let is_whole = |view: &View| view.instances.len() as u64 == instances_each;
        let whole = watching.wait_view(name.as_str(), WAIT, is_whole);
        whole.context("a watcher does not see all instances")?;
        watching.wait_changes(Duration::ZERO);
        clients.push(client);
        let tell = tell.clone();
        let run = move |shard: &Shard| {
            let work = follow(watching, service, instances_each, tell);
            shard.spawn(Label::of("watcher"), work);
        };
        shards.remote().run_on(ShardId(0), run)?;
    }
    Ok((clients, told))
}

/// Tells what comes and goes: numbers come in order, and go in order. One that
/// finds no room ends, and is missed.
async fn follow(watching: Watching, service: usize, mut next: u64, tell: mpsc::SyncSender<Seen>) {
    let mut oldest = 0;
    loop {
        let changes = watching.changes().await;
        let at = now();
        let Some(change) = changes.last() else {
            continue;
        };
        let is_in = |number| (change.view.instances).contains_key(&*instance_id(service, number));
        let mut seen = Vec::new();
        while is_in(next) {
            seen.push((next, true));
            next += 1;
        }
        while oldest < next && !is_in(oldest) {
            seen.push((oldest, false));
            oldest += 1;
        }
        for (number, is_there) in seen {
            let one = Seen {
                service,
                number,
                is_there,
                at,
            };
            if tell.try_send(one).is_err() {
                return;
            }
        }
    }
}

fn service_name(index: usize) -> Result<ServiceName> {
    Ok(ServiceName::new(&format!("churn.service-{index}"))?)
}

fn instance_id(service: usize, number: u64) -> String {
    format!("churn-{service}-{number}")
}

fn instance(service: usize, number: u64) -> Result<Instance> {
    let owner = Owner {
        id: OwnerId(u128::from(std::process::id())),
        incarnation: 1,
    };
    let id = InstanceId::new(&instance_id(service, number))?;
    let address = "10.0.0.1:7000".parse()?;
    Ok(Instance::new(id, service_name(service)?, address, owner))
}

fn number(count: usize) -> f64 {
    crate::stats::number(count as u64)
}
