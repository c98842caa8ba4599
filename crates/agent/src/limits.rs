//! Every bound of this crate, with what happens when it is reached.

use std::time::Duration;

/// Connections of callers at a time. One more is closed at once, and its caller
/// falls back to UDP.
pub const CONNECTIONS_MAX: usize = 1024;

/// After so long without a word a connection that holds nothing is closed: its
/// process makes another when it has something to ask.
pub const SILENT_MAX: Duration = Duration::from_mins(1);

/// Longest request of a caller in bytes. A longer one ends its connection.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Descriptors that go with a request. One more ends its connection.
pub const FILES_MAX: usize = 2;

/// Ledgers of agents before this one that are counted at a time. One more is
/// refused: its caller keeps it for a while, and then its last counts are lost.
pub const INHERITED_MAX: usize = 4096;

/// Hosts for which these have room, together: a tenth of a kilobyte each. A ledger above
/// it is refused in the same way.
pub const INHERITED_SLOTS_MAX: usize = 1 << 22;

/// Of these by one connection: a process keeps four of a service. One more is refused
/// likewise.
pub const HANDED_OVER_MAX: usize = 8;

/// Ledgers of connections that ended which are kept until what is in them is told.
/// What is in one more counts as told at once: it is lost if this agent is killed
/// before.
pub const LEFT_MAX: usize = 1024;

/// Hosts that calls of one connection are in flight to which were picked over it.
/// Calls to one of them are given up for one more.
pub const HELD_HOSTS_MAX: usize = 65_536;

/// Services that are kept at a time for callers. One more is refused until one
/// was not used for [`FORGET_AFTER`].
pub const SERVICES_MAX: usize = 4096;

/// After so long without a caller a service is kept no longer.
pub const FORGET_AFTER: Duration = Duration::from_mins(10);

/// Services that a route server is asked for at a time. One more is refused, or
/// answered as unknown, until one is forgotten.
pub const ROUTES_MAX: usize = 8192;

/// After so long without anybody who wants it a service is not asked for any
/// more that has no hosts.
pub const FORGET_UNKNOWN_AFTER: Duration = Duration::from_mins(1);

/// How often it is looked whether a service is still wanted.
pub const ROUTE_LOOK: Duration = Duration::from_secs(5);

/// How often a route is asked for again although it is kept up to date: what was
/// lost against all promises is noticed so.
pub const REFRESH_EVERY: Duration = Duration::from_mins(1);

/// The age at which a route is asked for again at a route server of Lars, unless
/// the agent's settings say otherwise.
pub const LARS_REFRESH: Duration = Duration::from_secs(15);

/// How long a caller waits for the first word of a service that was not asked
/// for before. Then it is told that nobody is known to offer it.
pub const FIRST_WORD_WAIT: Duration = Duration::from_millis(300);

/// For how long ends of calls over a connection are dropped at once, counted,
/// while nothing is heard of their services, after one has waited in vain: what
/// stands behind them is held up a tenth of the time at most.
pub const IMPATIENT_FOR: Duration = Duration::from_secs(3);

/// How long a route server of Lars may take to be reached, or to take a question
/// or to answer it. Then the connection is given up.
pub const LARS_WAIT: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to reach a route server of Lars.
pub const LARS_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often the copy on disk is brought up to date.
pub const COPY_EVERY: Duration = Duration::from_secs(5);

/// How long an answer waits for a caller that does not read. Then its connection
/// is closed.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Pause between two reports.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Hosts whose totals are kept for a report server, natively and for Lars each.
/// Calls to others are not counted until one was silent for
/// [`DROP_TOTAL_WHEN_FULL_AFTER`].
pub const REPORTED_HOSTS_MAX: usize = 65_536;

/// A total that was told to our own report server is kept for so long. A report
/// server that is killed before it stored the total has lost it if it could not
/// reach its store for as long.
pub const DROP_TOTAL_AFTER: Duration = Duration::from_hours(12);

/// The same while there are [`REPORTED_HOSTS_MAX`] hosts.
pub const DROP_TOTAL_WHEN_FULL_AFTER: Duration = Duration::from_mins(1);

/// How often totals are looked at for those to drop.
pub const MAKE_ROOM_EVERY: Duration = Duration::from_secs(10);

/// How long a report waits for a report server that does not read, or to reach
/// it. Then the connection is given up, and all is told over the next one.
pub const REPORT_WAIT: Duration = Duration::from_secs(5);

/// Results of one message of Lars.
pub const RESULTS_MAX: usize = 1_000;

/// Connections for probes. Above it the one that was not used for longest is
/// closed.
pub const PROBE_LINKS_MAX: usize = 1024;

/// After so long without a probe its connection is closed.
pub const PROBE_LINK_IDLE: Duration = Duration::from_secs(30);

/// How often connections for probes are looked at for that.
pub const PROBE_LINKS_LOOK: Duration = Duration::from_secs(5);

/// Probes of one service that are sent in one turn. The rest waits for the next.
pub const PROBES_PER_TURN: usize = 16;

/// Probes in a row without an answer after which a host's word is that they fail.
pub const PROBES_FAILED: u32 = 3;

/// For how long what a probe found says something of a host.
pub const PROBE_WORD_FOR: Duration = Duration::from_secs(10);

/// How often what is counted is shown.
pub const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Between two turns while no calls are made.
pub const IDLE_TURN: Duration = Duration::from_millis(50);

/// How long an agent that ends goes on after callers let go of its memory, to take
/// in what they were about to report: ten turns. What comes later the next agent
/// counts.
pub const RETIRED_FOR: Duration = Duration::from_millis(20);

/// For how long after the last call turns stay short.
pub const BUSY_FOR: Duration = Duration::from_secs(1);
