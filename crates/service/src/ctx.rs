//! Request contexts: what a shard knows of each request in progress.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use waystation_base::{Clock, Moment, Sid, TraceId, line_passes};
use waystation_net::{Conn, Label, MonotonicClock, Shard, Sleep, WaitsFor, current_wait};

use crate::caller::{Caller, caller_of};
use crate::contexts::Contexts;
use crate::peer::Peer;
use crate::status::Status;

pub(crate) struct Context {
    pub(crate) sid: Sid,
    pub(crate) trace: TraceId,
    pub(crate) method: Label,
    pub(crate) state: Cell<&'static str>,
    pub(crate) waits_for: Cell<Option<WaitsFor>>,
    pub(crate) started: Moment,
    pub(crate) deadline: Moment,
    /// Time after the deadline in which the handler may still answer.
    grace: Cell<Duration>,
    pub(crate) conn: Option<Conn>,
    /// Whose share it counts in.
    pub(crate) caller: Option<Rc<Caller>>,
    shard: Shard,
    contexts: Rc<Contexts>,
    pub(crate) place: Cell<usize>,
    cancelled: Cell<bool>,
    closes: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// The error that the request ended with, if it did.
    ended_as: OnceCell<Status>,
}

impl Drop for Context {
    fn drop(&mut self) {
        self.contexts.close(self);
    }
}

/// A request's context: who asks, until when, and where it stands. It goes
/// to every call that the request makes, so that deadlines travel. Clones
/// share it.
#[derive(Clone)]
pub struct Ctx {
    pub(crate) shared: Rc<Context>,
}

/// What a new context starts with.
pub(crate) struct Opening {
    pub(crate) sid: Option<Sid>,
    pub(crate) trace: TraceId,
    pub(crate) method: Label,
    /// Time that the caller gave; `None` for the default.
    pub(crate) deadline_left: Option<Duration>,
    pub(crate) conn: Option<Conn>,
}

impl Ctx {
    pub(crate) fn open(
        shard: &Shard,
        contexts: &Rc<Contexts>,
        opening: Opening,
        caller: Option<Rc<Caller>>,
    ) -> Self {
        let started = shard.now();
        let left = opening.deadline_left.unwrap_or(contexts.deadline_default());
        let shared = Rc::new(Context {
            sid: opening.sid.unwrap_or_else(|| contexts.next_sid()),
            trace: opening.trace,
            method: opening.method,
            state: Cell::new(""),
            waits_for: Cell::new(None),
            started,
            deadline: started + left.min(crate::limits::DEADLINE_MAX),
            grace: Cell::new(Duration::ZERO),
            conn: opening.conn,
            caller,
            shard: shard.clone(),
            contexts: contexts.clone(),
            place: Cell::new(usize::MAX),
            cancelled: Cell::new(false),
            closes: Cell::new(false),
            waker: RefCell::new(None),
            ended_as: OnceCell::new(),
        });
        contexts.open(&shared);
        Self { shared }
    }

    /// A context for work that no peer asked for, such as a timer's, with a
    /// deadline `within` from now, at most
    /// [`DEADLINE_MAX`](crate::limits::DEADLINE_MAX). It makes calls end; the
    /// work itself is not ended.
    pub fn background(shard: &Shard, name: &str, within: Duration) -> Self {
        Self::background_of(shard, name, within, None)
    }

    /// Like [`Ctx::background`], for work that serves a peer, such as bringing
    /// it what it missed: its calls count in that peer's share.
    pub fn background_for(peer: &Peer, name: &str, within: Duration) -> Self {
        let caller = caller_of(peer.conn());
        Self::background_of(peer.conn().shard(), name, within, Some(caller))
    }

    fn background_of(
        shard: &Shard,
        name: &str,
        within: Duration,
        caller: Option<Rc<Caller>>,
    ) -> Self {
        let opening = Opening {
            sid: None,
            trace: TraceId::default(),
            method: Label::of(name),
            deadline_left: Some(within),
            conn: None,
        };
        Self::open(shard, &Contexts::of(shard), opening, caller)
    }

    /// The request's id, unique among all requests of all processes.
    pub fn sid(&self) -> Sid {
        self.shared.sid
    }

    /// The trace it belongs to.
    pub fn trace(&self) -> TraceId {
        self.shared.trace
    }

