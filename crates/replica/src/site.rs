//! A site: applies what comes, joins when it must, and is a donor for others.

mod applier;
mod donor;
mod inputs;
mod joiner;
mod outbox;
mod output;
mod parked;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::VecDeque;
use std::sync::Arc;

use waystation_base::{Backoff, FencingToken, Moment, Seq, SiteId, hash64};

use crate::ids::{Ahead, LifeId, Position, SnapshotId};
use crate::limits::UNPUBLISHED_TOLD;
use crate::message::{
    ApplyState, Hello, Holding, JoinError, Refusal, ToHub, ToSite, Violation, Vitals, Welcome,
};
use applier::Applier;
use donor::Donor;
use joiner::Joiner;
use outbox::Outbox;
use trouble::{Task, Trouble};

pub use applier::{
    ApplierConfig, ApplyBatch, ApplyFault, Decider, Decision, Policy, ReplayRefusal, Verdict,
};
pub use joiner::{JoinerConfig, StoreChunk};
pub use output::{Restored, SiteConfig, SiteEvent, SiteOutput, SiteView};

/// Heartbeats without increments after which a whole copy connects again. The
/// first may have been on their way when the copy became complete.
const IDLE_HEARTBEATS_MAX: u32 = 6;

/// Whether there is a connection, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Will connect at this moment.
    Down { at: Moment },
    /// The shell connects.
    Connecting { by: Moment },
    /// Hello was said.
    Greeting,
    /// Welcome.
    Up,
    /// The hub will not have this copy: an operator must act.
    Barred,
}

/// The core of a site.
///
/// Calling order: any `handle_*` with the present moment, then
/// [`Site::poll_output`] until `None`, then sleep until [`Site::poll_timeout`] at
/// the latest and call [`Site::handle_timeout`].
///
/// What is acknowledged is what [`Site::handle_applied`] said to be committed:
/// position and entries are one transaction of the target, so that each entry is
/// applied once, whatever crashes. For targets without transactions the shell
/// stores the position after the entries, and each is delivered at least once.
///
/// At most one transaction is under way, of entries or of a chunk.
#[derive(Debug)]
pub struct Site {
    config: SiteConfig,
    life: LifeId,
    holding: Holding,
    id: Option<SiteId>,
    link: Link,
    backoff: Backoff,
    applier: Applier,
    joiner: Joiner,
    donor: Donor,
    outbox: Outbox,
    load_permille: u16,
    is_captured: bool,
    /// The last captured write that the copy is known to have: the one that it had when
    /// it was opened, until the hub has agreed. Numbers that were given since may be
    /// those of writes that a backup lost.
    captured_known: u64,
    trouble: Trouble,
    /// Whether the hub calls this the first site of all.
    is_first: bool,
    silent_at: Moment,
    heartbeat_at: Moment,
    rate_from: (Moment, u64),
    end: Seq,
    /// The last sequence that came over this connection, and that was
    /// acknowledged over it. A transaction may outlive the connection on which
    /// its entries came; it is acknowledged when they come again.
    heard: Seq,
    acked: Seq,
    /// Heartbeats in a row that said that no increments flow to a whole copy.
    idle_heartbeats: u32,
    outputs: VecDeque<SiteOutput>,
}

impl Site {
    /// A site with what its copy says of itself. It connects at once.
    pub fn new(now: Moment, config: SiteConfig, restored: Restored, seed: u64) -> Self {
        let part = match &restored.holding {
            Holding::Restoring(part) => Some(part.clone()),
            _ => None,
        };
        let mut applier = Applier::new(config.applier, config.touches.clone(), seed ^ 1);
        applier.restore(restored.parked, restored.is_differing);
        let mut site = Self {
            life: restored.life,
            holding: restored.holding,
            id: None,
            link: Link::Down { at: now },
            backoff: Backoff::new(config.reconnect, seed ^ 2),
            applier,
            joiner: Joiner::new(config.joiner.clone(), part, seed ^ 3),
            donor: Donor::new(config.donor_bytes_per_second),
            outbox: Outbox::new(seed ^ 4),
            load_permille: 0,
            is_captured: restored.is_captured,
            captured_known: restored.captured,
            trouble: Trouble::default(),
            is_first: false,
            silent_at: Moment::FAR_FUTURE,
            heartbeat_at: Moment::FAR_FUTURE,
            rate_from: (now, 0),
            end: Seq(0),
            heard: Seq(0),
            acked: Seq(0),
            idle_heartbeats: 0,
            outputs: VecDeque::new(),
            config,
        };
        site.set_applier_place();
        site.handle_timeout(now);
        site
    }

