//! Joiners, donors, and the dumps between them.

use std::collections::BTreeSet;
use std::sync::Arc;

use waystation_base::{Moment, Seq, SiteId};

use super::append::Then;
use super::types::{HubEvent, HubOutput, Phase};
use super::{Hub, Known};
use crate::donor_choice::{Candidate, best_donor};
use crate::entry::{Chunk, SnapshotSize};
use crate::ids::{Ahead, Position, SnapshotId};
use crate::limits::{DUMP_SHARED_FOR, JOINERS_OF_A_DUMP_MAX, SNAPSHOTS_OPEN_MAX};
use crate::message::{Donor, JoinError, Pull, Restoring, ToSite};
use crate::session::Notice;

/// A site on its way to a copy.
#[derive(Debug)]
pub(super) struct Join {
    wish: Donor,
    /// Donors that failed it.
    except: BTreeSet<SiteId>,
    have: Option<Restoring>,
    last_error: Option<Arc<str>>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Looks for a donor.
    Seeking { by: Moment },
    /// A donor was asked.
    Waiting { snapshot: SnapshotId },
    /// The joiner's position is on its way into the log.
    Storing { snapshot: SnapshotId },
    /// The joiner knows its snapshot.
    Given { snapshot: SnapshotId },
}

impl Join {
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.step {
            Step::Seeking { by } => Some(by),
            _ => None,
        }
    }

    fn snapshot(&self) -> Option<SnapshotId> {
        match self.step {
            Step::Seeking { .. } => None,
            Step::Waiting { snapshot } | Step::Storing { snapshot } | Step::Given { snapshot } => {
                Some(snapshot)
            }
        }
    }

    /// What a donor's snapshot must contain.
    fn at_least(&self) -> Seq {
        self.have.as_ref().map_or(Seq(0), |part| part.position.seq)
    }
}

/// What is known of a snapshot that is open.
#[derive(Clone, Copy, Debug)]
struct Opened {
    since: Moment,
    position: Position,
    ahead: Option<Ahead>,
    size: SnapshotSize,
}

/// A snapshot that was asked for, and whom it serves.
#[derive(Debug)]
pub(super) struct Dump {
    donor: SiteId,
    at_least: Seq,
    opened: Option<Opened>,
    joiners: BTreeSet<SiteId>,
}

impl Dump {
    /// Whether a joiner that needs `at_least` can be served as well. One that has
    /// been open for long is nothing to begin with: who leaves it for a fresh one
    /// must not get it again.
    fn takes(&self, now: Moment, at_least: Seq, start: Seq) -> bool {
        let is_far_enough = match self.opened {
            None => self.at_least >= at_least,
            Some(opened) => {
                let seq = opened.position.seq;
                seq >= at_least && seq >= start && now < opened.since + DUMP_SHARED_FOR
            }
        };
        is_far_enough && self.joiners.len() < JOINERS_OF_A_DUMP_MAX
    }
}

impl Hub {
    pub(super) fn begin_join(
        &mut self,
        now: Moment,
        site: SiteId,
        wish: Donor,
        except: Option<SiteId>,
        have: Option<Restoring>,
    ) {
        self.leave_join(site);
        let checked = self
            .check_part(site, have.as_ref())
            .and_then(|()| self.check_wish(site, &wish, except));
        if let Err(error) = checked {
            return self.fail_join(site, error);
        }
        let by = now + self.config.join_wait_max;
        if let Some(known) = self.sites.get_mut(&site) {
            known.join = Some(Join {
                wish,
                except: except.into_iter().collect(),
                have,
                last_error: None,
                step: Step::Seeking { by },
            });
        }
    }

    /// A part of a copy can go on only where the log still has what follows.
    fn check_part(&self, site: SiteId, have: Option<&Restoring>) -> Result<(), JoinError> {
        let Some(part) = have else { return Ok(()) };
        let (at, start) = (part.position.seq, self.start);
        let is_known = self.sites.get(&site).is_some_and(|one| {
            one.record.phase == Phase::Restoring && part.position.epoch == self.epoch
        });
        if !is_known || at < start || at > self.end() {
            return Err(JoinError::MustReseed { at, start });
        }
        Ok(())
    }

