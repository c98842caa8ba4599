//! How a command fails, and with which exit code.

use std::fmt;
use std::io;

use crate::config::Faults;

/// A command that did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The call or the configuration is wrong; nothing was attempted. Exit 2.
    Usage(anyhow::Error),
    /// The operation failed. Exit 1.
    Operation(anyhow::Error),
}

impl Failure {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Operation(_) => 1,
        }
    }

    /// Whether the reader of standard output has gone, as `head` does; then
    /// there is nothing more to do and nothing went wrong.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        let Self::Operation(error) = self else {
            return false;
        };
        let cause = error.root_cause().downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Faults bring their own layout, one a line.
            Self::Usage(error) if error.is::<Faults>() => write!(formatter, "{error}"),
            Self::Usage(error) | Self::Operation(error) => {
                write!(formatter, "error: {}", with_causes(error))
            }
        }
    }
}

/// The error and its causes, each once: some errors say their cause themselves, for those who print
/// only them.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Operation(error)
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::Usage(faults.into())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        // "agent cannot be reached: No such file (os error 2): No such file (os error 2)"
        let says_it = anyhow!("gone").context("agent cannot be reached: gone");
        let failure = Failure::Operation(says_it.context("cannot pick"));
        let text = failure.to_string();
        assert_eq!(text, "error: cannot pick: agent cannot be reached: gone");
    }
}