    fn set_applier_place(&mut self) {
        match &self.holding {
            Holding::At { position, ahead } => self.applier.reset(*position, *ahead, None),
            Holding::Restoring(part) => {
                let below = Some(part.cursor.clone());
                self.applier.reset(part.position, part.ahead, below);
            }
            Holding::Fresh => self.applier.reset(Position::default(), None, None),
        }
    }

    /// The connection that [`SiteOutput::Connect`] asked for is there.
    pub fn handle_connected(&mut self, now: Moment) {
        self.link = Link::Greeting;
        self.idle_heartbeats = 0;
        self.silent_at = now + self.config.silence_max;
        let hello = Hello {
            name: self.config.name.clone(),
            life: self.life,
            holding: self.holding(),
            zone: Arc::clone(&self.config.zone),
            has_rows: self.config.has_rows,
            captured: self.is_captured.then_some(self.captured_known),
        };
        self.send(ToHub::Hello(hello));
    }

    /// The connection is gone, or could not be made.
    pub fn handle_disconnected(&mut self, now: Moment) {
        self.lose(now);
        self.advance(now);
    }

    fn lose(&mut self, now: Moment) {
        if matches!(self.link, Link::Down { .. } | Link::Barred) {
            return;
        }
        let at = now + self.backoff.next_delay();
        self.link = Link::Down { at };
        self.applier.drop_waiting();
        self.joiner.disconnected();
        self.donor.disconnected();
        self.outbox.disconnected();
    }

    /// The hub said something. What breaks the protocol ends the connection.
    pub fn handle_message(&mut self, now: Moment, message: ToSite) {
        self.silent_at = now + self.config.silence_max;
        self.joiner.set_applying(self.applier.is_busy());
        if let Err(violation) = self.take(now, message) {
            self.outputs
                .push_back(SiteOutput::Event(SiteEvent::Violation(violation)));
            self.outputs.push_back(SiteOutput::Disconnect);
            self.lose(now);
        }
        self.advance(now);
    }

    fn take(&mut self, now: Moment, message: ToSite) -> Result<(), Violation> {
        match (self.link, message) {
            (Link::Greeting, ToSite::Welcome(welcome)) => self.welcome(now, &welcome),
            (Link::Greeting | Link::Up, ToSite::Refused(refusal)) => self.refused(now, refusal),
            (Link::Up, message) => return self.take_up(now, message),
            // A message of a connection that was given up.
            (Link::Down { .. } | Link::Barred | Link::Connecting { .. }, _) => {}
            (Link::Greeting, _) => {
                let message = "a message before the welcome";
                return Err(Violation::OutOfTurn { message });
            }
        }
        Ok(())
    }

