//! The two queues between a connection's socket and its worker.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waystation_mailbox::Doorbell;

use super::lanes::TwoEnded;
use crate::io::Address;

/// One end of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The socket's, on an I/O shard.
    Io,
    /// The connection's, on a worker shard.
    Worker,
}

/// What the receive queue ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The peer sends nothing more.
    Peer,
    /// The socket failed.
    Broken(io::ErrorKind),
}

/// The receive queue: from the socket to the worker.
#[derive(Default)]
pub(super) struct Inbound {
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    /// Follows the bytes.
    pub(super) end: Option<End>,
    /// The socket is not read until there is room.
    pub(super) paused: bool,
    /// Bytes that the worker has taken.
    pub(super) taken: u64,
    /// The worker says: behind so many bytes the connection is a WebSocket.
    pub(super) websocket_from: Option<u64>,
    /// The socket's end says: that WebSocket's pings are answered.
    pub(super) websocket_answered: bool,
}

impl Inbound {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// The send queue: from the worker to the socket.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a word that one end says to the other once"
)]
pub(super) struct Outbound {
    pub(super) bytes: Vec<u8>,
    /// What was put in so far ends with a whole message.
    pub(super) whole: bool,
    /// The socket's end waits for that.
    pub(super) whole_wanted: bool,
    /// The worker waits for room.
    pub(super) full: bool,
    /// Nothing follows the bytes.
    pub(super) shut: bool,
    /// The peer has been told so.
    pub(super) shut_done: bool,
    /// The socket takes nothing more.
    pub(super) broken: bool,
    /// The worker's end is gone: so goes the socket.
    pub(super) dropped: bool,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            whole: true,
            whole_wanted: false,
            full: false,
            shut: false,
            shut_done: false,
            broken: false,
            dropped: false,
        }
    }
}

/// What both ends share. Each queue is bounded by `window` bytes, which is
/// checked before more is put in.
pub(super) struct Pipe {
    pub(super) peer: Address,
    pub(super) window: usize,
    inbound: Mutex<Inbound>,
    outbound: Mutex<Outbound>,
    io: Doorbell,
    worker: Doorbell,
}

impl Pipe {
    pub(super) fn new(peer: Address, window: usize, io_home: u16) -> Arc<Self> {
        Arc::new(Self {
            peer,
            window: window.max(1),
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            io: Doorbell::new(io_home),
            worker: Doorbell::new(io_home),
        })
    }

    /// Nothing runs under the locks that could leave a queue half changed.
    pub(super) fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TwoEnded for Pipe {
    fn bell(&self, side: Side) -> &Doorbell {
        match side {
            Side::Io => &self.io,
            Side::Worker => &self.worker,
        }
    }
}
