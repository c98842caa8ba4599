//! Every bound of the load generator, with what happens when it is reached.

use std::time::Duration;

/// Messages of one run. A rate and time that make more are refused.
pub(super) const MESSAGES_MAX: u64 = 100_000_000;

/// Deliveries that the transcripts hold together, 20 bytes each. A run that
/// is expected to pass it is refused; one that passes it ends with an error,
/// because what is not recorded cannot be checked.
pub(super) const DELIVERIES_MAX: u64 = 32_000_000;

/// Sends that one client may have waiting. Above it a message fails at once
/// and counts as an error.
pub(super) const SENDS_MAX: usize = 16_384;

/// Time in which the first client must have logged in, unless told otherwise.
pub(super) const ENTRY_WAIT: Duration = Duration::from_secs(5);

/// Time in which some further client must have logged in, or group be made.
pub(super) const PROGRESS_WAIT: Duration = Duration::from_secs(10);

/// Logins that one shard has under way at once.
pub(super) const LOGINS_AT_ONCE: usize = 64;

/// Groups that one shard creates at once.
pub(super) const GROUPS_AT_ONCE: usize = 16;

/// Time for the creation of one group.
pub(super) const GROUP_WAIT: Duration = Duration::from_secs(10);

/// A client keeps trying to send a message for this long; then it counts as
/// an error. Long enough for every server to be killed and started again.
pub(super) const SEND_WAIT: Duration = Duration::from_mins(1);

/// A message handed to its client this long after its intended time counts
/// as late: the generator itself did not keep up.
pub(super) const LATE_AFTER: Duration = Duration::from_millis(10);

/// Messages handed to a shard at once; the rest of what is due follows.
pub(super) const BATCH_MESSAGES: usize = 1_024;

/// Time that a shard has to answer the main thread. After it the run fails.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Pauses between looks at how far a phase is.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Time after the last expected delivery in which nothing more should come.
pub(super) const QUIET_WAIT: Duration = Duration::from_millis(500);

/// Pauses between looks at the transcripts while messages are missing.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Faults that a report describes. Further ones are only counted.
pub(super) const EXAMPLES_MAX: usize = 20;

/// Latencies above this are recorded as this.
pub(super) const LATENCY_MAX: Duration = Duration::from_mins(10);
