//! Clients of the native protocol: many calls at once over one connection,
//! matched by call id, made again with bounded back-off when it is lost.

mod drive;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use waystation_base::{BackoffConfig, FencingToken, MessageId, Moment, Sid, SiteId, TraceId};
use waystation_wire::{
    Flags, Header, Load, MESSAGE_LEN_MAX, encode_header, encode_into, frames_len,
};

use super::calls::{Answer, CallError, Calls, Ticket};
use super::router::Router;
use crate::conn::{CloseReason, Conn, SendError};
use crate::io::Address;
use crate::limits;
use crate::shard::{Label, Shard, Waiters, WaitsFor, until, waiting};

/// Settings of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Where it is.
    pub address: Address,
    /// Calls in flight or waiting at once.
    pub in_flight_max: u32,
    /// Time for one attempt to connect.
    pub connect_wait: Duration,
    /// A quiet connection is pinged this often.
    pub keepalive_interval: Duration,
    /// A connection that gives no sign of life for this long is closed.
    pub keepalive_wait: Duration,
    /// Pauses between attempts to connect.
    pub backoff: BackoffConfig,
    /// Where the generations of call ids start, by default 1. Tests start just
    /// before they wrap.
    pub first_generation: u32,
}

impl UpstreamConfig {
    /// The defaults for an address.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            in_flight_max: limits::UPSTREAM_IN_FLIGHT_MAX,
            connect_wait: limits::CONNECT_WAIT,
            keepalive_interval: limits::KEEPALIVE_INTERVAL,
            keepalive_wait: limits::KEEPALIVE_WAIT,
            backoff: BackoffConfig {
                base: Duration::from_millis(10),
                max: Duration::from_secs(1),
                ..BackoffConfig::default()
            },
            first_generation: 1,
        }
    }
}

/// What an upstream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamState {
    /// It has no connection, and tries to make one.
    Connecting,
    /// It has a connection.
    Up,
    /// The callee goes away: calls in flight end, new ones wait.
    Draining,
    /// It was closed on this side.
    Closed,
}

/// What happens on an upstream, beside answers.
pub trait UpstreamEvents: 'static {
    /// A connection was made. Calls may be started here.
    fn on_up(&self, upstream: &Upstream, conn: &Conn) {
        let _ = (upstream, conn);
    }

    /// The connection was lost; every call on it has failed.
    fn on_down(&self, upstream: &Upstream, reason: CloseReason) {
        let _ = (upstream, reason);
    }

    /// No connection can be made, for a reason that is news.
    fn on_unreachable(&self, reason: &str) {
        let _ = reason;
    }
}

struct NoEvents;
impl UpstreamEvents for NoEvents {}

/// One request, beside its body.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Which message it is.
    pub message: MessageId,
    /// Its name, for dumps.
    pub label: Label,
    /// The request context it belongs to.
    pub sid: Sid,
    /// The trace it belongs to.
    pub trace: TraceId,
    /// When the caller gives up. It travels as the time that is left.
    pub deadline: Moment,
    /// The callee may be asked again.
    pub idempotent: bool,
    /// Whose site the caller is in.
    pub site: SiteId,
    /// The fencing token that the caller holds.
    pub fencing: FencingToken,
}

struct Shared {
    shard: Shard,
    config: UpstreamConfig,
    router: Rc<Router>,
    calls: Calls,
    events: Rc<dyn UpstreamEvents>,
    state: Cell<UpstreamState>,
    /// Whether it takes nothing new and closes when what was sent is answered.
    is_retired: Cell<bool>,
    conn: RefCell<Option<Conn>>,
    waiters: Waiters,
    label: Label,
    /// Why the last attempt failed, for people.
    fault: RefCell<Option<String>>,
}

/// A client of one address on one shard. Clones share the connection; when
/// the last is dropped it closes.
#[derive(Clone)]
pub struct Upstream {
    shared: Rc<Shared>,
    closer: Rc<Closer>,
}

struct Closer(Weak<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.close();
        }
    }
}

impl Upstream {
    /// A client that connects at once, and again whenever the connection is
    /// lost. `router` handles what the callee pushes.
    pub fn new(shard: &Shard, config: UpstreamConfig, router: Rc<Router>) -> Self {
        Self::with_events(shard, config, router, Rc::new(NoEvents))
    }

