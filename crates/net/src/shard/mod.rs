//! A shard: one thread with one event loop that owns its connections.
//!
//! What runs on a shard shares state by `Rc` and needs no locks. Other
//! threads reach it through its mailbox, by [`Remote`].

mod alarm;
mod board;
mod label;
mod memory;
mod monitor;
mod offload;
mod remote;
mod task;
mod timer;
mod waiters;

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use waystation_base::{Clock, ConnName, Moment, Rng, ShardId, Slots, Stale};
use waystation_wire::Load;

pub use self::alarm::Alarm;
pub use self::board::LoadPlace;
pub use self::label::Label;
pub(crate) use self::memory::{Held, Memory};
pub(crate) use self::monitor::{Beat, watch};
pub use self::monitor::{BlockedReport, BlockedReports};
use self::offload::Offload;
pub use self::offload::OffloadError;
pub(crate) use self::remote::Target;
pub(crate) use self::remote::{Arrival, Mail};
pub use self::remote::{Remote, RemoteError};
pub use self::task::{TaskInfo, Waiting, WaitsFor, current_wait, describe_task, waiting};
use self::task::{Tasks, Tracked};
pub(crate) use self::task::{Turn as ShardTurn, note_wait};
use self::timer::Timers;
pub use self::timer::{Elapsed, Sleep, until};
pub(crate) use self::waiters::Waiters;
use crate::clock::MonotonicClock;
use crate::conn::{Buffers, Conn, ConnShared, Flushes};
use crate::counters::Counters;
use crate::io::{Io, Stream};
use crate::server::NetConfig;

/// A handle of the shard that this thread runs. Clones share it; it cannot
/// leave the thread.
#[derive(Clone)]
pub struct Shard {
    inner: Rc<Inner>,
}

/// How often a shard whose drain hooks have run looks for the others'.
const HOOKS_POLL: Duration = Duration::from_millis(2);

type DrainHook = Box<dyn FnOnce(&Shard) -> LocalBoxFuture<'static, ()>>;

struct Inner {
    id: ShardId,
    config: Arc<NetConfig>,
    now: Cell<Option<Moment>>,
    turn: Cell<u32>,
    beat: Arc<Beat>,
    tasks: Tasks,
    timers: Timers,
    offload: Offload,
    connections: RefCell<Slots<Rc<ConnShared>>>,
    buffers: Buffers,
    flushes: Flushes,
    memory: Memory,
    counters: Arc<Counters>,
    remote: Remote,
    rng: RefCell<Rng>,
    extensions: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
    draining: Cell<bool>,
    drain_hooks: RefCell<Vec<DrainHook>>,
    drain_waiters: Waiters,
    /// Handlers that run, also of connections that are gone.
    handlers: Cell<i64>,
    /// The drain is over: what still runs ends with the thread.
    ending: Cell<bool>,
}

/// Work for which a drain waits, see [`Shard::work_guard`].
#[must_use = "it counts until it is dropped"]
pub struct WorkGuard {
    shard: Shard,
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.shard.count_handler(-1);
    }
}

/// What a shard is made of, before its thread runs.
pub(crate) struct ShardParts {
    pub(crate) id: ShardId,
    pub(crate) config: Arc<NetConfig>,
    pub(crate) beat: Arc<Beat>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) remote: Remote,
    pub(crate) seed: u64,
}

thread_local! {
    static CURRENT: RefCell<Option<Shard>> = const { RefCell::new(None) };
}

impl Shard {
    /// Makes the calling thread this shard.
    pub(crate) fn enter(parts: ShardParts) -> Self {
        let slots = Slots::with_first_generation(
            parts.id,
            parts.config.slots_per_shard(),
            parts.config.first_generation,
        );
        let inner = Inner {
            id: parts.id,
            connections: RefCell::new(slots),
            config: parts.config,
            now: Cell::new(None),
            turn: Cell::new(0),
            beat: parts.beat,
            tasks: Tasks::default(),
            timers: Timers::new(MonotonicClock.now()),
            offload: Offload::new(),
            buffers: Buffers::default(),
            flushes: Flushes::default(),
            memory: Memory::default(),
            counters: parts.counters,
            remote: parts.remote,
            rng: RefCell::new(Rng::from_seed(parts.seed)),
            extensions: RefCell::default(),
            draining: Cell::new(false),
            drain_hooks: RefCell::default(),
            drain_waiters: Waiters::default(),
            handlers: Cell::new(0),
            ending: Cell::new(false),
        };
        inner.beat.enter_thread();
        let shard = Self {
            inner: Rc::new(inner),
        };
        CURRENT.with_borrow_mut(|current| *current = Some(shard.clone()));
        let timers = shard.clone();
        tokio::task::spawn_local(Timers::drive(timers));
        let flushes = shard.clone();
        tokio::task::spawn_local(Flushes::drive(flushes));
        shard
    }

