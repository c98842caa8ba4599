//! The hub as a server: the core, sessions, the log's thread, publishes and what
//! operators ask for.
//!
//! The core lives on the first shard, at its *desk*; sessions live on the shards of
//! their connections, one task a site. Letters between desk and shards travel in
//! bounded mailboxes. The log is written on a thread of its own, one batch at a
//! time, while the next one gathers.

mod board;
mod desk;
mod home;
mod http;
mod letters;
mod operate;
mod proofs;
mod publish;
mod session_task;
mod sessions;
mod tail;
mod vigil;
mod waits;
mod writer;

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use waystation_base::{Clock as _, Epoch};
use waystation_mailbox::{Receiver, mailbox};
use waystation_net::native::NativeProtocol;
use waystation_net::{
    Address, ConnectionLimits, Label, MonotonicClock, NetConfig, Server, Shard, StartError,
    unix_time,
};
use waystation_replica::{HubConfig, HubRestored, SessionConfig};

use crate::limits::{DESK_LETTERS_MAX, OUTPUT_BYTES_MAX, SHARD_BYTES_MAX, SHARD_LETTERS_MAX};
use crate::log::{Files, Folder, Log, LogConfig, LogError, LogStore, random};
use desk::Desk;
use home::Homes;
use letters::{Outgoing, ToDesk, ToShard};
use sessions::Sessions;
use tail::Tail;
use vigil::Vigil;
use writer::Writer;

pub(crate) use session_task::write_message;

pub use board::Board;
pub use operate::{Operation, SiteReport, StatusReport, TrimReport};
pub use proofs::{ProofReport, SiteProof};

/// Settings of a hub.
#[derive(Clone)]
pub struct HubOptions {
    /// Where its log stands.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: Address,
    /// Threads that serve sites. Default 1. A site is served by the one that its
    /// id names, modulo their number.
    pub shards: u16,
    /// What it keeps, and for how long.
    pub hub: HubConfig,
    /// How it treats each site.
    pub session: SessionConfig,
    /// How it writes.
    pub log: LogConfig,
    /// For how long a publisher or an operator waits for a log that does not
    /// answer, before it hears that nobody knows what was done. Default 1 min.
    pub answer_wait: Duration,
    /// How long a stop may take. Default 5 s.
    pub drain: Duration,
}

impl HubOptions {
    /// The defaults for a folder and an address.
    pub fn new(dir: PathBuf, listen: Address) -> Self {
        Self {
            dir,
            listen,
            shards: 1,
            hub: HubConfig::default(),
            session: SessionConfig::default(),
            log: LogConfig::default(),
            answer_wait: Duration::from_mins(1),
            drain: Duration::from_secs(5),
        }
    }
}

/// Why a hub does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The folder cannot be used; another hub may have it.
    #[error("cannot use the folder {}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: LogError,
    },
    /// The address or the threads cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The log's thread cannot be started.
    #[error("cannot start the log's thread")]
    Thread(#[source] io::Error),
}

/// A running hub. It stops when it is dropped.
pub struct HubServer {
    server: Option<Server>,
    writer: Option<JoinHandle<()>>,
    address: Address,
    epoch: Epoch,
    board: Board,
}

/// What the desk begins with.
struct DeskStart {
    restored: HubRestored,
    lane: desk::WriterLane,
    outgoing: Vec<Outgoing>,
    config: HubConfig,
    homes: Arc<Homes>,
    board: Board,
}

/// What the shards begin with; each takes its part.
struct Start {
    desk: Option<(DeskStart, Receiver<ToDesk>)>,
    shards: Vec<Option<Receiver<ToShard>>>,
}

impl HubServer {
    /// Opens the log and serves. Blocks while the log is read: about a second for
    /// a gigabyte.
    ///
    /// # Errors
    /// The folder is in use, holds a damaged log, or the address is in use.
    pub fn start(options: &HubOptions) -> Result<Self, HubError> {
        Self::begin(options, folder_of(options), None)
    }

    /// As [`HubServer::start`], with another store in the log's place: for benchmarks
    /// that compare stores behind one front end. What sites need older than the
    /// last entries in memory they do not get.
    ///
    /// # Errors
    /// As [`HubServer::start`].
    #[doc(hidden)]
    pub fn start_on(
        options: &HubOptions,
        store: Box<dyn LogStore + Send>,
    ) -> Result<Self, HubError> {
        Self::begin(options, folder_of(options), Some(store))
    }

    /// As [`HubServer::start`], with the log in files that `files` opens, now and
    /// whenever the log failed: for tests with disks that fail.
    ///
    /// # Errors
    /// As [`HubServer::start`].
    #[doc(hidden)]
    pub fn start_in<F>(
        options: &HubOptions,
        files: impl Fn() -> io::Result<F> + Send + 'static,
    ) -> Result<Self, HubError>
    where
        F: Files + Send + 'static,
        F::File: Send + Sync + 'static,
    {
        Self::begin(options, files, None)
    }

