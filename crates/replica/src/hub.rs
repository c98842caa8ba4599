//! The hub: gives entries their order, knows every site, and brings joiners and
//! donors together.

mod append;
mod arrival;
mod join;
mod operate;
mod retention;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use waystation_base::{ConnName, Epoch, FencingToken, Moment, Seq, SiteId};

use crate::ids::{SiteName, SnapshotId};
use crate::keys::Keys;
use crate::limits::LEASE_MIN;
use crate::marks::{Mark, Marks};
use crate::message::{Refusal, ToHub, Vitals};
use crate::session::{Notice, Report};
use append::{Appender, Then};
use join::{Dump, Join};

pub use types::{
    AppendFault, Batch, ChangeRefusal, HubConfig, HubEvent, HubOutput, Phase, Publish, Record,
    Restored, SiteRecord, SiteStatus,
};

/// What the hub knows of a site.
#[derive(Debug)]
struct Known {
    record: SiteRecord,
    /// What it has applied, durably.
    at: Seq,
    /// Whether the present token is durable.
    is_writer_durable: bool,
    /// The last of its captured changes that has a sequence, and that is durable.
    source_given: u64,
    source_durable: u64,
    conn: Option<ConnName>,
    /// Whether the connection has a session.
    is_admitted: bool,
    zone: Arc<str>,
    vitals: Vitals,
    lease_until: Moment,
    join: Option<Join>,
}

impl Known {
    fn is_live(&self) -> bool {
        self.record.phase == Phase::Live && self.is_admitted
    }

    /// Its right to write, once that is durable. While it takes a copy it has none:
    /// what it published would be missing in what the copy becomes, or be numbered
    /// anew when the copy begins anew.
    fn token(&self) -> Option<FencingToken> {
        let may = self.record.may_write && self.is_writer_durable;
        (may && self.record.phase == Phase::Live).then_some(self.record.token)
    }
}

/// The core of a hub: one authority over the order of entries and the positions
/// of sites.
///
/// Calling order: any `handle_*` with the present moment, then
/// [`Hub::poll_output`] until `None`, then sleep until [`Hub::poll_timeout`] at
/// the latest and call [`Hub::handle_timeout`].
///
/// A connection begins with [`Hub::handle_hello`]; [`HubOutput::Admit`] makes its
/// [`Session`](crate::Session), whose reports come in by [`Hub::handle_report`];
/// [`Hub::handle_lost`] ends it. Sessions may live on other threads: a report or
/// a notice that is late concerns a connection that is no longer the site's, and
/// is ignored.
///
/// What must be durable first is asked for by [`HubOutput::Append`] and told only
/// after [`Hub::handle_durable`]: answers to publishes, the end that entries are
/// sent up to, a first admission, a joiner's position, a writer's token, answers to
/// operators.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    epoch: Epoch,
    start: Seq,
    log: Appender,
    marks: Marks,
    sites: BTreeMap<SiteId, Known>,
    conns: BTreeMap<ConnName, SiteId>,
    dumps: BTreeMap<SnapshotId, Dump>,
    snapshot_last: u64,
    save_at: Moment,
    outputs: VecDeque<HubOutput>,
}

