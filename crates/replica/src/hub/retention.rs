//! What may be trimmed, and who is left behind.

use waystation_base::{Moment, Seq, SiteId};

use super::append::Then;
use super::types::{HubEvent, HubOutput, Phase};
use super::{Hub, Known};
use crate::message::Refusal;
use crate::session::Notice;

/// What may go: up to the slowest site's place and to where entries are young,
/// further where bytes or age bound it, and never further than some copy is.
fn floor(applied_somewhere: Seq, slowest: Option<Seq>, young: Seq, bounded: Seq) -> Seq {
    let pinned = slowest.unwrap_or(applied_somewhere).min(young);
    pinned.max(bounded).min(applied_somewhere)
}

impl Known {
    /// Whether the log must keep what the site needs.
    fn pins(&self, now: Moment) -> bool {
        self.has_place() && now < self.lease_until
    }

    /// Whether it has a copy, or a part of one, that goes on from a place.
    fn has_place(&self) -> bool {
        matches!(self.record.phase, Phase::Restoring | Phase::Live)
    }
}

impl Hub {
    /// Whether the log holds all that it may, and nothing of it can go since no
    /// site has applied it.
    pub(super) fn is_full(&self) -> bool {
        let applied = self.applied_somewhere();
        self.marks.bytes_after(applied) >= self.config.retain_bytes_max
    }

    /// Up to here some complete copy has everything, durably. A site without rows, such
    /// as a handler, is no copy that others could be made from: it counts only where no
    /// site has any.
    fn applied_somewhere(&self) -> Seq {
        let is_copy = |one: &&Known| one.record.has_rows && one.record.phase != Phase::Fresh;
        let has_copies = self.sites.values().any(|one| is_copy(&one));
        let live = self
            .sites
            .values()
            .filter(|one| one.record.phase == Phase::Live)
            .filter(|one| one.record.has_rows || !has_copies);
        live.map(|one| one.at).max().unwrap_or(self.start)
    }

    /// An operator wants gone what all sites have, however young. The last entry
    /// that may go.
    pub fn handle_trim(&mut self, now: Moment) -> Seq {
        let all = self.log.durable();
        self.retain(now, all);
        self.start
    }

    pub(super) fn advance_retention(&mut self, now: Moment) {
        let young = self.config.retain_age_min;
        let young = self.marks.within(now, u64::MAX, young);
        self.retain(now, young);
    }

    /// Trims what may go; what comes after `young` stays for its age.
    fn retain(&mut self, now: Moment, young: Seq) {
        let pins = self.sites.values().filter(|one| one.pins(now));
        let slowest = pins.map(|one| one.at).min();
        let (bytes, age) = (self.config.retain_bytes_max, self.config.retain_age_max);
        let bounded = self.marks.within(now, bytes, age);
        let floor = floor(self.applied_somewhere(), slowest, young, bounded);
        if floor <= self.start {
            return;
        }
        self.start = floor;
        self.marks.trim(floor);
        self.evict(floor);
        let through = floor;
        self.outputs.push_back(HubOutput::Trim { through });
    }

    /// The log goes on without sites that need what is gone.
    fn evict(&mut self, start: Seq) {
        let is_behind = |one: &&Known| one.has_place() && one.at < start;
        let behind: Vec<SiteId> = (self.sites.values().filter(is_behind))
            .map(|one| one.record.site)
            .collect();
        for site in behind {
            let Some(known) = self.sites.get_mut(&site) else {
                continue;
            };
            known.record.phase = Phase::Evicted;
            let at = known.at;
            let event = HubEvent::Evicted { site, at };
            self.outputs.push_back(HubOutput::Event(event));
            self.log.push_site(site, Then::Nothing);
            let refusal = Refusal::MustReseed { at, start };
            self.notify_site(site, Notice::Close(refusal));
        }
    }

    /// Positions are saved now and then: after a restart they say what may be
    /// trimmed. Each copy knows its own place exactly.
    pub(super) fn save_positions(&mut self) {
        let moved = |one: &&Known| one.at > one.record.at && one.record.phase != Phase::Evicted;
        let moved: Vec<SiteId> = (self.sites.values().filter(moved))
            .map(|one| one.record.site)
            .collect();
        for site in moved {
            self.log.push_site(site, Then::Nothing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_site_pins_within_bounds_and_the_fastest_limits() {
        // Applied everywhere up to 5, somewhere up to 9, bounds allow all.
        let young = Seq(100);
        let floor = |applied, slowest, bounded| floor(applied, slowest, young, bounded);
        assert_eq!(floor(Seq(9), Some(Seq(5)), Seq(0)), Seq(5));
        // The bounds leave the slowest behind.
        assert_eq!(floor(Seq(9), Some(Seq(5)), Seq(7)), Seq(7));
        // Nothing goes that no copy has.
        assert_eq!(floor(Seq(9), Some(Seq(5)), Seq(20)), Seq(9));
        assert_eq!(floor(Seq(0), None, Seq(20)), Seq(0));
        // All leases are over.
        assert_eq!(floor(Seq(9), None, Seq(0)), Seq(9));
    }

    #[test]
    fn what_is_young_stays_unless_bytes_bound_it() {
        assert_eq!(floor(Seq(9), Some(Seq(9)), Seq(4), Seq(0)), Seq(4));
        assert_eq!(floor(Seq(9), Some(Seq(9)), Seq(4), Seq(6)), Seq(6));
    }
}
