//! Clients of servers that answer in the order of requests, such as Redis:
//! pipelined, and written as if each call blocked.
//!
//! Source: silly's `socketfifo`, with the rules that were missing there. A
//! request's place lives until its answer has been read, even when its caller
//! gave up, so an answer is never taken by the next in line. Writing a
//! request and taking its place is one step. A connection whose oldest
//! request is overdue by `stall_timeout`, whose bytes are no protocol, or
//! that answers what nobody asked is closed, and everything in flight on it
//! fails at once with [`FifoError::OutcomeUnknown`]; only requests marked
//! idempotent are sent again. A request is written whole or not at all, so a
//! caller that goes away leaves a whole one behind. Commands that change what
//! the connection means take a [`Lease`]: a connection of their own. A proxy
//! relays whole batches by a [`FifoLane`], without a future for each request.

mod lane;
mod line;
mod link;
mod resp;
mod session;

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waystation_base::{BackoffConfig, Moment};

pub use self::lane::{FifoLane, FifoSink};
use self::link::{Link, Place, State};
pub use self::resp::RespCodec;
use crate::io::Address;
use crate::limits;
use crate::shard::{Label, Shard, Waiters, WaitsFor, until, waiting};

/// Finds answers in what a server sends. One for each connection.
pub trait FifoCodec: 'static {
    /// One answer.
    type Answer: 'static;

    /// Looks for the end of the answer at the front of `input`, which begins
    /// with the same bytes as the last time if more were needed.
    ///
    /// # Errors
    /// A short stable word, when this is not the protocol. The connection is
    /// closed.
    fn scan(&mut self, input: &[u8]) -> Result<FifoScan, &'static str>;

    /// Reads a whole answer, as [`FifoCodec::scan`] found it. Not called for
    /// answers that are relayed or that nobody waits for.
    ///
    /// # Errors
    /// As [`FifoCodec::scan`].
    fn read(&mut self, answer: &[u8]) -> Result<Self::Answer, &'static str>;
}

/// What [`FifoCodec::scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FifoScan {
    /// So many bytes from the front are needed before trying again.
    Need(usize),
    /// The answer has so many bytes.
    Answer(usize),
}

/// Settings of a FIFO client.
#[derive(Debug, Clone)]
pub struct FifoConfig {
    /// Where the server is.
    pub address: Address,
    /// Connections that share the requests; at least 1.
    pub connections: usize,
    /// Requests in flight on one connection, those whose callers gave up
    /// included; and callers who wait while none is up.
    pub in_flight_max: usize,
    /// Leases out at once.
    pub leases_max: usize,
    /// Time for one attempt to connect.
    pub connect_wait: Duration,
    /// How long the oldest request may wait for its answer before the
    /// connection is given up.
    pub stall_timeout: Duration,
    /// Pauses between attempts to connect.
    pub backoff: BackoffConfig,
}

impl FifoConfig {
    /// The defaults for an address.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            connections: 1,
            in_flight_max: limits::FIFO_IN_FLIGHT_MAX,
            leases_max: limits::FIFO_LEASES_MAX,
            connect_wait: limits::CONNECT_WAIT,
            stall_timeout: limits::FIFO_STALL,
            backoff: BackoffConfig {
                base: Duration::from_millis(10),
                max: Duration::from_secs(1),
                ..BackoffConfig::default()
            },
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FifoError {
    /// Too many requests are in flight, or wait for a connection. Nothing was
    /// sent.
    #[error("{0} requests are in flight or waiting already")]
    Overloaded(usize),
    /// No connection was made before the deadline, or the request does not
    /// wait for one. Nothing was sent.
    #[error("there is no connection to the server")]
    NotConnected,
    /// The deadline had passed already. Nothing was sent.
    #[error("the deadline had passed before the request began")]
    Expired,
    /// The deadline passed after the request was sent. Its answer will be
    /// read and discarded.
    #[error("no answer before the deadline")]
    Timeout,
    /// The connection was lost after the request was sent: the server may or
    /// may not have acted on it.
    #[error("the connection was lost with the request in flight; its outcome is unknown")]
    OutcomeUnknown,
    /// The client was closed. Nothing was sent.
    #[error("the client is closed")]
    Closed,
}

/// How one request is made.
#[derive(Debug, Clone, Copy)]
pub struct FifoCall {
    /// When the caller gives up.
    pub deadline: Moment,
    /// Asking twice is the same as asking once: it is sent again when the
    /// connection is lost.
    pub idempotent: bool,
    /// Its name, for dumps.
    pub label: Label,
}

type MakeCodec<C> = Rc<dyn Fn() -> C>;

struct Shared<C: FifoCodec> {
    shard: Shard,
    config: FifoConfig,
    codec: MakeCodec<C>,
    links: Vec<Rc<Link<C::Answer>>>,
    leases: Rc<Cell<usize>>,
    /// Callers who wait for a connection.
    waiting: Cell<usize>,
    changed: Rc<Waiters>,
    label: Label,
    /// Where the next lane begins.
    next_lane: Cell<usize>,
}

impl<C: FifoCodec> Drop for Shared<C> {
    fn drop(&mut self) {
        for link in &self.links {
            link.close();
        }
    }
}

/// A client of one server on one shard. Clones share its connections; when
/// the last is dropped they close.
pub struct Fifo<C: FifoCodec> {
    shared: Rc<Shared<C>>,
}

impl<C: FifoCodec> Clone for Fifo<C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<C: FifoCodec> Fifo<C> {
    /// A client that connects at once, and again whenever a connection is
    /// lost. `codec` makes a codec for each connection.
    pub fn new(shard: &Shard, config: FifoConfig, codec: impl Fn() -> C + 'static) -> Self {
        let codec: MakeCodec<C> = Rc::new(codec);
        let label = Label::of(&config.address.to_string());
        let changed = Rc::new(Waiters::default());
        let links = (0..config.connections.max(1))
            .map(|_| Link::start(shard, &config, codec.clone(), changed.clone()))
            .collect();
        let shared = Shared {
            shard: shard.clone(),
            config,
            codec,
            links,
            leases: Rc::default(),
            waiting: Cell::new(0),
            changed,
            label,
            next_lane: Cell::new(0),
        };
        Self {
            shared: Rc::new(shared),
        }
    }

