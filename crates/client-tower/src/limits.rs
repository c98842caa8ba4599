//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Clients of hosts that a [`Balance`](crate::Balance) keeps. Above it those of
/// hosts that the agent does not know any more are dropped, else any.
pub const CLIENTS_MAX: usize = 4096;

/// How often [`Hosts`](crate::Hosts) looks for changes. A look costs a load.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Bytes that are looked at of a status in a header. A longer one is none.
pub const STATUS_BYTES: usize = 3;
