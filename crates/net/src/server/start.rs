//! Starts a server: binds, lays the ways between the threads, starts them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread::JoinHandle;

use waystation_base::{Rng, ShardId};
use waystation_mailbox::{Receiver, mailbox};

use super::{Factory, Init, NetConfig, Server, ServerBuilder, StartError, bind, shard_loop};
use crate::io::DetachedListener;
use crate::limits;
use crate::shard::{Mail, Remote, ShardParts, Target};
use crate::split::{LaneEnd, MakeHeartbeat, SplitIo, lanes};

/// What a shard's thread does.
pub(super) enum Role {
    /// Runs handlers on connections, and their I/O in shared placement.
    Worker {
        init: Vec<Init>,
        factories: Vec<Factory>,
    },
    /// Does the I/O of the workers. `io` reaches all threads that do.
    Io {
        heartbeats: Vec<MakeHeartbeat>,
        io: Remote,
    },
}

/// Everything that a shard's thread starts with.
pub(super) struct Setup {
    pub(super) parts: ShardParts,
    pub(super) receiver: Receiver<Mail>,
    pub(super) role: Role,
    /// Its place in split placement.
    pub(super) lane: Option<LaneEnd>,
    /// The first shard that does I/O accepts for all.
    pub(super) listeners: Vec<Box<dyn DetachedListener>>,
}

/// See [`ServerBuilder::start`].
pub(super) fn start(builder: ServerBuilder) -> Result<Server, StartError> {
    let ServerBuilder {
        config,
        init,
        listeners,
    } = builder;
    if config.shards == 0 {
        return Err(StartError::NoShards);
    }
    let mut bound = Vec::new();
    let (mut factories, mut heartbeats) = (Vec::new(), Vec::new());
    for (source, spoken) in listeners {
        bound.push(bind(&*config.io, source)?);
        factories.push(spoken.factory);
        heartbeats.push(spoken.heartbeat);
    }
    let addresses = bound.iter().map(|listener| listener.address()).collect();
    let (targets, workers) = mailboxes(config.shards);
    let (io_targets, ios) = mailboxes(config.io_shards);
    let threads = config.shards.saturating_add(config.io_shards);
    let remote = Remote::new(targets, threads);
    let io_remote = Remote::new(io_targets, threads);
    let (io_config, config) = placed(config, &io_remote);
    let lane_ends = if ios.is_empty() {
        Vec::new()
    } else {
        lanes(threads, config.slots_per_shard() as usize)
    };
    let worker = || Role::Worker {
        init: init.clone(),
        factories: factories.clone(),
    };
    let io = || Role::Io {
        heartbeats: heartbeats.clone(),
        io: io_remote.clone(),
    };
    let workers = workers.into_iter().map(|mail| (mail, worker(), &config));
    let ios = ios.into_iter().map(|mail| (mail, io(), &io_config));
    let mut server = Server::new(addresses, remote, io_remote.clone(), config.drain);
    let mut lane_ends = lane_ends.into_iter();
    let mut seeds = Rng::from_seed(config.seed);
    let mut setups = Vec::new();
    for ((receiver, role, config), index) in workers.chain(ios).zip(0..) {
        let parts = ShardParts {
            id: ShardId(index),
            config: config.clone(),
            beat: server.add_beat(),
            counters: server.add_counters(),
            remote: server.remote.clone(),
            seed: seeds.next_u64(),
        };
        setups.push(Setup {
            parts,
            receiver,
            role,
            lane: lane_ends.next(),
            listeners: Vec::new(),
        });
    }
    let first_io = usize::from(if io_config.io_shards == 0 {
        0
    } else {
        config.shards
    });
    setups[first_io].listeners = bound;
    let started = start_threads(&mut server, setups);
    started.inspect_err(|_| server.remote.forget_others())?;
    Ok(server)
}

/// Starts the threads and waits until all of them serve.
fn start_threads(server: &mut Server, setups: Vec<Setup>) -> Result<(), StartError> {
    let mut starting = Vec::new();
    for setup in setups {
        let id = setup.parts.id;
        let (thread, started) =
            start_thread(setup).map_err(|error| StartError::Shard(id, error))?;
        server.threads.push(thread);
        starting.push((id, started));
    }
    for (id, started) in starting {
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("its start panicked")))
            .map_err(|error| StartError::Shard(id, error))?;
    }
    server
        .start_monitor()
        .map_err(|e| StartError::Shard(ShardId(0), e))
}

/// A mailbox for each of `count` threads.
fn mailboxes(count: u16) -> (Vec<Target>, Vec<Receiver<Mail>>) {
    let boxes = (0..count).map(|_| {
        let (mail, receiver) = mailbox(limits::MAILBOX_MESSAGES);
        let load = Arc::new(AtomicUsize::new(0));
        (Target { mail, load }, receiver)
    });
    boxes.unzip()
}

/// The settings of the I/O shards, and those of the workers, whose sockets are
/// on the I/O shards if there are any.
fn placed(config: NetConfig, io_remote: &Remote) -> (Arc<NetConfig>, Arc<NetConfig>) {
    let io_config = Arc::new(config);
    if io_config.io_shards == 0 {
        return (io_config.clone(), io_config);
    }
    let window = io_config.connection.input_queue;
    let config = NetConfig {
        io: Arc::new(SplitIo::new(
            io_config.io.clone(),
            io_remote.clone(),
            window,
        )),
        ..NetConfig::clone(&io_config)
    };
    (io_config, Arc::new(config))
}

/// Starts a shard's thread. What it says when it serves, or cannot, comes by
/// the receiver.
fn start_thread(setup: Setup) -> io::Result<(JoinHandle<()>, mpsc::Receiver<io::Result<()>>)> {
    let kind = match setup.role {
        Role::Worker { .. } => "shard",
        Role::Io { .. } => "io",
    };
    let name = format!("{kind}-{}", setup.parts.id.0);
    let (starting, started) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || shard_loop::run(setup, &starting))?;
    Ok((thread, started))
}
