//! The hub's side of one site's connection: its window, its acknowledgements, and
//! the pause that a dump needs.

mod dump;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use waystation_base::{Epoch, Moment, Seq};

use crate::entry::Entry;
use crate::ids::{Position, SnapshotId};
use crate::limits::{CHUNK_BYTES_MAX, CURSOR_BYTES_MAX};
use crate::message::{JoinError, Pull, Refusal, ToHub, ToSite, Violation, Welcome};
use dump::Dump;

pub use types::{Notice, Report, SessionConfig, SessionOutput, Unread, entry_bytes};

/// Which entries flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// None: the site must join.
    Off,
    /// Those up to a snapshot's position.
    Until(Seq),
    /// All.
    Live,
}

/// The hub's side of one connection, from its welcome to its end.
///
/// Calling order: any `handle_*` with the present moment, then
/// [`Session::poll_output`] until `None`, then sleep until
/// [`Session::poll_timeout`] at the latest and call [`Session::handle_timeout`].
/// After [`SessionOutput::Close`] nothing more comes.
///
/// A session shares nothing with others: a slow site fills its own window and
/// stalls nobody.
///
/// A dump goes first, increments follow: when the hub wants a snapshot, nothing
/// new is sent; what is in flight is waited for; then the site is asked, and its
/// increments go on as soon as it has opened the snapshot, failed, or let the
/// deadline pass. A site that may write is first asked to hold still, and gets what it
/// wrote itself: a snapshot that contains nothing else than the log can be followed,
/// and gone on with from another donor.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may hold with any other"
)]
pub struct Session {
    config: SessionConfig,
    epoch: Epoch,
    end: Seq,
    sent: Seq,
    acked: Seq,
    flow: Flow,
    /// Last sequence and bytes of each batch in flight.
    in_flight: VecDeque<(Seq, u64)>,
    in_flight_bytes: u64,
    is_reading: bool,
    /// Read for a stretch that is not wanted any more.
    is_read_void: bool,
    /// Read, and held back by a dump.
    held: Option<Arc<[Arc<Entry>]>>,
    dump: Dump,
    /// Whether the site may write: then a dump lets it hold still first.
    may_write: bool,
    /// How often the site may be asked to hold still again for the present dump.
    holds_left: u32,
    open: BTreeSet<SnapshotId>,
    /// As joiner: the snapshot that is the site's.
    join: Option<(SnapshotId, Position)>,
    silent_at: Moment,
    heartbeat_at: Moment,
    acks_repeated: u64,
    is_closed: bool,
    outputs: VecDeque<SessionOutput>,
}

impl Session {
    /// The session of a connection that the hub admitted; it sends `welcome`.
    pub fn new(now: Moment, welcome: Welcome, config: SessionConfig) -> Self {
        let (flow, at) = match welcome.stream_after {
            Some(after) => (Flow::Live, after),
            None => (Flow::Off, Seq(0)),
        };
        let mut session = Self {
            epoch: welcome.epoch,
            end: welcome.end,
            sent: at,
            acked: at,
            flow,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            is_reading: false,
            is_read_void: false,
            held: None,
            dump: Dump::None,
            may_write: welcome.token.is_some(),
            holds_left: 0,
            open: BTreeSet::new(),
            join: None,
            silent_at: now + config.silence_max,
            heartbeat_at: now + config.heartbeat_every,
            acks_repeated: 0,
            is_closed: false,
            outputs: VecDeque::new(),
            config,
        };
        session.send(ToSite::Welcome(welcome));
        session.advance(now);
        session
    }

    /// The site said something. What breaks the protocol closes the connection.
    pub fn handle_message(&mut self, now: Moment, message: ToHub) {
        if self.is_closed {
            return;
        }
        self.silent_at = now + self.config.silence_max;
        if let Err(violation) = self.take(now, message) {
            self.close(Refusal::Violation(violation));
        }
        self.advance(now);
    }

    fn take(&mut self, now: Moment, message: ToHub) -> Result<(), Violation> {
        match message {
            ToHub::Hello(_) => return Err(Violation::OutOfTurn { message: "hello" }),
            ToHub::Ack { epoch, seq } => self.take_ack(epoch, seq)?,
            ToHub::Heartbeat(vitals) => self.report(Report::Alive(vitals)),
            ToHub::SnapshotPrepared { snapshot, is_held } => {
                self.take_prepared(now, snapshot, is_held);
            }
            ToHub::SnapshotOpened {
                snapshot,
                position,
                ahead,
                size,
            } => self.take_opened(now, snapshot, position, ahead, size),
            ToHub::SnapshotFailed { snapshot, error } => self.take_failed(snapshot, error),
            ToHub::CatchUp { after } => self.take_catch_up(after)?,
            ToHub::Pull(pull) => self.take_pull(pull)?,
            ToHub::Chunk {
                snapshot,
                joiner,
                chunk,
            } => {
                bound("a chunk", chunk.data.len(), CHUNK_BYTES_MAX)?;
                // One that was closed meanwhile is no fault of the donor's.
                if self.open.contains(&snapshot) {
                    self.report(Report::Said(ToHub::Chunk {
                        snapshot,
                        joiner,
                        chunk,
                    }));
                }
            }
            ToHub::Join { .. } => {
                if self.flow == Flow::Live {
                    return Err(Violation::OutOfTurn { message: "join" });
                }
                self.stop_flow();
                self.join = None;
                self.report(Report::Said(message));
            }
            ToHub::Joined { position } => self.take_joined(now, position)?,
            ToHub::Publish { .. } => self.report(Report::Said(message)),
        }
        Ok(())
    }

