//! Calls to other services.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use prost::Message;
use waystation_base::{CallId, FencingToken, MessageId, Moment, SiteId};
use waystation_client::CallGuard;
use waystation_membership::{Address as Registered, CallersWord};
use waystation_net::native::{
    Call, CallError, Router as NativeRouter, Upstream, UpstreamConfig, UpstreamEvents,
    UpstreamState,
};
use waystation_net::{Address, CloseReason, Conn, Label, Shard};
use waystation_wire::{Flags, Header, Load, encode_header};

use crate::agent::{self, Agent};
use crate::ctx::Ctx;
use crate::limits::{CALLERS_FAILURES, CALLERS_WINDOW, CALLS_AT_ONCE};
use crate::method::Method;
use crate::peer::PushError;
use crate::status::Status;
use crate::turns::Turns;

struct Shared {
    upstream: Upstream,
    labels: RefCell<HashMap<MessageId, Label>>,
    load: RefCell<Load>,
    turns: Turns,
    /// When the last call began that ended without any sign of life since.
    silent: Cell<Option<Moment>>,
    standing: Rc<Standing>,
    /// Who counts its calls, and under which address.
    counted: OnceCell<(Rc<Agent>, Registered)>,
}

/// What calls and connections tell of the other side.
#[derive(Default)]
struct Standing {
    /// Whether it has had a connection.
    was_up: Cell<bool>,
    /// Calls in a row without an answer, on this connection.
    unanswered: Cell<u32>,
    /// When the last call ended.
    told: Cell<Option<Moment>>,
}

impl Standing {
    fn note(&self, is_answered: bool, now: Moment) {
        let unanswered = self.unanswered.get().saturating_add(1);
        self.unanswered
            .set(if is_answered { 0 } else { unanswered });
        self.told.set(Some(now));
    }
}

/// Asks for a sign of life on each new connection: whoever picks between
/// callees wants to know whether this one answers.
struct Hello {
    events: Rc<dyn UpstreamEvents>,
    standing: Rc<Standing>,
}

impl UpstreamEvents for Hello {
    fn on_up(&self, upstream: &Upstream, conn: &Conn) {
        self.standing.was_up.set(true);
        // It may be another process by now.
        self.standing.unanswered.set(0);
        // One that has ended already has no life.
        let _ = conn.send(&encode_header(&Header::ping(CallId(0))));
        self.events.on_up(upstream, conn);
    }

    fn on_down(&self, upstream: &Upstream, reason: CloseReason) {
        self.events.on_down(upstream, reason);
    }
}

/// A way to one instance of a service. Clones share its connection.
///
/// Calls take the deadline of the context they are made under, and travel
/// with what is left of it.
#[derive(Clone)]
pub struct Channel {
    shared: Rc<Shared>,
}

impl Channel {
    /// A channel to `address`; it connects at once and again when it must.
    pub fn new(shard: &Shard, address: Address) -> Self {
        struct Quiet;
        impl UpstreamEvents for Quiet {}
        Self::with_pushes(shard, address, NativeRouter::new(), Rc::new(Quiet))
    }

    /// A channel that also handles what the other side pushes, and is told
    /// when its connection comes and goes.
    pub fn with_pushes(
        shard: &Shard,
        address: Address,
        pushes: NativeRouter,
        events: Rc<dyn UpstreamEvents>,
    ) -> Self {
        let config = UpstreamConfig::new(address);
        let standing = Rc::<Standing>::default();
        let hello = Rc::new(Hello {
            events,
            standing: standing.clone(),
        });
        let upstream = Upstream::with_events(shard, config, Rc::new(pushes), hello);
        Self::over(upstream, Turns::new(CALLS_AT_ONCE), standing)
    }

    /// A channel over an upstream of one's own making. Nothing asks for signs
    /// of life before its keep-alive does, see [`Channel::is_up`].
    pub fn from_upstream(upstream: Upstream) -> Self {
        Self::with_turns(upstream, Turns::new(CALLS_AT_ONCE))
    }

    /// Like [`Channel::from_upstream`], with other turns than at
    /// [`CALLS_AT_ONCE`]: for a callee that handles fewer or more at once, or
    /// for several channels that share one bound.
    pub fn with_turns(upstream: Upstream, turns: Turns) -> Self {
        let standing = Rc::<Standing>::default();
        standing.was_up.set(true);
        Self::over(upstream, turns, standing)
    }

