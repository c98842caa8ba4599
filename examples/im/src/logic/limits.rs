//! Every bound of Logic, with what happens when it is reached.

use std::time::Duration;

/// Users whose presence can be asked for at once. Above it the request is
/// refused.
pub(super) const PRESENCE_MAX: usize = 1000;

/// Bytes that wait for an Entry above which who sends a message to its users
/// waits, so that senders go as fast as their readers.
pub(super) const FANOUT_BEHIND_BYTES: usize = 1024 * 1024;

/// How long such a sender waits. An Entry that has no room for the message
/// then is disconnected; it looks for what it missed when it is back.
pub(super) const FANOUT_WAIT: Duration = Duration::from_secs(1);

/// Time for the Logic that a conversation belongs to, to answer what was passed
/// on to it, or half of what is left. Then the request is served here.
pub(super) const RELAY: Duration = Duration::from_secs(1);

/// The pause before a shard that took nothing is told again to start over. A
/// shard whose mailbox is full
/// ([`MAILBOX_MESSAGES`](waystation_net::limits::MAILBOX_MESSAGES)) loses what
/// it is told; then its connections to Entries, and those of who told it, are
/// made anew, which brings back what was lost.
pub(super) const START_OVER_PAUSE: Duration = Duration::from_millis(20);

/// Time for a Logic of another site to answer before another try, or three quarters
/// of what is left: so the reason why it did not gets to who asked.
pub(super) const ANOTHER_SITE: Duration = Duration::from_secs(2);

/// Conversations of which a Logic keeps where they are written. With one more it
/// begins anew, and asks Das again.
pub(super) const HOMES_KEPT: usize = 100_000;

/// Time for Das to note that it is to tell what arrives. Then it is asked again.
pub(super) const WATCH: Duration = Duration::from_secs(5);

/// The pause before that.
pub(super) const WATCH_PAUSE: Duration = Duration::from_secs(1);