    fn take_ack(&mut self, epoch: Epoch, seq: Seq) -> Result<(), Violation> {
        self.check_epoch(epoch)?;
        if self.flow == Flow::Off {
            // From before the join was asked for anew.
            self.acks_repeated += 1;
            return Ok(());
        }
        if seq > self.sent {
            let sent = self.sent;
            return Err(Violation::AckPastSent { acked: seq, sent });
        }
        if seq <= self.acked {
            self.acks_repeated += 1;
            return Ok(());
        }
        self.acked = seq;
        while let Some(&(last, bytes)) = self.in_flight.front()
            && last <= seq
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
        self.report(Report::Acked(seq));
        Ok(())
    }

    fn take_catch_up(&mut self, after: Seq) -> Result<(), Violation> {
        let message = "catch-up";
        let Some((_, position)) = self.join else {
            // The donor was lost while this was on the way.
            return Ok(());
        };
        if self.flow == Flow::Live || after > position.seq {
            return Err(Violation::OutOfTurn { message });
        }
        self.stop_flow();
        self.sent = after;
        self.acked = after;
        self.flow = Flow::Until(position.seq);
        Ok(())
    }

    fn take_pull(&mut self, pull: Pull) -> Result<(), Violation> {
        bound("a cursor", pull.from.as_bytes().len(), CURSOR_BYTES_MAX)?;
        if self.join.is_some_and(|(mine, _)| mine == pull.snapshot) {
            self.report(Report::Said(ToHub::Pull(pull)));
        }
        Ok(())
    }

    fn take_joined(&mut self, now: Moment, position: Position) -> Result<(), Violation> {
        self.check_epoch(position.epoch)?;
        let message = "joined";
        let Some((_, expected)) = self.join.take() else {
            // The donor was lost as the last chunk was stored: the copy is
            // complete, and the site asks to stream by connecting again.
            return Err(Violation::OutOfTurn { message });
        };
        if position != expected {
            let found = position;
            return Err(Violation::SnapshotPosition { expected, found });
        }
        self.stop_flow();
        self.flow = Flow::Live;
        self.sent = position.seq;
        self.acked = position.seq;
        self.report(Report::Said(ToHub::Joined { position }));
        self.advance(now);
        Ok(())
    }

    fn check_epoch(&self, theirs: Epoch) -> Result<(), Violation> {
        let ours = self.epoch;
        if theirs == ours {
            Ok(())
        } else {
            Err(Violation::OtherEpoch { ours, theirs })
        }
    }

    /// The hub says something.
    pub fn handle_notice(&mut self, now: Moment, notice: Notice) {
        if self.is_closed {
            return;
        }
        match notice {
            Notice::End(end) => self.end = self.end.max(end),
            Notice::Send(message) => {
                if let ToSite::DonorLost { .. } | ToSite::JoinFailed { .. } = message {
                    self.join = None;
                    self.stop_flow();
                }
                if let ToSite::Writer { token, .. } = &message {
                    self.may_write = token.is_some();
                }
                self.send(message);
            }
            Notice::OpenSnapshot { snapshot, at_least } => {
                self.begin_dump(now, snapshot, at_least);
            }
            Notice::CloseSnapshot { snapshot } => self.close_snapshot(snapshot),
            Notice::JoinFrom {
                snapshot,
                donor,
                position,
                ahead,
                size,
            } => {
                self.join = Some((snapshot, position));
                self.send(ToSite::JoinFrom {
                    snapshot,
                    donor,
                    position,
                    ahead,
                    size,
                });
            }
            Notice::Close(refusal) => self.close(refusal),
        }
        self.advance(now);
    }

