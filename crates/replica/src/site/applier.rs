//! Applies entries once and in order, and does what the policy says with one that
//! fails.

#[cfg(test)]
mod tests;
mod types;

use std::collections::VecDeque;
use std::sync::Arc;

use waystation_base::{Backoff, Moment, Seq};

use super::parked::Parked;
use crate::entry::{Entry, Touches, TouchesOf};
use crate::ids::{Ahead, Cursor, Position};
use crate::limits::{ERROR_BYTES_MAX, PARKED_MAX};
use crate::message::{ApplyState, Violation};
use crate::session::entry_bytes;

pub use types::{
    ApplierConfig, ApplyBatch, ApplyFault, Decider, Decision, Policy, ReplayRefusal, Verdict,
};

/// An entry that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspect {
    seq: Seq,
    tries: u32,
    /// What was decided about it, and by whom.
    verdict: Option<(Verdict, Decider)>,
}

/// Entries that wait, the transaction that is under way, and what failed.
#[derive(Debug)]
pub(super) struct Applier {
    config: ApplierConfig,
    touches: TouchesOf,
    backoff: Backoff,
    position: Position,
    received: Seq,
    queue: VecDeque<Arc<Entry>>,
    below: Option<Cursor>,
    /// What is written here itself.
    own: Option<Ahead>,
    ahead: Option<Ahead>,
    busy: Option<Busy>,
    suspect: Option<Suspect>,
    retry_at: Option<Moment>,
    is_stopped: bool,
    is_differing: bool,
    parked: Parked,
    replaying: Option<Seq>,
    error: Option<Arc<str>>,
    applied_count: u64,
}

/// The transaction under way.
#[derive(Debug)]
struct Busy {
    count: usize,
    position: Position,
    ahead: Option<Ahead>,
    parked: Vec<(Seq, Touches)>,
    skips: bool,
    is_void: bool,
}

