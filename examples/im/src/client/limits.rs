//! Every bound of the client, with what happens when it is reached.

use std::time::Duration;

/// Sends of one client that wait or are on their way. Above it a send is
/// refused at once as `overloaded`.
pub const SENDS_MAX: usize = 16_384;

/// Requests of one client on their way at once. Above it they are refused as
/// `overloaded`, and tried again like any refusal.
pub(super) const IN_FLIGHT_MAX: u32 = 1_024;

/// Conversations whose place is remembered for a resume. Of further ones a
/// reconnect brings every message again, and they are counted.
pub const CURSORS_MAX: usize = 10_000;

/// Time for one attempt of a request. After it the same request is sent again.
pub const ATTEMPT_WAIT: Duration = Duration::from_secs(3);

/// Conversations that a login may list. An Entry that lists more is
/// disconnected.
pub(super) const LISTED_MAX: usize = 10_000;

/// Time for a login, with the whole list of conversations. After it the connection is closed and made anew.
pub(super) const LOGIN_WAIT: Duration = Duration::from_secs(5);

/// Pauses between attempts of one request: the first, and the longest.
pub(super) const RETRY_PAUSE: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(250));

/// Pauses between attempts to connect: the first, and the longest.
pub(super) const CONNECT_PAUSE: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(500));
