//! What an agent tells a report server: running totals, natively and by Lars'
//! protocol.
//!
//! A total that was told is told again after each new connection, so that it does
//! not matter what became of the bytes of the last one.

mod send;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use waystation_base::{Moment, ServiceName, hash64, line_passes};
use waystation_client::machine_now;
use waystation_membership::LarsPair;
use waystation_wire::calls::{CallCounts, HostCounts, ServiceCounts};
use waystation_wire::lars::{HostCallResult, HostInfo, ReportStatusRequest};

use crate::limits::{
    DROP_TOTAL_AFTER, DROP_TOTAL_WHEN_FULL_AFTER, MAKE_ROOM_EVERY, REPORTED_HOSTS_MAX, RESULTS_MAX,
};
use crate::service::Service;

pub(crate) use send::start;

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    ok: u64,
    failed: u64,
    is_out: bool,
    is_told: bool,
    /// When it was told or counted last.
    at: Moment,
}

impl Total {
    /// Whether nothing happened for so long since it was told.
    fn is_silent(&self, now: Moment, time: Duration) -> bool {
        self.is_told && now.saturating_since(self.at) >= time
    }
}

/// Totals of calls that our own callers made.
///
/// What was told and then silent for long is dropped. When the host is called again
/// its total begins anew, under another source than any that it was told under.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Names the beginning of totals that begin now.
    source: u64,
    by_service: BTreeMap<ServiceName, BTreeMap<String, (u64, Total)>>,
    hosts: usize,
    looked_at: Moment,
    /// Ends of calls that were not counted, for want of room.
    uncounted: u64,
}

impl Totals {
    pub(crate) const fn new(source: u64) -> Self {
        Self {
            source,
            by_service: BTreeMap::new(),
            hosts: 0,
            looked_at: Moment::ZERO,
            uncounted: 0,
        }
    }

    /// Adds what callers of a service did since the last time.
    pub(crate) fn collect(&mut self, now: Moment, name: &ServiceName, service: &mut Service) {
        service.drain_ends(|host, ok, failed, is_out| {
            self.add(now, name, host, (ok, failed), Some(is_out));
        });
    }

    /// So many calls to a host went well, and so many failed; whether it is left out
    /// now, if that is known.
    pub(crate) fn add(
        &mut self,
        now: Moment,
        name: &ServiceName,
        host: &str,
        (ok, failed): (u64, u64),
        is_out: Option<bool>,
    ) {
        let is_full = self.hosts >= REPORTED_HOSTS_MAX;
        if !self.by_service.contains_key(name) {
            self.by_service.insert(name.clone(), BTreeMap::new());
        }
        let Some(hosts) = self.by_service.get_mut(name) else {
            return;
        };
        if !hosts.contains_key(host) {
            if is_full {
                self.add_uncounted(ok + failed);
                return;
            }
            hosts.insert(host.to_owned(), (self.source, Total::default()));
            self.hosts += 1;
        }
        let Some((_, total)) = hosts.get_mut(host) else {
            return;
        };
        total.ok += ok;
        total.failed += failed;
        total.is_out = is_out.unwrap_or(total.is_out);
        total.is_told = false;
        total.at = now;
    }

    /// Ends of calls that were not counted.
    pub(crate) const fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// So many ends of calls cannot be counted.
    pub(crate) fn add_uncounted(&mut self, count: u64) {
        self.uncounted += count;
        warn_of_uncounted(self.uncounted);
    }

    /// The messages with all that is untold, one for each source.
    pub(crate) fn untold(&self, caller: &str) -> Vec<CallCounts> {
        let mut by_source: BTreeMap<u64, Vec<ServiceCounts>> = BTreeMap::new();
        for (service, hosts) in &self.by_service {
            for (host, (source, total)) in hosts {
                if total.is_told {
                    continue;
                }
                let services = by_source.entry(*source).or_default();
                let is_same = |last: &&mut ServiceCounts| last.service == service.as_str();
                let counts = HostCounts {
                    host: host.clone(),
                    ok: total.ok,
                    failed: total.failed,
                    is_out: total.is_out,
                };
                match services.last_mut().filter(is_same) {
                    Some(last) => last.hosts.push(counts),
                    None => services.push(ServiceCounts {
                        service: service.as_str().to_owned(),
                        hosts: vec![counts],
                    }),
                }
            }
        }
        let message = |(source, services)| CallCounts {
            source,
            caller: caller.to_owned(),
            services,
        };
        by_source.into_iter().map(message).collect()
    }

    /// All was handed to the connection.
    pub(crate) fn mark_told(&mut self, now: Moment) {
        for (_, total) in self.all_mut().filter(|(_, total)| !total.is_told) {
            total.is_told = true;
            total.at = now;
        }
    }