    fn check_wish(
        &self,
        site: SiteId,
        wish: &Donor,
        except: Option<SiteId>,
    ) -> Result<(), JoinError> {
        let Donor::Named(name) = wish else {
            return Ok(());
        };
        let name = name.clone();
        let Some(donor) = self.site(&name).filter(|donor| *donor != site) else {
            return Err(JoinError::UnknownDonor { name });
        };
        let is_live = self.sites.get(&donor).is_some_and(Known::is_live);
        if !is_live || except == Some(donor) {
            return Err(JoinError::DonorNotLive { name });
        }
        Ok(())
    }

    /// Finds donors for all who look for one. Cost: O(joiners sites).
    pub(super) fn advance_joins(&mut self, now: Moment) {
        let is_seeking =
            |one: &&Known| matches!(&one.join, Some(join) if join.deadline().is_some());
        let seeking: Vec<SiteId> = (self.sites.values().filter(is_seeking))
            .map(|one| one.record.site)
            .collect();
        for site in seeking {
            self.seek(now, site);
        }
    }

    fn seek(&mut self, now: Moment, site: SiteId) {
        let candidates = self.candidates(now, site);
        let Some(join) = self.sites.get(&site).and_then(|one| one.join.as_ref()) else {
            return;
        };
        let at_least = join.at_least();
        let Some(donor) = best_donor(&candidates) else {
            if let Some(error) = join.last_error.clone() {
                self.fail_join(site, JoinError::DumpFailed { error });
            }
            return;
        };
        let start = self.start;
        let mut of_donor = self.dumps.iter().filter(|(_, dump)| dump.donor == donor);
        let shared = of_donor
            .clone()
            .find(|(_, dump)| dump.takes(now, at_least, start));
        if let Some((&snapshot, _)) = shared {
            return self.share(site, snapshot);
        }
        // One dump of a donor opens at a time; who cannot share it comes after.
        let is_busy = of_donor.clone().count() >= SNAPSHOTS_OPEN_MAX
            || of_donor.any(|(_, dump)| dump.opened.is_none());
        if is_busy {
            return;
        }
        self.snapshot_last = self.snapshot_last.wrapping_add(1);
        let snapshot = SnapshotId(self.snapshot_last);
        let dump = Dump {
            donor,
            at_least,
            opened: None,
            joiners: BTreeSet::from([site]),
        };
        self.dumps.insert(snapshot, dump);
        self.set_step(site, Step::Waiting { snapshot });
        self.notify_site(donor, Notice::OpenSnapshot { snapshot, at_least });
    }

    fn candidates(&self, now: Moment, joiner: SiteId) -> Vec<Candidate> {
        let Some(known) = self.sites.get(&joiner) else {
            return Vec::new();
        };
        let Some(join) = &known.join else {
            return Vec::new();
        };
        let is_wanted = |one: &&Known| match &join.wish {
            Donor::Best => true,
            Donor::Named(name) => one.record.name == *name,
        };
        let is_candidate = |one: &&Known| {
            let site = one.record.site;
            let is_whole = one.vitals.parked == 0 && !one.vitals.is_differing;
            // A copy of nothing would take the joiner's rows away.
            let has_what_it_needs = one.record.has_rows || !known.record.has_rows;
            let is_able = one.is_live() && is_whole && has_what_it_needs;
            is_able && site != joiner && !join.except.contains(&site)
        };
        let end = self.end().0;
        let all = self.sites.values();
        all.filter(is_candidate)
            .filter(is_wanted)
            .map(|one| Candidate {
                site: one.record.site,
                lag: self.marks.age_after(now, one.at),
                lag_entries: end.saturating_sub(one.at.0),
                load_permille: one.vitals.load_permille,
                is_near: one.zone == known.zone,
                snapshots: self.snapshots_of(one.record.site),
            })
            .collect()
    }

    /// Snapshots of a donor that can be shared no more.
    fn snapshots_of(&self, donor: SiteId) -> usize {
        let all = self.dumps.values();
        all.filter(|dump| dump.donor == donor && dump.opened.is_some())
            .count()
    }

