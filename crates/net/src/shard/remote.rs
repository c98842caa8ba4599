//! Messages to connections and shards from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use waystation_base::{ConnName, ShardId};
use waystation_mailbox::{Sender, TrySendError};

use super::Shard;
use super::board::Board;
use crate::io::DetachedStream;

/// A connection on its way to the shard that will own it.
pub(crate) struct Arrival {
    /// Which of the server's listeners it came by.
    pub(crate) listener: usize,
    pub(crate) stream: Box<dyn DetachedStream>,
    /// Bytes that were read to find its shard.
    pub(crate) head: Vec<u8>,
    /// Its shard is already decided.
    pub(crate) homed: bool,
    /// It is above the limit: it gets a refusal and nothing else.
    pub(crate) refused: bool,
}

/// What travels between shards.
pub(crate) enum Mail {
    Connection(Arrival),
    Send { to: ConnName, message: Bytes },
    SendAll { message: Bytes },
    Run(Box<dyn FnOnce(&Shard) + Send>),
    Drain { within: Duration },
}

/// Why a message did not go to a shard. The message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The shard's mailbox is full: the caller is faster than the shard.
    #[error("the mailbox of shard {0} is full")]
    Full(ShardId),
    /// The shard has ended, or never existed.
    #[error("shard {0} has ended")]
    Ended(ShardId),
}

/// Reaches the shards of this process from any thread. Nothing here blocks;
/// delivery is in order for each sender and shard.
#[derive(Clone)]
pub struct Remote {
    shards: Arc<[Target]>,
    refusing: Arc<AtomicUsize>,
    /// Shards whose drain hooks have not all run.
    hooks: Arc<AtomicIsize>,
    /// Shards that have work of their own: those that do not drain, or have
    /// connections or handlers left.
    working: Arc<AtomicIsize>,
    board: Arc<Board>,
}

#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) mail: Sender<Mail>,
    /// Connections of the shard and those on their way to it.
    pub(crate) load: Arc<AtomicUsize>,
}

impl Remote {
    /// `threads` are all that drain together.
    pub(crate) fn new(targets: Vec<Target>, threads: u16) -> Self {
        Self {
            hooks: Arc::new(AtomicIsize::new(
                isize::try_from(threads).unwrap_or(isize::MAX),
            )),
            working: Arc::new(AtomicIsize::new(
                isize::try_from(targets.len()).unwrap_or(isize::MAX),
            )),
            board: Arc::new(Board::new(targets.len())),
            shards: targets.into(),
            refusing: Arc::default(),
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The shard that a key belongs to. The same key gives the same shard as
    /// long as the number of shards does not change.
    pub fn shard_of(&self, key: u64) -> ShardId {
        let count = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        ShardId(waystation_base::shard_of(key, count))
    }

    /// Sends one message of its protocol to a connection, whichever shard it
    /// is on. A name that is stale when the message arrives is counted there.
    ///
    /// # Errors
    /// [`RemoteError`] when its shard cannot take it.
    pub fn send(&self, to: ConnName, message: Bytes) -> Result<(), RemoteError> {
        self.post(to.shard, Mail::Send { to, message })
    }

    /// Sends one message to every accepted connection of a shard.
    ///
    /// # Errors
    /// [`RemoteError`] when the shard cannot take it.
    pub fn send_to_shard(&self, shard: ShardId, message: Bytes) -> Result<(), RemoteError> {
        self.post(shard, Mail::SendAll { message })
    }

    /// Sends one message to every accepted connection of the process. Tries
    /// all shards, and answers the first error.
    ///
    /// # Errors
    /// [`RemoteError`] of the first shard that could not take it.
    pub fn send_to_all(&self, message: &Bytes) -> Result<(), RemoteError> {
        let mut result = Ok(());
        for index in 0..self.shards.len() {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            result = result.and(self.send_to_shard(shard, message.clone()));
        }
        result
    }

    /// Runs `job` on a shard. It must not block.
    ///
    /// # Errors
    /// [`RemoteError`] when the shard cannot take it.
    pub fn run_on(
        &self,
        shard: ShardId,
        job: impl FnOnce(&Shard) + Send + 'static,
    ) -> Result<(), RemoteError> {
        self.post(shard, Mail::Run(Box::new(job)))
    }

    /// Runs `job` on every shard. It must not block. Tries all shards, and
    /// answers the first error.
    ///
    /// # Errors
    /// [`RemoteError`] of the first shard that could not take it.
    pub fn run_on_all(
        &self,
        job: impl Fn(&Shard) + Send + Sync + 'static,
    ) -> Result<(), RemoteError> {
        let job = Arc::new(job);
        let mut result = Ok(());
        for index in 0..self.shards.len() {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let job = job.clone();
            result = result.and(self.run_on(shard, move |shard| job(shard)));
        }
        result
    }

    pub(crate) fn post(&self, shard: ShardId, mail: Mail) -> Result<(), RemoteError> {
        let target = self
            .shards
            .get(usize::from(shard.0))
            .ok_or(RemoteError::Ended(shard))?;
        target.mail.try_send(mail).map_err(|error| match error {
            TrySendError::Full(_) => RemoteError::Full(shard),
            TrySendError::Closed(_) => RemoteError::Ended(shard),
        })
    }

    /// The shard with the fewest connections, those on their way included.
    /// Ties go round, starting at `start`.
    pub(crate) fn least_loaded(&self, start: usize) -> ShardId {
        let count = self.shards.len();
        let index = (0..count)
            .map(|step| (start + step) % count)
            .min_by_key(|&index| self.shards[index].load.load(Ordering::Relaxed))
            .unwrap_or(0);
        ShardId(u16::try_from(index).unwrap_or(0))
    }

    /// Where a connection of that shard is counted while it lives.
    pub(crate) fn place(&self, shard: ShardId, refused: bool) -> &AtomicUsize {
        if refused {
            return &self.refusing;
        }
        &self.shards[usize::from(shard.0)].load
    }

    /// What the shards have to do.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    pub(crate) fn hooks(&self) -> &AtomicIsize {
        &self.hooks
    }

    /// No drain waits for other shards any more: some of them never started, so
    /// nobody has been served.
    pub(crate) fn forget_others(&self) {
        self.hooks.store(0, Ordering::Release);
        self.working.store(0, Ordering::Release);
    }

    /// A shard that drains has nothing left of its own.
    pub(crate) fn end_work(&self) {
        self.working.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether any shard has work of its own, for which it may need others.
    pub(crate) fn has_work(&self) -> bool {
        self.working.load(Ordering::Acquire) > 0
    }

    /// Connections above the limit that are being told so.
    pub(crate) fn refusing(&self) -> &AtomicUsize {
        &self.refusing
    }

    pub(crate) fn load_sum(&self) -> usize {
        self.shards
            .iter()
            .map(|target| target.load.load(Ordering::Relaxed))
            .sum()
    }
}
