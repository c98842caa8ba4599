//! Who may come in, and where its increments begin.

use waystation_base::{ConnName, Moment, Seq, SiteId};

use super::append::Then;
use super::types::{HubEvent, HubOutput, Phase, SiteRecord};
use super::{Hub, Known};
use crate::ids::{Position, SiteName};
use crate::limits::SITES_MAX;
use crate::message::{Hello, Holding, Refusal, Vitals, Welcome};
use crate::session::Notice;

impl Hub {
    /// A site's first message. Answered by [`HubOutput::Admit`], possibly after
    /// its record is durable, or by [`HubOutput::Refuse`].
    pub fn handle_hello(&mut self, now: Moment, conn: ConnName, hello: &Hello) {
        if let Err(refusal) = self.arrive(now, conn, hello) {
            self.refuse(conn, hello.name.clone(), refusal);
        }
        self.advance(now);
    }

    pub(super) fn refuse(&mut self, conn: ConnName, name: SiteName, refusal: Refusal) {
        let event = HubEvent::Refused {
            name,
            refusal: refusal.clone(),
        };
        self.outputs.push_back(HubOutput::Event(event));
        self.outputs.push_back(HubOutput::Refuse { conn, refusal });
    }

    fn arrive(&mut self, now: Moment, conn: ConnName, hello: &Hello) -> Result<(), Refusal> {
        if self.is_failed() {
            return Err(Refusal::LogFailed);
        }
        let site = self.site(&hello.name);
        self.check_life(site, hello)?;
        let at = match self.check_holding(site, hello) {
            Err(Refusal::PastEnd { claimed, end }) => {
                self.note_beyond(conn, site, hello, claimed, end);
                return Ok(());
            }
            checked => checked?,
        };
        let site = match site {
            Some(site) => site,
            None => self.add(now, hello)?,
        };
        let had_rows = self.sites.get(&site).map(|one| one.record.has_rows);
        let is_same_kind = had_rows == Some(hello.has_rows);
        self.seat(now, conn, site, hello);
        let Some(known) = self.sites.get_mut(&site) else {
            return Ok(());
        };
        let is_same_life = known.record.life == hello.life;
        if !is_same_life {
            // Another copy: what the old one was does not count for it.
            known.record.life = hello.life;
            known.record.source = 0;
            known.record.may_write = false;
            known.source_given = 0;
            known.source_durable = 0;
            known.record.phase = Phase::Fresh;
            known.at = Seq(0);
        }
        if at.is_none() {
            (known.record.phase, known.at) = match &hello.holding {
                Holding::Restoring(part) if part.position.seq >= self.start => {
                    (Phase::Restoring, part.position.seq)
                }
                _ => (Phase::Fresh, Seq(0)),
            };
        }
        let Some(at) = at else {
            self.admit(now, conn, site);
            return Ok(());
        };
        let acked = known.at;
        known.at = at;
        let was_live = is_same_life && known.record.phase == Phase::Live;
        known.record.phase = Phase::Live;
        if at < acked {
            let event = HubEvent::Rewound { site, acked, at };
            self.outputs.push_back(HubOutput::Event(event));
        }
        if was_live && is_same_kind {
            self.admit(now, conn, site);
        } else {
            self.log.push_site(site, Then::Admit(conn, site));
        }
        Ok(())
    }

    /// The copy has entries that the log does not have. Their numbers are given anew,
    /// so that it must not come in once the log has passed its place. That is durable
    /// before it hears of it.
    fn note_beyond(
        &mut self,
        conn: ConnName,
        site: Option<SiteId>,
        hello: &Hello,
        claimed: Seq,
        end: Seq,
    ) {
        let (name, refusal) = (hello.name.clone(), Refusal::PastEnd { claimed, end });
        let known = site.and_then(|site| self.sites.get_mut(&site));
        let Some(known) = known else {
            return self.refuse(conn, name, refusal);
        };
        known.record.phase = Phase::Beyond;
        let site = known.record.site;
        let event = HubEvent::Beyond { site, claimed, end };
        self.outputs.push_back(HubOutput::Event(event));
        let then = Then::Refuse(conn, name, refusal);
        self.log.push_site(site, then);
    }

    /// A name belongs to one copy. Only a copy that is not connected makes room
    /// for a fresh one, and the first site's never does: it began with data that
    /// nobody else had.
    fn check_life(&self, site: Option<SiteId>, hello: &Hello) -> Result<(), Refusal> {
        let Some(known) = site.and_then(|site| self.sites.get(&site)) else {
            return Ok(());
        };
        let life = known.record.life;
        if life == hello.life {
            return Ok(());
        }
        if hello.name == self.config.first {
            return Err(Refusal::SecondMaster { life });
        }
        if hello.holding == Holding::Fresh && known.conn.is_none() {
            return Ok(());
        }
        let name = hello.name.clone();
        Err(Refusal::OtherLife { name, life })
    }

