//! File descriptors: a connection needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::DESCRIPTORS_RESERVED;

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
}
