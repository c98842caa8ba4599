//! Streams and listeners behind traits: the kernel's sockets, or pipes in
//! memory with injected faults for tests.
//!
//! A stream lives on one shard. To move to another it is
//! [detached](Stream::detach) from this thread's event loop and
//! [attached](DetachedStream::attach) to that of the other.

mod address;
mod datagram;
mod memory;
mod memory_datagram;
mod reactor;
mod system;
mod system_datagram;
mod system_stream;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::limits;

pub use self::address::{Address, AddressError};
pub use self::datagram::{Batch, DatagramBounds, Datagrams, DetachedDatagrams, Outgoing};
pub use self::memory::{Faults, MemoryIo, MemoryStream};
pub(crate) use self::reactor::Reactor;
pub use self::system::{SystemIo, listener_from_fd};

/// A connected, bidirectional byte stream owned by one task.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Ready when a read would make progress, so that a connection can wait
    /// without holding a buffer.
    ///
    /// # Errors
    /// The event loop's own failure; the connection is lost then.
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Who is at the other end, for people.
    fn peer(&self) -> Address;

    /// Lets the system probe a peer that is silent, where it can.
    ///
    /// # Errors
    /// What the system answers.
    fn set_keepalive(&mut self, keepalive: &TcpKeepalive) -> io::Result<()> {
        let _ = keepalive;
        Ok(())
    }

    /// Takes the stream off this thread's event loop.
    ///
    /// # Errors
    /// What the event loop answers; the connection is lost then.
    fn detach(self: Box<Self>) -> io::Result<Box<dyn DetachedStream>>;

    /// Says that everything written so far ends with a whole message. Only
    /// there may someone else put messages in between, as the I/O side of a
    /// split server does with answers to heartbeats.
    fn mark_whole(&mut self) {}

    /// Whether the heartbeats of the peer are answered already when they are
    /// read from this stream.
    fn answers_heartbeats(&self) -> bool {
        false
    }

    /// Says that the connection becomes a WebSocket behind the bytes read so
    /// far. Called before the peer is told.
    fn begin_websocket(&mut self) {}

    /// Whether the pings of that WebSocket are answered already when they are
    /// read from this stream.
    fn answers_websocket_pings(&self) -> bool {
        false
    }
}

/// A stream on its way between two event loops.
pub trait DetachedStream: Send {
    /// Puts the stream on the calling thread's event loop.
    ///
    /// # Errors
    /// What the event loop answers; the connection is lost then.
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>>;
}

/// A bound listener, not yet on an event loop.
pub trait DetachedListener: Send {
    /// The address that peers connect to, with the port that was given.
    fn address(&self) -> Address;

    /// Puts the listener on the calling thread's event loop.
    ///
    /// # Errors
    /// What the event loop answers.
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Listener>>;
}

/// A listener on one event loop. Accepted streams come detached, since they
/// are spread over all shards.
pub trait Listener: 'static {
    /// Ready with the next connection.
    ///
    /// # Errors
    /// What `accept` answers. The caller pauses when it is about resources.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Box<dyn DetachedStream>>>;
}

/// A future of a connected stream on the calling thread's event loop.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>>>>;

/// Where listeners and streams come from.
pub trait Io: Send + Sync + 'static {
    /// Binds a listener.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when something listens there already, and
    /// whatever else the system answers.
    fn listen(&self, address: &Address) -> io::Result<Box<dyn DetachedListener>>;

    /// Connects. The caller puts a deadline on it.
    fn connect(&self, address: &Address) -> Connecting;

    /// Binds a datagram socket.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when the address is taken, and whatever
    /// else the system answers.
    fn bind_datagrams(
        &self,
        address: &Address,
        options: &DatagramOptions,
    ) -> io::Result<Box<dyn DetachedDatagrams>> {
        let _ = (address, options);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes a datagram socket that sends to one peer and hears from it alone.
    ///
    /// # Errors
    /// What the system answers.
    fn connect_datagrams(&self, to: &Address) -> io::Result<Box<dyn DetachedDatagrams>> {
        let _ = to;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the calling shard a datagram socket: on its own event loop, or
    /// on that of the shard that does its I/O.
    ///
    /// # Errors
    /// What the event loop answers.
    fn attach_datagrams(
        &self,
        socket: Box<dyn DetachedDatagrams>,
        bounds: DatagramBounds,
    ) -> io::Result<Box<dyn Datagrams>> {
        let _ = bounds;
        socket.attach()
    }
}

/// The system's own signs of life on a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Silence before the first probe, in whole seconds.
    pub idle: Duration,
    /// The pause between two probes, in whole seconds.
    pub interval: Duration,
    /// Probes without an answer after which the connection is lost.
    pub probes: u32,
}

impl Default for TcpKeepalive {
    fn default() -> Self {
        Self {
            idle: limits::TCP_KEEPALIVE_IDLE,
            interval: limits::TCP_KEEPALIVE_INTERVAL,
            probes: limits::TCP_KEEPALIVE_PROBES,
        }
    }
}

/// How a datagram socket is bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct DatagramOptions {
    /// Several sockets of this user may have the address; each peer's
    /// datagrams go to one of them.
    pub shared: bool,
    /// Bytes that the kernel keeps until they are received; the system's own
    /// default without it.
    pub receive_buffer: Option<usize>,
}
