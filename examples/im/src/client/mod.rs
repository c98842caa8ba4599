//! A client of Entry, over native frames.
//!
//! A [`Client`] is one user on one connection. It connects, logs in, and does
//! both again whenever the connection is lost, resuming after what it has
//! seen. Sends go out one at a time in each conversation and are repeated
//! under their `client_id` until they are answered for good or their deadline
//! passes, so that their order survives a killed server.
//!
//! What comes in is handed on as it came: the client notes how far each
//! conversation was seen, but hides neither duplicates nor gaps. What it
//! leaves out: judging them (module [`load`](crate::load)) and showing them
//! (module [`chat`](crate::chat)).
//!
//! Clients live on a shard of a [`waystation_net::Server`], which may have no
//! listeners.

mod cursors;
mod limits;
mod link;
mod listing;
mod login;
mod queues;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use waystation_base::{Backoff, BackoffConfig, Moment};
use waystation_net::native::{Upstream, UpstreamConfig};
use waystation_net::{Address, CloseReason, Label, Shard, WaitsFor, until, waiting};
use waystation_service::{Channel, Code, Ctx, Method, Status};

use self::cursors::Cursors;
pub use self::limits::{ATTEMPT_WAIT, CURSORS_MAX, SENDS_MAX};
use self::limits::{CONNECT_PAUSE, IN_FLIGHT_MAX, RETRY_PAUSE};
use self::link::{Link, pushes};
use self::listing::Listing;
use self::queues::{Offered, Queues};
use crate::im::{Conversation, Message, SendReply, SendRequest, UserPresence, entry};

/// Who a client is, and where it connects.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The Entry.
    pub entry: Address,
    /// The user.
    pub uid: String,
    /// The device's name, for people.
    pub device: String,
    /// Time for one attempt of a request; then it is sent again.
    pub attempt_wait: Duration,
    /// Sends that wait or are on their way; see [`SENDS_MAX`].
    pub sends_max: usize,
}

impl ClientConfig {
    /// The defaults for a user.
    pub fn new(entry: Address, uid: impl Into<String>, device: impl Into<String>) -> Self {
        Self {
            entry,
            uid: uid.into(),
            device: device.into(),
            attempt_wait: ATTEMPT_WAIT,
            sends_max: SENDS_MAX,
        }
    }
}

/// A message as it was pushed.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// By which of the client's connections it came: 1, 2, 3 …
    pub session: u32,
    /// The highest number seen in its conversation before it; at or above the
    /// message's own number, it came again or out of order.
    pub seen_seq: u64,
    /// The message.
    pub message: Message,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// What is sent; `conversation` must be set, and names the queue.
    pub request: SendRequest,
    /// When the client stops trying.
    pub deadline: Moment,
    /// The caller's own mark.
    pub tag: u64,
}

/// What happens to a client's connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Logged in.
    Up {
        /// The connection's number: 1, 2, 3 …
        session: u32,
        /// Whether missed messages follow; false for the first.
        resumed: bool,
        /// The user's conversations.
        conversations: Vec<Conversation>,
    },
    /// The connection was lost after a login; the client makes another.
    Down {
        /// Why.
        reason: CloseReason,
    },
    /// Entry refused the login for good; the client has closed.
    Refused(Status),
}

/// Is told what happens to a client. Called on the client's shard; must not
/// block.
pub trait Events: 'static {
    /// A message was pushed.
    fn on_message(&self, delivery: Delivery);

    /// A send has its outcome: stored, or given up with the last failure.
    /// Without an answer nobody knows whether it was stored.
    fn on_sent(&self, sent: &Outgoing, outcome: Result<SendReply, Status>) {
        let _ = (sent, outcome);
    }

    /// A watched user came or went.
    fn on_presence(&self, presence: UserPresence) {
        let _ = presence;
    }

    /// The connection came or went.
    fn on_session(&self, event: SessionEvent) {
        let _ = event;
    }
}

/// What a client has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Connections that logged in.
    pub sessions: u32,
    /// Requests sent once more after a failure.
    pub retries: u64,
    /// Pushes that were no messages; each closed its connection.
    pub bad_pushes: u64,
    /// Messages of conversations beyond [`CURSORS_MAX`].
    pub untracked: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum Login {
    /// Not connected, or not logged in on this connection.
    Absent,
    Done,
    /// For good.
    Refused(Status),
}