impl Applier {
    pub(super) fn new(config: ApplierConfig, touches: TouchesOf, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(config.backoff, seed),
            config,
            touches,
            position: Position::default(),
            received: Seq(0),
            queue: VecDeque::new(),
            below: None,
            own: None,
            ahead: None,
            busy: None,
            suspect: None,
            retry_at: None,
            is_stopped: false,
            is_differing: false,
            parked: Parked::default(),
            replaying: None,
            error: None,
            applied_count: 0,
        }
    }

    /// Puts back what the copy's lists say after a restart.
    pub(super) fn restore(&mut self, parked: Vec<(Seq, Touches)>, is_differing: bool) {
        for (seq, touches) in parked {
            self.parked.insert(seq, touches);
        }
        self.is_differing = is_differing;
    }

    /// A new copy has begun: what was wrong with the old one is gone with it.
    pub(super) fn forget_lists(&mut self) {
        self.parked = Parked::default();
        self.replaying = None;
        self.is_differing = false;
    }

    /// Which entries are the copy's own.
    pub(super) fn set_own(&mut self, own: Ahead) {
        self.own = Some(own);
    }

    /// Goes on from a place: what waited is dropped. A transaction under way is
    /// waited for, and its outcome ignored.
    pub(super) fn reset(
        &mut self,
        position: Position,
        ahead: Option<Ahead>,
        below: Option<Cursor>,
    ) {
        self.queue.clear();
        self.position = position;
        self.received = position.seq;
        self.ahead = ahead;
        self.below = below;
        self.suspect = None;
        self.retry_at = None;
        self.is_stopped = false;
        if let Some(busy) = &mut self.busy {
            busy.is_void = true;
        }
    }

    /// What waits and was not begun comes again, or is not wanted any more.
    pub(super) fn drop_waiting(&mut self) {
        let keep = self.busy.as_ref().map_or(0, |busy| busy.count);
        self.queue.truncate(keep);
        self.received = self
            .queue
            .back()
            .map_or(self.position.seq, |one| one.position.seq);
    }

    pub(super) fn received(&self) -> Seq {
        self.received
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn ahead(&self) -> Option<Ahead> {
        self.ahead
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    pub(super) fn state(&self) -> ApplyState {
        if self.is_stopped {
            ApplyState::Stopped
        } else if self.retry_at.is_some() || self.suspect.is_some() {
            ApplyState::Retrying
        } else {
            ApplyState::Running
        }
    }

    pub(super) fn error(&self) -> Option<Arc<str>> {
        self.error.clone()
    }

    pub(super) fn is_differing(&self) -> bool {
        self.is_differing
    }

    pub(super) fn parked_count(&self) -> usize {
        self.parked.len()
    }

    pub(super) fn applied_count(&self) -> u64 {
        self.applied_count
    }

    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.retry_at
    }

    /// Takes entries in. What came before is ignored, a gap breaks the protocol.
    pub(super) fn receive(&mut self, entries: &[Arc<Entry>]) -> Result<(), Violation> {
        for entry in entries {
            let Position { epoch, seq } = entry.position;
            let ours = self.position.epoch;
            if epoch != ours {
                let theirs = epoch;
                return Err(Violation::OtherEpoch { ours, theirs });
            }
            if seq <= self.received {
                continue;
            }
            let expected = Seq(self.received.0 + 1);
            if seq != expected {
                let found = seq;
                return Err(Violation::Gap { expected, found });
            }
            let window = self.config.queue_entries_max;
            if self.queue.len() as u64 >= window {
                return Err(Violation::WindowExceeded { window });
            }
            self.received = seq;
            self.queue.push_back(Arc::clone(entry));
        }
        Ok(())
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Moment) {
        self.retry_at = self.retry_at.filter(|at| now < *at);
    }

    /// The next transaction, unless one is under way or must wait.
    pub(super) fn poll_batch(&mut self, now: Moment) -> Option<ApplyBatch> {
        if self.busy.is_some() || self.is_stopped || self.queue.is_empty() {
            return None;
        }
        self.handle_timeout(now);
        if self.retry_at.is_some() {
            return None;
        }
        let mut batch = ApplyBatch {
            entries: Vec::new(),
            below: self.below.clone(),
            position: self.position,
            ahead: self.ahead,
            decision: None,
        };
        let mut parked = Parked::default();
        let mut bytes = 0;
        for entry in &self.queue {
            bytes += entry_bytes(entry);
            let is_full = batch.entries.len() >= self.config.batch_entries_max
                || bytes > self.config.batch_bytes_max;
            if !batch.entries.is_empty() && (is_full || self.is_suspect(entry)) {
                break;
            }
            let verdict = self.verdict(entry, &parked);
            if verdict == Verdict::Park {
                if self.parked.len() + parked.len() >= PARKED_MAX {
                    break;
                }
                parked.insert(entry.position.seq, self.touches.of(entry));
            }
            batch.position = entry.position;
            batch.entries.push((Arc::clone(entry), verdict));
            // A suspect has a transaction of its own, so that its failure takes no
            // other entry back, and another's failure not what was decided of it.
            if self.is_suspect(entry) {
                batch.decision = self.decision();
                break;
            }
        }
        if batch.entries.is_empty() {
            self.stop(format!("{PARKED_MAX} entries are parked"));
            return None;
        }
        let is_open = |ahead: &Ahead| !batch.entries.iter().any(|(one, _)| passes(one, ahead));
        batch.ahead = batch.ahead.filter(is_open);
        self.busy = Some(Busy {
            count: batch.entries.len(),
            position: batch.position,
            ahead: batch.ahead,
            parked: parked.into_vec(),
            skips: batch.entries.iter().any(|(_, one)| *one == Verdict::Skip),
            is_void: false,
        });
        Some(batch)
    }

    fn is_suspect(&self, entry: &Entry) -> bool {
        self.suspect
            .is_some_and(|one| one.seq == entry.position.seq)
    }

    fn decision(&self) -> Option<Decision> {
        let (_, by) = self.suspect?.verdict?;
        let error = self.error.clone().unwrap_or_default();
        Some(Decision { by, error })
    }

    fn verdict(&self, entry: &Entry, parked_now: &Parked) -> Verdict {
        let is_within =
            |ahead: &Option<Ahead>| ahead.is_some_and(|ahead| entry.origin.is_within(&ahead));
        if is_within(&self.own) || is_within(&self.ahead) {
            return Verdict::Contained;
        }
        if let Some(verdict) = self
            .suspect
            .filter(|_| self.is_suspect(entry))
            .and_then(|one| one.verdict)
            .map(|(verdict, _)| verdict)
        {
            return verdict;
        }
        if !(self.parked.is_empty() && parked_now.is_empty()) {
            let touches = self.touches.of(entry);
            if self.parked.conflicts(&touches) || parked_now.conflicts(&touches) {
                return Verdict::Park;
            }
        }
        Verdict::Apply
    }

    /// The transaction is committed: what to acknowledge.
    pub(super) fn committed(&mut self) -> Option<Position> {
        let busy = self.busy.take().expect("a transaction that was asked for");
        if busy.is_void {
            return None;
        }
        self.queue.drain(..busy.count);
        self.applied_count += busy.count as u64;
        self.position = busy.position;
        self.ahead = busy.ahead;
        self.is_differing |= busy.skips;
        for (seq, touches) in busy.parked {
            self.parked.insert(seq, touches);
        }
        // Whatever failed before: the next fault is another one.
        self.backoff.reset();
        if self.suspect.is_some_and(|one| one.seq <= busy.position.seq) {
            self.suspect = None;
        }
        if self.suspect.is_none() {
            self.error = None;
        }
        Some(self.position)
    }

    /// The transaction was rolled back.
    pub(super) fn failed(&mut self, now: Moment, fault: ApplyFault, error: &str) {
        let busy = self.busy.take().expect("a transaction that was asked for");
        if busy.is_void {
            return;
        }
        self.note_error(error);
        let first = Seq(self.position.seq.0 + 1);
        match fault {
            // An entry that was not in the transaction cannot have failed it.
            ApplyFault::Poison(seq) if seq < first || seq > busy.position.seq => {
                self.retry_at = Some(now + self.backoff.next_delay());
            }
            ApplyFault::Transient | ApplyFault::Unfilterable => {
                self.retry_at = Some(now + self.backoff.next_delay());
            }
            ApplyFault::Poison(seq) => {
                let tries = self
                    .suspect
                    .map_or(0, |one| if one.seq == seq { one.tries } else { 0 });
                // In the company of others it may have failed by their fault.
                let tries = if busy.count == 1 { tries + 1 } else { tries };
                self.suspect = Some(Suspect {
                    seq,
                    tries,
                    verdict: None,
                });
                if busy.count == 1 {
                    self.judge(now, tries);
                }
            }
        }
    }

    fn judge(&mut self, now: Moment, tries: u32) {
        let verdict = match self.config.policy {
            _ if tries < self.config.tries_max => None,
            Policy::Retry => None,
            // Part of a copy lacks nothing that it could hold back: it begins
            // anew instead.
            Policy::Skip | Policy::Park if self.below.is_some() => {
                self.is_stopped = true;
                return;
            }
            Policy::Skip => Some(Verdict::Skip),
            Policy::Park => Some(Verdict::Park),
            Policy::Stop => {
                self.is_stopped = true;
                return;
            }
        };
        match verdict {
            Some(_) => {
                if let Some(suspect) = &mut self.suspect {
                    suspect.verdict = verdict.map(|verdict| (verdict, Decider::Policy));
                }
            }
            None => self.retry_at = Some(now + self.backoff.next_delay()),
        }
    }

    fn stop(&mut self, error: String) {
        self.is_stopped = true;
        self.error = Some(error.into());
    }

    fn note_error(&mut self, error: &str) {
        let mut end = error.len().min(ERROR_BYTES_MAX);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        self.error = Some(error[..end].into());
    }

    /// An operator wants the entry tried again now.
    pub(super) fn resume(&mut self) {
        self.is_stopped = false;
        self.retry_at = None;
        if let Some(suspect) = &mut self.suspect {
            suspect.tries = 0;
            suspect.verdict = None;
        }
    }

    /// An operator decides about the entry that failed; false if it is another.
    pub(super) fn decide(&mut self, seq: Seq, verdict: Verdict) -> bool {
        let Some(suspect) = self.suspect.as_mut().filter(|one| one.seq == seq) else {
            return false;
        };
        suspect.verdict = Some((verdict, Decider::Operator));
        self.is_stopped = false;
        self.retry_at = None;
        true
    }

    /// A repair made the copy equal again.
    pub(super) fn repaired(&mut self) {
        self.is_differing = false;
    }

    /// Begins to replay a parked entry.
    pub(super) fn replay(&mut self, seq: Seq) -> Result<(), ReplayRefusal> {
        if self.replaying.is_some() {
            return Err(ReplayRefusal::Busy);
        }
        self.parked.check_replay(seq)?;
        self.replaying = Some(seq);
        Ok(())
    }

    /// The replay is committed, or was rolled back.
    pub(super) fn replayed(&mut self, is_applied: bool) {
        if let Some(seq) = self.replaying.take()
            && is_applied
        {
            self.parked.remove(seq);
        }
    }
}

/// Whether the log has passed what a copy was ahead by, once it has this entry.
fn passes(entry: &Entry, ahead: &Ahead) -> bool {
    use crate::entry::Origin;
    matches!(entry.origin, Origin::Site { site, life, source }
        if site == ahead.site && life == ahead.life && source >= ahead.source)
}
