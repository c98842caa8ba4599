//! Services that are asked for by Lars' protocol.

use std::collections::{BTreeMap, HashMap};

use waystation_balance::{
    Balancer, BalancerConfig, CallEnd, HostName, Lars, LarsConfig, NoPick, Outcome,
};
use waystation_base::{Moment, ServiceName, hash64};
use waystation_membership::{Address, LarsPair, State, View};
use waystation_wire::lars::{
    DATAGRAM_LEN_MAX, GetHostRequest, GetHostResponse, GetRouteRequest, GetRouteResponse, HostInfo,
    Message, ReportRequest, RetCode, datagram,
};

use crate::figures::Figures;
use crate::limits::ROUTE_LOOK;
use crate::reports::LarsTotals;

use members::Members;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LarsCounters {
    /// Hosts given.
    pub(crate) picks: u64,
    /// Questions without a host, by any cause.
    pub(crate) no_picks: u64,
    /// Results taken in.
    pub(crate) reports: u64,
    /// Results for hosts or services that are not there.
    pub(crate) stale_reports: u64,
    /// Datagrams that were none of the protocol, or of no use to an agent.
    pub(crate) dropped: u64,
    /// Hosts of routes that did not fit an answer.
    pub(crate) left_out: u64,
}

/// The balance of one pair.
struct Pair {
    balancer: Balancer,
    names: HashMap<HostInfo, HostName>,
    hosts: Vec<HostInfo>,
    /// Where the next answer with a part of the hosts begins.
    turn: usize,
    /// When it was last said that somebody wants it.
    told_at: Moment,
}

/// All pairs that the registry has, and the answers to callers.
pub(crate) struct Pairs {
    config: LarsConfig,
    seed: u64,
    by_pair: BTreeMap<LarsPair, Pair>,
    members: Members,
    counters: LarsCounters,
    pub(crate) totals: LarsTotals,
}

