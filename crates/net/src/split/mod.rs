//! Split placement: I/O shards move bytes, worker shards run handlers.
//!
//! A connection's socket lives on an I/O shard, where [`pump`] reads, writes
//! and answers heartbeats. Its transport, session and handlers live on a
//! worker, over a [`Stream`](crate::Stream) that is one end of a [`pipe`]: a
//! bounded receive queue and a bounded send queue, in which the end of either
//! side follows its data. So everything above the stream is the same in both
//! placements, and a worker makes no I/O system call. Upstream connections
//! come from the same place, by [`SplitIo`], and [`datagrams`] has the same for
//! datagram sockets.
//!
//! The reuse hazard of two threads that name connections by slot does not
//! arise: the two ends of a pipe hold each other, and the name with its slot
//! belongs to the worker alone. A pipe is freed when both ends are gone.
//!
//! Threads wake one another in batches, by [`mod@lanes`]: one lock and one wake-up
//! for all pipes that became ready in a turn of the event loop. (A hand-off to
//! another thread costs 2 to 26 µs alone, 1 to 16 ns an item in batches of 64.)

mod datagrams;
mod io;
mod lanes;
mod pipe;
mod pump;
mod stream;

pub(crate) use self::io::{SplitIo, serve_accepted};
pub(crate) use self::lanes::{LaneEnd, lanes};
pub use self::pump::Heartbeat;

/// Makes the heartbeat rule of a listener's protocol for one connection.
pub(crate) type MakeHeartbeat = fn() -> Option<Box<dyn Heartbeat>>;