    /// Like [`Upstream::new`], told of connections made and lost.
    pub fn with_events(
        shard: &Shard,
        config: UpstreamConfig,
        router: Rc<Router>,
        events: Rc<dyn UpstreamEvents>,
    ) -> Self {
        let shared = Rc::new(Shared {
            shard: shard.clone(),
            calls: Calls::new(config.in_flight_max, config.first_generation),
            label: Label::of(&config.address.to_string()),
            config,
            router,
            events,
            state: Cell::new(UpstreamState::Connecting),
            is_retired: Cell::new(false),
            conn: RefCell::new(None),
            waiters: Waiters::default(),
            fault: RefCell::new(None),
        });
        let closer = Rc::new(Closer(Rc::downgrade(&shared)));
        let upstream = Self {
            shared: shared.clone(),
            closer,
        };
        // The task holds no clone of the closer: it ends when users are gone.
        let weak = Rc::downgrade(&upstream.closer);
        shard.spawn(Label::of("upstream"), drive::run(shared, weak));
        upstream
    }

    /// What it is doing.
    pub fn state(&self) -> UpstreamState {
        self.shared.state.get()
    }

    /// Where it connects to.
    pub fn address(&self) -> &Address {
        &self.shared.config.address
    }

    /// Calls in flight or waiting for a connection.
    pub fn in_flight(&self) -> u32 {
        self.shared.calls.len()
    }

    /// Its connection, while it has one.
    pub fn conn(&self) -> Option<Conn> {
        self.shared.conn.borrow().clone()
    }

    /// Why the last attempt to connect failed, or what the callee said when it
    /// refused the connection, while it has none that serves.
    pub fn fault(&self) -> Option<String> {
        self.shared.fault.borrow().clone()
    }

    /// Closes it for good. Calls in flight fail.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Takes no new calls: those that were sent end, those that wait for a
    /// connection fail at once, then it closes for good. What the callee pushes
    /// meanwhile is handled.
    pub fn retire(&self) {
        self.shared.is_retired.set(true);
        self.shared.waiters.wake_all();
        match self.state() {
            UpstreamState::Connecting => self.shared.close(),
            UpstreamState::Up | UpstreamState::Draining => self.shared.go_away(),
            UpstreamState::Closed => {}
        }
    }

    /// Waits until it is up, or takes nothing new.
    ///
    /// # Errors
    /// [`CallError::Closed`].
    pub async fn up(&self) -> Result<Conn, CallError> {
        let up = self.shared.waiters.until(|| match self.state() {
            _ if self.shared.is_retired.get() => Poll::Ready(Err(CallError::Closed)),
            UpstreamState::Closed => Poll::Ready(Err(CallError::Closed)),
            UpstreamState::Up => match &*self.shared.conn.borrow() {
                Some(conn) if conn.is_open() => Poll::Ready(Ok(conn.clone())),
                // It ends, and its end changes the state.
                _ => Poll::Pending,
            },
            UpstreamState::Connecting | UpstreamState::Draining => Poll::Pending,
        });
        waiting(
            WaitsFor {
                what: "connection to",
                of: self.shared.label,
            },
            up,
        )
        .await
    }

    /// Waits until it is up and its callee keeps up with what was sent.
    async fn writable(&self) -> Result<Conn, CallError> {
        loop {
            let conn = self.up().await?;
            if !conn.is_behind() {
                return Ok(conn);
            }
            // When it ends meanwhile, the next one is waited for.
            let _ = conn.writable().await;
        }
    }

    /// Calls the upstream and waits for its answer, until the deadline.
    /// Without a connection it waits for one first. Dropping the future
    /// cancels the call: the callee is told, a late answer is discarded.
    ///
    /// Cost: a place in a table, a wheel entry, one copy of the answer.
    ///
    /// # Errors
    /// [`CallError`]; the answer itself may carry an error status.
    pub async fn call(&self, call: &Call, body: &[u8]) -> Result<Answer, CallError> {
        let flags = if call.idempotent {
            Flags::IDEMPOTENT
        } else {
            Flags::NONE
        };
        self.exchange(call, flags, body).await
    }

