//! The network core: shards, listeners, connections, upstreams, timers, drain.
//!
//! A [`Server`] runs one or more shards. A [`Shard`] is a thread with one
//! event loop that owns its connections; what runs on it shares state by `Rc`.
//! Each connection has one task, which reads, handles and writes in order
//! ([`Transport::run`]), a bounded queue of received bytes, a bounded output
//! that leaves in one write a turn, and a [name](waystation_base::ConnName)
//! that never comes to mean another peer. [`native`] speaks the frames of
//! crate `wire` (beside HTTP and WebSocket on the same port) and makes calls
//! to [upstreams](native::Upstream). [`fifo`] calls servers that answer in
//! order, [`udp`] sends and receives datagrams, and [`Blocking`] lets threads
//! outside wait for what a shard does.
//!
//! The crate leaves out what requests mean: contexts, deadlines of handlers,
//! typed messages and retries are in crate `service`.
//!
//! ```
//! use std::rc::Rc;
//! use waystation_net::native::{NativeProtocol, Router};
//! use waystation_net::{NetConfig, Server};
//!
//! let server = Server::builder(NetConfig::default())
//!     .listen("127.0.0.1:0".parse()?, |_shard| NativeProtocol::new(Rc::new(Router::new())))
//!     .start()?;
//! println!("listening on {}", server.addresses()[0]);
//! server.drain();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocking;
mod clock;
mod conn;
mod counters;
pub mod fifo;
mod io;
pub mod limits;
pub mod native;
mod protocol;
mod server;
mod shard;
mod signals;
mod split;
pub mod udp;

pub use self::blocking::{Blocking, BlockingCallError, BlockingError};
pub use self::clock::{MonotonicClock, unix_time};
pub use self::conn::{
    CloseReason, Conn, Filled, HandlerGuard, HeldAnswer, Input, OutputLevel, SendError, Session,
    SlowReader, Transport, Turn,
};
pub use self::counters::{ClosedCounters, Counter, Counters, Kind, Sample};
pub use self::io::{
    Address, AddressError, Batch, Connecting, DatagramBounds, DatagramOptions, Datagrams,
    DetachedDatagrams, DetachedListener, DetachedStream, Faults, Io, Listener, MemoryIo,
    MemoryStream, Outgoing, Stream, SystemIo, TcpKeepalive, listener_from_fd,
};
pub use self::protocol::{Home, Protocol, Slot};
pub use self::server::{ConnectionLimits, NetConfig, Server, ServerBuilder, StartError};
pub use self::shard::{
    Alarm, BlockedReport, BlockedReports, Elapsed, Label, LoadPlace, OffloadError, Remote,
    RemoteError, Shard, Sleep, TaskInfo, Waiting, WaitsFor, WorkGuard, current_wait, describe_task,
    until, waiting,
};
pub use self::signals::Termination;
pub use self::split::Heartbeat;
