//! Bare watches of the servers, with nothing around them.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::sync::mpsc as orders;
use waystation_base::{Moment, ShardId};
use waystation_net::{Label, NetConfig, Server, Shard};
use waystation_registry::bare;
use zookeeper_client as zk;

use super::WAIT;
use super::servers::{Backend, Running};
use super::watchers::payload;
use crate::timing::now;

/// Watches by plain clients, all on one thread, and one that writes on another: as ours are.
pub(crate) struct Bare {
    orders: Option<orders::Sender<bool>>,
    /// Dropped when the watches are to end.
    stays: Option<orders::Sender<()>>,
    told: Receiver<Told>,
    count: usize,
    runs: Option<Runs>,
}

/// Where they run; ends when there are no more orders.
enum Runs {
    Threads([JoinHandle<()>; 2]),
    Shards(#[expect(dead_code, reason = "kept for its end")] Box<Server>),
}

/// What clients tell.
enum Told {
    Ready,
    /// The key or node was made, or deleted.
    Seen {
        is_there: bool,
        /// When the event came.
        told_at: Moment,
        /// When what it is about was read, too.
        at: Moment,
    },
    Fault(String),
}

impl Bare {
    /// Starts so many watches; nothing for a backend that has none.
    pub(crate) fn start(server: &Running, count: usize) -> Result<Option<Self>> {
        // What each watch tells of a turn, and a fault of it and of the writer: the
        // next turn begins when all have told of this one.
        let (tell, told) = mpsc::sync_channel(2 * count + 1);
        let (orders, taken) = orders::channel(1);
        let (stays, stay) = orders::channel(1);
        let address = server.address;
        let runs = match server.backend {
            Backend::Embedded => return Ok(None),
            Backend::ZooKeeper => {
                let (at, its) = (address.to_string(), tell.clone());
                let watch = thread("bare watches", tell.clone(), async move || {
                    watch_zookeeper(&at, count, stay, &its).await
                })?;
                let at = address.to_string();
                let write = thread("bare writer", tell, async move || {
                    write_zookeeper(&at, taken).await
                })?;
                Runs::Threads([watch, write])
            }
            Backend::Etcd => {
                let config = NetConfig {
                    shards: 2,
                    ..NetConfig::default()
                };
                let shards = Server::builder(config).start()?;
                let its = tell.clone();
                shards.remote().run_on(ShardId(0), move |shard: &Shard| {
                    let work = watch_etcd(shard.clone(), address, count, its);
                    shard.spawn(Label::of("bare"), work);
                })?;
                shards.remote().run_on(ShardId(1), move |shard: &Shard| {
                    let work = write_etcd(shard.clone(), address, taken, tell);
                    shard.spawn(Label::of("bare writer"), work);
                })?;
                Runs::Shards(Box::new(shards))
            }
        };
        let bare = Self {
            orders: Some(orders),
            stays: Some(stays),
            told,
            count,
            runs: Some(runs),
        };
        for _ in 0..count {
            match bare.told.recv_timeout(WAIT) {
                Ok(Told::Ready) => {}
                Ok(Told::Fault(fault)) => return Err(anyhow!("a bare watch: {fault}")),
                _ => return Err(anyhow!("a bare watch does not begin")),
            }
        }
        Ok(Some(bare))
    }

    /// Something comes and goes: how long it took each watch to tell of the one and the other.
    pub(crate) fn round(&self) -> Result<(Turn, Turn)> {
        Ok((self.turn(true)?, self.turn(false)?))
    }

