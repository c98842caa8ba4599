//! A site holds still for a proof of equality, or for the snapshot of a joiner: it keeps others from writing to its
//! database until the log has all that they wrote, so that there is a sequence at
//! which the copy is what the log says and nothing more.
//!
//! The hub asks for that first, and names the sequence when all sites hold still.
//! Writers wait for [`PROOF_HOLD_MAX`] at most, whatever becomes of the proof.

use std::rc::Rc;
use std::time::Duration;

use waystation_base::Moment;
use waystation_net::Label;
use waystation_replica::{Holding, SnapshotId};

use super::events::Event;
use super::task::SiteTask;
use crate::adapter::{AdapterError, Apply};
use crate::codec::ProofSaid;
use crate::limits::{PROOF_BACKLOG_MAX, PROOF_HOLD_MAX, PROOFS_MAX};

/// How often an end of the hold is tried again while the lane has no room.
const RELEASE_AGAIN: Duration = Duration::from_millis(10);

/// Pause before the lock of a database that others write to is sought again.
const HOLD_AGAIN: Duration = Duration::from_millis(100);

/// Whether others are kept from writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    #[default]
    Free,
    /// The lane of transactions waits for its turn.
    Taking,
    /// They are, and this is the last captured write.
    Held { number: u64, until: Moment },
}

/// What a site holds still for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A proof of equality.
    Proof(u64),
    /// A snapshot for a joiner: one that contains nothing that the log has not can be
    /// gone on with from another donor, and be followed.
    Dump(SnapshotId),
}

/// What the site holds still for.
#[derive(Debug, Default)]
pub(super) struct Still {
    /// The hub waits to hear of these.
    asked: Vec<For>,
    /// It has heard, and has not had its snapshot.
    told: Vec<For>,
    hold: Hold,
}

impl Still {
    pub(super) fn is_held(&self) -> bool {
        matches!(self.hold, Hold::Held { .. })
    }

    /// When to look at it again.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match self.hold {
            Hold::Held { until, .. } => Some(until),
            _ => None,
        }
    }
}

impl SiteTask {
    pub(super) fn want_still(&mut self, what: For) {
        let may_publish = self.site.view().token.is_some();
        let is_whole = matches!(self.site.holding(), Holding::At { .. });
        if self.capture.is_none() || !may_publish || !is_whole {
            return self.tell_still(what, false);
        }
        let still = &mut self.proofs.still;
        if let For::Proof(proof) = what
            && still.asked.len() + still.told.len() >= PROOFS_MAX
        {
            let error = "too many proofs are under way".into();
            return self.say(proof, ProofSaid::Failed(error));
        }
        still.asked.push(what);
    }

    fn tell_still(&mut self, what: For, is_held: bool) {
        match what {
            For::Proof(proof) => self.say(proof, ProofSaid::Still { is_held }),
            For::Dump(snapshot) => {
                let now = self.shard.now();
                self.site.handle_snapshot_prepared(now, snapshot, is_held);
            }
        }
    }

    /// Goes on with what the hub wants, on every turn.
    pub(super) fn look_still(&mut self) {
        if self.proofs.still.asked.is_empty() {
            return self.end_hold();
        }
        match self.proofs.still.hold {
            Hold::Free => {
                let behind = self.site.captured().saturating_sub(self.site.published());
                if behind <= PROOF_BACKLOG_MAX {
                    self.take_hold();
                }
            }
            Hold::Taking => {}
            Hold::Held { number, until } => {
                let is_held = self.site.published() >= number;
                if is_held || until <= self.shard.now() {
                    self.say_still(is_held);
                }
            }
        }
    }

    fn say_still(&mut self, is_held: bool) {
        for what in std::mem::take(&mut self.proofs.still.asked) {
            self.tell_still(what, is_held);
            if is_held {
                self.proofs.still.told.push(what);
            }
        }
        self.end_hold();
    }

    fn take_hold(&mut self) {
        self.proofs.still.hold = Hold::Taking;
        let (lane, inbox) = (Rc::clone(&self.apply), self.inbox());
        self.shard.spawn(Label::of("sync hold"), async move {
            let held = lane.run(Apply::hold).await;
            let gone = || Err(super::perform::gone());
            inbox.push(Event::Held(held.unwrap_or_else(gone)));
        });
    }

    pub(super) fn held(&mut self, held: Result<Option<u64>, AdapterError>) {
        let now = self.shard.now();
        match held {
            Ok(Some(number)) => {
                let until = now + PROOF_HOLD_MAX;
                self.proofs.still.hold = Hold::Held { number, until };
                // The lane of captured writes may have been a step behind.
                self.site.handle_captured(now, number);
            }
            Ok(None) => {
                self.proofs.still.hold = Hold::Free;
                self.say_still(false);
            }
            Err(AdapterError::Unavailable(error)) => {
                tracing::debug!(error, "others write all the time; trying again");
                self.after(HOLD_AGAIN, |task| task.proofs.still.hold = Hold::Free);
            }
            Err(error) => {
                tracing::debug!(%error, "others cannot be kept from writing for a proof");
                self.proofs.still.hold = Hold::Free;
                self.say_still(false);
            }
        }
    }

    /// A proof or a joiner has its snapshot, or will have none.
    pub(super) fn note_begun(&mut self, what: For) {
        let still = &mut self.proofs.still;
        still.told.retain(|one| *one != what);
        still.asked.retain(|one| *one != what);
    }

    /// The connection is gone, and with it what the hub wanted.
    pub(super) fn forget_still(&mut self) {
        let still = &mut self.proofs.still;
        still.asked.clear();
        still.told.clear();
        self.end_hold();
    }

    /// Lets others write once nobody needs them to wait, or has needed it for long.
    fn end_hold(&mut self) {
        let still = &mut self.proofs.still;
        let Hold::Held { until, .. } = still.hold else {
            return;
        };
        let is_over = until <= self.shard.now();
        let is_needed = !still.asked.is_empty() || !still.told.is_empty();
        if is_needed && !is_over || self.proofs.is_opening() {
            return;
        }
        self.proofs.still.told.clear();
        self.proofs.still.hold = Hold::Free;
        let (lane, shard) = (Rc::clone(&self.apply), self.shard.clone());
        self.shard.spawn(Label::of("sync release"), async move {
            while lane.run(Apply::release).await.is_none() && lane.is_open() {
                shard.sleep(RELEASE_AGAIN).await;
            }
        });
    }
}