    fn share(&mut self, site: SiteId, snapshot: SnapshotId) {
        let Some(dump) = self.dumps.get_mut(&snapshot) else {
            return;
        };
        dump.joiners.insert(site);
        if dump.opened.is_some() {
            self.give(site, snapshot);
        } else {
            self.set_step(site, Step::Waiting { snapshot });
        }
    }

    fn set_step(&mut self, site: SiteId, step: Step) {
        if let Some(join) = self.sites.get_mut(&site).and_then(|one| one.join.as_mut()) {
            join.step = step;
        }
    }

    pub(super) fn snapshot_opened(
        &mut self,
        now: Moment,
        donor: SiteId,
        snapshot: SnapshotId,
        position: Position,
        ahead: Option<Ahead>,
        size: SnapshotSize,
    ) {
        let dump = self.dumps.get_mut(&snapshot);
        let Some(dump) = dump.filter(|dump| dump.donor == donor) else {
            return self.notify_site(donor, Notice::CloseSnapshot { snapshot });
        };
        dump.opened = Some(Opened {
            since: now,
            position,
            ahead,
            size,
        });
        for site in dump.joiners.clone() {
            self.give(site, snapshot);
        }
    }

    /// The joiner's position is the donor's. It must be durable before the joiner
    /// hears of it: else a restart forgets the joiner and trims what it needs.
    fn give(&mut self, site: SiteId, snapshot: SnapshotId) {
        let opened = self.dumps.get(&snapshot).and_then(|dump| dump.opened);
        let Some(Opened { position, .. }) = opened else {
            return;
        };
        let Some(known) = self.sites.get_mut(&site) else {
            return;
        };
        let Some(join) = &mut known.join else { return };
        join.step = Step::Storing { snapshot };
        let part = join.have.as_ref().map(|part| part.position.seq);
        known.at = part.unwrap_or(position.seq);
        known.record.phase = Phase::Restoring;
        self.log.push_site(site, Then::JoinFrom(site));
    }

    pub(super) fn tell_snapshot(&mut self, site: SiteId) {
        let Some(join) = self.sites.get_mut(&site).and_then(|one| one.join.as_mut()) else {
            return;
        };
        let Step::Storing { snapshot } = join.step else {
            return;
        };
        join.step = Step::Given { snapshot };
        let Some(dump) = self.dumps.get(&snapshot) else {
            return;
        };
        if let Some(opened) = dump.opened {
            let notice = Notice::JoinFrom {
                snapshot,
                donor: dump.donor,
                position: opened.position,
                ahead: opened.ahead,
                size: opened.size,
            };
            self.notify_site(site, notice);
        }
    }

    pub(super) fn route_pull(&mut self, joiner: SiteId, pull: Pull) {
        let Some(known) = self.sites.get_mut(&joiner) else {
            return;
        };
        let given = Step::Given {
            snapshot: pull.snapshot,
        };
        if known.join.as_ref().map(|join| join.step) != Some(given) {
            return;
        }
        let Some(dump) = self.dumps.get(&pull.snapshot) else {
            return;
        };
        // Who pulls has applied everything up to the snapshot's position, or has
        // begun anew.
        if let Some(Opened { position, .. }) = dump.opened {
            known.at = known.at.max(position.seq);
        }
        let donor = dump.donor;
        self.notify_site(donor, Notice::Send(ToSite::Pull { joiner, pull }));
    }

    /// A chunk from a site that is not the donor, or for one that is not its
    /// joiner any more, goes nowhere.
    pub(super) fn route_chunk(
        &mut self,
        donor: SiteId,
        snapshot: SnapshotId,
        joiner: SiteId,
        chunk: Arc<Chunk>,
    ) {
        let dump = self.dumps.get(&snapshot);
        if dump.is_some_and(|dump| dump.donor == donor && dump.joiners.contains(&joiner)) {
            self.notify_site(joiner, Notice::Send(ToSite::Chunk { snapshot, chunk }));
        }
    }

    pub(super) fn joined(&mut self, site: SiteId, seq: Seq) {
        self.leave_join(site);
        if let Some(known) = self.sites.get_mut(&site) {
            known.record.phase = Phase::Live;
            known.at = seq;
            let (conn, token, source) = (known.conn, known.token(), known.source_durable);
            self.log.push_site(site, Then::Nothing);
            if let Some(conn) = conn.filter(|_| token.is_some()) {
                self.notify(conn, Notice::Send(ToSite::Writer { token, source }));
            }
        }
    }

