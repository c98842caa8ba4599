//! Publishes, and what waits to be durable.

use std::collections::vec_deque::Drain;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use waystation_base::{ConnName, FencingToken, Moment, Seq, SiteId};

use super::Hub;
use super::types::{AppendFault, Batch, HubEvent, HubOutput, Publish, Record};
use crate::entry::{Entry, Origin};
use crate::ids::{Position, SiteName};
use crate::keys::Keys;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, CLIENT_KEY_BYTES_MAX, PAYLOAD_BYTES_MAX,
    PUBLISHES_PENDING_BYTES_MAX, PUBLISHES_PENDING_MAX,
};
use crate::message::{PublishRefusal, Refusal, ToSite};
use crate::session::{Notice, entry_bytes};

/// What happens once a record is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The connection is admitted.
    Admit(ConnName, SiteId),
    /// The joiner hears of its snapshot.
    JoinFrom(SiteId),
    /// The right to write that goes with this token holds, or is gone.
    Writer {
        site: SiteId,
        token: FencingToken,
        may_write: bool,
        /// Who waits to hear of it.
        ticket: u64,
    },
    /// What an operator changed is durable.
    Changed(u64),
    /// The connection is refused, and the copy stays refused.
    Refuse(ConnName, SiteName, Refusal),
    Nothing,
}

/// What waits for its batch. Of a site only the id: its record is made when the
/// batch is, so that a record that waited never overwrites a newer one.
#[derive(Clone, Debug)]
enum Item {
    Entry(Arc<Entry>),
    Site(SiteId, Then),
    Forgotten(SiteId, u64),
}

impl Item {
    /// The operator who waits for it.
    fn ticket(&self) -> Option<u64> {
        match self {
            Self::Site(_, Then::Writer { ticket, .. }) | Self::Forgotten(_, ticket) => {
                Some(*ticket)
            }
            _ => None,
        }
    }
}

/// Who waits for an entry to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiter {
    Client { ticket: u64 },
    Site { conn: ConnName, source: u64 },
}

/// The way of entries and records into the log.
#[derive(Debug, Default)]
pub(super) struct Appender {
    pub(super) keys: Keys,
    /// The last sequence given to an entry.
    given: Seq,
    durable: Seq,
    queue: VecDeque<Item>,
    queue_bytes: usize,
    /// By sequence.
    waiters: VecDeque<(Seq, Waiter)>,
    /// The batch on its way.
    appending: Option<Vec<Item>>,
    retry_at: Option<Moment>,
    pub(super) is_failed: bool,
}

impl Appender {
    pub(super) fn new(end: Seq, keys: Keys) -> Self {
        Self {
            keys,
            given: end,
            durable: end,
            ..Self::default()
        }
    }

    pub(super) fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.retry_at
    }

    fn check_room(&self, bytes: usize) -> Result<(), PublishRefusal> {
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(PublishRefusal::TooLarge {
                found: bytes,
                bytes_max: PAYLOAD_BYTES_MAX,
            });
        }
        let is_full = self.waiters.len() >= PUBLISHES_PENDING_MAX
            || self.queue_bytes + bytes > PUBLISHES_PENDING_BYTES_MAX;
        if is_full {
            return Err(PublishRefusal::Busy);
        }
        Ok(())
    }

    fn wait(&mut self, seq: Seq, waiter: Waiter) {
        // Whoever waits for an entry that was there already comes before the last.
        let at = match self.waiters.back() {
            Some((last, _)) if *last > seq => self.waiters.partition_point(|(one, _)| *one <= seq),
            _ => self.waiters.len(),
        };
        self.waiters.insert(at, (seq, waiter));
    }

    fn push(&mut self, position: Position, origin: Origin, payload: Bytes) {
        self.given = position.seq;
        self.queue_bytes += payload.len();
        self.queue.push_back(Item::Entry(Arc::new(Entry {
            position,
            origin,
            payload,
        })));
    }

    pub(super) fn push_site(&mut self, site: SiteId, then: Then) {
        self.queue.push_back(Item::Site(site, then));
    }

    pub(super) fn push_forgotten(&mut self, site: SiteId, ticket: u64) {
        self.queue.push_back(Item::Forgotten(site, ticket));
    }

    /// The connections that are refused once that is durable.
    pub(super) fn refusing(&self) -> Vec<ConnName> {
        let appending = self.appending.iter().flatten();
        let all = appending.chain(&self.queue);
        all.filter_map(|one| match one {
            Item::Site(_, Then::Refuse(conn, ..)) => Some(*conn),
            _ => None,
        })
        .collect()
    }

    /// The operators who wait for records that are not durable.
    pub(super) fn tickets(&self) -> Vec<u64> {
        let appending = self.appending.iter().flatten();
        let all = appending.chain(&self.queue);
        all.filter_map(Item::ticket).collect()
    }

    /// What goes into the next batch, unless one is on its way or there is
    /// nothing to write.
    fn cut(&mut self) -> Option<Vec<Item>> {
        let is_waiting = self.appending.is_some() || self.retry_at.is_some() || self.is_failed;
        if is_waiting || self.queue.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let mut count = 0;
        for item in &self.queue {
            if let Item::Entry(entry) = item {
                bytes += entry.payload.len();
                if count > 0 && bytes > BATCH_BYTES_MAX {
                    bytes -= entry.payload.len();
                    break;
                }
            }
            count += 1;
            if count >= BATCH_ENTRIES_MAX {
                break;
            }
        }
        self.queue_bytes -= bytes;
        let items: Vec<Item> = self.queue.drain(..count).collect();
        self.appending = Some(items.clone());
        Some(items)
    }

    fn waiters_through(&mut self, end: Seq) -> Drain<'_, (Seq, Waiter)> {
        let count = self.waiters.partition_point(|(seq, _)| *seq <= end);
        self.waiters.drain(..count)
    }

    /// Drops all entries that are not durable; records stay, to be written again.
    fn roll_back(&mut self) -> Vec<(Seq, Waiter)> {
        let mut items = self.appending.take().unwrap_or_default();
        items.extend(std::mem::take(&mut self.queue));
        items.retain(|item| !matches!(item, Item::Entry(_)));
        self.queue = items.into();
        self.queue_bytes = 0;
        self.given = self.durable;
        self.keys.forget_after(self.durable);
        std::mem::take(&mut self.waiters).into()
    }
}