    /// Requests in flight, those whose callers gave up included.
    pub fn in_flight(&self) -> usize {
        self.shared.links.iter().map(|link| link.in_flight()).sum()
    }

    /// Connections that are up.
    pub fn up(&self) -> usize {
        self.shared.links.iter().filter(|link| link.is_up()).count()
    }

    /// Waits until one of its connections is up.
    ///
    /// # Errors
    /// [`FifoError::Closed`].
    pub async fn connected(&self) -> Result<(), FifoError> {
        self.link().await.map(drop)
    }

    /// Sends one whole, encoded request and waits for its answer, until the
    /// deadline. Without a connection it waits for one first. When the future
    /// is dropped after the request was sent, its answer is discarded.
    ///
    /// Cost: a place in a table and a wheel entry; nothing is allocated for
    /// the request when the tables have grown.
    ///
    /// # Errors
    /// [`FifoError`]. What the server answers, errors included, is an answer.
    ///
    /// # Panics
    /// When the request is empty.
    pub async fn call(&self, request: &[u8], call: &FifoCall) -> Result<C::Answer, FifoError> {
        let shard = &self.shared.shard;
        let flight = Flight::start(shard);
        let sent = Cell::new(false);
        let exchange = async {
            loop {
                let link = self.link().await?;
                if shard.now() >= call.deadline {
                    // It came too late: nothing is sent that nobody waits for.
                    std::future::pending::<()>().await;
                }
                let place = link.send(request)?;
                sent.set(true);
                let result = place.answer(call.label).await;
                let again = call.idempotent && matches!(result, Err(FifoError::OutcomeUnknown));
                if !again {
                    return result;
                }
            }
        };
        let result = flight.until(call.deadline, exchange).await;
        flight.ended(match result {
            Ok(result) => result.map_err(|error| match error {
                // Sent once it was, whatever became of the next try.
                _ if sent.get() => FifoError::OutcomeUnknown,
                unsent => unsent,
            }),
            Err(error @ FifoError::Expired) => Err(error),
            Err(_) if sent.get() => Err(FifoError::Timeout),
            Err(_) => Err(FifoError::NotConnected),
        })
    }

    /// The connection with the fewest requests in flight; waits for one.
    async fn link(&self) -> Result<Rc<Link<C::Answer>>, FifoError> {
        let mut counted = None;
        let waiting_callers = &self.shared.waiting;
        let ready = self.shared.changed.until(|| {
            let up = self.shared.links.iter().filter(|link| link.is_up());
            if let Some(link) = up.min_by_key(|link| link.in_flight()) {
                return Poll::Ready(Ok(link.clone()));
            }
            if self
                .shared
                .links
                .iter()
                .all(|link| link.state() == State::Closed)
            {
                return Poll::Ready(Err(FifoError::Closed));
            }
            if counted.is_none() {
                let already = waiting_callers.get();
                if already >= self.shared.config.in_flight_max {
                    return Poll::Ready(Err(FifoError::Overloaded(already)));
                }
                counted = Some(WaitingCaller::count(waiting_callers));
            }
            Poll::Pending
        });
        waiting(
            WaitsFor {
                what: "connection to",
                of: self.shared.label,
            },
            ready,
        )
        .await
    }

