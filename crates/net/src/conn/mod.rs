//! Connections: their names, their state, their output, and the loop that
//! moves their bytes.

mod buffer;
mod output;
mod reason;
mod session;
mod transport;

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use bytes::Bytes;
use waystation_base::{ConnName, Moment};

pub(crate) use self::buffer::Buffers;
pub use self::buffer::Input;
use self::output::Output;
pub use self::reason::CloseReason;
pub use self::session::{Session, Turn};
pub use self::transport::{Filled, Transport};
use crate::io::Address;
use crate::native::websocket;
use crate::shard::{Shard, WaitsFor, waiting};

/// How messages are put on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Framing {
    /// As they are: the protocol marks their ends itself.
    #[default]
    Raw,
    /// Each in a WebSocket message.
    WebSocket,
}

/// Why a message was not taken by a connection. The message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed or closing.
    #[error("connection {0} is closed")]
    Closed(ConnName),
    /// Its output is full: the peer does not read fast enough.
    #[error("the output of connection {0} is full")]
    Full(ConnName),
}

/// What happens to a connection whose output is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowReader {
    /// It is closed, with [`CloseReason::SlowReader`].
    #[default]
    Close,
    /// It stays; the sender gets [`SendError::Full`] and decides.
    Refuse,
}

type Properties = HashMap<TypeId, Rc<dyn Any>>;

pub(crate) struct ConnShared {
    name: ConnName,
    shard: Shard,
    peer: Address,
    accepted: bool,
    opened: Moment,
    received: Cell<Moment>,
    output: RefCell<Output>,
    framing: Cell<Framing>,
    /// Set when the connection is to end; the driver acts on it.
    closing: Cell<Option<CloseReason>>,
    /// The socket is gone. The slot follows when the last owner lets go.
    closed: Cell<bool>,
    draining: Cell<bool>,
    /// The driver itself is running: it flushes before it waits.
    driver_runs: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    handlers: Cell<u32>,
    slow_reader: Cell<SlowReader>,
    waiters: RefCell<Vec<Waker>>,
    properties: RefCell<Option<Box<Properties>>>,
}

impl Drop for ConnShared {
    fn drop(&mut self) {
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
                    output: RefCell::default(),
                    framing: Cell::default(),
                    closing: Cell::new(None),
                    closed: Cell::new(false),
                    draining: Cell::new(false),
                    driver_runs: Cell::new(false),
                    driver: RefCell::new(None),
                    handlers: Cell::new(0),
                    slow_reader: Cell::new(shard.config().connection.slow_reader),
                    waiters: RefCell::default(),
                    properties: RefCell::new(None),
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

    /// When bytes were last received on it.
    pub fn received(&self) -> Moment {
        self.shared.received.get()
    }

    /// Whether messages can still be sent.
    pub fn is_open(&self) -> bool {
        !self.shared.closed.get() && self.shared.closing.get().is_none()
    }

    /// True when the peer speaks WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.shared.framing.get() == Framing::WebSocket
    }

    pub(crate) fn set_framing(&self, framing: Framing) {
        self.shared.framing.set(framing);
    }

    /// Says what happens when the peer does not read fast enough.
    pub fn set_slow_reader(&self, policy: SlowReader) {
        self.shared.slow_reader.set(policy);
    }