    /// Asks the callee what it has to do, until the deadline: it answers without
    /// a handler. `None` from one that answers with an error, since it does not
    /// know probes.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn probe(&self, deadline: Moment) -> Result<Option<Load>, CallError> {
        let call = Call {
            message: MessageId(0),
            label: self.shared.label,
            sid: Sid::default(),
            trace: TraceId::default(),
            deadline,
            idempotent: true,
            site: SiteId::default(),
            fencing: FencingToken::default(),
        };
        let answer = self.exchange(&call, Flags::PROBE, b"").await?;
        let is_told = answer.header.status.is_ok();
        Ok(is_told.then_some(answer.header.load))
    }

    async fn exchange(&self, call: &Call, flags: Flags, body: &[u8]) -> Result<Answer, CallError> {
        let shard = &self.shared.shard;
        let counters = shard.counters();
        counters.calls.add(1);
        let ticket = self.begin(call, body).inspect_err(|_| {
            counters.calls_refused.add(1);
        })?;
        counters.calls_in_flight.add(1);
        let mut flight = Flight {
            shared: &self.shared,
            ticket,
            conn: None,
        };
        let exchange = async {
            flight.send(self.writable().await?, call, flags, body)?;
            let answer = poll_fn(|cx| flight.ticket.poll_answer(cx));
            waiting(
                WaitsFor {
                    what: "answer to",
                    of: call.label,
                },
                answer,
            )
            .await
        };
        let result = until(shard, call.deadline, exchange).await;
        let result = result.unwrap_or_else(|_| {
            Err(if flight.ticket.was_sent() {
                CallError::Timeout
            } else if self.state() == UpstreamState::Up {
                CallError::Behind
            } else {
                CallError::NotConnected
            })
        });
        if result.is_err() {
            counters.calls_failed.add(1);
        }
        result
    }

    fn begin(&self, call: &Call, body: &[u8]) -> Result<Ticket, CallError> {
        if body.len() > MESSAGE_LEN_MAX {
            return Err(CallError::TooLarge);
        }
        if call.deadline <= self.shared.shard.now() {
            return Err(CallError::Expired);
        }
        self.shared.calls.begin()
    }

    /// Sends a one-way message. Without a connection it is refused, and when
    /// the callee is too far behind.
    ///
    /// # Errors
    /// [`CallError::NotConnected`], [`CallError::Overloaded`] or
    /// [`CallError::TooLarge`].
    pub fn push(&self, message: MessageId, body: &[u8]) -> Result<(), CallError> {
        if body.len() > MESSAGE_LEN_MAX {
            return Err(CallError::TooLarge);
        }
        let conn = self.conn().ok_or(CallError::NotConnected)?;
        let header = Header::push(message);
        let sent = conn.send_with(frames_len(body.len()), |out| {
            // The length was checked above.
            let _ = encode_into(&header, body, out);
        });
        sent.map_err(|error| self.shared.unsent(error))
    }
}

/// A call from its start to its end, however it ends.
struct Flight<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    conn: Option<Conn>,
}

impl Flight<'_> {
    fn send(
        &mut self,
        conn: Conn,
        call: &Call,
        flags: Flags,
        body: &[u8],
    ) -> Result<(), CallError> {
        let left = call.deadline.saturating_since(self.shared.shard.now());
        let header = Header::request(call.message, self.ticket.call())
            .with_flags(flags)
            .with_sid(call.sid)
            .with_trace(call.trace)
            .with_deadline_left(Some(left))
            .with_site(call.site)
            .with_fencing(call.fencing);
        let sent = conn.send_with(frames_len(body.len()), |out| {
            // The length was checked above.
            let _ = encode_into(&header, body, out);
        });
        sent.map_err(|error| self.shared.unsent(error))?;
        self.ticket.mark_sent();
        self.conn = Some(conn);
        Ok(())
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.shared.shard.counters().calls_in_flight.sub(1);
        if let Some(conn) = &self.conn
            && self.ticket.is_waiting()
        {
            // Best effort: a callee that is not told works in vain.
            let _ = conn.send(&encode_header(&Header::cancel(self.ticket.call())));
        }
        self.ticket.end();
        self.shared.close_when_drained();
    }
}

impl Shared {
    /// Why a message did not go out.
    fn unsent(&self, error: SendError) -> CallError {
        match error {
            SendError::Full(_) => CallError::Overloaded(self.calls.len()),
            _ => CallError::NotConnected,
        }
    }

    fn set_state(&self, state: UpstreamState) {
        if self.state.get() != UpstreamState::Closed {
            self.state.set(state);
        }
        self.waiters.wake_all();
    }

    /// Ready when it was closed on this side.
    async fn closed(&self) {
        let closed = || match self.state.get() {
            UpstreamState::Closed => Poll::Ready(()),
            _ => Poll::Pending,
        };
        self.waiters.until(closed).await;
    }

    fn close(&self) {
        self.set_state(UpstreamState::Closed);
        if let Some(conn) = &*self.conn.borrow() {
            conn.close(CloseReason::Local);
        }
    }

    /// The callee goes away: calls in flight end, then the connection.
    fn go_away(&self) {
        if self.state.get() == UpstreamState::Up {
            self.set_state(UpstreamState::Draining);
        }
        self.close_when_drained();
    }

    fn close_when_drained(&self) {
        if self.state.get() != UpstreamState::Draining || self.calls.any_sent() {
            return;
        }
        if self.is_retired.get() {
            self.close();
        } else if let Some(conn) = &*self.conn.borrow() {
            conn.close(CloseReason::Draining);
        }
    }
}