    /// A way for a proxy to relay requests whose answers come in order. Lanes
    /// are spread over the connections in turn.
    pub fn lane(&self) -> FifoLane<C> {
        FifoLane::new(self)
    }

    /// A connection of one's own, for commands that change what a connection
    /// means: transactions, blocking reads, subscriptions. It is closed when
    /// the lease is dropped, since nobody knows what was left on it.
    ///
    /// # Errors
    /// [`FifoError::Overloaded`] when too many are out, and
    /// [`FifoError::NotConnected`].
    pub async fn lease(&self, deadline: Moment) -> Result<Lease<C::Answer>, FifoError> {
        let out = &self.shared.leases;
        if out.get() >= self.shared.config.leases_max {
            return Err(FifoError::Overloaded(out.get()));
        }
        out.set(out.get() + 1);
        let count = LeaseCount(out.clone());
        let changed = Rc::new(Waiters::default());
        let shard = &self.shared.shard;
        let codec = self.shared.codec.clone();
        let link = Link::once(shard, &self.shared.config, codec, changed.clone());
        let lease = Lease {
            link,
            shard: shard.clone(),
            _count: count,
        };
        let up = changed.until(|| match lease.link.state() {
            State::Up => Poll::Ready(Ok(())),
            State::Closed => Poll::Ready(Err(FifoError::NotConnected)),
            State::Connecting => Poll::Pending,
        });
        match until(shard, deadline, up).await {
            Ok(Ok(())) => Ok(lease),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FifoError::NotConnected),
        }
    }
}

/// Counts one call, and that it is in flight, however it ends.
struct Flight<'a>(&'a Shard);

impl<'a> Flight<'a> {
    fn start(shard: &'a Shard) -> Self {
        shard.counters().calls.add(1);
        shard.counters().calls_in_flight.add(1);
        Self(shard)
    }

    /// Awaits the exchange until the deadline; does not begin it behind that.
    async fn until<T>(
        &self,
        deadline: Moment,
        exchange: impl Future<Output = T>,
    ) -> Result<T, FifoError> {
        if self.0.now() >= deadline {
            return Err(FifoError::Expired);
        }
        let result = until(self.0, deadline, exchange).await;
        result.map_err(|_| FifoError::Timeout)
    }

    fn ended<T>(&self, result: Result<T, FifoError>) -> Result<T, FifoError> {
        if result.is_err() {
            self.0.counters().calls_failed.add(1);
        }
        result
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.counters().calls_in_flight.sub(1);
    }
}

/// Counts one caller who waits for a connection, however that ends.
struct WaitingCaller<'a>(&'a Cell<usize>);

impl<'a> WaitingCaller<'a> {
    fn count(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for WaitingCaller<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct LeaseCount(Rc<Cell<usize>>);

impl Drop for LeaseCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection that serves one user only. It is never made again: when it is
/// lost, every further request fails.
pub struct Lease<A> {
    link: Rc<Link<A>>,
    shard: Shard,
    _count: LeaseCount,
}

impl<A: 'static> Lease<A> {
    /// Sends one whole request on this connection and waits for its answer.
    ///
    /// # Errors
    /// [`FifoError`].
    ///
    /// # Panics
    /// When the request is empty.
    pub async fn call(&self, request: &[u8], call: &FifoCall) -> Result<A, FifoError> {
        self.answer_to(call, || self.link.send(request)).await
    }

    /// Waits for one more answer than requests were sent, such as a message
    /// of a subscription. Who gives up takes no message along: the next one
    /// has it. When the connection is lost, what had come is still there.
    ///
    /// # Errors
    /// [`FifoError`].
    pub async fn next(&self, call: &FifoCall) -> Result<A, FifoError> {
        self.answer_to(call, || self.link.listen()).await
    }

    async fn answer_to(
        &self,
        call: &FifoCall,
        take_place: impl FnOnce() -> Result<Place<A>, FifoError>,
    ) -> Result<A, FifoError> {
        let flight = Flight::start(&self.shard);
        let exchange = async { take_place()?.answer(call.label).await };
        let answer = flight.until(call.deadline, exchange).await;
        flight.ended(answer.flatten())
    }
}

impl<A> Drop for Lease<A> {
    fn drop(&mut self) {
        self.link.close();
    }
}
