//! Agents that only slept, and what they gave.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waystation_base::Moment;

use super::{Part, Shared, State};
use crate::attachment::Attachment;
use crate::attempt::Outcome;
use crate::former::{FORMER_FOR, Former};

impl Shared {
    /// The last attachment that was left and whose agent has come to itself since.
    /// Cost: a system call if there is one.
    pub(super) fn awake(&self, state: &mut State) -> Option<Part> {
        let awake = self.take_back(state, |one| !one.is_stale())?;
        state.is_silent = false;
        state.attaching.note(Outcome::Answered);
        state.settle_asking(Outcome::Answered);
        Some(state.part(awake))
    }

    /// What this process has already of the memory that an agent gives it just now:
    /// that slept, and has its connection still. It keeps a ledger for each
    /// connection, and has not many.
    pub(super) fn awake_already(&self, opened: &Attachment) -> Option<Part> {
        let is_same = |one: &Attachment| one.is_of_same_memory(opened);
        let mut state = self.lock();
        if let Some(present) = state.current.clone()
            && is_same(&present)
            && !present.is_closed()
        {
            return Some(state.part(present));
        }
        // It is of another agent, or outgrown.
        self.retire(&mut state);
        let awake = self.take_back(&mut state, is_same)?;
        Some(state.part(awake))
    }

    /// Takes the last attachment back that `is_well` and open. Calls go on in its
    /// ledger, under its number.
    fn take_back(
        &self,
        state: &mut State,
        is_well: impl Fn(&Attachment) -> bool,
    ) -> Option<Arc<Attachment>> {
        let is_it = |one: &Former| is_well(&one.attachment) && !one.attachment.is_closed();
        let at = state.former.iter().rposition(is_it)?;
        let one = state.former.remove(at)?.attachment;
        self.attachment.store(one.number, Ordering::Relaxed);
        state.current = Some(Arc::clone(&one));
        Some(one)
    }
}

impl State {
    /// Lets former attachments go that were kept for long enough: an agent that is
    /// there keeps their ledgers for as long as they are connected. Cost: two system
    /// calls for each that is old.
    pub(super) fn drop_old(&mut self, now: Moment) {
        let is_recent = |since: Moment| now.saturating_since(since) < FORMER_FOR;
        (self.former).retain(|one| is_recent(one.since) || one.is_left());
    }
}
