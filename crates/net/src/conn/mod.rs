//! Connections: their names, their state, their output, and the loop that
//! moves their bytes.

mod buffer;
mod ending;
mod flush;
mod output;
mod pressure;
mod reason;
mod send;
mod session;
mod transport;

use std::any::{Any, TypeId};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use waystation_base::{ConnName, Moment, line_passes};

pub(crate) use self::buffer::Buffers;
pub use self::buffer::Input;
pub(crate) use self::flush::Flushes;
use self::output::Output;
pub use self::pressure::{HeldAnswer, OutputLevel};
pub use self::reason::CloseReason;
pub use self::send::{SendError, SlowReader};
pub use self::session::{Session, Turn};
pub use self::transport::{Filled, Transport};
use crate::io::{Address, Stream};
use crate::shard::{Held, Shard, Waiters, WaitsFor, waiting};

fn ready_if(ready: bool) -> Poll<()> {
    if ready {
        Poll::Ready(())
    } else {
        Poll::Pending
    }
}

/// How messages are put on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Framing {
    /// Not at all: the peer's protocol is not known yet, or has no messages.
    Mute,
    /// As they are: the protocol marks their ends itself.
    #[default]
    Raw,
    /// Each in a WebSocket message.
    WebSocket,
}

type Properties = HashMap<TypeId, Rc<dyn Any>>;

/// Why a connection is to end, and why it did.
struct Closing {
    /// The first reason that anyone gave.
    first: CloseReason,
    /// That of its protocol, once this has ended in order.
    end: OnceCell<CloseReason>,
}

pub(crate) struct ConnShared {
    name: ConnName,
    shard: Shard,
    peer: Address,
    accepted: bool,
    opened: Moment,
    received: Cell<Moment>,
    /// None before its driver began, while the connection speaks HTTP, and once
    /// it has ended.
    stream: RefCell<Option<Box<dyn Stream>>>,
    output: RefCell<Output>,
    /// The shard is to write its output at the end of this turn.
    flushes: Cell<bool>,
    /// Bytes counted in the shard's memory: received, to be written, and of
    /// answers that wait for room.
    held: [Cell<usize>; 3],
    /// The output reached its high-water mark and has not drained since.
    output_high: Cell<bool>,
    reading_paused: Cell<bool>,
    framing: Cell<Framing>,
    /// Set when the connection is to end; the driver acts on it. Boxed, as it
    /// is there at the end only.
    closing: OnceCell<Box<Closing>>,
    /// The socket is gone. The slot follows when the last owner lets go.
    closed: Cell<bool>,
    draining: Cell<bool>,
    /// The driver itself is running: it flushes before it waits.
    driver_runs: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    handlers: Cell<u32>,
    /// The peer has sent its last byte; the driver waits for the handlers.
    awaits_handlers: Cell<bool>,
    slow_reader: Cell<SlowReader>,
    /// A WebSocket's pings are answered before they come here.
    pings_answered: Cell<bool>,
    waiters: Waiters,
    /// Taken only while it is looked at.
    properties: Cell<Option<Box<Properties>>>,
    /// The last hook has run.
    forgotten: Cell<bool>,
}

impl Drop for ConnShared {
    fn drop(&mut self) {
        // A handler that outlived its socket may have held something since.
        let received = self.held[0].get();
        self.shard.held_changes(Held::Received, received, 0);
        // The last owner is gone: only now may the slot serve another peer.
        let mut slots = self.shard.slots().borrow_mut();
        if slots.release(self.name).is_ok() {
            self.shard.counters().connections_closing.sub(1);
        }
    }
}

/// A handle of a connection on this shard. Clones share it. While one lives,
/// the connection's slot is not given to another peer, even when the
/// connection itself is long closed; so do not keep one in a table: keep its
/// [`ConnName`] and ask [`Shard::connection`].
#[derive(Clone)]
pub struct Conn {
    shared: Rc<ConnShared>,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conn({})", self.shared.name)
    }
}