    fn begin<F>(
        options: &HubOptions,
        files: impl Fn() -> io::Result<F> + Send + 'static,
        store: Option<Box<dyn LogStore + Send>>,
    ) -> Result<Self, HubError>
    where
        F: Files + Send + 'static,
        F::File: Send + Sync + 'static,
    {
        let of_folder = |source| HubError::Folder {
            dir: options.dir.clone(),
            source,
        };
        let opened = files().map_err(|error| of_folder(error.into()))?;
        let mut log = Log::open(opened, options.log.clone(), fresh_epoch()).map_err(of_folder)?;
        let restored = log.restored(MonotonicClock.now(), random() >> 1);
        let (epoch, end) = (restored.epoch, restored.end);
        tracing::info!(%epoch, %end, start = %restored.start, "read the log");
        let tail = Arc::new(Tail::new(Arc::new(log.reader())));
        let (jobs, batches) = sync_channel(2);
        let (done, results) = mailbox(8);
        let trim = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            log: Some(log),
            files: Box::new(files),
            store,
            options: options.clone(),
            batches,
            trim: Arc::clone(&trim),
            done,
            tail: Arc::clone(&tail),
            vigil: Vigil::new(),
        };
        let writer = std::thread::Builder::new()
            .name("sync log".to_owned())
            .spawn(move || writer.run())
            .map_err(HubError::Thread)?;
        let lane = desk::WriterLane {
            jobs,
            results,
            trim,
        };
        let board = Board::default();
        let server = serve(options, restored, lane, &tail, board.clone())?;
        Ok(Self {
            board,
            address: server.addresses()[0].clone(),
            server: Some(server),
            writer: Some(writer),
            epoch,
        })
    }

    /// Where it listens, with the port that was given.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its threads, while it runs.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// How it and its sites fare.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The log's history.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Stops: answers what is under way, closes, and lets go of the folder. Blocks as
    /// [`Server::drain`] does, and until the disk has answered for a batch that is on
    /// its way.
    pub fn drain(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
        }
        // The desk is gone, so that the log's thread ends after its last batch.
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn folder_of(options: &HubOptions) -> impl Fn() -> io::Result<Folder> + Send + 'static {
    let dir = options.dir.clone();
    move || Folder::open(&dir)
}

/// The history of a log that begins now: higher than those before it, as far as
/// the calendar goes.
fn fresh_epoch() -> Epoch {
    Epoch(u64::try_from(unix_time().as_millis()).unwrap_or(1).max(1))
}

fn net_of(options: &HubOptions) -> NetConfig {
    NetConfig {
        shards: options.shards.max(1),
        connection: ConnectionLimits {
            output_bytes_max: OUTPUT_BYTES_MAX,
            ..ConnectionLimits::default()
        },
        shard_bytes_max: SHARD_BYTES_MAX,
        drain: options.drain,
        seed: random(),
        ..NetConfig::default()
    }
}

/// Makes the shards' mailboxes: the desk's ends and theirs.
fn mailboxes(shards: u16) -> (Vec<Outgoing>, Vec<Option<Receiver<ToShard>>>) {
    let pair = |_| {
        let (sender, receiver) = mailbox::<ToShard>(SHARD_LETTERS_MAX);
        (Outgoing::new(sender), Some(receiver))
    };
    (0..shards).map(pair).unzip()
}

fn serve(
    options: &HubOptions,
    restored: HubRestored,
    lane: desk::WriterLane,
    tail: &Arc<Tail>,
    board: Board,
) -> Result<Server, HubError> {
    let net = net_of(options);
    let (to_desk, letters) = mailbox::<ToDesk>(DESK_LETTERS_MAX);
    let (outgoing, incoming) = mailboxes(net.shards);
    let homes = Arc::new(Homes::default());
    let desk = DeskStart {
        restored,
        lane,
        outgoing,
        config: options.hub.clone(),
        homes: Arc::clone(&homes),
        board: board.clone(),
    };
    let start = Mutex::new(Start {
        desk: Some((desk, letters)),
        shards: incoming,
    });
    let (session, answer_wait) = (options.session.clone(), options.answer_wait);
    let tail = Arc::clone(tail);
    let begin = move |shard: &Shard| {
        let (desk, tail) = (to_desk.clone(), Arc::clone(&tail));
        let board = board.clone();
        let sessions = Sessions::new(shard, desk, tail, session.clone(), answer_wait, board);
        let mut start = start.lock().unwrap_or_else(PoisonError::into_inner);
        start.begin(shard, &sessions);
        shard.set_extension(sessions);
    };
    let server = Server::builder(net)
        .on_shard(begin)
        .listen(options.listen.clone(), move |shard| {
            let sessions = shard.extension::<Sessions>();
            let sessions = sessions.expect("they were made when the shard began");
            let mut router = sessions::router(&sessions);
            let keys = home::keys_of(shard.remote());
            if keys.len() > 1 {
                let homes = Arc::clone(&homes);
                router.set_home(move |head| homes.home(head, &keys));
            }
            NativeProtocol::new(Rc::new(router))
        })
        .start()?;
    Ok(server)
}

impl Start {
    /// Begins the tasks of a shard.
    fn begin(&mut self, shard: &Shard, sessions: &Rc<Sessions>) {
        let at = usize::from(shard.id().0);
        if let Some(letters) = self.shards.get_mut(at).and_then(Option::take) {
            let reading = Rc::clone(sessions).read_letters(letters);
            shard.spawn(Label::of("sync letters"), reading);
        }
        if at == 0
            && let Some((start, letters)) = self.desk.take()
        {
            let desk = Desk::new(shard, start);
            shard.spawn(Label::of("sync desk"), desk.run(letters));
        }
    }
}