    /// Undoes [`Shard::enter`].
    pub(crate) fn leave(&self) {
        self.inner.beat.leave_thread();
        // Outside the borrow: what is dropped may ask for its neighbours.
        let extensions = self.inner.extensions.take();
        drop(extensions);
        let current = CURRENT.with_borrow_mut(Option::take);
        drop(current);
    }

    /// The shard of the calling thread, if it is one.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Which shard of the process this is.
    pub fn id(&self) -> ShardId {
        self.inner.id
    }

    /// The moment of this turn. Cost: a clock read on the first call of a
    /// task's turn, none on the others.
    pub fn now(&self) -> Moment {
        if let Some(now) = self.inner.now.get() {
            return now;
        }
        let now = MonotonicClock.now();
        if self.inner.turn.get() & 1 == 1 {
            self.inner.now.set(Some(now));
        }
        now
    }

    /// Begins a task's turn. Odd turn numbers are turns in progress.
    pub(crate) fn enter_turn(&self, label: Label) {
        let turn = self.inner.turn.get().wrapping_add(1) | 1;
        self.inner.turn.set(turn);
        self.inner.now.set(None);
        self.inner.beat.set(turn, label);
    }

    pub(crate) fn leave_turn(&self) {
        let turn = self.inner.turn.get().wrapping_add(1) & !1;
        self.inner.turn.set(turn);
        self.inner.now.set(None);
        self.inner.beat.set(turn, Label::IDLE);
    }

    /// Says what the rest of this turn runs, for the monitor.
    pub fn running(&self, label: Label) {
        self.inner.beat.set(self.inner.turn.get(), label);
    }

    /// Starts a task on this shard. A panic in it is logged and counted, and
    /// ends only this task.
    ///
    /// Cost: about 0.3 µs.
    pub fn spawn(&self, label: Label, future: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(Tracked::new(self, label, future));
    }