impl Hub {
    /// A hub on what its log holds. Only one may run on a log.
    pub fn new(now: Moment, restored: Restored, mut config: HubConfig) -> Self {
        config.lease = config.lease.max(LEASE_MIN);
        let mut keys = Keys::default();
        for (key, seq) in restored.keys {
            keys.insert(key, seq);
        }
        let start = restored.start;
        let mut marks = Marks::new(Mark {
            seq: start,
            bytes: 0,
            at: now,
        });
        let mut before = 0;
        for mark in &restored.marks {
            marks.push(mark.at, mark.seq, mark.bytes.saturating_sub(before));
            before = mark.bytes;
        }
        let lease_until = now + config.lease;
        let known = |record: SiteRecord| {
            let known = Known {
                at: record.at.min(restored.end),
                is_writer_durable: true,
                source_given: record.source,
                source_durable: record.source,
                conn: None,
                is_admitted: false,
                zone: "".into(),
                vitals: Vitals::default(),
                lease_until,
                join: None,
                record,
            };
            (known.record.site, known)
        };
        Self {
            epoch: restored.epoch,
            start,
            log: Appender::new(restored.end, keys),
            marks,
            sites: restored.sites.into_iter().map(known).collect(),
            conns: BTreeMap::new(),
            dumps: BTreeMap::new(),
            snapshot_last: restored.snapshot_base,
            save_at: now + config.save_every,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// The session of this connection reports.
    pub fn handle_report(&mut self, now: Moment, conn: ConnName, report: Report) {
        let Some(&site) = self.conns.get(&conn) else {
            return;
        };
        let lease = now + self.config.lease;
        if let Some(known) = self.sites.get_mut(&site) {
            known.lease_until = lease;
        }
        match report {
            Report::Acked(seq) => self.note_acked(site, seq),
            Report::Alive(vitals) => {
                if let Some(known) = self.sites.get_mut(&site) {
                    known.vitals = vitals;
                }
            }
            Report::SnapshotOpened {
                snapshot,
                position,
                ahead,
                size,
            } => self.snapshot_opened(now, site, snapshot, position, ahead, size),
            Report::SnapshotFailed { snapshot, error } => {
                self.snapshot_failed(now, site, snapshot, &error);
            }
            Report::MustReseed(error) => self.fail_join(site, error),
            Report::Said(message) => self.take(now, site, conn, message),
        }
        self.advance(now);
    }

    fn take(&mut self, now: Moment, site: SiteId, conn: ConnName, message: ToHub) {
        match message {
            ToHub::Join {
                donor,
                except,
                have,
            } => self.begin_join(now, site, donor, except, have),
            ToHub::Pull(pull) => self.route_pull(site, pull),
            ToHub::Chunk {
                snapshot,
                joiner,
                chunk,
            } => self.route_chunk(site, snapshot, joiner, chunk),
            ToHub::Joined { position } => self.joined(site, position.seq),
            ToHub::Publish {
                token,
                first,
                payloads,
            } => self.publish_captured(site, token, first, payloads),
            // Sessions keep the others to themselves.
            _ => {
                let message = "a message for the session";
                let violation = crate::message::Violation::OutOfTurn { message };
                self.notify(conn, Notice::Close(Refusal::Violation(violation)));
            }
        }
    }

    fn note_acked(&mut self, site: SiteId, seq: Seq) {
        let end = self.log.durable();
        if let Some(known) = self.sites.get_mut(&site) {
            known.at = known.at.max(seq.min(end));
        }
    }

    /// The connection is gone.
    pub fn handle_lost(&mut self, now: Moment, conn: ConnName) {
        if let Some(site) = self.conns.remove(&conn)
            && let Some(known) = self.sites.get_mut(&site)
            && known.conn == Some(conn)
        {
            known.conn = None;
            known.is_admitted = false;
            self.leave_join(site);
            self.donor_lost(now, site);
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.retry_append(now);
        if now >= self.save_at {
            self.save_at = now + self.config.save_every;
            self.save_positions();
        }
        self.expire_joins(now);
        self.advance(now);
    }

    /// When to call [`Hub::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let joins = self.sites.values().filter_map(|one| one.join.as_ref());
        let joins = joins.filter_map(Join::deadline);
        let next = joins.chain(self.log.retry_at()).min();
        Some(next.map_or(self.save_at, |at| at.min(self.save_at)))
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<HubOutput> {
        self.outputs.pop_front()
    }

    /// The log's history.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last durable entry.
    pub fn end(&self) -> Seq {
        self.log.durable()
    }

    /// The log has what comes after this.
    pub fn start(&self) -> Seq {
        self.start
    }

    /// Whether the log failed, so that the hub must be restored from it.
    pub fn is_failed(&self) -> bool {
        self.log.is_failed
    }

    /// The id of the site with this name.
    pub fn site(&self, name: &SiteName) -> Option<SiteId> {
        let mut all = self.sites.values();
        all.find(|one| one.record.name == *name)
            .map(|one| one.record.site)
    }

    /// Every known site, by id. Cost: O(sites log marks).
    pub fn status(&self, now: Moment) -> Vec<SiteStatus> {
        self.sites
            .values()
            .map(|known| self.status_of(now, known))
            .collect()
    }

    fn status_of(&self, now: Moment, known: &Known) -> SiteStatus {
        let lag_entries = self.end().0.saturating_sub(known.at.0);
        let rate = known.vitals.applied_per_second;
        SiteStatus {
            site: known.record.site,
            name: known.record.name.clone(),
            has_rows: known.record.has_rows,
            phase: known.record.phase,
            is_connected: known.conn.is_some(),
            at: known.at,
            lag_entries,
            lag_bytes: self.marks.bytes_after(known.at),
            lag: self.marks.age_after(now, known.at),
            eta: lag_entries
                .checked_div(rate)
                .map(std::time::Duration::from_secs),
            vitals: known.vitals.clone(),
            may_write: known.record.may_write,
            grants: known.record.token.0,
        }
    }

    fn perform(&mut self, now: Moment, then: &Then) {
        match *then {
            Then::Admit(conn, site) => self.admit(now, conn, site),
            Then::JoinFrom(site) => self.tell_snapshot(site),
            Then::Writer {
                site,
                token,
                may_write,
                ticket,
            } => {
                self.tell_writer(site, token, may_write);
                self.outputs.push_back(HubOutput::Changed { ticket });
            }
            Then::Refuse(conn, ref name, ref refusal) => {
                self.refuse(conn, name.clone(), refusal.clone());
            }
            Then::Changed(ticket) => self.outputs.push_back(HubOutput::Changed { ticket }),
            Then::Nothing => {}
        }
    }

    /// The log may hold anything: everyone connects again to the next hub.
    fn fail(&mut self, error: &Arc<str>) {
        self.log.is_failed = true;
        self.refuse_changes(error);
        for conn in self.log.refusing() {
            let refusal = Refusal::LogFailed;
            self.outputs.push_back(HubOutput::Refuse { conn, refusal });
        }
        let conns: Vec<ConnName> = self.conns.keys().copied().collect();
        for conn in conns {
            self.notify(conn, Notice::Close(Refusal::LogFailed));
        }
    }

    fn notify(&mut self, conn: ConnName, notice: Notice) {
        self.outputs.push_back(HubOutput::Notify { conn, notice });
    }

    fn notify_site(&mut self, site: SiteId, notice: Notice) {
        if let Some(conn) = self.sites.get(&site).and_then(|one| one.conn) {
            self.notify(conn, notice);
        }
    }

    /// What follows from any input.
    fn advance(&mut self, now: Moment) {
        self.advance_joins(now);
        self.advance_retention(now);
        self.advance_append();
    }
}
