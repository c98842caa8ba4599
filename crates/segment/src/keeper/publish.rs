//! What picks need, out of what the balancer knows.

use std::sync::Arc;

use waystation_balance::{Balancer, Standing};
use waystation_base::Moment;
use waystation_membership::Address;

use super::Keeper;
use crate::layout::PATH_BYTES_MAX;
use crate::limits::{PATHS_MAX, POOL_MAX, SWEEP_MAX};
use crate::memory::Memory;
use crate::route::{Entry, Note, Place, Route, Routes, Spill, WARM};

impl<M: Memory, L: Memory> Keeper<M, L> {
    pub(super) fn publish(&mut self, now: Moment) {
        let version = self.balancer.candidates_version();
        if self.written != Some(version) {
            self.publish_routes();
            self.written = Some(version);
        }
        let had_pool = self.pools.iter().any(|pool| !pool.is_empty());
        self.pooled.clear();
        self.pooled
            .extend(self.pools.iter().flatten().map(|one| one.slot));
        for (tier, pool) in (0_u8..).zip(&mut self.pools) {
            self.standings.clear();
            pool.clear();
            self.balancer.standings(now, tier, &mut self.standings);
            for standing in self.standings.iter().take(POOL_MAX) {
                pool.extend(entry_of(
                    &self.balancer,
                    now,
                    standing,
                    self.writer.capacity(),
                ));
            }
        }
        self.pooled
            .extend(self.pools.iter().flatten().map(|one| one.slot));
        if had_pool || self.pools.iter().any(|pool| !pool.is_empty()) {
            self.writer.publish_pools(&self.pools);
        }
        self.publish_notes(now);
        self.has_news = false;
        self.written_at = now;
        self.writer.beat(now);
    }

    fn publish_notes(&mut self, now: Moment) {
        let hosts = self.balancer.table().names().len();
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
        let count = hosts.min(self.writer.capacity());
        for _ in 0..SWEEP_MAX.min(count) {
            self.sweep = if self.sweep + 1 < count {
                self.sweep + 1
            } else {
                0
            };
            self.touched.push(self.sweep);
        }
        for slot in self.touched.drain(..).filter(|slot| *slot < count) {
            let (unit, in_flight) = self.balancer.local_standing(now, slot);
            let warm = self.balancer.warm_share(now, slot) * f64::from(u8::MAX);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of 255"
            )]
            let warm = warm as u8;
            let note = Note {
                unit,
                in_flight,
                warm,
            };
            self.writer.publish_note(slot, note);
        }
    }

    pub(super) fn publish_routes(&mut self) {
        let table = self.balancer.table();
        let capacity = self.writer.capacity();
        let mut routes = Routes {
            version: self.view_version,
            shares: self.balancer.tier_shares(),
            spill: self
                .balancer
                .spill_rule()
                .map_or_else(Spill::default, |(from, ratio)| Spill { from, ratio }),
            ..Routes::default()
        };
        let mut is_told = vec![false; capacity as usize];
        let mut left_out = 0;
        for entry in table.entries() {
            let Some(is_told) = is_told.get_mut(entry.name.slot as usize) else {
                left_out += 1;
                continue;
            };
            let Some(place) = place_of(&entry.instance.address, &mut routes.paths) else {
                left_out += 1;
                continue;
            };
            *is_told = true;
            routes.hosts.push(Route {
                slot: entry.name.slot,
                generation: entry.name.generation,
                place,
            });
        }
        let formers = table.formers();
        routes.former = formers
            .map(|one| (one.name.slot, one.name.generation))
            .collect();
        let candidates = &self.balancer.candidates().tiers;
        for (told, all) in routes.eligible.iter_mut().zip(candidates) {
            let is_told = |slot: &u32| is_told.get(*slot as usize) == Some(&true);
            told.extend(all.iter().copied().filter(is_told));
        }
        self.counters.left_out = left_out;
        self.counters.routes += 1;
        self.writer.publish_routes(&routes);
    }
}

fn entry_of(balancer: &Balancer, now: Moment, standing: &Standing, capacity: u32) -> Option<Entry> {
    let slot = standing.slot;
    let name = balancer.table().names().get(slot as usize)?;
    let share = balancer.warm_share(now, slot);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 32 bits"
    )]
    let warm = (share * f64::from(WARM)) as u32;
    (slot < capacity).then_some(Entry {
        slot,
        generation: name.generation,
        unit: standing.unit,
        level: standing.level,
        step: standing.step,
        warm,
        work: balancer.work(now, slot),
    })
}

/// The place that callers can be told of; a path is put among `paths`.
fn place_of(address: &Address, paths: &mut Vec<Arc<str>>) -> Option<Place> {
    match address {
        Address::V4(address) => Some(Place::Ip((*address).into())),
        Address::V6(address) => Some(Place::Ip((*address).into())),
        Address::Unix(path) if paths.len() < PATHS_MAX && path.len() <= PATH_BYTES_MAX => {
            paths.push(Arc::clone(path));
            u32::try_from(paths.len() - 1).ok().map(Place::Unix)
        }
        Address::Unix(_) => None,
    }
}
