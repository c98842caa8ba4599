//! A façade for threads that are no shards: they ask a shard, wait, and get
//! an answer or an error by their deadline.
//!
//! What is asked lives on its shard, where it shares the connection, the
//! wheel and the bounds with everything else there; only the wait is on the
//! caller's thread. A shard itself must not block: it is refused here.

use std::rc::Rc;
use std::sync::mpsc as wait;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;
use waystation_base::{Clock, Moment, ShardId};

use crate::clock::MonotonicClock;
use crate::fifo::{Fifo, FifoCall, FifoCodec, FifoConfig, FifoError};
use crate::limits::{BLOCKING_GRACE, BLOCKING_QUEUE};
use crate::native::{Answer, Call, CallError, Router, Upstream, UpstreamConfig};
use crate::shard::{Label, Remote, RemoteError, Shard, until};

/// Why a thread that asked a shard has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// The deadline passed. What was asked is cancelled; what had not begun
    /// never does.
    #[error("no answer from shard {0} before the deadline")]
    Timeout(ShardId),
    /// Too much was asked of the shard and has not begun.
    #[error("shard {0} has too much to do already")]
    Overloaded(ShardId),
    /// The shard has ended, or never existed.
    #[error("shard {0} has ended")]
    Ended(ShardId),
    /// What was asked panicked; the message is in the log.
    #[error("what was asked of shard {0} panicked")]
    Panicked(ShardId),
    /// The calling thread is a shard: blocking it would stop its connections.
    #[error("shard {0} must not block; await there instead")]
    OnShard(ShardId),
}

/// Why a blocking call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingCallError<E> {
    /// It did not reach its client, or not in time.
    #[error(transparent)]
    Facade(#[from] BlockingError),
    /// The client's own error.
    #[error("{0}")]
    Call(E),
}

/// Why a shard did not finish what it was asked.
enum Unfinished {
    Elapsed,
    Panicked,
    Ended,
}

/// The shard's end of a wait. Where it is lost, the wait ends too.
struct Reply<T>(Option<wait::SyncSender<Result<T, Unfinished>>>);

impl<T> Reply<T> {
    fn give(mut self, result: Result<T, Unfinished>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<T, Unfinished>) {
        if let Some(sender) = self.0.take() {
            // A caller that gave up waits no more.
            let _ = sender.try_send(result);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        // The task was dropped: by a panic, or with its shard.
        self.send(Err(if std::thread::panicking() {
            Unfinished::Panicked
        } else {
            Unfinished::Ended
        }));
    }
}

/// A wait of the calling thread.
struct Waiting<T> {
    shard: ShardId,
    deadline: Moment,
    answer: wait::Receiver<Result<T, Unfinished>>,
}

impl<T> Waiting<T> {
    fn begin(shard: ShardId, within: Duration) -> Result<(Self, Reply<T>), BlockingError> {
        if let Some(own) = Shard::current() {
            return Err(BlockingError::OnShard(own.id()));
        }
        let (reply, answer) = wait::sync_channel(1);
        let waiting = Self {
            shard,
            deadline: MonotonicClock.now() + within,
            answer,
        };
        Ok((waiting, Reply(Some(reply))))
    }

    fn wait(self) -> Result<T, BlockingError> {
        // The shard's own deadline is the same and says more; a shard that is
        // stuck says nothing.
        let left = self.deadline.saturating_since(MonotonicClock.now()) + BLOCKING_GRACE;
        match self.answer.recv_timeout(left) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Unfinished::Elapsed)) | Err(wait::RecvTimeoutError::Timeout) => {
                Err(BlockingError::Timeout(self.shard))
            }
            Ok(Err(Unfinished::Panicked)) => Err(BlockingError::Panicked(self.shard)),
            Ok(Err(Unfinished::Ended)) | Err(wait::RecvTimeoutError::Disconnected) => {
                Err(BlockingError::Ended(self.shard))
            }
        }
    }
}

