//! Moments, ids, names, limits, seeded randomness and the deadline wheel.
//!
//! Everything here is a value or a plain data structure: no clock is read, no
//! socket opened, no thread started and no operating system randomness drawn.
//! Time comes in as a [`Moment`] and randomness as a seed, so whatever is built
//! on this crate runs the same in a test, in the simulator and in a server.
//!
//! What it leaves out: bytes on the wire (`waystation-wire`), anything that
//! waits (`waystation-net`), and hand-over between threads
//! (`waystation-mailbox`).
//!
//! The main types are [`Wheel`], which keeps a shard's deadlines, and
//! [`Slots`], which names connections so that a stale name is an error value
//! and never another peer.
//!
//! ```
//! use std::time::Duration;
//! use waystation_base::{Moment, ShardId, Slots, Stale, Wheel};
//!
//! // A connection is named by (shard, slot, generation) ...
//! let mut connections = Slots::new(ShardId(0), 1024);
//! let name = connections.insert("peer").unwrap();
//! assert_eq!(connections.get(name), Ok(&"peer"));
//!
//! // ... and its deadline waits in the shard's wheel.
//! let now = Moment::from_millis(10);
//! let mut wheel = Wheel::new(now);
//! wheel.insert(now + Duration::from_secs(5), name);
//! assert_eq!(wheel.poll_expired(now), None);
//!
//! // When it is overdue the connection goes in two steps: resources first,
//! // the slot only when its owner has seen the end of it.
//! let overdue = wheel.poll_expired(now + Duration::from_secs(6)).unwrap();
//! assert_eq!(connections.close(overdue), Ok("peer"));
//! assert_eq!(connections.get(overdue), Err(Stale::Closed));
//! connections.release(overdue).unwrap();
//! assert_eq!(connections.get(overdue), Err(Stale::Reused));
//! ```

pub mod limits;

mod backoff;
mod gate;
mod ids;
mod moment;
mod name;
mod rendezvous;
mod rng;
mod slots;
mod wheel;

pub use backoff::{Backoff, BackoffConfig};
pub use gate::{Gate, Trouble, TroubleNews};
pub use ids::{
    CallId, ConnName, Epoch, FencingToken, MessageId, ParseIdError, Seq, ShardId, Sid, SidSource,
    SiteId, TraceId,
};
pub use moment::{Clock, ManualClock, Moment};
pub use name::{ServiceName, ServiceNameError};
pub use rendezvous::{hash64, rendezvous, shard_of};
pub use rng::Rng;
pub use slots::{Slots, SlotsFull, Stale};
pub use wheel::{DeadlineKey, Wheel};