impl Conn {
    /// Opens a slot for a stream. `None` when the shard has no slot left.
    pub(crate) fn open(shard: &Shard, peer: Address, accepted: bool) -> Option<Self> {
        let opened = shard.now();
        let mut slots = shard.slots().borrow_mut();
        let name = slots
            .insert_with(|name| {
                Rc::new(ConnShared {
                    name,
                    shard: shard.clone(),
                    peer,
                    accepted,
                    opened,
                    received: Cell::new(opened),
                    stream: RefCell::default(),
                    output: RefCell::default(),
                    flushes: Cell::new(false),
                    held: Default::default(),
                    output_high: Cell::new(false),
                    reading_paused: Cell::new(false),
                    framing: Cell::default(),
                    closing: OnceCell::new(),
                    closed: Cell::new(false),
                    draining: Cell::new(false),
                    driver_runs: Cell::new(false),
                    driver: RefCell::new(None),
                    handlers: Cell::new(0),
                    awaits_handlers: Cell::new(false),
                    slow_reader: Cell::new(shard.config().connection.slow_reader),
                    pings_answered: Cell::new(false),
                    waiters: Waiters::default(),
                    properties: Cell::new(None),
                    forgotten: Cell::new(false),
                })
            })
            .ok()?;
        let shared = slots.get(name).ok()?.clone();
        drop(slots);
        shard.counters().connections_open.add(1);
        Some(Self { shared })
    }

    pub(crate) fn from_shared(shared: Rc<ConnShared>) -> Self {
        Self { shared }
    }

    /// The connection's name, unique in this process for its life.
    pub fn name(&self) -> ConnName {
        self.shared.name
    }

    /// The shard that owns it.
    pub fn shard(&self) -> &Shard {
        &self.shared.shard
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Address {
        &self.shared.peer
    }

    /// True when the peer connected to us.
    pub fn is_accepted(&self) -> bool {
        self.shared.accepted
    }

    /// When it was opened.
    pub fn opened(&self) -> Moment {
        self.shared.opened
    }

    /// When bytes were last received on it, or a pause of reading ended; later
    /// than [`Conn::opened`] once there were any.
    pub fn received(&self) -> Moment {
        self.shared.received.get()
    }

    /// Whether it has neither ended nor is about to.
    pub fn is_open(&self) -> bool {
        !self.shared.closed.get() && self.shared.closing.get().is_none()
    }

    /// True when the peer speaks WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.shared.framing.get() == Framing::WebSocket
    }

    /// Whether it is open and its protocol has messages, see
    /// [`SendError::Mute`].
    pub fn takes_messages(&self) -> bool {
        self.is_open() && self.shared.framing.get() != Framing::Mute
    }

    /// Whether the pings of this WebSocket are answered before they come here.
    pub(crate) fn are_pings_answered(&self) -> bool {
        self.shared.pings_answered.get()
    }

    pub(crate) fn set_framing(&self, framing: Framing) {
        self.shared.framing.set(framing);
    }

    /// Bytes that wait to be written.
    pub fn output_len(&self) -> usize {
        self.shared.output.borrow().len()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        let closed = || ready_if(self.shared.closed.get());
        self.shared.waiters.until(closed).await;
    }

    /// Ends the connection. What is in its output leaves first, for at most
    /// [`CLOSE_FLUSH`](crate::limits::CLOSE_FLUSH). The first reason counts.
    pub fn close(&self, reason: CloseReason) {
        let closing = Closing {
            first: reason,
            end: OnceCell::new(),
        };
        if self.shared.closing.set(Box::new(closing)).is_ok() {
            self.wake_driver();
            self.wake_waiters();
        }
    }

