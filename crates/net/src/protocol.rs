//! What a server speaks on a listener.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use crate::conn::{CloseReason, Conn, Transport};
use crate::split::Heartbeat;

/// Where a connection belongs, judged by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// On the shard where it was accepted.
    Here,
    /// On the shard of this key, such as a client's id.
    Key(u64),
    /// More bytes are needed to tell.
    NeedMore,
}

/// A protocol, as a server needs it. Each shard has one instance for each
/// listener; it is `!Send` and may share state with the shard by `Rc`.
pub trait Protocol: 'static {
    /// Serves one connection to its end. Most call
    /// [`Transport::run`] with a [`Session`](crate::Session).
    fn serve(self: Rc<Self>, transport: &mut Slot) -> LocalBoxFuture<'_, CloseReason>;

    /// Tells a connection above the limit that it is refused. By default it
    /// is closed without a word.
    fn refuse(self: Rc<Self>, transport: &mut Slot) -> LocalBoxFuture<'_, CloseReason> {
        let _ = transport;
        Box::pin(async { CloseReason::Refused })
    }

    /// Decides a connection's shard before it opens. By default it stays.
    fn home(&self, head: &[u8]) -> Home {
        let _ = head;
        Home::Here
    }

    /// Whether [`Protocol::home`] wants to see bytes at all.
    fn has_home(&self) -> bool {
        false
    }

    /// How the I/O side of a split server answers heartbeats on a connection
    /// of this protocol while its worker computes; by default not at all.
    fn heartbeat() -> Option<Box<dyn Heartbeat>>
    where
        Self: Sized,
    {
        None
    }

    /// A connection has been opened, before its first message.
    fn on_open(&self, conn: &Conn) {
        let _ = conn;
    }

    /// A connection has ended; nothing can be sent on it any more. Called
    /// exactly once for each that opened.
    fn on_close(&self, conn: &Conn, reason: CloseReason) {
        let _ = (conn, reason);
    }
}

/// A connection's transport, which a protocol may exchange while it serves:
/// an HTTP server takes it and puts back what is left for WebSocket.
pub struct Slot(Place);

/// One or the other, since each transport has its connection: every connection
/// holds one of these.
enum Place {
    Here(Transport),
    Taken(Conn),
}

impl Slot {
    pub(crate) fn new(transport: Transport) -> Self {
        Self(Place::Here(transport))
    }

    /// The connection.
    pub fn conn(&self) -> &Conn {
        match &self.0 {
            Place::Here(transport) => transport.conn(),
            Place::Taken(conn) => conn,
        }
    }

    /// The transport, unless it was taken and not put back: the connection is
    /// lost then.
    ///
    /// # Errors
    /// [`CloseReason::Reset`].
    pub fn transport(&mut self) -> Result<&mut Transport, CloseReason> {
        match &mut self.0 {
            Place::Here(transport) => Ok(transport),
            Place::Taken(_) => Err(CloseReason::Reset),
        }
    }

    pub(crate) fn take(&mut self) -> Option<Transport> {
        let taken = Place::Taken(self.conn().clone());
        match std::mem::replace(&mut self.0, taken) {
            Place::Here(transport) => Some(transport),
            Place::Taken(_) => None,
        }
    }

    pub(crate) fn put(&mut self, transport: Transport) {
        self.0 = Place::Here(transport);
    }
}