    pub(super) fn leave_join(&mut self, site: SiteId) {
        let join = self.sites.get_mut(&site).and_then(|one| one.join.take());
        if let Some(snapshot) = join.and_then(|join| join.snapshot()) {
            self.leave_dump(site, snapshot);
        }
    }

    fn leave_dump(&mut self, site: SiteId, snapshot: SnapshotId) {
        let Some(dump) = self.dumps.get_mut(&snapshot) else {
            return;
        };
        dump.joiners.remove(&site);
        if dump.joiners.is_empty() {
            let donor = dump.donor;
            self.dumps.remove(&snapshot);
            self.notify_site(donor, Notice::CloseSnapshot { snapshot });
        }
    }

    /// Its joiners go on with another donor, at the same chunk.
    pub(super) fn donor_lost(&mut self, now: Moment, donor: SiteId) {
        let of_donor = |(id, dump): (&SnapshotId, &Dump)| (dump.donor == donor).then_some(*id);
        let lost: Vec<SnapshotId> = self.dumps.iter().filter_map(of_donor).collect();
        for snapshot in lost {
            self.lose_snapshot(now, snapshot, None);
        }
    }

    pub(super) fn snapshot_failed(
        &mut self,
        now: Moment,
        donor: SiteId,
        snapshot: SnapshotId,
        error: &Arc<str>,
    ) {
        let is_its_own = self
            .dumps
            .get(&snapshot)
            .is_some_and(|one| one.donor == donor);
        if !is_its_own {
            return;
        }
        let event = HubEvent::DumpFailed {
            donor,
            error: Arc::clone(error),
        };
        self.outputs.push_back(HubOutput::Event(event));
        self.lose_snapshot(now, snapshot, Some(error));
    }

    fn lose_snapshot(&mut self, now: Moment, snapshot: SnapshotId, error: Option<&Arc<str>>) {
        let Some(dump) = self.dumps.remove(&snapshot) else {
            return;
        };
        let by = now + self.config.join_wait_max;
        for site in dump.joiners {
            let join = self.sites.get_mut(&site).and_then(|one| one.join.as_mut());
            let Some(join) = join else { continue };
            let was_given = join.step == Step::Given { snapshot };
            join.step = Step::Seeking { by };
            if let Some(error) = error {
                // Who asked for this donor by name hears that it cannot.
                if dump.opened.is_none() && matches!(join.wish, Donor::Named(_)) {
                    let error = Arc::clone(error);
                    self.fail_join(site, JoinError::DumpFailed { error });
                    continue;
                }
                join.except.insert(dump.donor);
                join.last_error = Some(Arc::clone(error));
            }
            join.wish = Donor::Best;
            if was_given {
                self.notify_site(site, Notice::Send(ToSite::DonorLost { snapshot }));
                // It says anew what it has, which grew meanwhile.
                self.leave_join(site);
            }
        }
    }

    pub(super) fn fail_join(&mut self, site: SiteId, error: JoinError) {
        self.leave_join(site);
        let event = HubEvent::JoinFailed {
            site,
            error: error.clone(),
        };
        self.outputs.push_back(HubOutput::Event(event));
        self.notify_site(site, Notice::Send(ToSite::JoinFailed { error }));
    }

    /// Nobody waits for ever for a donor.
    pub(super) fn expire_joins(&mut self, now: Moment) {
        let overdue = |one: &&Known| {
            let by = one.join.as_ref().and_then(Join::deadline);
            by.is_some_and(|by| now >= by)
        };
        let overdue: Vec<SiteId> = (self.sites.values().filter(overdue))
            .map(|one| one.record.site)
            .collect();
        for site in overdue {
            let join = self.sites.get(&site).and_then(|one| one.join.as_ref());
            let error = join.and_then(|join| join.last_error.clone());
            let error = error.map_or(JoinError::NoDonor, |error| JoinError::DumpFailed { error });
            self.fail_join(site, error);
        }
    }
}
