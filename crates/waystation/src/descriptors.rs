//! File descriptors: a connection needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{CONSOLE_CONNECTIONS_MIN, DESCRIPTORS_OF_UP, DESCRIPTORS_RESERVED};

/// Raises this process's soft limit of file descriptors, as far as the hard one
/// goes, so that `connections` fit beside what else it opens. Logs a warning
/// when they do not: connections are refused before that number then.
pub(crate) fn raise(connections: usize) {
    let needed = (connections as u64).saturating_add(DESCRIPTORS_RESERVED);
    let limit = getrlimit(Resource::Nofile);
    let Some(raised) = raised(limit.current, limit.maximum, needed) else {
        return;
    };
    let wanted = Rlimit {
        current: Some(raised),
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    let current = getrlimit(Resource::Nofile).current;
    if let Some(descriptors) = current.filter(|current| *current < needed) {
        tracing::warn!(
            descriptors,
            connections_max = connections,
            "entry.connections_max cannot be reached: raise the hard limit (ulimit -Hn)"
        );
    }
}

/// The connections that the console may hold: `wanted`, or fewer when this
/// process may not have so many descriptors beside those with which `up`
/// probes and starts its roles.
pub(crate) fn for_console(wanted: usize) -> usize {
    let connections = beside_up(getrlimit(Resource::Nofile).current, wanted);
    if connections < wanted {
        tracing::warn!(
            connections,
            max_connections = wanted,
            "console.max_connections cannot be reached: raise the limit (ulimit -n)"
        );
    }
    connections
}

fn beside_up(soft: Option<u64>, wanted: usize) -> usize {
    let Some(soft) = soft else {
        return wanted;
    };
    let left = soft.saturating_sub(DESCRIPTORS_OF_UP);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    wanted.min(left.max(CONSOLE_CONNECTIONS_MIN))
}

/// The soft limit to set, if it is to change; `None` stands for no limit.
fn raised(soft: Option<u64>, hard: Option<u64>, needed: u64) -> Option<u64> {
    let soft = soft.filter(|soft| *soft < needed)?;
    let raised = hard.map_or(needed, |hard| hard.min(needed));
    (raised > soft).then_some(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most systems start a process with 1,024: the limit of 16,384 connections
    /// was never reached, and nobody was told.
    #[test]
    fn the_soft_limit_goes_as_far_as_needed_and_the_hard_one_allows() {
        assert_eq!(raised(Some(1024), Some(1_048_576), 16_640), Some(16_640));
        assert_eq!(raised(Some(1024), Some(4096), 16_640), Some(4096));
        assert_eq!(raised(Some(1024), None, 16_640), Some(16_640));
        assert_eq!(raised(Some(20_000), Some(1_048_576), 16_640), None);
        assert_eq!(raised(None, None, 16_640), None);
        assert_eq!(raised(Some(4096), Some(4096), 16_640), None);
    }

    /// At 64 descriptors, 100 connections to the console took them all: `up`
    /// could not probe its roles, and called every one of them unhealthy.
    #[test]
    fn the_console_leaves_descriptors_for_the_probes() {
        assert_eq!(beside_up(Some(64), 256), 16);
        assert_eq!(beside_up(Some(1024), 256), 256);
        assert_eq!(beside_up(None, 256), 256);
        assert_eq!(beside_up(Some(50), 256), CONSOLE_CONNECTIONS_MIN);
        assert_eq!(beside_up(Some(50), 1), 1);
    }
}
