//! Every bound of Das, with what happens when it is reached. Those of the store
//! stand in [`crate::store::limits`].

use std::time::Duration;

/// Connections that are told what arrives from other sites, on each shard. One
/// more is refused.
pub(super) const WATCHERS_MAX: usize = 1024;

/// What has arrived and a shard has not told yet, in transactions of other sites.
/// Who is further behind is told to look for it instead.
pub(super) const ARRIVALS_KEPT: usize = 256;

/// Bytes of text of arrived messages that are told at once. More go into the next
/// message.
pub(super) const ARRIVED_BYTES: usize = 256 * 1024;

/// Time for the hub to answer. Then it is asked again.
pub(super) const HUB_WAIT: Duration = Duration::from_secs(2);

/// How often a site that has just started is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// How often one that has all it needs is: it may be told to take its copy anew.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