    /// Attaches a value of its type to the connection, replacing the last. It
    /// stays until the close hook has run; after that nothing is attached.
    pub fn set_property<T: 'static>(&self, value: Rc<T>) {
        if self.shared.forgotten.get() {
            // Nobody would drop it: it may hold this very connection.
            return;
        }
        let old = self.with_properties(|properties| {
            properties
                .get_or_insert_default()
                .insert(TypeId::of::<T>(), value)
        });
        // Its drop may come back here.
        drop(old);
    }

    /// The value attached by [`Conn::set_property`].
    pub fn property<T: 'static>(&self) -> Option<Rc<T>> {
        let found = self.with_properties(|properties| {
            let found = properties.as_ref()?.get(&TypeId::of::<T>());
            found.cloned()
        });
        found?.downcast().ok()
    }

    /// Takes the value attached by [`Conn::set_property`] off.
    pub fn take_property<T: 'static>(&self) -> Option<Rc<T>> {
        let taken = self.with_properties(|properties| {
            let properties = properties.as_mut()?;
            properties.remove(&TypeId::of::<T>())
        });
        taken?.downcast().ok()
    }

    /// `look` must call nobody who might come back here.
    fn with_properties<T>(&self, look: impl FnOnce(&mut Option<Box<Properties>>) -> T) -> T {
        let mut properties = self.shared.properties.take();
        let result = look(&mut properties);
        self.shared.properties.set(properties);
        result
    }

    /// Handlers of this connection that are running.
    pub fn handlers(&self) -> u32 {
        self.shared.handlers.get()
    }

    /// Counts a handler until the guard is dropped. While one is counted the
    /// connection is not idle, a peer that has sent its last byte still gets
    /// its answers, and a drain waits. For a protocol that answers later, by
    /// other means than [`Turn::Suspended`].
    pub fn handler_guard(&self) -> HandlerGuard {
        self.shared.handlers.set(self.shared.handlers.get() + 1);
        self.shard().count_handler(1);
        HandlerGuard { conn: self.clone() }
    }

    /// Waits until fewer than `most` handlers run.
    pub(crate) async fn handler_capacity(&self, most: u32) {
        let ready = self
            .shared
            .waiters
            .until(|| ready_if(self.handlers() < most));
        waiting(WaitsFor::plain("handler capacity"), ready).await;
    }

    pub(crate) fn begin_drain(&self) {
        if self.is_accepted() {
            self.shared.draining.set(true);
            self.wake_driver();
        }
    }

    pub(crate) fn set_received(&self, now: Moment) {
        // A turn has one time: an answer that comes in the turn in which the connection was opened
        // is later than its opening nevertheless.
        let first = self.shared.opened + Duration::from_nanos(1);
        self.shared.received.set(now.max(first));
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.get()
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.shared.closing.get().map(|closing| closing.first)
    }

    /// Its protocol has ended in order, for this reason.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.close(reason);
        if let Some(closing) = self.shared.closing.get() {
            closing.end.get_or_init(|| reason);
        }
    }

    /// The reason of [`Conn::end`].
    pub(crate) fn end_reason(&self) -> Option<CloseReason> {
        self.shared.closing.get()?.end.get().copied()
    }

    /// The task that moves this connection's bytes is woken for output. True
    /// when it is another one than before.
    pub(crate) fn register_driver(&self, cx: &std::task::Context<'_>) -> bool {
        let mut driver = self.shared.driver.borrow_mut();
        let known = driver
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            let old = driver.replace(cx.waker().clone());
            drop(driver);
            drop(old);
        }
        !known
    }

    fn wake_driver(&self) {
        if self.shared.driver_runs.get() {
            return;
        }
        if let Some(driver) = &*self.shared.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    pub(crate) fn wake_waiters(&self) {
        self.shared.waiters.wake_all();
    }

    /// The socket is gone: frees everything but the slot.
    pub(crate) fn finish(&self, reason: CloseReason) {
        if self.shared.closed.replace(true) {
            return;
        }
        let shard = self.shard();
        self.close(reason);
        if reason == CloseReason::SlowReader {
            self.warn_of_slow_reader();
        }
        self.shared.output.borrow_mut().clear(shard);
        self.hold_queued();
        // Also when its task was lost with all that it held.
        self.hold_received(0);
        let counters = shard.counters();
        counters.connections_open.sub(1);
        counters.connections_closing.add(1);
        counters.closed.count(reason.label());
        self.wake_waiters();
        // Outside the borrow, since the last owner's drop releases the slot.
        let taken = shard.slots().borrow_mut().close(self.name());
        drop(taken);
    }

    /// What waited for this peer is lost: whoever runs the process should
    /// know which peer that is.
    fn warn_of_slow_reader(&self) {
        let Some(unsaid) = line_passes!(self.shard().now()) else {
            return;
        };
        let waiting_bytes = self.output_len();
        tracing::warn!(
            conn = %self.name(), peer = %self.peer(), waiting_bytes, unsaid,
            "closed a peer that does not read what it is sent"
        );
    }

    /// The last hook has seen the connection.
    pub(crate) fn drop_properties(&self) {
        self.shared.forgotten.set(true);
        // Outside the borrow: what is dropped may ask for its neighbours.
        let properties = self.shared.properties.take();
        drop(properties);
    }
}

/// Counts one running handler of a connection, see [`Conn::handler_guard`].
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub struct HandlerGuard {
    conn: Conn,
}

impl Drop for HandlerGuard {
    fn drop(&mut self) {
        let handlers = &self.conn.shared.handlers;
        handlers.set(handlers.get() - 1);
        self.conn.shard().count_handler(-1);
        self.conn.wake_waiters();
        let shared = &self.conn.shared;
        if shared.awaits_handlers.get() || shared.draining.get() {
            self.conn.wake_driver();
        }
    }
}