    /// Sends one message of the connection's protocol. It leaves with all
    /// others of this turn, in one write.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send(&self, message: &[u8]) -> Result<(), SendError> {
        self.send_with(message.len(), |out| out.extend_from_slice(message))
    }

    /// Like [`Conn::send`], for a message shared by many connections: it is
    /// not copied when it is large.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send_bytes(&self, message: &Bytes) -> Result<(), SendError> {
        self.admit(message.len())?;
        let mut output = self.shared.output.borrow_mut();
        if self.is_websocket() {
            websocket::put_head(output.tail(self.shard()), websocket::BINARY, message.len());
        }
        output.push_bytes(self.shard(), message);
        drop(output);
        self.sent();
        Ok(())
    }

    /// Like [`Conn::send`], for a message that is written in place. `length`
    /// is what `write` will append, in bytes, as close as the caller knows.
    ///
    /// # Errors
    /// [`SendError`]; `write` is not called then.
    pub fn send_with(
        &self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.admit(length)?;
        let mut output = self.shared.output.borrow_mut();
        if self.is_websocket() {
            let mut message = Vec::with_capacity(length);
            write(&mut message);
            let tail = output.tail(self.shard());
            websocket::put_head(tail, websocket::BINARY, message.len());
            tail.extend_from_slice(&message);
        } else {
            write(output.tail(self.shard()));
        }
        drop(output);
        self.sent();
        Ok(())
    }

    /// Sends one text message to a WebSocket peer; to any other peer the
    /// bytes as they are.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send_text(&self, text: &str) -> Result<(), SendError> {
        self.admit(text.len())?;
        let mut output = self.shared.output.borrow_mut();
        let tail = output.tail(self.shard());
        if self.is_websocket() {
            websocket::put_head(tail, websocket::TEXT, text.len());
        }
        tail.extend_from_slice(text.as_bytes());
        drop(output);
        self.sent();
        Ok(())
    }

    /// Puts raw bytes of the transport itself on the stream, such as a
    /// WebSocket pong. They pass no limit but their own smallness.
    pub(crate) fn send_control(&self, bytes: &[u8]) {
        if !self.shared.closed.get() {
            let mut output = self.shared.output.borrow_mut();
            output.tail(self.shard()).extend_from_slice(bytes);
            drop(output);
            self.wake_driver();
        }
    }

    fn admit(&self, length: usize) -> Result<(), SendError> {
        let counters = self.shard().counters();
        if !self.is_open() {
            counters.stale_sends.add(1);
            return Err(SendError::Closed(self.name()));
        }
        let limits = &self.shard().config().connection;
        // A message larger than the whole allowance passes when it is alone.
        let queued = self.shared.output.borrow().len();
        if queued > 0 && queued.saturating_add(length) > limits.output_bytes_max {
            counters.output_refused.add(1);
            if self.shared.slow_reader.get() == SlowReader::Close {
                self.close(CloseReason::SlowReader);
            }
            return Err(SendError::Full(self.name()));
        }
        Ok(())
    }

    fn sent(&self) {
        self.shard().counters().messages_out.add(1);
        self.wake_driver();
    }

    /// Bytes that wait to be written.
    pub fn output_len(&self) -> usize {
        self.shared.output.borrow().len()
    }

    /// Waits until the output is below its high-water mark, so that a writer
    /// of much goes as fast as the peer reads.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the connection ends first.
    pub async fn writable(&self) -> Result<(), SendError> {
        let high_water = self.shard().config().connection.output_high_water;
        let ready = poll_fn(|cx| {
            if !self.is_open() {
                return Poll::Ready(Err(SendError::Closed(self.name())));
            }
            if self.output_len() < high_water {
                return Poll::Ready(Ok(()));
            }
            self.add_waiter(cx.waker());
            Poll::Pending
        });
        waiting(WaitsFor::plain("slow reader"), ready).await
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            if self.shared.closed.get() {
                return Poll::Ready(());
            }
            self.add_waiter(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Ends the connection. What is in its output leaves first, for at most
    /// [`CLOSE_FLUSH`](crate::limits::CLOSE_FLUSH). The first reason counts.
    pub fn close(&self, reason: CloseReason) {
        if self.shared.closing.get().is_none() {
            self.shared.closing.set(Some(reason));
            self.wake_driver();
            self.wake_waiters();
        }
    }

    /// Attaches a value of its type to the connection, replacing the last.
    pub fn set_property<T: 'static>(&self, value: Rc<T>) {
        let mut properties = self.shared.properties.borrow_mut();
        properties
            .get_or_insert_default()
            .insert(TypeId::of::<T>(), value);
    }

    /// The value attached by [`Conn::set_property`].
    pub fn property<T: 'static>(&self) -> Option<Rc<T>> {
        let properties = self.shared.properties.borrow();
        properties
            .as_ref()?
            .get(&TypeId::of::<T>())?
            .clone()
            .downcast()
            .ok()
    }

    /// Takes the value attached by [`Conn::set_property`] off.
    pub fn take_property<T: 'static>(&self) -> Option<Rc<T>> {
        let mut properties = self.shared.properties.borrow_mut();
        properties
            .as_mut()?
            .remove(&TypeId::of::<T>())?
            .downcast()
            .ok()
    }

    /// Handlers of this connection that are running.
    pub fn handlers(&self) -> u32 {
        self.shared.handlers.get()
    }

    /// Counts a handler until the guard is dropped.
    pub(crate) fn handler_guard(&self) -> HandlerGuard {
        self.shared.handlers.set(self.shared.handlers.get() + 1);
        HandlerGuard { conn: self.clone() }
    }

    /// Waits until fewer than `most` handlers run.
    pub(crate) async fn handler_capacity(&self, most: u32) {
        let ready = poll_fn(|cx| {
            if self.handlers() < most {
                return Poll::Ready(());
            }
            self.add_waiter(cx.waker());
            Poll::Pending
        });
        waiting(WaitsFor::plain("handler capacity"), ready).await;
    }

    pub(crate) fn begin_drain(&self) {
        if self.is_accepted() {
            self.shared.draining.set(true);
            self.wake_driver();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.get()
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.shared.closing.get()
    }

    /// The task that moves this connection's bytes is woken for output.
    pub(crate) fn register_driver(&self, cx: &std::task::Context<'_>) {
        let mut driver = self.shared.driver.borrow_mut();
        if !driver
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *driver = Some(cx.waker().clone());
        }
    }

    fn wake_driver(&self) {
        if self.shared.driver_runs.get() {
            return;
        }
        if let Some(driver) = &*self.shared.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    fn add_waiter(&self, waker: &Waker) {
        let mut waiters = self.shared.waiters.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.will_wake(waker)) {
            waiters.push(waker.clone());
        }
    }

    pub(crate) fn wake_waiters(&self) {
        if self.shared.waiters.borrow().is_empty() {
            return;
        }
        for waiter in std::mem::take(&mut *self.shared.waiters.borrow_mut()) {
            waiter.wake();
        }
    }

    /// The socket is gone: frees everything but the slot.
    pub(crate) fn finish(&self, reason: CloseReason) {
        if self.shared.closed.replace(true) {
            return;
        }
        let shard = self.shard();
        self.close(reason);
        self.shared.output.borrow_mut().clear(shard);
        let counters = shard.counters();
        counters.connections_open.sub(1);
        counters.connections_closing.add(1);
        counters.closed.count(reason.label());
        if self.is_accepted() {
            shard.load().fetch_sub(1, Ordering::Relaxed);
        }
        self.wake_waiters();
        // Outside the borrow, since the last owner's drop releases the slot.
        let taken = shard.slots().borrow_mut().close(self.name());
        drop(taken);
        drop(self.shared.properties.borrow_mut().take());
    }
}

/// Counts one running handler of a connection.
pub(crate) struct HandlerGuard {
    conn: Conn,
}

impl Drop for HandlerGuard {
    fn drop(&mut self) {
        let handlers = &self.conn.shared.handlers;
        handlers.set(handlers.get() - 1);
        self.conn.wake_waiters();
        self.conn.wake_driver();
    }
}
