//! UDP: servers and clients, many datagrams a system call.
//!
//! Datagrams are lost, doubled and reordered, and nobody says so. What this
//! side drops by its own bounds it counts; what it waits for has a deadline.
//!
//! A socket is on the shard of its handler, or in split placement on an I/O
//! shard, with a bounded queue in each direction.

mod client;
pub(crate) mod queue;
mod socket;

use std::io;
use std::sync::Mutex;

use crate::io::{Address, DatagramOptions, DetachedDatagrams};
use crate::limits;
use crate::server::{NetConfig, ServerBuilder, StartError};
use crate::shard::Shard;

pub use self::client::{UdpCall, UdpClient, UdpClientConfig};
pub use self::socket::Udp;

/// Settings of a UDP socket.
#[derive(Debug, Clone)]
pub struct UdpConfig {
    /// Bytes of the largest datagram that is received; a larger one is
    /// dropped and counted.
    pub datagram_max: usize,
    /// Datagrams received or sent by one system call, at most 64.
    pub batch: usize,
    /// Bytes that wait to be sent. What would pass it is refused.
    pub queue_bytes: usize,
    /// Bytes that the kernel keeps until they are received; the system's own
    /// default without it.
    pub receive_buffer: Option<usize>,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            datagram_max: limits::UDP_DATAGRAM_BYTES,
            batch: limits::UDP_BATCH,
            queue_bytes: limits::UDP_QUEUE_BYTES,
            receive_buffer: None,
        }
    }
}

/// Why a datagram was not sent, or a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UdpError {
    /// So many bytes wait to be sent already. The datagram is dropped.
    #[error("{0} bytes wait to be sent already")]
    Full(usize),
    /// It is larger than a datagram may be.
    #[error("{0} bytes do not fit a datagram")]
    TooLarge(usize),
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// Too many calls are in flight. Nothing was sent.
    #[error("{0} calls are in flight already")]
    Overloaded(usize),
    /// A call with the same key is in flight. Nothing was sent.
    #[error("a call with the key {0} is in flight already")]
    KeyInUse(u64),
    /// The deadline passed. The server may or may not have acted.
    #[error("no answer before the deadline")]
    Timeout,
}

/// Handles what a UDP server receives. One for each shard and socket.
pub trait UdpHandler: 'static {
    /// Handles one datagram. Answers go by [`Udp::send`], now or later; those
    /// of one batch leave in one system call. It must not block. A panic is
    /// logged and counted and ends the handling of this datagram only.
    fn handle(&self, socket: &Udp, from: &Address, datagram: &[u8]);
}

impl<F: Fn(&Udp, &Address, &[u8]) + 'static> UdpHandler for F {
    fn handle(&self, socket: &Udp, from: &Address, datagram: &[u8]) {
        self(socket, from, datagram);
    }
}

/// A bound address that a server is to receive datagrams on.
///
/// ```
/// use waystation_net::udp::{Udp, UdpConfig, UdpListener};
/// use waystation_net::{Address, NetConfig, Server};
///
/// let config = NetConfig::default();
/// let listener = UdpListener::bind(&config, &"127.0.0.1:0".parse()?, UdpConfig::default())?;
/// let address = listener.address();
/// let server = Server::builder(config)
///     .serve_udp(listener, |_shard| |socket: &Udp, from: &Address, datagram: &[u8]| {
///         // An echo; a full queue is counted by the socket.
///         let _ = socket.send(from, datagram);
///     })
///     .start()?;
/// println!("echo on {address}");
/// server.drain();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct UdpListener {
    sockets: Vec<Box<dyn DetachedDatagrams>>,
    config: UdpConfig,
}

impl UdpListener {
    /// Binds `address`: one socket, or one for each shard where there are
    /// several; the kernel gives each peer's datagrams to one of them.
    ///
    /// # Errors
    /// [`StartError::Listen`].
    pub fn bind(net: &NetConfig, address: &Address, config: UdpConfig) -> Result<Self, StartError> {
        let fault = |source| StartError::Listen {
            address: address.clone(),
            source,
        };
        let options = DatagramOptions {
            shared: net.shards > 1,
            receive_buffer: config.receive_buffer,
        };
        let first = net.io.bind_datagrams(address, &options).map_err(fault)?;
        // The first has the port that the others need.
        let bound = first.address();
        let mut sockets = vec![first];
        for _ in 1..net.shards {
            sockets.push(net.io.bind_datagrams(&bound, &options).map_err(fault)?);
        }
        Ok(Self { sockets, config })
    }

    /// Where it receives, with the port that was given.
    pub fn address(&self) -> Address {
        self.sockets[0].address()
    }
}

impl ServerBuilder {
    /// Receives datagrams; `factory` gives each shard its handler. The sockets
    /// close when the server drains.
    #[must_use]
    pub fn serve_udp<H: UdpHandler>(
        self,
        listener: UdpListener,
        factory: impl Fn(&Shard) -> H + Send + Sync + 'static,
    ) -> Self {
        let UdpListener { sockets, config } = listener;
        let sockets: Mutex<Vec<_>> = Mutex::new(sockets);
        self.on_shard(move |shard| {
            let taken = sockets.lock().ok().and_then(|mut sockets| sockets.pop());
            let Some(socket) = taken else { return };
            let address = socket.address();
            let handler = factory(shard);
            if let Err(error) = serve(shard, socket, &config, handler) {
                tracing::error!(%address, %error, "a UDP socket could not join its shard");
            }
        })
    }
}

/// Receives on a socket that belongs to the calling shard from now on. It
/// closes when the server drains.
///
/// # Errors
/// What the event loop answers.
pub fn serve(
    shard: &Shard,
    socket: Box<dyn DetachedDatagrams>,
    config: &UdpConfig,
    handler: impl UdpHandler,
) -> io::Result<Udp> {
    Udp::start(shard, socket, config, handler, socket::Ends::WithDrain)
}