    fn take_up(&mut self, now: Moment, message: ToSite) -> Result<(), Violation> {
        match message {
            ToSite::Welcome(_) => return Err(Violation::OutOfTurn { message: "welcome" }),
            ToSite::Refused(refusal) => self.refused(now, refusal),
            ToSite::Entries { entries, end } => {
                self.end = end;
                if self.is_streaming() {
                    self.applier.receive(&entries)?;
                    let last = entries.last().map(|one| one.position.seq);
                    self.heard = self.heard.max(last.unwrap_or_default());
                }
            }
            ToSite::Heartbeat { sent, end, is_live } => {
                self.end = end;
                self.check_flow(is_live, sent)?;
            }
            ToSite::PrepareSnapshot { snapshot } => self.prepare_snapshot(snapshot),
            ToSite::OpenSnapshot { snapshot } => self.open_snapshot(snapshot),
            ToSite::Pull { joiner, pull } => self.donor.pull(now, joiner, pull),
            ToSite::CloseSnapshot { snapshot } => self.donor.close(now, snapshot),
            ToSite::JoinFrom {
                snapshot,
                donor,
                position,
                ahead,
                size,
            } => self
                .joiner
                .given(now, snapshot, donor, position, ahead, size),
            ToSite::Chunk { snapshot, chunk } => self.joiner.chunk(now, snapshot, chunk),
            ToSite::DonorLost { snapshot } => self.joiner.lost(now, snapshot),
            ToSite::JoinFailed { error } => self.joiner.failed(now, error),
            ToSite::Writer { token, source } => self.set_writer(token, source),
            ToSite::Published { through } => {
                self.trouble.end(Task::Publish);
                self.outbox.published(through);
            }
            ToSite::PublishRefused { refusal } => self.outbox.refused(now, refusal),
        }
        Ok(())
    }

    /// Where nothing is captured, or may be published, there is nothing to wait for.
    fn prepare_snapshot(&mut self, snapshot: SnapshotId) {
        if self.is_captured && self.outbox.token().is_some() {
            let prepare = SiteOutput::PrepareSnapshot { snapshot };
            return self.outputs.push_back(prepare);
        }
        let is_held = false;
        self.send(ToHub::SnapshotPrepared { snapshot, is_held });
    }

    /// A copy that lacks entries at its position is no donor.
    fn open_snapshot(&mut self, snapshot: SnapshotId) {
        let is_whole = self.applier.parked_count() == 0 && !self.applier.is_differing();
        if is_whole {
            return self.donor.open(snapshot);
        }
        let error = "the copy lacks entries that were parked or skipped".into();
        self.send(ToHub::SnapshotFailed { snapshot, error });
    }

    /// Whether entries concern the copy as it is.
    fn is_streaming(&self) -> bool {
        matches!(self.holding, Holding::At { .. }) || self.joiner.is_catching_up()
    }

    /// What was lost on the way is noticed by heartbeats: a batch by the next
    /// one, the word that the copy is complete by a few.
    fn check_flow(&mut self, is_live: bool, sent: Seq) -> Result<(), Violation> {
        if !matches!(self.holding, Holding::At { .. }) {
            return Ok(());
        }
        if !is_live {
            self.idle_heartbeats += 1;
            if self.idle_heartbeats > IDLE_HEARTBEATS_MAX {
                let message = "a heartbeat without increments";
                return Err(Violation::OutOfTurn { message });
            }
            return Ok(());
        }
        self.idle_heartbeats = 0;
        let received = self.applier.received();
        if sent > received {
            let (expected, found) = (Seq(received.0 + 1), sent);
            return Err(Violation::Gap { expected, found });
        }
        // What was lost on the way may be here from the connection before: it is
        // acknowledged all the same, or a full window would wait for ever.
        self.heard = self.heard.max(sent);
        Ok(())
    }

    fn welcome(&mut self, now: Moment, welcome: &Welcome) {
        self.link = Link::Up;
        self.backoff.reset();
        self.id = Some(welcome.site);
        self.is_first = welcome.is_first;
        self.end = welcome.end;
        self.heartbeat_at = now;
        if self.is_captured {
            self.applier.set_own(Ahead {
                site: welcome.site,
                life: self.life,
                source: u64::MAX,
            });
        }
        self.set_writer(welcome.token, welcome.source);
        self.note_captured();
        match welcome.stream_after {
            Some(after) => {
                self.restart_acks(after);
                if self.holding == Holding::Fresh {
                    let position = Position {
                        epoch: welcome.epoch,
                        seq: after,
                    };
                    let ahead = None;
                    self.holding = Holding::At { position, ahead };
                    self.applier.reset(position, None, None);
                }
            }
            None => self.joiner.begin(now),
        }
    }

    /// What is captured while the hub is there goes on from what it has.
    fn note_captured(&mut self) {
        if self.link == Link::Up {
            self.captured_known = self.captured_known.max(self.outbox.last_captured());
        }
    }

