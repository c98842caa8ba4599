//! Every bound of the network core, with what happens when it is reached.
//!
//! The values here are the defaults of [`NetConfig`](crate::NetConfig) and
//! [`UpstreamConfig`](crate::native::UpstreamConfig) or fixed capacities of
//! internal queues.

use std::time::Duration;

/// Connections open at once in a server, over all shards. Above it a new
/// connection is told so in its own protocol and closed.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Connections above [`CONNECTIONS_MAX`] that may wait at once to be told that
/// they are refused. Above it they are closed without a word, and counted.
pub const REFUSALS_MAX: usize = 256;

/// How long a refused connection may take to show which protocol it speaks.
pub const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// How long a connection may take to send the bytes that decide its shard.
pub const HOME_WAIT: Duration = Duration::from_secs(5);

/// Bytes read ahead to decide a connection's shard. Above it the connection
/// is closed.
pub const HOME_BYTES_MAX: usize = 16 * 1024;

/// Received bytes that wait for a connection's handler. At this level the
/// socket is no longer read, unless the decoder itself waits for more.
pub const INPUT_QUEUE_BYTES: usize = 64 * 1024;

/// Answers to heartbeats that wait to be written on a connection of a split
/// server, in bytes. At this level its socket is no longer read.
pub const HEARTBEAT_ANSWER_BYTES: usize = 8 * 1024;

/// Bytes asked of the kernel by one read into an empty buffer.
pub const READ_CHUNK_BYTES: usize = 16 * 1024;

/// Bytes that a connection may hold of what it received, messages that came
/// in part included. Above it the connection is closed, with the reason
/// `memory`. The largest message fits.
pub const RECEIVED_BYTES_MAX: usize = 66 * 1024 * 1024;

/// Bytes that all connections of a shard may hold together, received or to be
/// written. Above it the connections that hold most are closed, with the
/// reason `memory`, until the rest fits.
pub const SHARD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of output waiting in a connection above which its handlers are
/// suspended and its socket is no longer read.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 256 * 1024;

/// Bytes of output at which a connection that was above its high-water mark is
/// said to be drained; at most half of that mark.
pub const OUTPUT_LOW_WATER_BYTES: usize = 64 * 1024;

/// Bytes of output that a connection may hold at all. What would pass it is
/// refused, and the slow-reader policy decides on the connection. One message
/// that finds the output below its high-water mark passes in any case.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of an answer that finds room in the output of a connection in any
/// case. Above it the bound on the output holds.
pub const SHORT_ANSWER_BYTES: usize = 8 * 1024;

/// A connection whose output makes no progress for this long is closed.
pub const WRITE_STALL: Duration = Duration::from_secs(30);

/// A connection from which nothing was read for this long is closed.
pub const IDLE: Duration = Duration::from_secs(90);

/// A TCP connection on which nothing moved for this long is probed by the
/// system, so that a peer whose machine is gone is found.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

/// The pause between two such probes.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Such probes without an answer after which the connection is lost.
pub const TCP_KEEPALIVE_PROBES: u32 = 3;

/// A frame must be complete this long after its first byte.
pub const FRAME_WAIT: Duration = Duration::from_secs(30);

/// A message that comes in several frames must be complete this long after its
/// first byte. The largest, of 64 MiB, needs 1.1 MB/s.
pub const MESSAGE_WAIT: Duration = Duration::from_mins(1);

/// How long a connection that we close may take to accept the last output.
pub const CLOSE_FLUSH: Duration = Duration::from_secs(1);

/// Messages that wait in a shard's mailbox. Above it the sender is refused.
pub const MAILBOX_MESSAGES: usize = 65_536;

/// The shortest period of a repeating timer of a shard. A shorter one is
/// made this long.
pub const ALARM_PERIOD_MIN: Duration = Duration::from_millis(1);

/// Connections whose output is written before other tasks get their turn. A
/// task that writes more than 128 times in its turn is made to wait by the
/// runtime.
pub const FLUSHES_PER_TURN: u32 = 64;

/// Messages a connection handles before other tasks get their turn.
pub const MESSAGES_PER_TURN: u32 = 256;

