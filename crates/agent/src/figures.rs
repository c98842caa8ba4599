//! What an agent counts, for whoever watches it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an agent has counted since it started, and what it has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls that native callers sent.
    pub sent: u64,
    /// Calls that were given up, since who sent them was gone.
    pub abandoned: u64,
    /// Results for hosts that were gone, which were dropped.
    pub stale_results: u64,
    /// Ends of calls that no report tells: of too many hosts at a time, or of hosts
    /// that left just before an agent was killed.
    pub uncounted: u64,
    /// Calls in callers' memory that made no sense.
    pub dropped: u64,
    /// Hosts that shared memory had no room for, at each time that it was written.
    pub left_out: u64,
    /// Picks for callers who asked.
    pub picks: u64,
    /// Questions of these without a host.
    pub no_picks: u64,
    /// Picks while too few hosts were available, for callers who asked.
    pub panic_picks: u64,
    /// Hosts that were ejected.
    pub ejected: u64,
    /// Hosts that would have been, had not too many been out.
    pub not_ejected: u64,
    /// Hosts given to callers of Lars.
    pub lars_picks: u64,
    /// Their questions without a host.
    pub lars_no_picks: u64,
    /// Their results that were taken in.
    pub lars_reports: u64,
    /// Their results for hosts or services that are not there.
    pub lars_stale_reports: u64,
    /// Datagrams that were none of the protocol.
    pub lars_dropped: u64,
    /// Hosts of routes that did not fit an answer by UDP.
    pub lars_left_out: u64,
    /// Services that callers use now.
    pub services: u64,
    /// Processes that share memory now, once for each service.
    pub ledgers: u64,
    /// Services of which so few hosts are available that all are used.
    pub panics: u64,
    /// Services whose routes are those of a source that was lost.
    pub routes_kept: u64,
    /// Services whose routes are those on disk, since no source has answered.
    pub routes_from_disk: u64,
}

impl Figures {
    /// Keeps what a service counted that is used no longer. Gauges are of those
    /// that are.
    pub(crate) const fn add_counted(&mut self, of: &Self) {
        self.sent += of.sent;
        self.abandoned += of.abandoned;
        self.stale_results += of.stale_results;
        self.uncounted += of.uncounted;
        self.dropped = self.dropped.saturating_add(of.dropped);
        self.left_out += of.left_out;
        self.picks += of.picks;
        self.no_picks += of.no_picks;
        self.panic_picks += of.panic_picks;
        self.ejected += of.ejected;
        self.not_ejected += of.not_ejected;
    }
}

/// Where an agent shows its [`Figures`]. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct FigureBoard(Arc<Mutex<Figures>>);

impl FigureBoard {
    /// Those of the last second.
    pub fn figures(&self) -> Figures {
        *self.lock()
    }

    pub(crate) fn show(&self, figures: Figures) {
        *self.lock() = figures;
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