    /// The connection was lost, or is another one: nobody knows what was taken.
    pub(crate) fn mark_untold(&mut self) {
        for (_, total) in self.all_mut() {
            total.is_told = false;
        }
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut (u64, Total)> {
        self.by_service.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// Drops totals that were told and then silent for long; for a while, when
    /// there is no more room. The caller says that what was told is taken.
    /// Cost: O(hosts), each [`MAKE_ROOM_EVERY`].
    pub(crate) fn make_room(&mut self, now: Moment) {
        if now.saturating_since(self.looked_at) < MAKE_ROOM_EVERY {
            return;
        }
        self.looked_at = now;
        let time = silence(self.hosts);
        self.by_service.retain(|_, hosts| {
            hosts.retain(|_, (_, total)| !total.is_silent(now, time));
            !hosts.is_empty()
        });
        let left = self.by_service.values().map(BTreeMap::len).sum();
        if left < self.hosts {
            self.hosts = left;
            // A host that was dropped may come again.
            self.source = hash64(&self.source.to_le_bytes());
        }
    }
}

/// After how long a silence a total is dropped, of so many.
const fn silence(hosts: usize) -> Duration {
    if hosts < REPORTED_HOSTS_MAX {
        DROP_TOTAL_AFTER
    } else {
        DROP_TOTAL_WHEN_FULL_AFTER
    }
}

fn warn_of_uncounted(uncounted: u64) {
    if let Some(unsaid) = line_passes!(machine_now()) {
        tracing::warn!(
            uncounted,
            unsaid,
            "calls are not counted: too many hosts at a time"
        );
    }
}

/// Totals of calls that callers of Lars reported.
#[derive(Debug, Default)]
pub(crate) struct LarsTotals {
    by_pair: BTreeMap<LarsPair, HashMap<HostInfo, Total>>,
    hosts: usize,
    looked_at: Moment,
    /// Ends of calls that were not counted, for want of room.
    uncounted: u64,
}

impl LarsTotals {
    /// Ends of calls that were not counted.
    pub(crate) const fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// A call to this host ended.
    pub(crate) fn add(
        &mut self,
        now: Moment,
        pair: LarsPair,
        host: HostInfo,
        is_ok: bool,
        is_out: bool,
    ) {
        let is_full = self.hosts >= REPORTED_HOSTS_MAX;
        let hosts = self.by_pair.entry(pair).or_default();
        if is_full && !hosts.contains_key(&host) {
            self.uncounted += 1;
            warn_of_uncounted(self.uncounted);
            return;
        }
        let known = hosts.len();
        let total = hosts.entry(host).or_default();
        if is_ok {
            total.ok += 1;
        } else {
            total.failed += 1;
        }
        total.is_out = is_out;
        total.is_told = false;
        total.at = now;
        self.hosts += hosts.len() - known;
    }

    /// All that is untold, in messages of Lars; it counts as told from here on.
    pub(crate) fn take_untold(
        &mut self,
        now: Moment,
        caller: Ipv4Addr,
        ts: u32,
    ) -> Vec<ReportStatusRequest> {
        let mut messages = Vec::new();
        for (pair, hosts) in &mut self.by_pair {
            let untold = hosts.iter_mut().filter(|(_, total)| !total.is_told);
            let mut results: Vec<HostCallResult> = untold
                .map(|(host, total)| {
                    total.is_told = true;
                    total.at = now;
                    HostCallResult {
                        ip: host.ip,
                        port: host.port,
                        succ: low_bits(total.ok),
                        err: low_bits(total.failed),
                        overload: total.is_out,
                    }
                })
                .collect();
            results.sort_unstable_by_key(|one| (one.ip, one.port));
            for results in results.chunks(RESULTS_MAX) {
                messages.push(ReportStatusRequest {
                    modid: pair.modid,
                    cmdid: pair.cmdid,
                    caller: caller.to_bits().cast_signed(),
                    results: results.to_vec(),
                    ts,
                });
            }
        }
        messages
    }

    /// The connection was lost: nobody knows what was taken.
    pub(crate) fn mark_untold(&mut self) {
        for total in self.by_pair.values_mut().flat_map(HashMap::values_mut) {
            total.is_told = false;
        }
    }

    /// When there is no more room, drops totals that were silent for a while. They
    /// begin anew before: a total that fell is told, so that what comes later is not
    /// taken for a part of it. The caller says that what was told is taken.
    /// Cost: O(hosts), each [`MAKE_ROOM_EVERY`].
    pub(crate) fn make_room(&mut self, now: Moment) {
        let is_due = now.saturating_since(self.looked_at) >= MAKE_ROOM_EVERY;
        if self.hosts < REPORTED_HOSTS_MAX || !is_due {
            return;
        }
        self.looked_at = now;
        self.by_pair.retain(|_, hosts| {
            hosts.retain(|_, total| {
                if !total.is_silent(now, DROP_TOTAL_WHEN_FULL_AFTER) {
                    return true;
                }
                if (total.ok, total.failed) == (0, 0) {
                    return false;
                }
                // A fall by more is taken for a counter that ran over.
                if low_bits(total.ok) <= FALL_MAX && low_bits(total.failed) <= FALL_MAX {
                    (total.ok, total.failed, total.is_told) = (0, 0, false);
                }
                true
            });
            !hosts.is_empty()
        });
        self.hosts = self.by_pair.values().map(HashMap::len).sum();
    }
}

/// The most that a counter of 32 bits may fall by when it begins anew.
const FALL_MAX: u32 = 1 << 31;

/// Lars' counters have 32 bits and run over.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
const fn low_bits(count: u64) -> u32 {
    count as u32
}
