//! Takes a copy from a donor, chunk by chunk, and goes on at the same chunk with
//! another donor.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use waystation_base::{Backoff, BackoffConfig, Moment, SiteId};

use crate::entry::{Chunk, SnapshotSize};
use crate::ids::{Ahead, Cursor, Position, SnapshotId};
use crate::message::{Donor, Holding, JoinError, Pull, Restoring, ToHub};

/// How a joiner behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinerConfig {
    /// From whom to take the copy. Default: the best one.
    pub donor: Donor,
    /// Whether entries can be applied to rows with keys below a cursor only: row
    /// changes can, plain statements cannot. Default true. If not, a copy that
    /// was begun at another position begins anew.
    pub can_filter: bool,
    /// Most chunks that are sent and not stored. Default 4.
    pub chunks_window: u64,
    /// A donor that sends no chunk for so long is given up. Default 10 s.
    pub chunk_wait_max: Duration,
    /// Chunks are taken from one snapshot for so long at most. Then the joiner asks
    /// for a fresh one, brings what it has to that one's position, and goes on at
    /// the same chunk: so the log need not keep all that is written while a large
    /// copy is taken, nor the donor's database. Default 60 s; shorter asks donors
    /// for snapshots more often. Where entries cannot be applied to a part of a copy
    /// the log must keep what is written meanwhile.
    pub renew_after: Duration,
    /// For how long the hub may look for a donor before it is asked anew.
    /// Default 90 s; more than the hub's own limit.
    pub answer_max: Duration,
    /// How attempts are spaced.
    pub backoff: BackoffConfig,
}

impl Default for JoinerConfig {
    fn default() -> Self {
        Self {
            donor: Donor::Best,
            can_filter: true,
            chunks_window: 4,
            chunk_wait_max: Duration::from_secs(10),
            renew_after: Duration::from_mins(1),
            answer_max: Duration::from_secs(90),
            backoff: BackoffConfig::default(),
        }
    }
}

/// A chunk to restore, in one transaction with what the copy then holds. The
/// chunk with index 0 replaces whatever was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreChunk {
    /// The rows.
    pub chunk: Arc<Chunk>,
    /// What to store as the copy's state in the same transaction.
    pub holding: Holding,
}

/// What a joiner wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Send(ToHub),
    Store(StoreChunk),
    /// Apply what comes to keys below the cursor, from this place on.
    Filter {
        position: Position,
        below: Cursor,
    },
    /// The copy is complete.
    Complete {
        position: Position,
        ahead: Option<Ahead>,
    },
    Failed(JoinError),
}

/// What is known of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    snapshot: SnapshotId,
    donor: SiteId,
    position: Position,
    ahead: Option<Ahead>,
    size: SnapshotSize,
}

#[derive(Debug)]
enum State {
    /// Not joining.
    Idle,
    /// Will ask again.
    Pausing { until: Moment },
    /// Asked the hub.
    Asked { by: Moment },
    /// Brings what is there up to the snapshot's position.
    CatchingUp { source: Source, by: Moment },
    /// Receives chunks.
    Pulling(Pulling),
}

#[derive(Debug)]
struct Pulling {
    source: Source,
    /// The next chunk to receive.
    index: u64,
    from: Cursor,
    by: Moment,
    /// When the snapshot is old.
    renew_at: Moment,
    received: VecDeque<Arc<Chunk>>,
    is_last_received: bool,
}

/// A joiner: what is there, and how the rest comes.
///
/// Every chunk carries the position of its snapshot. What is there is brought to
/// exactly that position before the next chunk is stored, by applying entries to
/// the keys that are there; so chunks of several donors make one copy.
#[derive(Debug)]
pub(super) struct Joiner {
    config: JoinerConfig,
    backoff: Backoff,
    part: Option<Restoring>,
    state: State,
    storing: Option<StoreChunk>,
    /// Whether entries are being applied to what is there.
    is_applying: bool,
    /// Whether what is being stored was begun before a change of plan.
    is_store_void: bool,
    store_at: Option<Moment>,
    wishes: VecDeque<Wish>,
    chunks: u64,
    bytes: u64,
    rows: u64,
}

