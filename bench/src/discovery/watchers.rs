//! Watchers of a registry, and the nodes that they see.

use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waystation_base::{Moment, ServiceName, ShardId};
use waystation_membership::{Instance, InstanceId, Owner, OwnerId, RegistrationConfig, Watch};
use waystation_net::{Label, NetConfig, Server};
use waystation_registry::{
    Client, Registered, RegistrationOptions, Registry, WatchOptions, Watching, instance_to_json,
};
use waystation_registry_check::Process;

use super::servers::Running;
use super::{SESSION, WAIT};
use crate::timing::now;

const SERVICE: &str = "bench.probe";

/// The node that comes and goes.
const PROBE: &str = "probe";

/// Watchers on one shard, and a client of a node.
pub(crate) struct Watchers {
    node: Client,
    _stay: Vec<Registered>,
    _clients: Vec<Client>,
    seen: Receiver<Seen>,
    count: usize,
    /// Ended last: the watchers run on it.
    _server: Server,
}

/// A watcher sees the node come or go.
struct Seen {
    is_there: bool,
    at: Moment,
}

impl Watchers {
    /// Starts so many, and waits until all of them see the nodes that stay.
    pub(crate) fn start(server: &Running, count: usize) -> Result<Self> {
        let config = NetConfig {
            shards: 1,
            ..NetConfig::default()
        };
        let shards = Server::builder(config).start()?;
        let node = Client::open(&server.url())?;
        let stay: Result<Vec<Registered>> = (0..4)
            .map(|number| register(&node, &format!("stay-{number}")))
            .collect();
        let stay = stay?;
        // The next round begins when all have told of this one.
        let (told, seen) = mpsc::sync_channel(count);
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let client = Client::open_on(shards.remote(), ShardId(0), &server.url())?;
            let watch = Watch::Service(ServiceName::new(SERVICE)?);
            let watching = client.watch(watch, WatchOptions::default())?;
            let is_whole = |view: &waystation_membership::View| view.instances.len() == stay.len();
            let whole = watching.wait_view(SERVICE, WAIT, is_whole);
            whole.context("a watcher does not see the nodes that stay")?;
            watching.wait_changes(Duration::ZERO);
            clients.push(client);
            let told = told.clone();
            let follow = move |shard: &waystation_net::Shard| {
                shard.spawn(Label::of("watcher"), follow(watching, told));
            };
            shards.remote().run_on(ShardId(0), follow)?;
        }
        Ok(Self {
            node,
            _stay: stay,
            _clients: clients,
            seen,
            count,
            _server: shards,
        })
    }

    /// A node comes and goes: how long it took each watcher to see the one and the other.
    pub(crate) fn round(&self) -> Result<(Vec<Duration>, Vec<Duration>)> {
        let start = now();
        let registered = self.node.register(instance(PROBE)?, options())?;
        let come = self.collect(start, true)?;
        let is_registered = registered.wait_until(WAIT, |status| status.is_registered);
        is_registered.context("the node is not told that it is registered")?;
        let start = now();
        drop(registered);
        Ok((come, self.collect(start, false)?))
    }

    /// A process with a node is killed: how long it took the first watcher to see it go.
    pub(crate) fn kill(&self, server: &Running, check: &Path) -> Result<Duration> {
        let (url, ttl) = (server.url().to_string(), SESSION.as_millis().to_string());
        let process = Process::start(check, &["node", &url, SERVICE, PROBE, "10.0.0.9:1", &ttl]);
        self.collect(now(), true)?;
        let start = now();
        process.kill();
        let gone = self.collect(start, false)?;
        gone.first().copied().context("nobody watches")
    }

    fn collect(&self, start: Moment, is_there: bool) -> Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let seen = self.seen.recv_timeout(WAIT);
            let seen = seen.context("a watcher sees nothing")?;
            ensure!(seen.is_there == is_there, "a watcher sees the wrong thing");
            took.push(seen.at.saturating_since(start));
        }
        Ok(took)
    }
}

/// Tells until nobody takes it in time: then this watcher is missed.
async fn follow(watching: Watching, told: mpsc::SyncSender<Seen>) {
    let mut was_there = false;
    loop {
        let changes = watching.changes().await;
        let at = now();
        let Some(change) = changes.last() else {
            continue;
        };
        let is_there = change.view.instances.contains_key(PROBE);
        if is_there != was_there {
            was_there = is_there;
            if told.try_send(Seen { is_there, at }).is_err() {
                return;
            }
        }
    }
}

fn register(client: &Client, id: &str) -> Result<Registered> {
    let registered = client.register(instance(id)?, options())?;
    let is_registered = registered.wait_until(WAIT, |status| status.is_registered);
    is_registered.context("a node is not registered")?;
    Ok(registered)
}

fn options() -> RegistrationOptions {
    let config = RegistrationConfig {
        ttl: SESSION,
        ..RegistrationConfig::default()
    };
    RegistrationOptions {
        config,
        ..RegistrationOptions::default()
    }
}

fn instance(id: &str) -> Result<Instance> {
    let owner = Owner {
        id: OwnerId(u128::from(std::process::id())),
        incarnation: 1,
    };
    let service = ServiceName::new(SERVICE)?;
    let address = "10.0.0.1:7000".parse()?;
    Ok(Instance::new(InstanceId::new(id)?, service, address, owner))
}

/// What a store holds of the node that comes and goes.
pub(crate) fn payload() -> Result<String> {
    Ok(instance_to_json(&instance(PROBE)?))
}