/// What the handles, the connection and the tasks of one client share.
struct Shared {
    shard: Shard,
    config: ClientConfig,
    events: Rc<dyn Events>,
    channel: Channel,
    /// The connection's number, counted from the first.
    session: Cell<u32>,
    login: RefCell<Login>,
    /// A login was accepted once, so that the next resumes.
    resumable: Cell<bool>,
    changed: Notify,
    cursors: RefCell<Cursors>,
    /// What came of the list of conversations behind the login's answer.
    listing: RefCell<Listing>,
    queues: RefCell<Queues<Outgoing>>,
    stats: Cell<ClientStats>,
}

/// One user's connection. Clones share it; [`Client::close`] ends it, and so
/// does the drop of the last clone once nothing is on its way.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

impl Client {
    /// Connects in the background, for ever until closed.
    pub fn new(shard: &Shard, config: ClientConfig, events: Rc<dyn Events>) -> Self {
        let shared = Rc::new_cyclic(|weak| {
            let mut upstream = UpstreamConfig::new(config.entry.clone());
            upstream.in_flight_max = IN_FLIGHT_MAX;
            (upstream.backoff.base, upstream.backoff.max) = CONNECT_PAUSE;
            let link = Rc::new(Link::new(weak.clone()));
            let router = Rc::new(pushes(&link));
            Shared {
                shard: shard.clone(),
                events,
                channel: Channel::from_upstream(Upstream::with_events(
                    shard, upstream, router, link,
                )),
                session: Cell::new(0),
                login: RefCell::new(Login::Absent),
                resumable: Cell::new(false),
                changed: Notify::new(),
                cursors: RefCell::new(Cursors::new(CURSORS_MAX)),
                listing: RefCell::default(),
                queues: RefCell::new(Queues::new(config.sends_max)),
                stats: Cell::default(),
                config,
            }
        });
        Self { shared }
    }

    /// The user.
    pub fn uid(&self) -> &str {
        &self.shared.config.uid
    }

    /// Whether requests can leave right now.
    pub fn is_logged_in(&self) -> bool {
        self.shared.is_ready()
    }

    /// Sends that wait or are on their way.
    pub fn sends_pending(&self) -> usize {
        self.shared.queues.borrow().len()
    }

    /// What it has done so far.
    pub fn stats(&self) -> ClientStats {
        ClientStats {
            untracked: self.shared.cursors.borrow().untracked(),
            ..self.shared.stats.get()
        }
    }

    /// Why the last attempt to connect failed, while there is no connection.
    pub fn fault(&self) -> Option<String> {
        self.shared.channel.upstream().fault()
    }

    /// Whether it is logged in at this moment.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Waits until it is logged in.
    ///
    /// # Errors
    /// Why Entry refused the login for good; `unavailable` when the deadline
    /// came first, or the client was closed.
    pub async fn logged_in(&self, deadline: Moment) -> Result<(), Status> {
        let ready = self.shared.ready();
        let waited = until(&self.shared.shard, deadline, ready).await;
        waited.unwrap_or_else(|_| Err(self.shared.absent()))
    }