impl Joiner {
    pub(super) fn new(config: JoinerConfig, part: Option<Restoring>, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(config.backoff, seed),
            config,
            part,
            state: State::Idle,
            storing: None,
            is_applying: false,
            is_store_void: false,
            store_at: None,
            wishes: VecDeque::new(),
            chunks: 0,
            bytes: 0,
            rows: 0,
        }
    }

    pub(super) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    pub(super) fn part(&self) -> Option<&Restoring> {
        self.part.as_ref()
    }

    pub(super) fn is_joining(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    pub(super) fn is_catching_up(&self) -> bool {
        matches!(self.state, State::CatchingUp { .. })
    }

    /// Tells whether a transaction on what is there is under way.
    pub(super) fn set_applying(&mut self, is_applying: bool) {
        self.is_applying = is_applying;
    }

    /// Chunks, rows and bytes stored since the start of the process.
    pub(super) fn progress(&self) -> (u64, u64, u64) {
        (self.chunks, self.rows, self.bytes)
    }

    /// About how large the copy is that is being taken.
    pub(super) fn size(&self) -> Option<SnapshotSize> {
        match &self.state {
            State::CatchingUp { source, .. } => Some(source.size),
            State::Pulling(pulling) => Some(pulling.source.size),
            _ => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let state = match &self.state {
            State::Idle => None,
            State::Pausing { until } => Some(*until),
            State::Asked { by } | State::CatchingUp { by, .. } => Some(*by),
            State::Pulling(pulling) => Some(pulling.by),
        };
        state.into_iter().chain(self.store_at).min()
    }

    /// The hub says that this site must join.
    pub(super) fn begin(&mut self, now: Moment) {
        let donor = self.config.donor.clone();
        self.ask(now, donor, None);
    }

    /// What is there is of no use: begins anew.
    pub(super) fn drop_part(&mut self) {
        self.part = None;
    }

    pub(super) fn disconnected(&mut self) {
        self.leave();
        self.state = State::Idle;
    }

    /// Gives up what is on its way. A store under way ends first.
    fn leave(&mut self) {
        self.is_store_void = self.storing.is_some();
        if self.store_at.take().is_some() {
            self.storing = None;
            self.is_store_void = false;
        }
    }

    fn ask(&mut self, now: Moment, donor: Donor, except: Option<SiteId>) {
        self.leave();
        if self.storing.is_some() || self.is_applying {
            // What is there is known only when the transaction has ended.
            let until = now + self.config.backoff.base;
            self.state = State::Pausing { until };
            return;
        }
        let by = now + self.config.answer_max;
        self.state = State::Asked { by };
        // Only a part that another donor can go on with is worth keeping.
        let can_filter = self.config.can_filter;
        let have = (self.part.clone()).filter(|part| can_filter && part.ahead.is_none());
        self.wishes.push_back(Wish::Send(ToHub::Join {
            donor,
            except,
            have,
        }));
    }

    /// The hub found a donor.
    pub(super) fn given(
        &mut self,
        now: Moment,
        snapshot: SnapshotId,
        donor: SiteId,
        position: Position,
        ahead: Option<Ahead>,
        size: SnapshotSize,
    ) {
        if !matches!(self.state, State::Asked { .. }) {
            return;
        }
        self.backoff.reset();
        let source = Source {
            snapshot,
            donor,
            position,
            ahead,
            size,
        };
        let Some(part) = &self.part else {
            return self.pull_from(now, source, 0, Cursor::default());
        };
        let is_same = part.position == position && part.ahead == ahead;
        let is_later = part.position.epoch == position.epoch && part.position < position;
        let can_follow = self.config.can_filter && part.ahead.is_none() && ahead.is_none();
        if is_same {
            let (chunks, cursor) = (part.chunks, part.cursor.clone());
            self.pull_from(now, source, chunks, cursor);
        } else if is_later && can_follow {
            let by = now + self.config.chunk_wait_max;
            let after = part.position.seq;
            self.wishes.push_back(Wish::Filter {
                position: part.position,
                below: part.cursor.clone(),
            });
            self.state = State::CatchingUp { source, by };
            self.wishes.push_back(Wish::Send(ToHub::CatchUp { after }));
        } else {
            self.pull_from(now, source, 0, Cursor::default());
        }
    }

    fn pull_from(&mut self, now: Moment, source: Source, index: u64, from: Cursor) {
        let pull = Pull {
            snapshot: source.snapshot,
            index,
            from: from.clone(),
            until: index + self.config.chunks_window,
            is_first: true,
        };
        self.wishes.push_back(Wish::Send(ToHub::Pull(pull)));
        self.state = State::Pulling(Pulling {
            source,
            index,
            from,
            by: now + self.config.chunk_wait_max,
            renew_at: now + self.config.renew_after,
            received: VecDeque::new(),
            is_last_received: false,
        });
    }

    /// Entries were applied to what is there, durably.
    pub(super) fn applied(&mut self, now: Moment, position: Position) {
        if let Some(part) = &mut self.part {
            part.position = position;
        }
        let State::CatchingUp { source, by } = &mut self.state else {
            return;
        };
        *by = now + self.config.chunk_wait_max;
        if source.position == position
            && let Some(part) = &self.part
        {
            let (source, chunks, cursor) = (*source, part.chunks, part.cursor.clone());
            self.pull_from(now, source, chunks, cursor);
        }
    }

    /// A chunk came. One out of place is of an earlier pull; a damaged one is its
    /// donor's fault.
    pub(super) fn chunk(&mut self, now: Moment, snapshot: SnapshotId, chunk: Arc<Chunk>) {
        let State::Pulling(pulling) = &mut self.state else {
            return;
        };
        if pulling.source.snapshot != snapshot
            || chunk.index != pulling.index
            || pulling.is_last_received
        {
            return;
        }
        let goes_on = chunk.to.as_ref().is_none_or(|to| *to > chunk.from);
        if !chunk.is_intact() || chunk.from != pulling.from || !goes_on {
            let donor = pulling.source.donor;
            return self.ask(now, Donor::Best, Some(donor));
        }
        pulling.by = now + self.config.chunk_wait_max;
        pulling.index += 1;
        match &chunk.to {
            Some(to) => pulling.from = to.clone(),
            None => pulling.is_last_received = true,
        }
        pulling.received.push_back(chunk);
        self.store_next();
    }

    fn store_next(&mut self) {
        let State::Pulling(pulling) = &mut self.state else {
            return;
        };
        if self.storing.is_some() {
            return;
        }
        let Some(chunk) = pulling.received.pop_front() else {
            return;
        };
        let (position, ahead) = (pulling.source.position, pulling.source.ahead);
        let holding = match &chunk.to {
            None => Holding::At { position, ahead },
            Some(to) => Holding::Restoring(Restoring {
                position,
                chunks: chunk.index + 1,
                cursor: to.clone(),
                ahead,
            }),
        };
        let store = StoreChunk { chunk, holding };
        self.storing = Some(store.clone());
        self.wishes.push_back(Wish::Store(store));
    }

    /// The chunk is durable, with the copy's state. Whether a new copy began with
    /// it.
    pub(super) fn stored(&mut self, now: Moment) -> bool {
        let is_first = self
            .storing
            .as_ref()
            .is_some_and(|one| one.chunk.index == 0);
        self.note_stored(now);
        is_first
    }

    fn note_stored(&mut self, now: Moment) {
        let store = self.storing.take().expect("a store that was asked for");
        let is_void = std::mem::take(&mut self.is_store_void);
        self.chunks += 1;
        self.rows += store.chunk.rows;
        self.bytes += store.chunk.data.len() as u64;
        match store.holding {
            Holding::Restoring(part) => self.part = Some(part),
            Holding::At { position, ahead } => {
                self.part = None;
                self.state = State::Idle;
                return self.wishes.push_back(Wish::Complete { position, ahead });
            }
            Holding::Fresh => {}
        }
        if is_void || self.renew(now) {
            return;
        }
        let window = self.config.chunks_window;
        if let State::Pulling(pulling) = &mut self.state {
            pulling.by = now + self.config.chunk_wait_max;
            let pull = Pull {
                snapshot: pulling.source.snapshot,
                index: pulling.index,
                from: pulling.from.clone(),
                until: store.chunk.index + 1 + window,
                is_first: false,
            };
            self.wishes.push_back(Wish::Send(ToHub::Pull(pull)));
        }
        self.store_next();
    }

    /// Asks for a fresh snapshot if the present one is old. Never before a chunk of
    /// it is stored, so that each brings the copy on.
    fn renew(&mut self, now: Moment) -> bool {
        let State::Pulling(pulling) = &self.state else {
            return false;
        };
        let is_followed = self.config.can_filter
            && pulling.source.ahead.is_none()
            && self.part.as_ref().is_some_and(|part| part.ahead.is_none());
        if now < pulling.renew_at || pulling.is_last_received || !is_followed {
            return false;
        }
        let donor = self.config.donor.clone();
        self.ask(now, donor, None);
        true
    }

    /// The chunk could not be stored, for now: it is tried again.
    pub(super) fn not_stored(&mut self, now: Moment) {
        if std::mem::take(&mut self.is_store_void) {
            self.storing = None;
            return self.store_next();
        }
        self.store_at = Some(now + self.backoff.next_delay());
    }

    pub(super) fn lost(&mut self, now: Moment, snapshot: SnapshotId) {
        let is_mine = match &self.state {
            State::CatchingUp { source, .. } => source.snapshot == snapshot,
            State::Pulling(pulling) => pulling.source.snapshot == snapshot,
            _ => false,
        };
        if is_mine {
            self.ask(now, Donor::Best, None);
        }
    }

    pub(super) fn failed(&mut self, now: Moment, error: JoinError) {
        if !self.is_joining() {
            return;
        }
        if let JoinError::MustReseed { .. } = error {
            self.part = None;
        }
        self.leave();
        let until = now + self.backoff.next_delay();
        self.state = State::Pausing { until };
        self.wishes.push_back(Wish::Failed(error));
    }

    pub(super) fn handle_timeout(&mut self, now: Moment) {
        if self.store_at.is_some_and(|at| now >= at) {
            self.store_at = None;
            if let Some(store) = self.storing.clone() {
                self.wishes.push_back(Wish::Store(store));
            }
        }
        let donor = self.config.donor.clone();
        let is_storing = self.storing.is_some();
        match &mut self.state {
            State::Pausing { until } if now >= *until => self.ask(now, donor, None),
            State::Asked { by } if now >= *by => self.ask(now, donor, None),
            State::CatchingUp { by, .. } if now >= *by => self.ask(now, Donor::Best, None),
            State::Pulling(pulling) if now >= pulling.by => {
                if is_storing {
                    // Our own disk is slow, not the donor.
                    pulling.by = now + self.config.chunk_wait_max;
                    return;
                }
                let donor = pulling.source.donor;
                self.ask(now, Donor::Best, Some(donor));
            }
            _ => {}
        }
    }
}