    /// Where increments begin; `None` for a site that must join first.
    fn check_holding(&self, site: Option<SiteId>, hello: &Hello) -> Result<Option<Seq>, Refusal> {
        match &hello.holding {
            Holding::Fresh => {
                // The first site of all starts with increments, from the first
                // entry on. Everybody else first takes a copy.
                // So does not a first site that was forgotten and comes back.
                let was_first = site
                    .and_then(|site| self.sites.get(&site))
                    .is_some_and(|one| one.record.phase == Phase::Live);
                let is_first = hello.name == self.config.first && (was_first || self.has_no_copy());
                if !is_first {
                    return Ok(None);
                }
                self.check_captured(site, hello, Seq(0))?;
                self.check_at(Seq(0)).map(Some)
            }
            Holding::Restoring(part) => {
                self.check_claim(site, hello, part.position)?;
                Ok(None)
            }
            Holding::At { position, .. } => {
                self.check_claim(site, hello, *position)?;
                self.check_captured(site, hello, position.seq)?;
                self.check_at(position.seq).map(Some)
            }
        }
    }

    /// Whether no site has a copy yet, nor a part of one.
    fn has_no_copy(&self) -> bool {
        let mut all = self.sites.values();
        all.all(|one| one.record.phase == Phase::Fresh)
    }

    fn check_claim(
        &self,
        site: Option<SiteId>,
        hello: &Hello,
        position: Position,
    ) -> Result<(), Refusal> {
        let (ours, theirs) = (self.epoch, position.epoch);
        if ours != theirs {
            return Err(Refusal::OtherEpoch { ours, theirs });
        }
        if site.is_none() {
            let name = hello.name.clone();
            return Err(Refusal::UnknownSite { name });
        }
        let (claimed, end) = (position.seq, self.end());
        let known = site.and_then(|site| self.sites.get(&site));
        // A copy with another life is refused before.
        if known.is_some_and(|one| one.record.phase == Phase::Beyond) {
            return Err(Refusal::WasPastEnd { claimed });
        }
        if claimed > end {
            return Err(Refusal::PastEnd { claimed, end });
        }
        Ok(())
    }

    /// What is acknowledged or published is durable in the copy before. One that has
    /// less was put back from a backup: where its writes are captured, the log's entries
    /// of its own would pass for contained, and new writes get numbers that the hub has.
    /// One that captures nothing just applies again what it lost.
    fn check_captured(&self, site: Option<SiteId>, hello: &Hello, at: Seq) -> Result<(), Refusal> {
        let known = site.and_then(|site| self.sites.get(&site));
        let (Some(known), Some(captured)) = (known, hello.captured) else {
            return Ok(());
        };
        let (acked, published) = (known.at, known.source_durable);
        let is_rewound = known.record.phase == Phase::Live && at < acked;
        if is_rewound || captured < published {
            return Err(Refusal::OlderCopy {
                at,
                acked,
                captured,
                published,
            });
        }
        Ok(())
    }

    fn check_at(&self, at: Seq) -> Result<Seq, Refusal> {
        let start = self.start;
        if at < start {
            Err(Refusal::MustReseed { at, start })
        } else {
            Ok(at)
        }
    }

    fn add(&mut self, now: Moment, hello: &Hello) -> Result<SiteId, Refusal> {
        if self.sites.len() >= SITES_MAX {
            return Err(Refusal::SitesFull);
        }
        let site = (1..=u16::MAX)
            .map(SiteId)
            .find(|site| !self.sites.contains_key(site))
            .ok_or(Refusal::SitesFull)?;
        let record = SiteRecord {
            site,
            name: hello.name.clone(),
            life: hello.life,
            phase: Phase::Fresh,
            at: Seq(0),
            token: waystation_base::FencingToken(0),
            may_write: false,
            source: 0,
            has_rows: hello.has_rows,
        };
        let known = Known {
            record,
            at: Seq(0),
            is_writer_durable: true,
            source_given: 0,
            source_durable: 0,
            conn: None,
            is_admitted: false,
            zone: hello.zone.clone(),
            vitals: Vitals::default(),
            lease_until: now + self.config.lease,
            join: None,
        };
        self.sites.insert(site, known);
        Ok(site)
    }

    /// Makes `conn` the connection of the site; an older one ends.
    fn seat(&mut self, now: Moment, conn: ConnName, site: SiteId, hello: &Hello) {
        let lease_until = now + self.config.lease;
        let Some(known) = self.sites.get_mut(&site) else {
            return;
        };
        known.zone = hello.zone.clone();
        known.record.has_rows = hello.has_rows;
        known.lease_until = lease_until;
        known.is_admitted = false;
        let old = known.conn.replace(conn);
        self.conns.insert(conn, site);
        if let Some(old) = old.filter(|old| *old != conn) {
            self.conns.remove(&old);
            self.notify(old, Notice::Close(Refusal::Superseded));
            self.leave_join(site);
            self.donor_lost(now, site);
        }
    }

    pub(super) fn admit(&mut self, _now: Moment, conn: ConnName, site: SiteId) {
        let (epoch, end) = (self.epoch, self.log.durable());
        let known = self.sites.get_mut(&site);
        let Some(known) = known.filter(|one| one.conn == Some(conn)) else {
            return;
        };
        known.is_admitted = true;
        let welcome = Welcome {
            site,
            epoch,
            end,
            stream_after: (known.record.phase == Phase::Live).then_some(known.at),
            token: known.token(),
            source: known.source_durable,
            is_first: known.record.name == self.config.first,
        };
        self.outputs.push_back(HubOutput::Admit { conn, welcome });
    }
}