    /// Queues a message behind the earlier ones of its conversation. Its
    /// outcome comes by [`Events::on_sent`], exactly once.
    ///
    /// Cost: a task.
    ///
    /// # Errors
    /// The message itself, when [`ClientConfig::sends_max`] wait already; it
    /// has no outcome then.
    #[allow(
        clippy::result_large_err,
        reason = "the message goes back to its owner"
    )]
    pub fn send(&self, outgoing: Outgoing) -> Result<(), Outgoing> {
        let mut queues = self.shared.queues.borrow_mut();
        let conversation = outgoing.request.conversation.clone();
        match queues.offer(&conversation, outgoing) {
            Offered::Begin(outgoing) => {
                drop(queues);
                self.shared.clone().begin(outgoing);
                Ok(())
            }
            Offered::Waits => Ok(()),
            Offered::Full(outgoing) => Err(outgoing),
        }
    }

    /// Asks Entry, again after each failure that another try may mend, until
    /// the deadline. Waits for a login first.
    ///
    /// # Errors
    /// Entry's refusal, or the last failure before the deadline.
    pub async fn request<M: Method>(
        &self,
        request: &M::Request,
        deadline: Moment,
    ) -> Result<M::Reply, Status> {
        self.shared.request::<M>(request, deadline).await
    }

    /// Ends it: what waits fails, nothing more comes in.
    pub fn close(&self) {
        let closed = Status::unavailable("the client was closed");
        self.shared.end(closed);
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut ClientStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn end(&self, status: Status) {
        *self.login.borrow_mut() = Login::Refused(status);
        self.channel.upstream().close();
        self.changed.notify_waiters();
    }

    fn is_ready(&self) -> bool {
        // A connection that drains or closes takes no further requests; a
        // request made now would wait for the next one, and be there before
        // its login.
        let upstream = self.channel.upstream();
        let is_open = || upstream.conn().is_some_and(|conn| conn.is_open());
        *self.login.borrow() == Login::Done && self.channel.is_connected() && is_open()
    }

    async fn ready(&self) -> Result<(), Status> {
        loop {
            if let Login::Refused(status) = &*self.login.borrow() {
                return Err(status.clone());
            }
            if self.is_ready() {
                return Ok(());
            }
            // Nothing else runs between the check and this wait.
            waiting(WaitsFor::plain("login"), self.changed.notified()).await;
        }
    }

    /// Why there is no login at a deadline.
    fn absent(&self) -> Status {
        let entry = &self.config.entry;
        let reason = match self.channel.upstream().fault() {
            Some(fault) => format!("no connection to {entry}: {fault}"),
            None => format!("no login at {entry} before the deadline"),
        };
        Status::unavailable(reason)
    }

    async fn request<M: Method>(
        &self,
        request: &M::Request,
        deadline: Moment,
    ) -> Result<M::Reply, Status> {
        const { assert!(M::IDEMPOTENT, "only what may be repeated is asked this way") };
        let (base, max) = RETRY_PAUSE;
        let config = BackoffConfig {
            base,
            max,
            ..BackoffConfig::default()
        };
        let mut backoff = Backoff::new(config, self.shard.random());
        let mut last = None;
        loop {
            match until(&self.shard, deadline, self.ready()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(last.unwrap_or_else(|| self.absent())),
            }
            let left = deadline.saturating_since(self.shard.now());
            let wait = self.config.attempt_wait.min(left);
            let ctx = Ctx::background(&self.shard, M::NAME, wait);
            match self.channel.call::<M>(&ctx, request).await {
                Ok(reply) => return Ok(reply),
                Err(status) if !may_mend(status.code()) => return Err(status),
                Err(status) => last = Some(status),
            }
            let pause = backoff.next_delay();
            if self.shard.now() + pause >= deadline {
                return Err(last.unwrap_or_else(|| self.absent()));
            }
            self.count(|stats| stats.retries += 1);
            waiting(WaitsFor::plain("the next try"), self.shard.sleep(pause)).await;
        }
    }

    /// Sends a message whose turn has come, and then gives the next its turn.
    /// Each has a task of its own, so that a panic in a callback leaves no
    /// queue without a worker.
    fn begin(self: Rc<Self>, outgoing: Outgoing) {
        let shard = self.shard.clone();
        shard.spawn(Label::of("im send"), async move {
            let request = &outgoing.request;
            let outcome = self
                .request::<entry::method::Send>(request, outgoing.deadline)
                .await;
            let next = self.queues.borrow_mut().finish(&request.conversation);
            if let Some(next) = next {
                self.clone().begin(next);
            }
            self.events.on_sent(&outgoing, outcome);
        });
    }

    fn on_message(&self, message: Message) {
        let mut cursors = self.cursors.borrow_mut();
        let seen_seq = cursors.advance(&message.conversation, message.seq);
        drop(cursors);
        self.events.on_message(Delivery {
            session: self.session.get(),
            seen_seq,
            message,
        });
    }
}

/// Whether the same request may succeed when it is sent again.
///
/// A deadline is among them: it was this attempt's, and the request is
/// idempotent.
fn may_mend(code: Code) -> bool {
    code.may_retry_idempotent() || matches!(code, Code::DeadlineExceeded | Code::Cancelled)
}
