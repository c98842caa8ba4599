//! Every bound of the binary, and what happens when it is reached.
//!
//! Bounds that an operator may want to move are settings instead
//! (`docs/configuration.md`).

use std::time::Duration;

/// A configuration file larger than this is refused (exit 2).
pub(crate) const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// Faults of one configuration that are printed; the rest are counted.
pub(crate) const FAULTS_SHOWN_MAX: usize = 100;

/// The answer of a role's admin socket; a larger one counts as a failed scrape.
pub(crate) const ADMIN_BODY_BYTES_MAX: usize = 8 << 20;

/// The reason of a refusal; the rest is cut off.
pub(crate) const REASON_CHARS_MAX: usize = 300;

/// The path of a Unix socket as the kernel takes it, without the final zero; a
/// longer one is refused at start (exit 2).
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Exits in a row, before a role was ever in health, after which `up` gives up.
/// With the default delays that is 0.75 s.
pub(crate) const START_FAILURES_MAX: u32 = 5;

/// How often a role that is not yet (or no longer) in health is asked.
pub(crate) const HEALTH_RETRY: Duration = Duration::from_millis(100);

/// How long a role may take to say whether it serves. Longer than a role waits
/// for its own shards, so that it can name the one that hangs.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the supervisor waits for a process that it killed to disappear
/// (the kernel may hold one in a device wait); then it reports and goes on.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that wait for the supervisor's loop; a sender beyond it waits.
pub(crate) const EVENTS_MAX: usize = 64;

/// How long `ctx` waits for one role.
pub(crate) const CTX_TIMEOUT: Duration = Duration::from_secs(2);

/// Roles that `ctx` asks; more sockets than this in a directory are named as a
/// fault, not followed.
pub(crate) const CTX_ROLES_MAX: usize = 256;

/// The pause after a failed accept, so that a process without file descriptors
/// does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a console connection may finish its answer once `up` ends.
pub(crate) const CONSOLE_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// File descriptors that Entry uses beside its users' connections: listeners,
/// connections to every Logic, the admin side, the event loops.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 256;

/// How much longer than its drain may wait for subscribers `node register` waits
/// for the registry's word on that, so that the registry decides.
pub(crate) const DRAIN_ACK_SPARE: Duration = Duration::from_secs(13);

/// How long `node register` then waits until it is out; then it reports and
/// ends, and the lease ends by itself.
pub(crate) const DRAIN_END_WAIT: Duration = Duration::from_secs(10);

/// File descriptors that `up` keeps for itself, beside connections to the
/// console: its roles, their probes, what the console asks of them.
pub(crate) const DESCRIPTORS_OF_UP: u64 = 48;

/// Connections that the console takes however few descriptors there are.
pub(crate) const CONSOLE_CONNECTIONS_MIN: usize = 4;

/// Pause between two looks at whether a parked entry was applied.
pub(crate) const REPLAY_LOOK: Duration = Duration::from_millis(50);
