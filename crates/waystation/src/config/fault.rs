//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

use crate::limits::FAULTS_SHOWN_MAX;
use crate::table;

/// Where a value came from, and so where it is to be changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A place in the configuration file, counted from 1.
    File {
        /// The file as named on the command line.
        path: PathBuf,
        /// Its line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line, column } => {
                write!(formatter, "{}:{line}:{column}", path.display())
            }
            Self::Environment(name) => formatter.write_str(name),
            Self::Flag(name) => formatter.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// Where.
    pub(crate) origin: Origin,
    /// What, for a person; names the setting.
    pub(crate) message: String,
}

/// One line, whatever the file has in it: it is printed to terminals and into
/// comments.
impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}: {}", self.origin, self.message);
        formatter.write_str(&table::clean(&text))
    }
}

/// Everything that is wrong, never empty; shown one fault a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in self.0.iter().take(FAULTS_SHOWN_MAX) {
            writeln!(formatter, "{fault}")?;
        }
        let hidden = self.0.len().saturating_sub(FAULTS_SHOWN_MAX);
        if hidden > 0 {
            writeln!(formatter, "and {hidden} more")?;
        }
        let count = self.0.len();
        let noun = if count == 1 { "fault" } else { "faults" };
        write!(formatter, "{count} {noun} in the configuration")
    }
}

impl std::error::Error for Faults {}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}