    fn turn(&self, is_there: bool) -> Result<Turn> {
        let start = now();
        let orders = self.orders.as_ref().context("it is over")?;
        (orders.try_send(is_there)).context("nobody takes orders")?;
        let mut turn = Turn::default();
        for _ in 0..self.count {
            match self.told.recv_timeout(WAIT).context("a watch is silent")? {
                Told::Seen {
                    is_there: seen,
                    told_at,
                    at,
                } => {
                    ensure!(seen == is_there, "a watch tells the wrong thing");
                    turn.told.push(told_at.saturating_since(start));
                    turn.took.push(at.saturating_since(start));
                }
                Told::Ready => return Err(anyhow!("a watch begins twice")),
                Told::Fault(fault) => return Err(anyhow!("a bare watch: {fault}")),
            }
        }
        Ok(turn)
    }
}

/// How long each watch took, once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    /// Until it was told of the event.
    pub(crate) told: Vec<Duration>,
    /// Until it had what the event is about, too.
    pub(crate) took: Vec<Duration>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.orders = None;
        self.stays = None;
        if let Some(Runs::Threads(threads)) = self.runs.take() {
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}

/// Runs what a client starts on the present runtime.
struct OnTokio;

impl spawns_core::Spawn for OnTokio {
    fn spawn(&self, task: spawns_core::Task) {
        tokio::spawn(Box::into_pin(task.future));
    }
}

const FOLDER: &str = "/bare";
const NODE: &str = "/bare/probe";

/// Does some work on a thread of its own, and tells when that fails.
fn thread(
    name: &str,
    tell: SyncSender<Told>,
    work: impl AsyncFnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<()>> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let spawner = OnTokio;
        let _scope = spawns_core::enter(&spawner);
        let done = match runtime {
            Ok(runtime) => runtime.block_on(work()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = done {
            tell_fault(&tell, &error.to_string());
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    Ok(thread.spawn(run)?)
}

async fn watch_zookeeper(
    address: &str,
    count: usize,
    mut stay: orders::Receiver<()>,
    tell: &SyncSender<Told>,
) -> Result<()> {
    let folder = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let client = zk::Client::connect(address).await?;
    client.mkdir(FOLDER, &folder).await?;
    for _ in 0..count {
        let client = zk::Client::connect(address).await?;
        let mode = zk::AddWatchMode::PersistentRecursive;
        let mut watcher = client.watch(FOLDER, mode).await?;
        let tell = tell.clone();
        tokio::spawn(async move {
            let _ = tell.try_send(Told::Ready);
            loop {
                let event = watcher.changed().await;
                let told_at = now();
                if !matches!(
                    event.event_type,
                    zk::EventType::NodeCreated | zk::EventType::NodeDeleted
                ) {
                    continue;
                }
                // The event says where something changed; what is there is read, as everybody
                // does who wants to know it.
                let is_there = match client.get_data(NODE).await {
                    Ok((data, _)) if !data.is_empty() => true,
                    Err(zk::Error::NoNode) => false,
                    Ok(_) => return tell_fault(&tell, "a node without data"),
                    Err(error) => return tell_fault(&tell, &error.to_string()),
                };
                let seen = Told::Seen {
                    is_there,
                    told_at,
                    at: now(),
                };
                if tell.try_send(seen).is_err() {
                    return;
                }
            }
        });
    }
    // Nothing is ever sent.
    stay.recv().await;
    Ok(())
}

async fn write_zookeeper(address: &str, mut orders: orders::Receiver<bool>) -> Result<()> {
    let writer = zk::Client::connect(address).await?;
    let data = payload()?.into_bytes();
    let ephemeral = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
    while let Some(is_there) = orders.recv().await {
        if is_there {
            writer.create(NODE, &data, &ephemeral).await?;
        } else {
            writer.delete(NODE, None).await?;
        }
    }
    Ok(())
}

fn tell_fault(tell: &SyncSender<Told>, fault: &str) {
    // Whoever waits may have given up.
    let _ = tell.try_send(Told::Fault(fault.to_owned()));
}

async fn watch_etcd(shard: Shard, address: SocketAddr, count: usize, tell: SyncSender<Told>) {
    for _ in 0..count {
        let mut watch = match bare::EtcdWatch::new(&shard, address, "/bare/").await {
            Ok(watch) => watch,
            Err(error) => return tell_fault(&tell, &error),
        };
        let tell = tell.clone();
        shard.spawn(Label::of("bare watch"), async move {
            let _ = tell.try_send(Told::Ready);
            // The event brings what is there.
            while let Ok(is_there) = watch.changed().await {
                let at = now();
                let seen = Told::Seen {
                    is_there,
                    told_at: at,
                    at,
                };
                if tell.try_send(seen).is_err() {
                    return;
                }
            }
        });
    }
}

async fn write_etcd(
    shard: Shard,
    address: SocketAddr,
    mut orders: orders::Receiver<bool>,
    tell: SyncSender<Told>,
) {
    let writer = match bare::EtcdWriter::new(&shard, address).await {
        Ok(writer) => writer,
        Err(error) => return tell_fault(&tell, &error),
    };
    let data = match payload() {
        Ok(data) => data.into_bytes(),
        Err(error) => return tell_fault(&tell, &error.to_string()),
    };
    while let Some(is_there) = orders.recv().await {
        if let Err(error) = writer.write("/bare/probe", is_there.then_some(&data)).await {
            return tell_fault(&tell, &error);
        }
    }
}
