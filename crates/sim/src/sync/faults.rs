//! Which faults a world has, and when they strike.

use std::time::Duration;

use waystation_base::{ConnName, Rng};
use waystation_replica::Policy;

use super::database::WRITERS;
use super::world::{Event, SITES, World};

/// The character of a world, drawn from its seed: some are calm, some are not.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) delay_ms: u64,
    pub(super) loss: f64,
    pub(super) reorder: f64,
    pub(super) crash_hub: f64,
    pub(super) crash_site: f64,
    pub(super) partition: f64,
    pub(super) full_disk: f64,
    pub(super) failed_sync: f64,
    pub(super) crash_at_commit: f64,
    pub(super) apply_transient: f64,
    /// How many sites capture what is written to them.
    pub(super) writers: usize,
    pub(super) fence: f64,
    pub(super) can_filter: bool,
    pub(super) lease_s: u64,
    pub(super) retain_bytes: u64,
    /// The log keeps little, so that keys of clients are soon forgotten.
    pub(super) is_tight: bool,
    pub(super) window: u64,
    pub(super) policy: Policy,
}

impl Plan {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut some = |highest: f64| {
            if rng.chance(0.6) {
                rng.next_f64() * highest
            } else {
                0.0
            }
        };
        let (loss, reorder) = (some(0.01), some(0.01));
        let (crash_hub, crash_site, partition) = (some(0.15), some(0.5), some(0.4));
        let (full_disk, failed_sync) = (some(0.05), some(0.01));
        let (crash_at_commit, apply_transient) = (some(0.02), some(0.2));
        // A capturing site that is left behind loses what it has not published,
        // so that copies of it may hold what no log ever will.
        let writers = *rng.pick(&[0, 0, 0, 1, WRITERS]).expect("counts");
        let is_tight = writers == 0 && rng.chance(0.4);
        let fence = if rng.chance(0.5) { 0.2 } else { 0.0 };
        let policies = [Policy::Retry, Policy::Stop, Policy::Park];
        let policy = *rng.pick(&policies).expect("policies");
        Self {
            delay_ms: 5 + rng.below(400),
            loss,
            reorder,
            crash_hub,
            crash_site,
            partition,
            full_disk,
            failed_sync,
            crash_at_commit,
            apply_transient,
            writers,
            fence,
            can_filter: rng.chance(0.8),
            lease_s: if is_tight { 4 } else { 3600 },
            retain_bytes: if is_tight { 2500 } else { 1 << 30 },
            is_tight,
            window: 1 + rng.below(12),
            policy,
        }
    }
}

impl World {
    pub(super) fn fault(&mut self) {
        // Once nothing goes wrong operators have hundreds of parked entries to replay.
        let most = if self.is_healed { 100 } else { 1800 };
        let delay = Duration::from_millis(200 + self.rng.below(most));
        self.after(delay, Event::Fault);
        self.operate();
        if self.is_healed {
            return;
        }
        if self.rng.chance(self.plan.crash_hub) {
            self.crash_hub();
        }
        if self.rng.chance(self.plan.crash_site) {
            // Donors die most: whoever has a snapshot open.
            let donors = (0..SITES).filter(|n| !self.sites[*n].copy.snapshots.is_empty());
            let donors: Vec<usize> = donors.collect();
            let any = usize::try_from(self.rng.below(SITES as u64)).expect("few sites");
            let victim = self.rng.pick(&donors).copied().unwrap_or(any);
            self.crash_site(victim);
        }
        if self.rng.chance(self.plan.partition) {
            self.partition();
        }
    }

    fn partition(&mut self) {
        let conns: Vec<ConnName> = self.links.keys().copied().collect();
        let Some(&conn) = self.rng.pick(&conns) else {
            return;
        };
        match self.rng.below(4) {
            0 | 1 => self.reset(conn),
            2 => self.cut(conn),
            _ => conns.into_iter().for_each(|conn| self.cut(conn)),
        }
    }

    fn cut(&mut self, conn: ConnName) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.is_cut = true;
        }
    }

    /// From here on nothing new goes wrong.
    pub(super) fn heal(&mut self) {
        self.is_healed = true;
        let conns: Vec<ConnName> = self.links.keys().copied().collect();
        for conn in conns {
            if self.links[&conn].is_cut {
                self.reset(conn);
            }
        }
    }
}
