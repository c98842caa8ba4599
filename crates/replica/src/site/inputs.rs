//! What the copy and operators tell a site.

use bytes::Bytes;
use waystation_base::{Moment, Seq, SiteId};

use super::trouble::Task;
use super::{ReplayRefusal, Site, SiteOutput, Verdict};
use crate::entry::{Chunk, SnapshotSize};
use crate::ids::{Ahead, Position, SnapshotId};
use crate::message::{Holding, ToHub};

impl Site {
    /// The transaction of [`SiteOutput::Store`] is committed.
    pub fn handle_stored(&mut self, now: Moment) {
        self.trouble.end(Task::Store);
        self.trouble.end(Task::Join);
        if self.joiner.stored(now) {
            self.applier.forget_lists();
            self.forget_captured();
        }
        if let Some(part) = self.joiner.part() {
            self.holding = Holding::Restoring(part.clone());
        }
        self.advance(now);
    }

    /// What the site was told to give up by [`Site::handle_rejoin`] is gone, durably:
    /// captured writes, too, that were told of since.
    pub fn handle_given_up(&mut self) {
        self.forget_captured();
    }

    /// The numbers of captured writes begin anew in the copy.
    fn forget_captured(&mut self) {
        self.outbox.cleared();
        self.captured_known = 0;
        self.note_captured();
    }

    /// The transaction of [`SiteOutput::Store`] was rolled back. It is tried
    /// again; operators see the error until it is stored.
    pub fn handle_store_failed(&mut self, now: Moment, error: &str) {
        self.trouble.note(Task::Store, error);
        self.joiner.not_stored(now);
        self.advance(now);
    }

    /// What [`SiteOutput::PrepareSnapshot`] wanted is so, or cannot be.
    pub fn handle_snapshot_prepared(&mut self, now: Moment, snapshot: SnapshotId, is_held: bool) {
        self.send(ToHub::SnapshotPrepared { snapshot, is_held });
        self.advance(now);
    }

    /// The snapshot of [`SiteOutput::OpenSnapshot`] is open, at the position that
    /// its own transaction reads. `ahead` is what it contains of changes captured
    /// here that have not come back through the log; `size` tells joiners for how
    /// long they wait.
    pub fn handle_snapshot_opened(
        &mut self,
        now: Moment,
        snapshot: SnapshotId,
        position: Position,
        ahead: Option<Ahead>,
        size: SnapshotSize,
    ) {
        // A copy that came from a snapshot that was ahead is ahead itself, until
        // the log has passed it.
        match (ahead, self.applier.ahead()) {
            (Some(_), Some(_)) => {
                self.outputs
                    .push_back(SiteOutput::CloseSnapshot { snapshot });
                let error = "the copy is ahead of the log for two writers";
                self.donor.failed(now, snapshot, error);
            }
            (captured, joined) => {
                let ahead = captured.or(joined);
                self.donor.opened(snapshot, position, ahead, size);
            }
        }
        self.advance(now);
    }

    /// A snapshot could not be opened, or a chunk not be read. Operators see the error
    /// until a copy was read to its end.
    pub fn handle_snapshot_failed(&mut self, now: Moment, snapshot: SnapshotId, error: &str) {
        self.trouble.note(Task::Donate, error);
        self.donor.failed(now, snapshot, error);
        self.advance(now);
    }

    /// A chunk that [`SiteOutput::ReadChunk`] asked for.
    pub fn handle_chunk_read(
        &mut self,
        now: Moment,
        snapshot: SnapshotId,
        joiner: SiteId,
        chunk: Chunk,
    ) {
        if chunk.to.is_none() {
            self.trouble.end(Task::Donate);
        }
        self.donor.read(now, snapshot, joiner, chunk);
        self.advance(now);
    }

    /// The copy's outbox holds changes up to this number.
    pub fn handle_captured(&mut self, now: Moment, last: u64) {
        self.outbox.captured(last);
        self.note_captured();
        self.advance(now);
    }

    /// Writes that are made here are not captured for now, and why; or they are
    /// again, with `None`.
    pub fn handle_capture_trouble(&mut self, error: Option<&str>) {
        match error {
            Some(error) => self.trouble.note(Task::Capture, error),
            None => self.trouble.end(Task::Capture),
        }
    }

    /// Changes that [`SiteOutput::ReadOutbox`] asked for: numbered from `first`
    /// without a gap, none if there are none.
    pub fn handle_outbox(&mut self, now: Moment, first: u64, payloads: Vec<Bytes>) {
        self.trouble.end(Task::Read);
        self.outbox.read(now, first, payloads);
        self.advance(now);
    }

    /// They could not be read. It is tried again; operators see the error until then.
    pub fn handle_outbox_failed(&mut self, now: Moment, error: &str) {
        self.trouble.note(Task::Read, error);
        self.outbox.not_read(now);
        self.advance(now);
    }

    /// How busy the machine is, in thousandths: for the choice of donors.
    pub fn handle_load(&mut self, load_permille: u16) {
        self.load_permille = load_permille;
    }

    /// An operator wants the entry that failed tried again.
    pub fn handle_resume(&mut self, now: Moment) {
        self.applier.resume();
        self.advance(now);
    }

    /// An operator decides about the entry that failed: skip it, or park it.
    /// False if it is another.
    pub fn handle_decision(&mut self, now: Moment, seq: Seq, verdict: Verdict) -> bool {
        let is_decided = self.applier.decide(seq, verdict);
        self.advance(now);
        is_decided
    }

    /// An operator wants a parked entry applied: [`SiteOutput::Replay`].
    ///
    /// # Errors
    /// It is not parked, or must wait for another.
    pub fn handle_replay(&mut self, seq: Seq) -> Result<(), ReplayRefusal> {
        self.applier.replay(seq)?;
        self.outputs.push_back(SiteOutput::Replay { seq });
        Ok(())
    }

    /// What became of [`SiteOutput::Replay`].
    pub fn handle_replayed(&mut self, now: Moment, is_applied: bool) {
        self.applier.replayed(is_applied);
        self.advance(now);
    }

    /// The copy was repaired, and equals the others again.
    pub fn handle_repaired(&mut self) {
        self.applier.repaired();
    }
}
