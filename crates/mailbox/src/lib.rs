//! The bounded mailbox that carries messages between shards.
//!
//! Many producers, one consumer, one lock. The consumer takes everything that
//! is queued in a single turn of the lock, and only the first message after it
//! went to sleep wakes it: with n messages a turn, locking and waking cost 1/n
//! each. (A hand-off to another thread costs 2 to 26 µs alone and 1 to 16 ns an
//! item in batches of 64.) The queue is bounded: a full mailbox refuses at once
//! and hands the message back, because a producer is a shard and must not wait.
//!
//! What it leaves out: waiting for room, priorities, and any runtime. The
//! consumer is polled with a [`Waker`](std::task::Waker) or blocks its thread;
//! loom models in `tests/loom.rs` prove that no message and no wake-up is lost.
//!
//! The main types are [`Sender`] and [`Receiver`], made by [`mailbox`]. A
//! [`Doorbell`] says once, and not for each item, that a queue elsewhere has
//! something in it.
//!
//! ```
//! use waystation_mailbox::{TrySendError, mailbox};
//!
//! let (sender, mut receiver) = mailbox(2);
//! let other = sender.clone();
//! sender.try_send("one").unwrap();
//! other.try_send("two").unwrap();
//! assert_eq!(sender.try_send("three"), Err(TrySendError::Full("three")));
//!
//! let mut batch = Vec::new();
//! assert_eq!(receiver.try_recv_batch(&mut batch), Some(2));
//! assert_eq!(batch, ["one", "two"]);
//!
//! drop((sender, other));
//! assert_eq!(receiver.try_recv_batch(&mut batch), None);
//! ```

mod doorbell;
mod receiver;
mod sender;
mod shared;
mod sync;

pub use doorbell::Doorbell;
pub use receiver::Receiver;
pub use sender::{Sender, TrySendError};
pub use shared::Counters;

/// A mailbox that holds at most `capacity` messages: what does not fit is refused
/// with [`TrySendError::Full`]. Allocates nothing yet; the queue grows on demand
/// and keeps its memory.
///
/// # Panics
/// When `capacity` is zero: nothing could ever be sent.
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a mailbox without room carries nothing");
    let shared = sync::Arc::new(shared::Shared::new(capacity));
    (
        Sender::first(sync::Arc::clone(&shared)),
        Receiver::new(shared),
    )
}