    fn over(upstream: Upstream, turns: Turns, standing: Rc<Standing>) -> Self {
        let shared = Shared {
            upstream,
            labels: RefCell::default(),
            load: RefCell::default(),
            turns,
            silent: Cell::new(None),
            standing,
            counted: OnceCell::new(),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// The upstream below.
    pub fn upstream(&self) -> &Upstream {
        &self.shared.upstream
    }

    /// The turns that its calls take.
    pub fn turns(&self) -> &Turns {
        &self.shared.turns
    }

    /// Why a call was not made, for people.
    fn unsent(&self, status: Status) -> Status {
        if self.is_connected() {
            return status;
        }
        let fault = self.upstream().fault().unwrap_or_default();
        let colon = if fault.is_empty() { "" } else { ": " };
        Status::unavailable(format!(
            "there is no connection to the callee{colon}{fault}"
        ))
    }

    /// Whether the other side answers: it has a connection, on which it has
    /// given a sign of life, also since the last call that it left without
    /// one. A process that hangs accepts connections nevertheless: its kernel
    /// does.
    pub fn is_up(&self) -> bool {
        self.is_connected()
            && self.shared.upstream.conn().is_some_and(|conn| {
                let silent = self.shared.silent.get();
                conn.received() > silent.unwrap_or_default().max(conn.opened())
            })
    }

    /// Whether it has a connection, at whose other end may be nobody.
    pub fn is_connected(&self) -> bool {
        self.shared.upstream.state() == UpstreamState::Up
    }

    /// Whether nothing is known of it yet: its first attempt to connect is
    /// under way.
    pub fn is_fresh(&self) -> bool {
        let upstream = &self.shared.upstream;
        !self.shared.standing.was_up.get()
            && upstream.state() == UpstreamState::Connecting
            && upstream.fault().is_none()
    }

    /// Whether its last attempt to connect failed: whoever calls waits for the
    /// next one.
    pub(crate) fn is_away(&self) -> bool {
        let upstream = &self.shared.upstream;
        upstream.state() == UpstreamState::Connecting && upstream.fault().is_some()
    }

    /// Takes no new calls: those that were sent end, then it closes.
    pub fn retire(&self) {
        self.shared.upstream.retire();
    }

    /// What calls met in the last [`CALLERS_WINDOW`]: answers, refusals among
    /// them, or [`CALLERS_FAILURES`] failures in a row.
    pub fn callers(&self, now: Moment) -> CallersWord {
        let standing = &self.shared.standing;
        match standing.told.get() {
            Some(told) if now.saturating_since(told) <= CALLERS_WINDOW => {
                if standing.unanswered.get() >= CALLERS_FAILURES {
                    CallersWord::Failing
                } else {
                    CallersWord::Ok
                }
            }
            _ => CallersWord::None,
        }
    }

    /// A call that began then had no answer in time.
    fn note_silence(&self, began: Moment) {
        let silent = |conn: Conn| conn.received() < began;
        if self.shared.upstream.conn().is_some_and(silent) {
            self.shared.silent.set(Some(began));
        }
    }

    /// The load that the other side told with its last answer.
    pub fn load(&self) -> Load {
        *self.shared.load.borrow()
    }

    fn label(&self, id: MessageId, name: &str) -> Label {
        *self
            .shared
            .labels
            .borrow_mut()
            .entry(id)
            .or_insert_with(|| Label::of(name))
    }

    /// Has the agent count its calls from here on, as calls to the host at
    /// `address`.
    pub(crate) fn count_by(&self, agent: &Rc<Agent>, address: &Registered) {
        // The first one stays.
        let _ = self.shared.counted.set((agent.clone(), address.clone()));
    }

    /// Counts a call that begins now, if somebody counts.
    pub(crate) fn begin_counted(&self) -> Option<CallGuard> {
        let (agent, address) = self.shared.counted.get()?;
        agent.begin_at(address)
    }

    /// Like [`Channel::call`], counted by `call` in place of what counts
    /// otherwise.
    pub(crate) async fn call_counted<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
        call: Option<CallGuard>,
    ) -> Result<M::Reply, Status> {
        let result = self.exchange::<M>(ctx, request).await;
        if let Some(call) = call {
            agent::end(call, &result, self.load());
        }
        result
    }

    /// Calls a method and waits for its answer, until the deadline of `ctx`.
    /// Dropping the future cancels the call. While [`CALLS_AT_ONCE`] of its
    /// calls are in progress it waits for its turn, callers in rotation: one
    /// that floods stands in its own way only.
    ///
    /// # Errors
    /// What the handler answered, a refusal, or why there is no answer.
    pub async fn call<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
    ) -> Result<M::Reply, Status> {
        let call = self.begin_counted();
        self.call_counted::<M>(ctx, request, call).await
    }

    async fn exchange<M: Method>(
        &self,
        ctx: &Ctx,
        request: &M::Request,
    ) -> Result<M::Reply, Status> {
        let turn = self.shared.turns.turn(ctx).await;
        let _turn = turn.map_err(|status| self.unsent(status))?;
        let call = Call {
            message: M::ID,
            label: self.label(M::ID, M::NAME),
            sid: ctx.sid(),
            trace: ctx.trace(),
            deadline: ctx.deadline(),
            idempotent: M::IDEMPOTENT,
            site: SiteId::default(),
            fencing: FencingToken::default(),
        };
        let body = request.encode_to_vec();
        let began = ctx.shard().now();
        let answer = self.shared.upstream.call(&call, &body).await;
        let is_about_callee = !matches!(
            answer,
            Err(CallError::TooLarge | CallError::Expired | CallError::Overloaded(_))
        );
        if is_about_callee {
            (self.shared.standing).note(answer.is_ok(), ctx.shard().now());
        }
        let answer = answer.map_err(|error| match error {
            CallError::Timeout => {
                self.note_silence(began);
                Status::from(error)
            }
            CallError::NotConnected => self.unsent(Status::from(error)),
            _ => Status::from(error),
        })?;
        *self.shared.load.borrow_mut() = answer.header.load;
        if !answer.header.status.is_ok() {
            let message = String::from_utf8_lossy(&answer.body).into_owned();
            let retried = answer.header.flags.contains(Flags::RETRIED);
            return Err(Status::answered(answer.header.status, message, retried));
        }
        M::Reply::decode(answer.body)
            .map_err(|error| Status::internal(format!("{} answered nonsense: {error}", M::NAME)))
    }

    /// Sends a one-way message. Without a connection it is refused.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push<M: Method>(&self, message: &M::Request) -> Result<(), PushError> {
        let body = message.encode_to_vec();
        let pushed = self.shared.upstream.push(M::ID, &body);
        pushed.map_err(|error| match error {
            CallError::NotConnected => PushError::NotConnected,
            _ => PushError::Encode(error.to_string()),
        })
    }
}