    fn set_writer(&mut self, token: Option<FencingToken>, source: u64) {
        if token.is_some() {
            self.trouble.end(Task::Publish);
        }
        self.outbox.connected(token, source);
    }

    /// A part of a copy that the hub does not want is given up. A whole copy is
    /// not: an operator decides.
    fn refused(&mut self, now: Moment, refusal: Refusal) {
        let is_about_the_copy = matches!(
            refusal,
            Refusal::MustReseed { .. }
                | Refusal::OtherEpoch { .. }
                | Refusal::UnknownSite { .. }
                | Refusal::PastEnd { .. }
                | Refusal::WasPastEnd { .. }
                | Refusal::OlderCopy { .. }
                | Refusal::OtherLife { .. }
                | Refusal::SecondMaster { .. }
                | Refusal::Superseded
        );
        self.outputs
            .push_back(SiteOutput::Event(SiteEvent::Refused(refusal.clone())));
        self.outputs.push_back(SiteOutput::Disconnect);
        self.lose(now);
        if !is_about_the_copy {
            return;
        }
        // Whether it still is, the next welcome says.
        self.is_first = false;
        match (&self.holding, refusal) {
            (_, Refusal::Superseded) => self.link = Link::Barred,
            (Holding::Restoring(_), _) => {
                self.holding = Holding::Fresh;
                self.joiner.drop_part();
            }
            // The hub has yet to see that the old copy is gone.
            (Holding::Fresh, Refusal::OtherLife { .. }) => {}
            _ => self.link = Link::Barred,
        }
    }

    /// An operator wants this site to join anew, as a copy with the life `life`;
    /// what it has counts for nothing, and is replaced by the first chunk.
    pub fn handle_rejoin(&mut self, now: Moment, life: LifeId) {
        if self.link != Link::Barred {
            self.outputs.push_back(SiteOutput::Disconnect);
            self.lose(now);
        }
        self.link = Link::Down { at: now };
        self.life = life;
        self.holding = Holding::Fresh;
        self.joiner.drop_part();
        self.outbox = Outbox::new(hash64(&life.0.to_le_bytes()));
        self.captured_known = 0;
        self.trouble = Trouble::default();
        self.applier.reset(Position::default(), None, None);
        self.advance(now);
    }

    /// The transaction of [`SiteOutput::Apply`] is committed.
    pub fn handle_applied(&mut self, now: Moment) {
        let committed = self.applier.committed();
        self.joiner.set_applying(false);
        if let Some(position) = committed {
            let ahead = self.applier.ahead();
            match &mut self.holding {
                Holding::Restoring(part) => part.position = position,
                holding => *holding = Holding::At { position, ahead },
            }
            self.joiner.applied(now, position);
        }
        self.advance(now);
    }

    fn restart_acks(&mut self, at: Seq) {
        self.heard = at;
        self.acked = at;
    }

    /// Acknowledges what is applied, as far as this connection brought it.
    fn advance_acks(&mut self) {
        let Position { epoch, seq } = self.applier.position();
        let seq = seq.min(self.heard);
        if self.is_streaming() && self.link == Link::Up && seq > self.acked {
            self.acked = seq;
            self.send(ToHub::Ack { epoch, seq });
        }
    }