/// Runs what was asked, until its deadline, and answers. Behind the deadline it
/// does not begin: nobody waits for it any more.
async fn answer<T, F: Future<Output = T>>(
    shard: Shard,
    deadline: Moment,
    job: impl FnOnce(&Shard) -> F,
    reply: Reply<T>,
) {
    if shard.now() >= deadline {
        return reply.give(Err(Unfinished::Elapsed));
    }
    let result = until(&shard, deadline, job(&shard)).await;
    reply.give(result.map_err(|_| Unfinished::Elapsed));
}

fn unsent(error: RemoteError) -> BlockingError {
    match error {
        RemoteError::Full(shard) => BlockingError::Overloaded(shard),
        RemoteError::Ended(shard) => BlockingError::Ended(shard),
    }
}

impl Remote {
    /// Runs `job` as a task of a shard and blocks this thread until it has
    /// ended, at most for `within` (and
    /// [`BLOCKING_GRACE`] when the shard is stuck). At the deadline the task
    /// is dropped.
    ///
    /// Cost: a task and two thread switches.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn ask<T: Send + 'static>(
        &self,
        shard: ShardId,
        within: Duration,
        job: impl FnOnce(&Shard) -> LocalBoxFuture<'static, T> + Send + 'static,
    ) -> Result<T, BlockingError> {
        let (waiting, reply) = Waiting::begin(shard, within)?;
        let deadline = waiting.deadline;
        let start = move |shard: &Shard| {
            let answer = answer(shard.clone(), deadline, job, reply);
            shard.spawn(Label::of("asked"), answer);
        };
        self.run_on(shard, start).map_err(unsent)?;
        waiting.wait()
    }
}

type Job<C> = Box<dyn FnOnce(&Shard, Rc<C>) -> LocalBoxFuture<'static, ()> + Send>;

/// A client that lives on a shard and is used by threads that are none, such
/// as `Blocking<Upstream>` or `Blocking<Fifo<RespCodec>>`. Clones share it;
/// when the last is dropped the client is dropped on its shard.
///
/// ```
/// use std::time::Duration;
/// use waystation_base::ShardId;
/// use waystation_net::fifo::{Fifo, FifoConfig, RespCodec};
/// use waystation_net::{Blocking, NetConfig, Server};
///
/// let server = Server::builder(NetConfig::default()).start()?;
/// let config = FifoConfig::new("127.0.0.1:9".parse()?);
/// let within = Duration::from_millis(50);
/// // Nobody listens there: it says so in time.
/// let refused = Blocking::<Fifo<RespCodec>>::connect(
///     server.remote(), ShardId(0), config, RespCodec::default, within,
/// );
/// assert!(refused.is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Blocking<C> {
    shard: ShardId,
    jobs: mpsc::Sender<Job<C>>,
}

impl<C> Clone for Blocking<C> {
    fn clone(&self) -> Self {
        Self {
            shard: self.shard,
            jobs: self.jobs.clone(),
        }
    }
}

impl<C: 'static> Blocking<C> {
    /// Makes a client on a shard; waits until it is there.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn start(
        remote: &Remote,
        shard: ShardId,
        within: Duration,
        make: impl FnOnce(&Shard) -> C + Send + 'static,
    ) -> Result<Self, BlockingError> {
        let (jobs, queue) = mpsc::channel(BLOCKING_QUEUE);
        remote.ask(shard, within, move |shard| {
            let client = Rc::new(make(shard));
            shard.spawn(
                Label::of("blocking client"),
                serve(shard.clone(), client, queue),
            );
            Box::pin(async {})
        })?;
        Ok(Self { shard, jobs })
    }

    /// Runs `job` with the client as a task of its shard and blocks this
    /// thread until it has ended, at most for `within` (and
    /// [`BLOCKING_GRACE`] when the shard is stuck). At the deadline, which
    /// `job` is told, the task is dropped.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn run<T: Send + 'static>(
        &self,
        within: Duration,
        job: impl FnOnce(Rc<C>, Moment) -> LocalBoxFuture<'static, T> + Send + 'static,
    ) -> Result<T, BlockingError> {
        let (waiting, reply) = Waiting::begin(self.shard, within)?;
        let deadline = waiting.deadline;
        let job: Job<C> = Box::new(move |shard, client| {
            let job = move |_: &Shard| job(client, deadline);
            Box::pin(answer(shard.clone(), deadline, job, reply))
        });
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BlockingError::Overloaded(self.shard),
            mpsc::error::TrySendError::Closed(_) => BlockingError::Ended(self.shard),
        })?;
        waiting.wait()
    }
}