/// Handlers that one connection may have running at once where its protocol
/// allows several. Above it the connection is not read.
pub const HANDLERS_PER_CONNECTION: u32 = 256;

/// Pauses between accepts while file descriptors or memory are exhausted.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Calls in flight or waiting on one upstream. Above it a call is refused.
pub const UPSTREAM_IN_FLIGHT_MAX: u32 = 65_536;

/// Connect attempts end after this long.
pub const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// A quiet upstream connection is asked for a sign of life this often.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// An upstream from which nothing was read for this long is closed.
pub const KEEPALIVE_WAIT: Duration = Duration::from_secs(15);

/// Jobs that wait for the offload pool of a shard. Above it a job is refused.
pub const OFFLOAD_QUEUE: usize = 1024;

/// Threads of the offload pool of a shard.
pub const OFFLOAD_THREADS: usize = 4;

/// What threads asked of one client on a shard and has not begun. Above it
/// they are refused.
pub const BLOCKING_QUEUE: usize = 1024;

/// How much longer than its deadline a thread waits for a shard, which has
/// the same deadline and says more. Only a shard that is stuck uses it up.
pub const BLOCKING_GRACE: Duration = Duration::from_millis(100);

/// A handler that does not yield for this long is reported with its stack.
pub const BLOCKED_AFTER: Duration = Duration::from_millis(100);

/// Reports of blocked handlers that are kept. The oldest is dropped.
pub const BLOCKED_REPORTS: usize = 16;

/// Frames of a blocked handler's stack that are kept. Deeper ones are cut.
pub const STACK_FRAMES: usize = 64;

/// Distinct task labels of a process. Above it further ones read `other`.
pub const LABELS_MAX: usize = 4096;

pub use waystation_base::limits::{LOG_LINES, LOG_PERIOD};

/// Free buffers that a shard keeps for reuse. Above it they are freed.
pub const POOLED_BUFFERS: usize = 64;

/// Bytes of an HTTP request's head. Above it the answer is 431.
pub const HTTP_HEAD_BYTES: usize = 16 * 1024;

/// Bytes of an HTTP request's body, where a router sets no other bound. Above it
/// the answer is 413.
pub const HTTP_BODY_BYTES: usize = 1024 * 1024;

/// Headers of an HTTP request. Above it the answer is 431.
pub const HTTP_HEADERS: usize = 64;

/// Bytes of a WebSocket message. Above it the connection is closed with 1009.
pub const WEBSOCKET_MESSAGE_BYTES: usize = 1024 * 1024;

/// How long a drain may take before what is left is closed.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Requests in flight on one FIFO connection, and callers of a client that
/// wait for one. Above it a request is refused.
pub const FIFO_IN_FLIGHT_MAX: usize = 65_536;

/// Leases of a FIFO client out at once. Above it a lease is refused.
pub const FIFO_LEASES_MAX: usize = 256;

/// How long the oldest request of a FIFO connection may wait for its answer.
/// Then the connection is closed.
pub const FIFO_STALL: Duration = Duration::from_secs(10);

/// Answers that may come unasked on a lease, such as messages of a
/// subscription, before someone waits for them. Above it the lease is closed.
pub const FIFO_SPARE_MAX: usize = 4096;

/// Bytes of such answers; one finds room in any case. Above it the lease is
/// closed.
pub const FIFO_SPARE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that fit a UDP datagram over IPv4. A larger one is refused.
pub const UDP_PAYLOAD_MAX: usize = 65_507;

/// Bytes of the largest datagram that is received. A larger one is dropped.
pub const UDP_DATAGRAM_BYTES: usize = UDP_PAYLOAD_MAX;

/// Datagrams received or sent by one system call.
pub const UDP_BATCH: usize = 32;

/// Bytes that wait in a UDP socket to be sent. Above it what is sent is
/// refused, and while any wait nothing more is received.
pub const UDP_QUEUE_BYTES: usize = 1024 * 1024;

/// Calls in flight of one UDP client. Above it a call is refused.
pub const UDP_IN_FLIGHT_MAX: usize = 65_536;
