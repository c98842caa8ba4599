//! A call from its pick to its end.

use std::sync::Arc;
use std::time::Duration;

use waystation_balance::{CallEnd, Load};
use waystation_base::Moment;
use waystation_membership::Address;
use waystation_segment::report;

use crate::attachment::Attachment;
use crate::caller::PickedHost;
use crate::clock::machine_now;
use crate::config::Source;
use crate::shared::Shared;

/// A call that was picked, until it ends. Whatever becomes of it, its end is
/// reported once: as [`CallGuard::end`] says, else, when it is dropped, as given
/// up, which says nothing about the host.
///
/// It belongs to no thread, and outlives the caller that made it. In a process
/// that was forked from the one that picked it reports nothing: that one does.
///
/// ```no_run
/// use waystation_balance::{CallEnd, Load};
/// use waystation_client::{Caller, CallerConfig};
///
/// let mut caller = Caller::new(CallerConfig::new("pay", "/run/waystation/agent.sock"));
/// let call = caller.begin()?;
/// println!("call {}", call.address());
/// // The time from here back to the pick is reported with it.
/// call.end(CallEnd::Ok, Load::default());
/// # Ok::<(), waystation_client::Error>(())
/// ```
#[must_use = "a call that is dropped counts as given up"]
pub struct CallGuard {
    shared: Arc<Shared>,
    picked: PickedHost,
    /// Where its end is counted, if that is in shared memory.
    ledger: Option<Arc<Attachment>>,
    began: Moment,
    is_open: bool,
}

impl CallGuard {
    pub(crate) fn new(
        shared: Arc<Shared>,
        picked: PickedHost,
        ledger: Option<Arc<Attachment>>,
    ) -> Self {
        Self {
            shared,
            picked,
            ledger,
            began: machine_now(),
            is_open: true,
        }
    }

    /// Where to call.
    pub const fn address(&self) -> &Address {
        &self.picked.address
    }

    /// Which way the pick went.
    pub const fn source(&self) -> Source {
        self.picked.source
    }

    /// What decided, for a pick from shared memory.
    pub fn reason(&self) -> Option<waystation_balance::Reason> {
        self.picked.reason()
    }

    /// How long ago it was picked. Cost: a clock read.
    pub fn age(&self) -> Duration {
        machine_now().saturating_since(self.began)
    }

    /// The call ended so, now; `load` is what the reply told, nothing by
    /// default. Cost: a clock read and two stores.
    pub fn end(mut self, end: CallEnd, load: Load) {
        let latency = self.age();
        self.report(end, Some(latency), load);
    }

    fn report(&mut self, end: CallEnd, latency: Option<Duration>, load: Load) {
        self.is_open = false;
        if self.shared.is_child() {
            return;
        }
        match (&self.ledger, self.picked.source) {
            (Some(attachment), _) => {
                let latency_ns = latency.and_then(|one| u64::try_from(one.as_nanos()).ok());
                let (routes, ledger) = (&attachment.routes, &attachment.ledger);
                let place = self.picked.host.place();
                report(routes, ledger, place, end, latency_ns, load);
            }
            // Its ledger is gone, and its agent has counted it as given up.
            (None, Source::Segment | Source::Kept) => {}
            (None, _) => self.shared.report(&self.picked, end, latency, load),
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.is_open {
            self.report(CallEnd::Cancelled, None, Load::default());
        }
    }
}

impl std::fmt::Debug for CallGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallGuard")
            .field("picked", &self.picked)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}