    /// The transaction of [`SiteOutput::Apply`] was rolled back.
    pub fn handle_apply_failed(&mut self, now: Moment, fault: ApplyFault, error: &str) {
        self.applier.failed(now, fault, error);
        self.joiner.set_applying(false);
        let is_stopped = self.applier.state() == ApplyState::Stopped;
        if (is_stopped || fault == ApplyFault::Unfilterable) && self.joiner.is_joining() {
            self.joiner.drop_part();
            self.holding = Holding::Fresh;
            self.joiner.begin(now);
        }
        if self.applier.state() == ApplyState::Stopped {
            let error = self.applier.error().unwrap_or_default();
            let event = SiteEvent::Stopped { error };
            self.outputs.push_back(SiteOutput::Event(event));
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        match self.link {
            Link::Down { at } if now >= at => {
                let by = now + self.config.silence_max;
                self.link = Link::Connecting { by };
                self.outputs.push_back(SiteOutput::Connect);
            }
            Link::Connecting { by } if now >= by => self.hang_up(now),
            Link::Greeting | Link::Up if now >= self.silent_at => self.hang_up(now),
            Link::Up if now >= self.heartbeat_at => self.heartbeat(now),
            _ => {}
        }
        self.applier.handle_timeout(now);
        self.joiner.set_applying(self.applier.is_busy());
        self.joiner.handle_timeout(now);
        self.donor.advance(now);
        self.outbox.handle_timeout(now);
        self.advance(now);
    }

    fn hang_up(&mut self, now: Moment) {
        self.outputs.push_back(SiteOutput::Disconnect);
        self.lose(now);
    }

    fn heartbeat(&mut self, now: Moment) {
        self.heartbeat_at = now + self.config.heartbeat_every;
        let vitals = self.vitals(now);
        self.send(ToHub::Heartbeat(vitals));
        // Once more, in case the last one was lost: else a full window waits for
        // ever.
        if self.is_streaming() {
            let epoch = self.applier.position().epoch;
            let seq = self.acked;
            self.send(ToHub::Ack { epoch, seq });
        }
    }

    fn vitals(&mut self, now: Moment) -> Vitals {
        let (from, before) = self.rate_from;
        let count = self.applier.applied_count();
        let millis = now.saturating_since(from).as_millis().max(1);
        let applied = u128::from(count - before) * 1000 / millis;
        self.rate_from = (now, count);
        Vitals {
            load_permille: self.load_permille,
            apply: self.applier.state(),
            applied_per_second: u64::try_from(applied).unwrap_or(u64::MAX),
            parked: u32::try_from(self.applier.parked_count()).unwrap_or(u32::MAX),
            is_differing: self.applier.is_differing(),
            unpublished: self.unpublished(),
            is_capture_stopped: self.trouble.is_capture_stopped(),
            error: self.trouble.text(self.applier.error()),
        }
    }

    /// When to call [`Site::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let link = match self.link {
            Link::Down { at } => Some(at),
            Link::Connecting { by } => Some(by),
            Link::Greeting => Some(self.silent_at),
            Link::Up => Some(self.silent_at.min(self.heartbeat_at)),
            Link::Barred => None,
        };
        let parts = [
            link,
            self.applier.retry_at(),
            self.joiner.poll_timeout(),
            self.donor.poll_timeout(),
            self.outbox.poll_timeout(),
        ];
        parts.into_iter().flatten().min()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<SiteOutput> {
        self.outputs.pop_front()
    }

    /// What the copy holds, durably.
    pub fn holding(&self) -> Holding {
        self.holding.clone()
    }

    /// How the site fares.
    pub fn view(&self) -> SiteView {
        let (chunks, rows, bytes) = self.joiner.progress();
        SiteView {
            site: self.id,
            is_connected: self.link == Link::Up,
            is_barred: self.link == Link::Barred,
            holding: self.holding(),
            end: self.end,
            apply: self.applier.state(),
            error: self.trouble.text(self.applier.error()),
            is_first: self.is_first,
            is_differing: self.applier.is_differing(),
            parked: self.applier.parked_count(),
            is_joining: self.joiner.is_joining(),
            joined_chunks: chunks,
            joined_rows: rows,
            joined_bytes: bytes,
            joining_size: self.joiner.size(),
            token: self.outbox.token(),
            unpublished: self.unpublished(),
        }
    }

    /// Captured writes up to this number are durable in the log, as the hub said.
    pub fn published(&self) -> u64 {
        self.outbox.published_through()
    }

    /// Captured writes that the log has not yet; 0 until the hub has said what it has.
    fn unpublished(&self) -> u64 {
        match self.id {
            Some(_) if self.is_captured => self.captured().saturating_sub(self.published()),
            _ => 0,
        }
    }

