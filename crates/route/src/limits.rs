//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Routes that are taken from a store. Further rows are skipped, counted and
/// named.
pub const ROUTES_MAX: usize = 100_000;

/// Skipped rows that are named; the rest is counted.
pub const SKIPPED_NAMED_MAX: usize = 64;

/// Longest text of a column in a fault, in characters. The rest is left out.
pub const SHOWN_CHARS_MAX: usize = 64;

/// Changes of routes that wait for the store. One more is refused at once.
pub const CHANGES_MAX: usize = 256;

/// News of the store that wait for the server. Above it the store waits.
pub const TOLD_MAX: usize = 64;

/// Routes in one piece of news; a whole table comes in several, so that others
/// get their turn between them.
pub const ROUTES_PER_TURN: usize = 4096;

/// How long one question to a store may take. Then the connection counts as
/// lost, and is made anew.
pub const STORE_WAIT: Duration = Duration::from_secs(10);

/// Longest pause between two attempts to reach a store.
pub const STORE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a change waits for its answer, over reconnections of the store too.
/// Its outcome is unknown then.
pub const CHANGE_WAIT: Duration = Duration::from_secs(15);

/// How often a change that met another one is tried.
pub const CHANGE_TRIES: u32 = 5;

/// Pairs that one connection of Lars subscribes to. It is answered about further
/// ones, and gets no pushes for them.
pub const PAIRS_PER_CONNECTION: usize = 10_000;

/// Subscriptions of all connections of Lars. Further ones are answered, and get
/// no pushes.
pub const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// Frames of a connection of Lars that are answered before others get their
/// turn.
pub const FRAMES_PER_TURN: u32 = 64;

/// A connection that says nothing for so long is closed. Agents of Lars are
/// silent as long as nothing changes, so that it is long; peers that are gone
/// are found by TCP's own signs of life.
pub const IDLE: Duration = Duration::from_hours(24);

/// Bytes that wait for one subscriber. A new subscriber of everything gets all
/// of it in one turn. One that is behind by more is closed and starts over.
pub const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// How long a store that suddenly has less than half of what it had must insist
/// on that before it is believed. Changes that come through this server are
/// believed at once.
pub const COLLAPSE_WAIT: Duration = Duration::from_secs(20);

/// From so many routes on a loss of more than half is a collapse.
pub const COLLAPSE_MIN: usize = 4;

/// How often it is looked whether subscribers have seen what the registry waits
/// for.
pub const ACK_LOOK: Duration = Duration::from_millis(20);

/// Services that the registry waits for. Of further ones nothing is
/// acknowledged before one of these was.
pub const UNSEEN_MAX: usize = 10_000;

/// Routes in one answer of the admin API; a service with more stands alone in
/// its answer.
pub const LISTED_MAX: usize = 1000;

/// Pushed changes in `RouteChange` that are older than this are deleted. Other
/// servers on the database have seen them long since.
pub const CHANGES_KEPT: Duration = Duration::from_hours(1);

/// Watches over HTTP at a time. One more is answered 503.
pub const WATCHERS_MAX: usize = 256;

/// Bytes that are made for a watch over HTTP at a time; the last line may pass it.
/// The next are made when its peer has taken these.
pub const WATCH_PIECE_BYTES: usize = 32 * 1024;

/// A watch over HTTP says at least an empty line this often.
pub const WATCH_SILENCE: Duration = Duration::from_secs(15);

/// A watch over HTTP that does not say for how long ends after this.
pub const WATCH_DEFAULT: Duration = Duration::from_hours(1);

/// The longest watch over HTTP. A longer one is refused.
pub const WATCH_MAX: Duration = Duration::from_hours(24);