    /// Entries that were asked for: without a gap from the first one on.
    pub fn handle_read(&mut self, now: Moment, entries: Arc<[Arc<Entry>]>) {
        assert!(self.is_reading, "entries came that were not asked for");
        self.is_reading = false;
        let is_void = std::mem::take(&mut self.is_read_void);
        if self.is_closed || is_void {
            return self.advance(now);
        }
        let first = entries.first().map(|one| one.position.seq.0);
        assert_eq!(
            first,
            Some(self.sent.0 + 1),
            "the log gave other entries than those asked for"
        );
        if self.dump.holds(self.sent) {
            self.held = Some(entries);
        } else {
            self.send_entries(entries);
        }
        self.advance(now);
    }

    /// Entries that were asked for could not be read.
    pub fn handle_unread(&mut self, now: Moment, unread: &Unread) {
        self.is_reading = false;
        if std::mem::take(&mut self.is_read_void) || self.is_closed {
            return self.advance(now);
        }
        match *unread {
            Unread::Trimmed { start } => {
                let at = self.sent;
                if let Flow::Until(_) = self.flow {
                    self.stop_flow();
                    self.join = None;
                    self.report(Report::MustReseed(JoinError::MustReseed { at, start }));
                } else {
                    self.close(Refusal::MustReseed { at, start });
                }
            }
            Unread::Failed => self.close(Refusal::LogFailed),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        if self.is_closed {
            return;
        }
        if now >= self.silent_at {
            return self.close(Refusal::Silent);
        }
        self.expire_dump(now);
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.config.heartbeat_every;
            let (sent, end) = (self.sent, self.end);
            let is_live = self.flow == Flow::Live;
            self.send(ToSite::Heartbeat { sent, end, is_live });
        }
        self.advance(now);
    }

    /// When to call [`Session::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Moment> {
        if self.is_closed {
            return None;
        }
        let next = self.silent_at.min(self.heartbeat_at);
        Some(self.dump.deadline().map_or(next, |at| next.min(at)))
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<SessionOutput> {
        self.outputs.pop_front()
    }

    /// The last sequence sent.
    pub fn sent(&self) -> Seq {
        self.sent
    }

    /// The last sequence acknowledged.
    pub fn acked(&self) -> Seq {
        self.acked
    }

    /// Acknowledgements that said nothing new.
    pub fn acks_repeated(&self) -> u64 {
        self.acks_repeated
    }

    /// Whether a dump holds increments back.
    pub fn is_held(&self) -> bool {
        self.dump.limit().is_some()
    }

    /// Asks for what may be sent now, and for a dump whose time has come.
    fn advance(&mut self, now: Moment) {
        if self.is_closed {
            return;
        }
        self.advance_dump(now);
        if !self.dump.holds(self.sent)
            && let Some(held) = self.held.take()
        {
            self.send_entries(held);
        }
        let limit = match self.flow {
            Flow::Off => return,
            Flow::Until(seq) => seq.min(self.end),
            Flow::Live => self.end,
        };
        let limit = self.dump.limit().map_or(limit, |most| limit.min(most));
        let in_flight = self.sent.0 - self.acked.0;
        // A quarter of the window at least: what is read of a log is read, and checked, by whole
        // batches, so that many small reads of one batch cost as many times the batch.
        let is_free = |used: u64, window: u64| used < window && used <= window - window / 4;
        let has_room = is_free(in_flight, self.config.window_entries)
            && is_free(self.in_flight_bytes, self.config.window_bytes);
        if self.is_reading || self.held.is_some() || limit <= self.sent || !has_room {
            return;
        }
        self.is_reading = true;
        let room = self.config.window_entries - in_flight;
        self.outputs.push_back(SessionOutput::Read {
            after: self.sent,
            through: limit.min(Seq(self.sent.0 + room)),
            bytes_max: self.config.window_bytes - self.in_flight_bytes,
        });
    }

    fn send_entries(&mut self, entries: Arc<[Arc<Entry>]>) {
        let Some(last) = entries.last() else { return };
        self.sent = last.position.seq;
        let bytes = entries.iter().map(|one| entry_bytes(one)).sum();
        self.in_flight.push_back((self.sent, bytes));
        self.in_flight_bytes += bytes;
        let end = self.end;
        self.send(ToSite::Entries { entries, end });
    }

    fn stop_flow(&mut self) {
        self.flow = Flow::Off;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.held = None;
        self.is_read_void = self.is_reading;
        self.acked = self.sent;
    }

    fn send(&mut self, message: ToSite) {
        self.outputs.push_back(SessionOutput::Send(message));
    }

    fn report(&mut self, report: Report) {
        self.outputs.push_back(SessionOutput::Report(report));
    }

    fn close(&mut self, refusal: Refusal) {
        self.is_closed = true;
        self.outputs.push_back(SessionOutput::Close(refusal));
    }
}

fn bound(what: &'static str, found: usize, bytes_max: usize) -> Result<(), Violation> {
    if found <= bytes_max {
        Ok(())
    } else {
        Err(Violation::TooLong {
            what,
            found,
            bytes_max,
        })
    }
}