    /// The method that was asked for, or the name of the background work.
    pub fn method(&self) -> &'static str {
        self.shared.method.name()
    }

    /// When the caller gives up. The framework answers then.
    pub fn deadline(&self) -> Moment {
        self.shared.deadline
    }

    /// The time that is left.
    pub fn time_left(&self) -> Duration {
        self.shared
            .deadline
            .saturating_since(self.shared.shard.now())
    }

    /// The shard that runs it.
    pub fn shard(&self) -> &Shard {
        &self.shared.shard
    }

    /// Where the request came from; `None` for background work.
    pub fn peer(&self) -> Option<Peer> {
        self.shared.conn.clone().map(Peer::new)
    }

    /// The connection it came by; `None` for background work.
    pub fn conn(&self) -> Option<&Conn> {
        self.shared.conn.as_ref()
    }

    /// Names the step that the request is at, for those who list contexts.
    pub fn set_state(&self, state: &'static str) {
        self.shared.state.set(state);
    }

    /// A context for a part of this request that ends earlier.
    #[must_use]
    pub fn within(&self, time: Duration) -> Self {
        let opening = Opening {
            sid: Some(self.shared.sid),
            trace: self.shared.trace,
            method: self.shared.method,
            deadline_left: Some(time.min(self.time_left())),
            conn: self.shared.conn.clone(),
        };
        let caller = self.shared.caller.clone();
        Self::open(&self.shared.shard, &self.shared.contexts, opening, caller)
    }

    /// Ends the connection when this request has been answered: unlike
    /// [`Peer::close`], after which nothing more leaves, its answer included.
    /// Over HTTP, where each answer may be a connection's last, it does
    /// nothing.
    pub fn close_after_answer(&self) {
        self.shared.closes.set(true);
    }

    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.shared.caller.as_deref()
    }

    pub(crate) fn contexts(&self) -> &Rc<Contexts> {
        &self.shared.contexts
    }

    /// When its time began.
    pub(crate) fn started(&self) -> Moment {
        self.shared.started
    }

    pub(crate) fn closes(&self) -> bool {
        self.shared.closes.get()
    }

    /// The handler may answer this long after the deadline.
    pub(crate) fn allow_grace(&self, grace: Duration) {
        self.shared.grace.set(grace);
    }

    /// The caller no longer wants the answer.
    pub(crate) fn cancel(&self) {
        self.shared.cancelled.set(true);
        let waker = self.shared.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.shared.cancelled.get()
    }

    /// The request is answered: it is no longer listed, even when a clone of
    /// its context lives on.
    pub(crate) fn leave(&self) {
        self.shared.contexts.close(&self.shared);
        drop(self.shared.waker.take());
    }

    /// How long it has been in progress. Cost: a clock read. The moment of
    /// this turn would not do: a handler that never waits ends in the turn in
    /// which it began.
    pub(crate) fn age(&self) -> Duration {
        MonotonicClock.now().saturating_since(self.shared.started)
    }

    /// How the framework ended the request, once it has.
    pub(crate) fn ended_as(&self) -> Option<&Status> {
        self.shared.ended_as.get()
    }

    /// Runs a handler under this context: to its answer, its deadline, its
    /// cancellation, or its panic, whichever comes first. The handler is
    /// dropped before this returns. One whose deadline has passed already is
    /// not started at all.
    pub(crate) async fn run<T>(
        &self,
        handler: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut handler = pin!(Some(handler));
        let mut timer = None;
        let result = poll_fn(|cx| {
            let running = handler.as_mut().as_pin_mut();
            self.poll(running.expect("it is there until the end"), &mut timer, cx)
        })
        .await;
        if let Err(status) = &result {
            // Those that the handler's drop tells of the end look here.
            let _ = self.shared.ended_as.set(status.clone());
        }
        if catch_unwind(AssertUnwindSafe(|| handler.set(None))).is_err() {
            // The answer stands: what panicked is only the tidying up.
            let _ = self.panicked();
        }
        result
    }

    fn poll<T>(
        &self,
        handler: Pin<&mut impl Future<Output = Result<T, Status>>>,
        timer: &mut Option<Sleep>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<T, Status>> {
        let shared = &self.shared;
        if shared.cancelled.get() {
            return Poll::Ready(Err(Status::cancelled("the caller gave up")));
        }
        if timer.is_none() && self.time_left().is_zero() {
            shared.contexts.count_timeout();
            return Poll::Ready(Err(self.overdue()));
        }
        shared.shard.running(shared.method);
        match catch_unwind(AssertUnwindSafe(|| handler.poll(cx))) {
            Ok(Poll::Ready(result)) => return Poll::Ready(result),
            Ok(Poll::Pending) => shared.waits_for.set(current_wait()),
            Err(_) => return Poll::Ready(Err(self.panicked())),
        }
        self.keep_waker(cx.waker());
        loop {
            let at = shared.deadline + shared.grace.get();
            let timer = timer.get_or_insert_with(|| shared.shard.sleep_until(at));
            if timer.deadline() != at {
                timer.reset(at);
            }
            if Pin::new(timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if shared.shard.now() >= shared.deadline + shared.grace.get() {
                shared.contexts.count_timeout();
                return Poll::Ready(Err(self.overdue()));
            }
        }
    }

    /// Remembers whom a cancellation wakes.
    fn keep_waker(&self, waker: &Waker) {
        let mut kept = self.shared.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            let old = kept.replace(waker.clone());
            drop(kept);
            // Its drop may end a task, whose drop may come back here.
            drop(old);
        }
    }

    pub(crate) fn panicked(&self) -> Status {
        self.shared.shard.counters().panics.add(1);
        let method = self.shared.method.name();
        let now = self.shared.shard.now();
        if let Some(unsaid) = line_passes!(now) {
            tracing::error!(sid = %self.shared.sid, method, unsaid, "a handler panicked");
        }
        Status::internal(format!("the handler of {method} panicked"))
    }

    fn overdue(&self) -> Status {
        let waits = self.shared.waits_for.get();
        let waits = waits.map_or_else(String::new, |waits| format!(" while waiting for {waits}"));
        Status::deadline_exceeded(format!("{} missed its deadline{waits}", self.shared.method))
    }
}

impl std::fmt::Debug for Ctx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ctx({} {})", self.shared.method, self.shared.sid)
    }
}