impl Pairs {
    pub(crate) fn new(config: LarsConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            by_pair: BTreeMap::new(),
            members: Members::default(),
            counters: LarsCounters::default(),
            totals: LarsTotals::default(),
        }
    }

    /// The view of a service, of which those with a pair and an IPv4 address can
    /// be told. Its instances may have several pairs, and several services one.
    pub(crate) fn handle_view(&mut self, now: Moment, view: &View) {
        for pair in self.members.handle_view(view) {
            self.rebuild(now, pair);
        }
    }

    /// Takes the hosts that the pair's services have by now.
    fn rebuild(&mut self, now: Moment, pair: LarsPair) {
        let Some(told) = self.members.told(pair) else {
            self.by_pair.remove(&pair);
            return;
        };
        let seed = self.seed ^ hash64(told.service.as_str().as_bytes());
        let config = self.config;
        let one = self.by_pair.entry(pair).or_insert_with(|| Pair {
            // The rule of Lars has nothing around it.
            balancer: Balancer::new(
                BalancerConfig::bare(),
                Box::new(Lars::new(config, seed)),
                seed,
            ),
            names: HashMap::new(),
            hosts: Vec::new(),
            turn: 0,
            told_at: now,
        });
        one.balancer.handle_view(now, &told);
        one.names.clear();
        one.hosts.clear();
        for entry in one.balancer.table().entries() {
            let Address::V4(address) = entry.instance.address else {
                continue;
            };
            let host = HostInfo::new(*address.ip(), address.port());
            one.names.insert(host, entry.name);
            if entry.instance.state == State::Serving {
                one.hosts.push(host);
            }
        }
    }

    /// What is counted of them.
    pub(crate) fn figures(&self) -> Figures {
        let of = self.counters;
        Figures {
            lars_picks: of.picks,
            lars_no_picks: of.no_picks,
            lars_reports: of.reports,
            lars_stale_reports: of.stale_reports,
            lars_dropped: of.dropped,
            lars_left_out: of.left_out,
            ..Figures::default()
        }
    }

    /// Windows end by time, too.
    pub(crate) fn handle_turn(&mut self, now: Moment) {
        for pair in self.by_pair.values_mut() {
            pair.balancer.handle_timeout(now);
        }
    }

    /// Nothing is known of a service any more.
    pub(crate) fn forget(&mut self, now: Moment, service: &ServiceName) {
        for pair in self.members.forget(service) {
            self.rebuild(now, pair);
        }
    }

    /// The pair of a question, if nothing is known of it, or nobody was told for
    /// a while that somebody wants it.
    fn wanted(&mut self, now: Moment, pair: LarsPair) -> Option<LarsPair> {
        let Some(known) = self.by_pair.get_mut(&pair) else {
            return Some(pair);
        };
        if now.saturating_since(known.told_at) < ROUTE_LOOK {
            return None;
        }
        known.told_at = now;
        Some(pair)
    }

    /// The answer to a datagram, in `out`; nothing for one that has none. A pair
    /// that is to be asked for is given back.
    pub(crate) fn handle(
        &mut self,
        now: Moment,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<LarsPair> {
        out.clear();
        let frame = datagram(bytes).ok();
        let message = frame.and_then(|frame| Message::parse(frame.id, frame.body).ok());
        let (pair, answer) = match message {
            Some(Message::GetHostRequest(ask)) => {
                (pair_of(ask.modid, ask.cmdid), self.get_host(now, ask))
            }
            Some(Message::ReportRequest(report)) => {
                self.report(now, &report);
                return None;
            }
            Some(Message::ApiGetRouteRequest(ask)) => {
                (pair_of(ask.modid, ask.cmdid), self.get_route(ask))
            }
            _ => {
                self.counters.dropped += 1;
                return None;
            }
        };
        if answer.encode_into(out).is_err() {
            self.counters.dropped += 1;
        }
        self.wanted(now, pair)
    }

    fn get_host(&mut self, now: Moment, ask: GetHostRequest) -> Message {
        let mut answer = GetHostResponse {
            seq: ask.seq,
            modid: ask.modid,
            cmdid: ask.cmdid,
            retcode: RetCode::Success.code(),
            host: None,
        };
        let refusal = match self.by_pair.get_mut(&pair_of(ask.modid, ask.cmdid)) {
            None => Some(RetCode::NoSuchService),
            Some(pair) => match pair.balancer.pick(now, None) {
                Ok(picked) => {
                    answer.host = pair.host_of(picked.name);
                    None
                }
                Err(NoPick::Overloaded) => Some(RetCode::Overload),
                Err(_) => Some(RetCode::NoSuchService),
            },
        };
        match refusal {
            None => self.counters.picks += 1,
            Some(code) => {
                self.counters.no_picks += 1;
                answer.retcode = code.code();
            }
        }
        Message::GetHostResponse(answer)
    }

    fn report(&mut self, now: Moment, report: &ReportRequest) {
        let pair = self.by_pair.get_mut(&pair_of(report.modid, report.cmdid));
        let host = report.host.unwrap_or_default();
        let named = pair.and_then(|pair| {
            let name = *pair.names.get(&host)?;
            Some((pair, name))
        });
        let Some((pair, name)) = named else {
            self.counters.stale_reports += 1;
            return;
        };
        let end = if report.retcode == RetCode::Success.code() {
            CallEnd::Ok
        } else {
            CallEnd::Failed
        };
        match pair.balancer.report(now, name, &Outcome::of(end)) {
            Ok(()) => {
                self.counters.reports += 1;
                let is_out = pair.balancer.is_overloaded(name.slot);
                let key = pair_of(report.modid, report.cmdid);
                self.totals.add(now, key, host, end == CallEnd::Ok, is_out);
            }
            Err(_) => self.counters.stale_reports += 1,
        }
    }

    fn get_route(&mut self, ask: GetRouteRequest) -> Message {
        let mut answer = GetRouteResponse {
            modid: ask.modid,
            cmdid: ask.cmdid,
            hosts: Vec::new(),
        };
        if let Some(pair) = self.by_pair.get_mut(&pair_of(ask.modid, ask.cmdid)) {
            let mut hosts = pair.hosts.clone();
            let count = hosts.len();
            hosts.rotate_left(pair.turn.checked_rem(count).unwrap_or(0));
            let fitting = GetRouteResponse::fitting(ask.modid, ask.cmdid, &hosts, DATAGRAM_LEN_MAX);
            hosts.truncate(fitting);
            self.counters.left_out += (count - fitting) as u64;
            if fitting < count {
                pair.turn = (pair.turn + fitting) % count;
            }
            answer.hosts = hosts;
        }
        Message::ApiGetRouteResponse(answer)
    }
}

impl Pair {
    fn host_of(&self, name: HostName) -> Option<HostInfo> {
        let entry = self.balancer.table().entry(name)?;
        match entry.instance.address {
            Address::V4(address) => Some(HostInfo::new(*address.ip(), address.port())),
            _ => None,
        }
    }
}

const fn pair_of(modid: i32, cmdid: i32) -> LarsPair {
    LarsPair { modid, cmdid }
}

mod members;
mod told;

#[cfg(test)]
mod tests;
