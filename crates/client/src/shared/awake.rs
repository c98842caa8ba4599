//! Agents that only slept, and what they gave.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waystation_base::Moment;
use waystation_segment::SegmentState;

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
    /// there keeps their ledgers for as long as they are connected. Not the one that
    /// picks go on in as long as its agent is silent: that may wake up and count
    /// them, or be killed and leave them to the next. Cost: two system calls for each
    /// that is old.
    pub(super) fn drop_old(&mut self, now: Moment) {
        let kept = self.kept.as_ref().filter(|_| self.current.is_none());
        let last = kept.map(|(number, _)| *number);
        // One that its agent has let go of is not waited for: that is there, and may
        // need the connection for others.
        let is_in_use = |one: &Attachment| {
            Some(one.number) == last && one.routes.state() != SegmentState::Retired
        };
        let is_recent = |since: Moment| now.saturating_since(since) < FORMER_FOR;
        (self.former)
            .retain(|one| is_recent(one.since) || is_in_use(&one.attachment) || one.is_left());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::attachment::fake;
    use crate::clock::machine_now;
    use crate::config::CallerConfig;

    /// Story: a caller let go of the memory of an agent that was stopped for more than
    /// a minute, and went on calling its hosts. Nobody counted these calls, nor those
    /// of the minute before if the agent was killed then.
    #[test]
    fn memory_that_picks_go_on_in_stays_for_as_long_as_its_agent_is_silent() {
        let folder = tempfile::tempdir().unwrap();
        let config = CallerConfig::new("pay", folder.path().join("agent.sock"));
        let _agent = UnixListener::bind(&config.socket).unwrap();
        let shared = Shared::new(config.clone());
        let later = machine_now() + 2 * FORMER_FOR;
        // It is stopped, and so was the one before, that has hosts of its own.
        for number in 1..=2 {
            let (_writer, stopped) = fake::attachment(&config, number);
            shared.lock().current = Some(Arc::new(stopped));
            shared.attachment.store(number, Ordering::Relaxed);
            shared.leave(number);
        }
        shared.lock().drop_old(later);
        assert!(shared.find(1).is_none(), "nobody picks in it");
        assert_eq!(shared.kept().map(|(number, _)| number), Some(2));
        assert!(shared.find(2).is_some(), "where these calls count");
        // As soon as there is another one it is as any.
        let (_writer, next) = fake::attachment(&config, 3);
        shared.lock().current = Some(Arc::new(next));
        shared.lock().drop_old(later);
        assert!(shared.find(2).is_none() && shared.find(3).is_some());
    }

    #[test]
    fn memory_that_its_agent_let_go_of_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = CallerConfig::new("pay", folder.path().join("agent.sock"));
        let _agent = UnixListener::bind(&config.socket).unwrap();
        let shared = Shared::new(config.clone());
        let (writer, outgrown) = fake::attachment(&config, 1);
        writer.set_state(SegmentState::Retired);
        shared.lock().current = Some(Arc::new(outgrown));
        shared.attachment.store(1, Ordering::Relaxed);
        shared.leave(1);
        shared.lock().drop_old(machine_now());
        assert!(shared.find(1).is_some());
        shared.lock().drop_old(machine_now() + 2 * FORMER_FOR);
        assert!(shared.find(1).is_none());
    }
}
