//! Every bound of Entry, with what happens when it is reached.

use std::time::Duration;

/// Time for one Logic to answer before another try, so that one that hangs
/// does not take a request's whole time.
pub(super) const TRY: Duration = Duration::from_secs(2);

/// Users that one connection may watch. Above it the request is refused.
pub(super) const WATCHED_MAX: usize = 2000;

/// Users that one request may ask for. Above it it is refused.
pub(super) const PRESENCE_MAX: usize = 1000;

/// Conversations that a client may name at login. Above it it is refused.
pub(super) const CURSORS_MAX: usize = 10_000;

/// Conversations that a login's answer lists, and each page behind it. A page
/// goes out when the client has read what is before it.
pub(super) const LOGIN_PAGE: usize = 500;

/// Bytes of a device's name. A login with a longer one is refused.
pub(super) const DEVICE_BYTES_MAX: usize = 64;

/// Messages asked for by one step of a fetch.
pub(super) const PAGE: u32 = 100;

/// Time for one step of a fetch, retries included. Then it is made again.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// The pause after a step that failed grows by this with each failure, up to
/// [`PAUSE_MAX`]. A fetch goes on for as long as its connection lives.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two steps of a fetch.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Conversations of one connection that are fetched at once. The others wait
/// for their turn, a page each.
pub(super) const FETCHERS_PER_SESSION: usize = 2;

/// Pages that one shard asks for at once. Further ones wait, so that many who
/// come back together leave room for those who are here.
pub(super) const FETCHES_AT_ONCE: usize = 32;

/// Time to tell a Logic who is here. Then it is told again.
pub(super) const ATTACH: Duration = Duration::from_secs(5);

/// Time to look at all conversations of one user.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// The pause before looking again where it failed.
pub(super) const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Users whose conversations are looked at at once, after a connection to a
/// Logic was made.
pub(super) const LOOKS_AT_ONCE: usize = 16;