/// Starts what is asked, as long as someone may ask.
async fn serve<C: 'static>(shard: Shard, client: Rc<C>, mut queue: mpsc::Receiver<Job<C>>) {
    while let Some(job) = queue.recv().await {
        let job = job(&shard, client.clone());
        shard.spawn(Label::of("blocking call"), job);
    }
}

/// What is left until `deadline`.
fn left(deadline: Moment) -> Duration {
    deadline.saturating_since(MonotonicClock.now())
}

impl Blocking<Upstream> {
    /// Connects to a server of the native protocol and waits until it is up.
    ///
    /// # Errors
    /// [`BlockingError::Timeout`] when it does not answer in time, and the
    /// others.
    pub fn connect(
        remote: &Remote,
        shard: ShardId,
        config: UpstreamConfig,
        within: Duration,
    ) -> Result<Self, BlockingError> {
        let deadline = MonotonicClock.now() + within;
        let make =
            move |shard: &Shard| Upstream::new(shard, config.clone(), Rc::new(Router::new()));
        let client = Self::start(remote, shard, within, make)?;
        client.run(left(deadline), |upstream, _| {
            Box::pin(async move {
                // Nobody closes it but who drops it.
                let _ = upstream.up().await;
            })
        })?;
        Ok(client)
    }

    /// Calls the server and blocks until its answer or the call's deadline.
    ///
    /// # Errors
    /// [`BlockingCallError`]; the answer itself may carry an error status.
    pub fn call(&self, call: &Call, body: &[u8]) -> Result<Answer, BlockingCallError<CallError>> {
        let (call, body) = (*call, body.to_vec());
        let answer = self.run(left(call.deadline), move |upstream, _| {
            Box::pin(async move { upstream.call(&call, &body).await })
        })?;
        answer.map_err(BlockingCallError::Call)
    }
}

impl<C: FifoCodec> Blocking<Fifo<C>> {
    /// Connects to a server that answers in order and waits until one of its
    /// connections is up.
    ///
    /// # Errors
    /// [`BlockingError::Timeout`] when it does not answer in time, and the
    /// others.
    pub fn connect(
        remote: &Remote,
        shard: ShardId,
        config: FifoConfig,
        codec: impl Fn() -> C + Send + 'static,
        within: Duration,
    ) -> Result<Self, BlockingError> {
        let deadline = MonotonicClock.now() + within;
        let make = move |shard: &Shard| Fifo::new(shard, config, codec);
        let client = Self::start(remote, shard, within, make)?;
        client.run(left(deadline), |fifo, _| {
            Box::pin(async move {
                // Nobody closes it but who drops it.
                let _ = fifo.connected().await;
            })
        })?;
        Ok(client)
    }

    /// Sends one whole, encoded request and blocks until its answer or the
    /// call's deadline.
    ///
    /// # Errors
    /// [`BlockingCallError`].
    pub fn call(
        &self,
        request: &[u8],
        call: &FifoCall,
    ) -> Result<C::Answer, BlockingCallError<FifoError>>
    where
        C::Answer: Send,
    {
        let (call, request) = (*call, request.to_vec());
        let answer = self.run(left(call.deadline), move |fifo, _| {
            Box::pin(async move { fifo.call(&request, &call).await })
        })?;
        answer.map_err(BlockingCallError::Call)
    }
}
