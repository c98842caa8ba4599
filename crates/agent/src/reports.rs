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

use waystation_base::{ServiceName, hash64};
use waystation_membership::LarsPair;
use waystation_wire::calls::{CallCounts, HostCounts, ServiceCounts};
use waystation_wire::lars::{HostCallResult, HostInfo, ReportStatusRequest};

use crate::limits::{REPORTED_HOSTS_MAX, RESULTS_MAX};
use crate::service::Service;

pub(crate) use send::start;

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    ok: u64,
    failed: u64,
    is_out: bool,
    is_told: bool,
}

/// Totals of calls that our own callers made.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Names the beginning of the totals.
    source: u64,
    by_service: BTreeMap<ServiceName, BTreeMap<String, Total>>,
    hosts: usize,
    /// Ends of calls that were not counted, for want of room.
    uncounted: u64,
}

impl Totals {
    pub(crate) const fn new(source: u64) -> Self {
        Self {
            source,
            by_service: BTreeMap::new(),
            hosts: 0,
            uncounted: 0,
        }
    }

    /// Adds what callers of a service did since the last time.
    pub(crate) fn collect(&mut self, name: &ServiceName, service: &mut Service) {
        service.drain_ends(|host, ok, failed, is_out| self.add(name, host, (ok, failed), is_out));
    }

    fn add(&mut self, name: &ServiceName, host: &str, (ok, failed): (u64, u64), is_out: bool) {
        let is_full = self.hosts >= REPORTED_HOSTS_MAX;
        if !self.by_service.contains_key(name) {
            self.by_service.insert(name.clone(), BTreeMap::new());
        }
        let Some(hosts) = self.by_service.get_mut(name) else {
            return;
        };
        if !hosts.contains_key(host) {
            if is_full {
                self.uncounted += ok + failed;
                return;
            }
            hosts.insert(host.to_owned(), Total::default());
            self.hosts += 1;
        }
        let Some(total) = hosts.get_mut(host) else {
            return;
        };
        total.ok += ok;
        total.failed += failed;
        total.is_out = is_out;
        total.is_told = false;
    }

    /// The message with all that is untold; nothing when there is none.
    pub(crate) fn untold(&self, caller: &str) -> Option<CallCounts> {
        let mut services = Vec::new();
        for (service, hosts) in &self.by_service {
            let untold = hosts.iter().filter(|(_, total)| !total.is_told);
            let hosts: Vec<HostCounts> = untold
                .map(|(host, total)| HostCounts {
                    host: host.clone(),
                    ok: total.ok,
                    failed: total.failed,
                    is_out: total.is_out,
                })
                .collect();
            if !hosts.is_empty() {
                services.push(ServiceCounts {
                    service: service.as_str().to_owned(),
                    hosts,
                });
            }
        }
        (!services.is_empty()).then(|| CallCounts {
            source: self.source,
            caller: caller.to_owned(),
            services,
        })
    }

    /// All was handed to the connection.
    pub(crate) fn mark_told(&mut self) {
        for total in self.by_service.values_mut().flat_map(BTreeMap::values_mut) {
            total.is_told = true;
        }
    }

    /// The connection was lost, or is another one: nobody knows what was taken.
    pub(crate) fn mark_untold(&mut self) {
        for total in self.by_service.values_mut().flat_map(BTreeMap::values_mut) {
            total.is_told = false;
        }
    }

    /// Begins anew if there is no more room. The caller says that all was taken.
    pub(crate) fn make_room(&mut self) {
        let is_untold = |total: &Total| !total.is_told;
        let mut totals = self.by_service.values().flat_map(BTreeMap::values);
        if self.hosts >= REPORTED_HOSTS_MAX && !totals.any(is_untold) {
            tracing::info!(
                hosts = self.hosts,
                uncounted = self.uncounted,
                "totals begin anew"
            );
            self.by_service.clear();
            self.hosts = 0;
            self.source = hash64(&self.source.to_le_bytes());
        }
    }
}

/// Totals of calls that callers of Lars reported.
#[derive(Debug, Default)]
pub(crate) struct LarsTotals {
    by_pair: BTreeMap<LarsPair, HashMap<HostInfo, Total>>,
    hosts: usize,
}

impl LarsTotals {
    /// A call to this host ended.
    pub(crate) fn add(&mut self, pair: LarsPair, host: HostInfo, is_ok: bool, is_out: bool) {
        if self.hosts >= REPORTED_HOSTS_MAX {
            // A total that falls begins anew, as the report server sees it.
            self.by_pair.clear();
            self.hosts = 0;
        }
        let hosts = self.by_pair.entry(pair).or_default();
        let known = hosts.len();
        let total = hosts.entry(host).or_default();
        if is_ok {
            total.ok += 1;
        } else {
            total.failed += 1;
        }
        total.is_out = is_out;
        total.is_told = false;
        self.hosts += hosts.len() - known;
    }

    /// All that is untold, in messages of Lars; it counts as told from here on.
    pub(crate) fn take_untold(&mut self, caller: Ipv4Addr, ts: u32) -> Vec<ReportStatusRequest> {
        let mut messages = Vec::new();
        for (pair, hosts) in &mut self.by_pair {
            let untold = hosts.iter_mut().filter(|(_, total)| !total.is_told);
            let mut results: Vec<HostCallResult> = untold
                .map(|(host, total)| {
                    total.is_told = true;
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
}

/// Lars' counters have 32 bits and run over.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
const fn low_bits(count: u64) -> u32 {
    count as u32
}
