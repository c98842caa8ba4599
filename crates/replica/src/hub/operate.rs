//! What operators change: who may write, and who is known.

use std::sync::Arc;

use waystation_base::{FencingToken, Moment, SiteId};

use super::Hub;
use super::append::Then;
use super::types::{ChangeRefusal, HubEvent, HubOutput};
use crate::message::{Refusal, ToSite};
use crate::session::Notice;

impl Hub {
    /// Gives a site the right to write, in place of whoever held its last token.
    /// It holds once [`ToSite::Writer`] says so, of a site that is taking a copy when
    /// that is whole. `ticket` comes back with
    /// [`HubOutput::Changed`] once that is durable, or
    /// [`HubOutput::ChangeRefused`].
    pub fn handle_grant_writer(&mut self, now: Moment, ticket: u64, site: SiteId) {
        self.change_writer(now, ticket, site, true);
    }

    /// Takes the right to write away. From here on nothing of the site enters
    /// the log; [`HubOutput::Changed`] and [`HubEvent::Fenced`] say when that is
    /// durable, so that a restart does not undo it.
    pub fn handle_fence_writer(&mut self, now: Moment, ticket: u64, site: SiteId) {
        self.change_writer(now, ticket, site, false);
    }

    fn change_writer(&mut self, now: Moment, ticket: u64, site: SiteId, may_write: bool) {
        if let Err(refusal) = self.check_change(site) {
            return self.refuse_change(ticket, refusal);
        }
        let Some(known) = self.sites.get_mut(&site) else {
            return;
        };
        if may_write {
            known.record.token = FencingToken(known.record.token.0 + 1);
            known.is_writer_durable = false;
        }
        known.record.may_write = may_write;
        let token = known.record.token;
        let then = Then::Writer {
            site,
            token,
            may_write,
            ticket,
        };
        self.log.push_site(site, then);
        self.advance(now);
    }

    /// Forgets a site and what it pins. Its copy must join anew.
    /// [`HubOutput::Changed`] says when that is durable.
    pub fn handle_forget(&mut self, now: Moment, ticket: u64, site: SiteId) {
        if let Err(refusal) = self.check_change(site) {
            return self.refuse_change(ticket, refusal);
        }
        let Some(known) = self.sites.get(&site) else {
            return;
        };
        let name = known.record.name.clone();
        if let Some(conn) = known.conn {
            self.conns.remove(&conn);
            self.notify(conn, Notice::Close(Refusal::UnknownSite { name }));
        }
        self.leave_join(site);
        self.sites.remove(&site);
        self.donor_lost(now, site);
        self.log.push_forgotten(site, ticket);
        self.advance(now);
    }

    fn check_change(&self, site: SiteId) -> Result<(), ChangeRefusal> {
        if self.is_failed() {
            return Err(ChangeRefusal::LogFailed);
        }
        if !self.sites.contains_key(&site) {
            return Err(ChangeRefusal::UnknownSite);
        }
        Ok(())
    }

    fn refuse_change(&mut self, ticket: u64, refusal: ChangeRefusal) {
        let refused = HubOutput::ChangeRefused { ticket, refusal };
        self.outputs.push_back(refused);
    }

    /// The log failed: nobody knows which changes are durable.
    pub(super) fn refuse_changes(&mut self, error: &Arc<str>) {
        for ticket in self.log.tickets() {
            let error = Arc::clone(error);
            self.refuse_change(ticket, ChangeRefusal::Unknown { error });
        }
    }

    /// A right to write, or its end, is durable. A newer change may be on its way:
    /// then an older right is not told any more, and an older fence says nothing
    /// of the newer right.
    pub(super) fn tell_writer(&mut self, site: SiteId, token: FencingToken, may_write: bool) {
        let end = self.log.durable();
        let Some(known) = self.sites.get_mut(&site) else {
            return;
        };
        let is_present = known.record.token == token && known.record.may_write == may_write;
        if may_write && !is_present {
            return;
        }
        if is_present {
            known.is_writer_durable = true;
        }
        let (source, conn) = (known.source_durable, known.conn);
        let has_token = known.token().is_some();
        if !may_write {
            let event = HubEvent::Fenced { site, source, end };
            self.outputs.push_back(HubOutput::Event(event));
        }
        if let Some(conn) = conn {
            let token = has_token.then_some(token);
            self.notify(conn, Notice::Send(ToSite::Writer { token, source }));
        }
    }
}