impl Hub {
    /// A client publishes. `ticket` comes back with the answer:
    /// [`HubOutput::Published`] once the entry is durable, or
    /// [`HubOutput::PublishRefused`]. The same key again is the same entry.
    pub fn handle_publish(&mut self, now: Moment, ticket: u64, publish: Publish) {
        self.handle_publishes(now, [(ticket, publish)]);
    }

    /// Clients publish, as [`Hub::handle_publish`] has it, in this order. What follows
    /// from a publish is looked for once for all, so that those that come together go
    /// into one batch.
    pub fn handle_publishes(
        &mut self,
        now: Moment,
        publishes: impl IntoIterator<Item = (u64, Publish)>,
    ) {
        // It depends on what is durable, which does not change meanwhile.
        let is_full = self.is_full();
        for (ticket, publish) in publishes {
            if let Err(refusal) = self.publish(ticket, publish, is_full) {
                let refused = HubOutput::PublishRefused { ticket, refusal };
                self.outputs.push_back(refused);
            }
        }
        self.advance(now);
    }

    fn publish(
        &mut self,
        ticket: u64,
        publish: Publish,
        is_full: bool,
    ) -> Result<(), PublishRefusal> {
        let found = publish.key.as_ref().map_or(0, |key| key.0.len());
        if found > CLIENT_KEY_BYTES_MAX {
            let bytes_max = CLIENT_KEY_BYTES_MAX;
            return Err(PublishRefusal::KeyTooLong { found, bytes_max });
        }
        if let Some(seq) = publish.key.as_ref().and_then(|key| self.log.keys.get(key)) {
            if seq <= self.log.durable {
                let published = HubOutput::Published { ticket, seq };
                self.outputs.push_back(published);
            } else {
                self.log.check_room(0)?;
                self.log.wait(seq, Waiter::Client { ticket });
            }
            return Ok(());
        }
        self.check_publish(publish.payload.len(), is_full)?;
        let position = self.next_position();
        if let Some(key) = &publish.key {
            self.log.keys.insert(key.clone(), position.seq);
        }
        let origin = Origin::Client { key: publish.key };
        self.log.push(position, origin, publish.payload);
        self.log.wait(position.seq, Waiter::Client { ticket });
        Ok(())
    }

    fn check_publish(&self, bytes: usize, is_full: bool) -> Result<(), PublishRefusal> {
        if self.log.is_failed {
            let error = "the hub stands until the log is opened anew".into();
            return Err(PublishRefusal::NotStored { error });
        }
        if is_full {
            return Err(PublishRefusal::Full);
        }
        self.log.check_room(bytes)
    }

    fn next_position(&self) -> Position {
        Position {
            epoch: self.epoch,
            seq: Seq(self.log.given.0 + 1),
        }
    }

    /// A site publishes captured changes. Those that are in the log already are
    /// not appended again; only the holder of the present token may publish.
    pub(super) fn publish_captured(
        &mut self,
        site: SiteId,
        token: FencingToken,
        first: u64,
        payloads: Vec<Bytes>,
    ) {
        let Some(known) = self.sites.get(&site) else {
            return;
        };
        let Some(conn) = known.conn else { return };
        for (source, payload) in (first..=u64::MAX).zip(payloads) {
            if let Err(refusal) = self.publish_one(conn, site, token, source, payload) {
                let message = ToSite::PublishRefused { refusal };
                return self.notify(conn, Notice::Send(message));
            }
        }
    }