    /// What waits stays in the database of whoever writes, and nothing bounds it.
    fn note_unpublished(&mut self) {
        let count = self.unpublished();
        if count < UNPUBLISHED_TOLD {
            return self.trouble.end(Task::Drain);
        }
        if !self.trouble.is_noted(Task::Drain) {
            let event = SiteEvent::Unpublished { count };
            self.outputs.push_back(SiteOutput::Event(event));
        }
        let error =
            format!("{count} of them wait: grant the right to publish, or have the site join anew");
        self.trouble.note(Task::Drain, &error);
    }

    /// Whether a hub has agreed to what the copy had when it was opened: from then on
    /// captured writes may be numbered.
    pub fn was_welcomed(&self) -> bool {
        self.id.is_some()
    }

    /// The number of the last captured write that was heard of.
    pub fn captured(&self) -> u64 {
        self.outbox.last_captured()
    }

    fn send(&mut self, message: ToHub) {
        if matches!(self.link, Link::Greeting | Link::Up) {
            self.outputs.push_back(SiteOutput::Send(message));
        }
    }

    /// What follows from any input.
    fn advance(&mut self, now: Moment) {
        self.note_unpublished();
        self.advance_joiner();
        self.advance_acks();
        while let Some(wish) = self.donor.poll_wish() {
            self.perform_donor(wish);
        }
        while let Some(wish) = self.outbox.poll_wish() {
            self.perform_outbox(wish);
        }
        if self.is_streaming()
            && let Some(batch) = self.applier.poll_batch(now)
        {
            self.outputs.push_back(SiteOutput::Apply(batch));
        }
    }

    fn advance_joiner(&mut self) {
        while let Some(wish) = self.joiner.poll_wish() {
            match wish {
                joiner::Wish::Send(message) => self.send(message),
                joiner::Wish::Store(store) => self.outputs.push_back(SiteOutput::Store(store)),
                joiner::Wish::Filter { position, below } => {
                    self.restart_acks(position.seq);
                    self.applier.reset(position, None, Some(below));
                }
                joiner::Wish::Complete { position, ahead } => {
                    self.trouble.end(Task::Join);
                    self.holding = Holding::At { position, ahead };
                    self.restart_acks(position.seq);
                    self.applier.reset(position, ahead, None);
                    self.send(ToHub::Joined { position });
                    let event = SiteEvent::Joined { position };
                    self.outputs.push_back(SiteOutput::Event(event));
                }
                joiner::Wish::Failed(error) => self.note_join_failed(error),
            }
        }
        if self.joiner.is_joining() && !self.joiner.is_catching_up() {
            self.applier.drop_waiting();
        }
    }

    fn note_join_failed(&mut self, error: JoinError) {
        self.trouble.note(Task::Join, &error.to_string());
        let event = SiteEvent::JoinFailed(error);
        self.outputs.push_back(SiteOutput::Event(event));
    }

    fn perform_donor(&mut self, wish: donor::Wish) {
        let output = match wish {
            donor::Wish::Send(message) => return self.send(message),
            donor::Wish::Open(snapshot) => SiteOutput::OpenSnapshot { snapshot },
            donor::Wish::Close(snapshot) => SiteOutput::CloseSnapshot { snapshot },
            donor::Wish::Read {
                snapshot,
                joiner,
                index,
                from,
                bytes_max,
            } => SiteOutput::ReadChunk {
                snapshot,
                joiner,
                index,
                from,
                bytes_max,
            },
        };
        self.outputs.push_back(output);
    }

    fn perform_outbox(&mut self, wish: outbox::Wish) {
        let output = match wish {
            outbox::Wish::Send(message) => return self.send(message),
            outbox::Wish::Read { after, changes_max } => {
                SiteOutput::ReadOutbox { after, changes_max }
            }
            outbox::Wish::Erase { through } => SiteOutput::EraseOutbox { through },
            outbox::Wish::Refused(refusal) => {
                self.trouble.note(Task::Publish, &refusal.to_string());
                SiteOutput::Event(SiteEvent::PublishRefused(refusal))
            }
        };
        self.outputs.push_back(output);
    }
}
