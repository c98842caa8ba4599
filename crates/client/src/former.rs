//! Earlier attachments, for the ends of calls that were picked there.

use std::sync::Arc;
use std::time::Duration;

use waystation_base::Moment;

use crate::attachment::Attachment;

/// Earlier attachments that are kept for the ends of their calls. The oldest is
/// let go for one more: the agent counts what is in flight there as given up, and
/// what nobody has taken over is lost.
pub(crate) const FORMER_MAX: usize = 4;

/// For how long an earlier attachment is kept, and not much longer while its agent or
/// the one after that has it, unless picks go on in it. What ends later than that may
/// be counted as given up.
pub(crate) const FORMER_FOR: Duration = Duration::from_mins(1);

/// An earlier attachment: its service outgrew it, or its agent is gone or silent.
/// Calls that were picked there may be in flight.
pub(crate) struct Former {
    pub(crate) attachment: Arc<Attachment>,
    /// When it was left, or else the one whose agent has taken it over.
    pub(crate) since: Moment,
    /// What came from the agent that has taken it over last, if one has.
    pub(crate) taker: Option<Arc<Attachment>>,
}

impl Former {
    /// Whether nobody counts what is in it: its agent is gone, and so is who took
    /// it over, which may not have told all of it. Cost: two system calls.
    pub(crate) fn is_left(&self) -> bool {
        let taker = self.taker.as_ref();
        self.attachment.is_closed() && taker.is_none_or(|taker| taker.is_closed())
    }
}