    fn publish_one(
        &mut self,
        conn: ConnName,
        site: SiteId,
        token: FencingToken,
        source: u64,
        payload: Bytes,
    ) -> Result<(), PublishRefusal> {
        let bytes = payload.len();
        let checked = self.check_publish(bytes, self.is_full());
        let position = self.next_position();
        let Some(known) = self.sites.get_mut(&site) else {
            return Ok(());
        };
        if known.token() != Some(token) {
            return Err(PublishRefusal::Fenced { token });
        }
        if source <= known.source_durable {
            let through = known.source_durable;
            self.notify(conn, Notice::Send(ToSite::Published { through }));
            return Ok(());
        }
        if source <= known.source_given {
            // Sent again while it is on its way.
            let seq = self.log.given;
            self.log.wait(seq, Waiter::Site { conn, source });
            return Ok(());
        }
        let expected = known.source_given + 1;
        if source != expected {
            let found = source;
            return Err(PublishRefusal::SourceGap { expected, found });
        }
        checked?;
        known.source_given = source;
        let life = known.record.life;
        let origin = Origin::Site { site, life, source };
        self.log.push(position, origin, payload);
        self.log.wait(position.seq, Waiter::Site { conn, source });
        Ok(())
    }

    /// The batch asked for is durable.
    pub fn handle_durable(&mut self, now: Moment) {
        let items = self.log.appending.take();
        let items = items.expect("a batch is durable that was not asked for");
        let (mut bytes, mut last) = (0, None);
        let mut thens = Vec::new();
        for item in items {
            match item {
                Item::Entry(entry) => {
                    bytes += entry_bytes(&entry);
                    last = Some(entry.position.seq);
                    self.note_durable_source(&entry.origin);
                }
                Item::Site(_, then) => thens.push(then),
                Item::Forgotten(_, ticket) => thens.push(Then::Changed(ticket)),
            }
        }
        if let Some(last) = last {
            self.log.durable = last;
            self.marks.push(now, last, bytes);
            self.outputs.push_back(HubOutput::End(last));
        }
        for then in thens {
            self.perform(now, &then);
        }
        self.answer_durable();
        self.advance(now);
    }

    fn note_durable_source(&mut self, origin: &Origin) {
        if let Origin::Site { site, life, source } = *origin
            && let Some(known) = self.sites.get_mut(&site)
            && known.record.life == life
        {
            known.source_durable = source;
        }
    }

    fn answer_durable(&mut self) {
        let mut through: BTreeMap<ConnName, u64> = BTreeMap::new();
        for (seq, waiter) in self.log.waiters_through(self.log.durable) {
            match waiter {
                Waiter::Client { ticket } => {
                    self.outputs.push_back(HubOutput::Published { ticket, seq });
                }
                Waiter::Site { conn, source } => {
                    let last = through.entry(conn).or_default();
                    *last = source.max(*last);
                }
            }
        }
        for (conn, through) in through {
            self.notify(conn, Notice::Send(ToSite::Published { through }));
        }
    }

    /// The batch asked for is not durable. Its publishes are refused; records
    /// are written again. After [`AppendFault::Unknown`] the hub refuses
    /// everything, since it cannot tell what the log holds.
    pub fn handle_append_failed(&mut self, now: Moment, fault: AppendFault, error: &Arc<str>) {
        let copy = || Arc::clone(error);
        let event = HubEvent::AppendFailed { error: copy() };
        self.outputs.push_back(HubOutput::Event(event));
        let refusal = match fault {
            AppendFault::NotStored => PublishRefusal::NotStored { error: copy() },
            AppendFault::Unknown => PublishRefusal::Unknown { error: copy() },
        };
        for (_, waiter) in self.log.roll_back() {
            let refusal = refusal.clone();
            match waiter {
                Waiter::Client { ticket } => {
                    let refused = HubOutput::PublishRefused { ticket, refusal };
                    self.outputs.push_back(refused);
                }
                Waiter::Site { conn, .. } => {
                    self.notify(conn, Notice::Send(ToSite::PublishRefused { refusal }));
                }
            }
        }
        for known in self.sites.values_mut() {
            known.source_given = known.source_durable;
            known.record.source = known.source_durable;
        }
        match fault {
            AppendFault::NotStored => self.log.retry_at = Some(now + self.config.retry_after),
            AppendFault::Unknown => self.fail(error),
        }
    }

    pub(super) fn retry_append(&mut self, now: Moment) {
        if self.log.retry_at.is_some_and(|at| now >= at) {
            self.log.retry_at = None;
        }
    }

    /// Asks for the next batch, if one is due. A site's last captured change is
    /// in one batch with its record, so that neither is ever without the other.
    pub(super) fn advance_append(&mut self) {
        let Some(items) = self.log.cut() else { return };
        let mut batch = Batch::default();
        let mut changed = BTreeSet::new();
        for item in items {
            match item {
                Item::Entry(entry) => {
                    if let Origin::Site { site, life, source } = entry.origin
                        && let Some(known) = self.sites.get_mut(&site)
                        && known.record.life == life
                    {
                        known.record.source = source;
                        changed.insert(site);
                    }
                    batch.entries.push(entry);
                }
                Item::Site(site, _) => {
                    changed.insert(site);
                }
                Item::Forgotten(site, _) => batch.records.push(Record::Forgotten(site)),
            }
        }
        for site in changed {
            if let Some(known) = self.sites.get_mut(&site) {
                known.record.at = known.at;
                batch.records.push(Record::Site(known.record.clone()));
            }
        }
        self.outputs.push_back(HubOutput::Append(batch));
    }
}
