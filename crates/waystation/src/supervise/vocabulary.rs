//! The words of supervision: what a process is doing, how it ended, what is to
//! be done.

use std::fmt;
use std::time::Duration;

use waystation_base::{BackoffConfig, Moment};

use crate::limits::START_FAILURES_MAX;

/// The exit code by which a process says that its configuration is wrong, so
/// that starting it again cannot help.
pub(super) const EXIT_CONFIGURATION: i32 = 2;

/// The times that govern a supervisor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Pauses between restarts.
    pub(crate) backoff: BackoffConfig,
    /// Health for this long forgets earlier deaths.
    pub(crate) reset_after: Duration,
    /// All roles must have been in health together within this time.
    pub(crate) start_timeout: Duration,
    /// How long each stage of the drain may take before its processes are
    /// killed.
    pub(crate) drain_timeout: Duration,
}

/// A process to be supervised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its role and number, such as `logic-2`.
    pub(crate) role: String,
    /// When it drains: all of stage 0 end before stage 1 is asked to.
    pub(crate) stage: u8,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It could not be started, for this reason.
    NotStarted(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
            Self::NotStarted(reason) => write!(formatter, "not started: {reason}"),
        }
    }
}

/// What a process is doing, as far as the supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It ended; it is started again at this moment.
    Waiting(Moment),
    /// It was started and has not answered yet.
    Starting,
    /// It answers that it serves.
    Healthy,
    /// It answered once, and now does not or says why it cannot serve.
    Unhealthy(String),
    /// It was asked to end.
    Draining,
    /// It was killed and has not yet gone.
    Killed,
    /// It ended for good.
    Stopped,
}

impl State {
    /// The state in one word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Waiting(_) => "waiting",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy(_) => "unhealthy",
            Self::Draining => "draining",
            Self::Killed => "killed",
            Self::Stopped => "stopped",
        }
    }
}

/// Why everything ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was asked to.
    Stopped,
    /// A role says that its configuration is wrong.
    Configuration(String),
    /// A role ended again and again before it ever served.
    StartFailed {
        /// The role.
        role: String,
        /// How it ended the last time.
        exit: Exit,
    },
    /// These roles did not serve in time.
    StartTimedOut(Vec<String>),
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => formatter.write_str("stopped"),
            Self::Configuration(role) => write!(
                formatter,
                "{role} refuses its configuration (exit code {EXIT_CONFIGURATION}); its message stands above"
            ),
            Self::StartFailed { role, exit } => write!(
                formatter,
                "{role} ended {START_FAILURES_MAX} times before it served, at last with {exit}; \
                 its message stands above"
            ),
            Self::StartTimedOut(roles) => {
                write!(formatter, "not ready in time: {}", roles.join(", "))
            }
        }
    }
}

/// What happened, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A process serves.
    Healthy,
    /// A process that served does not answer, or says why it cannot serve.
    Unhealthy(String),
    /// A process ended by itself.
    Died {
        /// How.
        exit: Exit,
        /// When it is started again; none when it is not.
        restart_in: Option<Duration>,
    },
    /// A process ended as it was asked to.
    Ended(Exit),
    /// A process did not drain in time and was killed.
    Overdue,
    /// A process was killed and has still not gone.
    Abandoned,
}

/// What the shell has to do; indices are those of the plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start a process; answer with `Supervisor::handle_started`, or with
    /// `Supervisor::handle_exited` when that failed.
    Start(usize),
    /// Ask a process to end (SIGTERM).
    Terminate(usize),
    /// End a process (SIGKILL).
    Kill(usize),
    /// All processes serve, for the first time.
    Ready,
    /// Log this.
    Report(usize, Event),
    /// All processes have ended; nothing follows.
    Finished(Outcome),
}