    /// Waits for `duration`. See [`Sleep`].
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(self, self.now() + duration)
    }

    /// Waits until `at`. See [`Sleep`].
    pub fn sleep_until(&self, at: Moment) -> Sleep {
        Sleep::new(self, at)
    }

    /// The connection of that name.
    ///
    /// # Errors
    /// [`Stale`] when it is closed or its slot belongs to another by now.
    pub fn connection(&self, name: ConnName) -> Result<Conn, Stale> {
        let connections = self.inner.connections.borrow();
        connections
            .get(name)
            .map(|shared| Conn::from_shared(shared.clone()))
    }

    /// Every open connection. Cost: linear.
    pub fn connections(&self) -> Vec<Conn> {
        let connections = self.inner.connections.borrow();
        connections
            .iter()
            .map(|(_, shared)| Conn::from_shared(shared.clone()))
            .collect()
    }

    /// The shard's counters; anyone may read them.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// What other threads use to reach the shards of this process.
    pub fn remote(&self) -> &Remote {
        &self.inner.remote
    }

    /// Where this shard says what it has to do. Whoever serves on it keeps that
    /// up to date: all shards together are what probes and pings are answered
    /// with, without a handler and, in split placement, without a worker.
    pub fn load_place(&self) -> LoadPlace {
        LoadPlace::new(self.inner.remote.board().clone(), self.id())
    }

    /// The load of this server: that of all its shards. Cost: a load of each.
    pub fn server_load(&self) -> Load {
        self.inner.remote.board().sum()
    }

    /// The settings of the server.
    pub fn config(&self) -> &Arc<NetConfig> {
        &self.inner.config
    }

    /// Sockets, or their stand-in of a test.
    pub fn io(&self) -> &Arc<dyn Io> {
        &self.inner.config.io
    }

    /// A random number from the shard's seeded generator.
    pub fn random(&self) -> u64 {
        self.inner.rng.borrow_mut().next_u64()
    }

    /// Keeps a value of which the shard has one of its type, such as the
    /// application's state.
    pub fn set_extension<T: 'static>(&self, value: Rc<T>) {
        let mut extensions = self.inner.extensions.borrow_mut();
        let old = extensions.insert(TypeId::of::<T>(), value);
        drop(extensions);
        // Its drop may come back here.
        drop(old);
    }

    /// The value kept by [`Shard::set_extension`].
    pub fn extension<T: 'static>(&self) -> Option<Rc<T>> {
        let extensions = self.inner.extensions.borrow();
        extensions
            .get(&TypeId::of::<T>())
            .cloned()
            .and_then(|value| value.downcast().ok())
    }

    /// Every task of the shard and what it waits for. Cost: linear.
    pub fn tasks_dump(&self) -> Vec<TaskInfo> {
        self.inner.tasks.dump()
    }

    /// Tasks, pending deadlines and waiting offload jobs.
    pub fn load_figures(&self) -> (usize, usize, usize) {
        (
            self.inner.tasks.len(),
            self.inner.timers.len(),
            self.inner.offload.pending(),
        )
    }

    /// Slots that are open, and slots whose owner has not released them yet.
    pub fn slot_figures(&self) -> (usize, usize) {
        let connections = self.inner.connections.borrow();
        (connections.len_open(), connections.len_closing())
    }

    /// Whether this process is on its way out.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.get()
    }

    /// Runs when a drain begins, before connections of any shard are told: the
    /// place to deregister. All hooks together share the drain's deadline.
    pub fn on_drain(&self, hook: impl FnOnce(&Self) -> LocalBoxFuture<'static, ()> + 'static) {
        self.inner.drain_hooks.borrow_mut().push(Box::new(hook));
    }

    /// Ready when a drain has begun.
    pub async fn drain_begun(&self) {
        let begun = || {
            if self.is_draining() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        };
        self.inner.drain_waiters.until(begun).await;
    }

    /// Runs the hooks, then tells everyone.
    pub(crate) async fn begin_drain(&self, deadline: Moment) {
        let hooks = std::mem::take(&mut *self.inner.drain_hooks.borrow_mut());
        for hook in hooks {
            // A task of its own: a panic in it must not end the shard.
            let (done, ended) = tokio::sync::oneshot::channel::<()>();
            let shard = self.clone();
            self.spawn(Label::of("drain hook"), async move {
                let _done = done;
                hook(&shard).await;
            });
            if until(self, deadline, ended).await.is_err() {
                tracing::warn!(shard = self.id().0, "a drain hook missed the deadline");
            }
        }
        // Nobody is told before the hooks of all shards have run: peers that
        // are sent away must not be sent here again.
        let hooks = self.remote().hooks();
        hooks.fetch_sub(1, Ordering::AcqRel);
        let all = async {
            while hooks.load(Ordering::Acquire) > 0 {
                self.sleep(HOOKS_POLL).await;
            }
        };
        let _ = until(self, deadline, all).await;
        self.inner.draining.set(true);
        self.inner.drain_waiters.wake_all();
        for connection in self.connections() {
            connection.begin_drain();
        }
    }

    /// Counts as a handler, for which a drain waits, until the guard is dropped:
    /// for work of this shard that a request on another one waits for.
    pub fn work_guard(&self) -> WorkGuard {
        self.count_handler(1);
        WorkGuard {
            shard: self.clone(),
        }
    }

    pub(crate) fn count_handler(&self, change: i64) {
        self.inner.handlers.set(self.inner.handlers.get() + change);
    }

    pub(crate) fn has_handlers(&self) -> bool {
        self.inner.handlers.get() > 0
    }

    /// From here on nothing reconnects.
    pub(crate) fn set_ending(&self) {
        self.inner.ending.set(true);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.inner.ending.get()
    }

    pub(crate) fn slots(&self) -> &RefCell<Slots<Rc<ConnShared>>> {
        &self.inner.connections
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.inner.buffers
    }

    pub(crate) fn flushes(&self) -> &Flushes {
        &self.inner.flushes
    }

    /// Gives a new stream the settings of all streams.
    pub(crate) fn tune(&self, stream: &mut dyn Stream) {
        if let Some(keepalive) = &self.config().connection.tcp_keepalive
            && let Err(error) = stream.set_keepalive(keepalive)
        {
            // The peer may have reset already; that is found in any case.
            tracing::debug!(peer = %stream.peer(), %error, "no keep-alive");
        }
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.inner.memory
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.inner.timers
    }

    pub(crate) fn offload_pool(&self) -> &Offload {
        &self.inner.offload
    }
}
