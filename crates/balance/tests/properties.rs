//! Any order of views, verdicts, picks, results, probes and time.

#![allow(clippy::unwrap_used, reason = "these are tests and their helpers")]

mod common;

use std::time::Duration;

use common::{START, ended, id, in_zone, policies, view_of};
use proptest::prelude::*;
use waystation_balance::{Balancer, BalancerConfig, CallEnd, HostName, Load, Locality, NoPick};
use waystation_base::Moment;
use waystation_membership::{Label, State, Verdict};

const HOSTS: u32 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// Which hosts are there, and which of them drain.
    View(u16, u16),
    Verdict(u32, u8),
    Pick(Option<u64>),
    /// The end of one of the calls in flight.
    Report(usize, u8, u32),
    ProbeAnswer(u32, u32),
    /// Milliseconds; up to minutes at once.
    Wait(u64),
    /// The clock goes back.
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (any::<u16>(), any::<u16>()).prop_map(|(all, drain)| Step::View(all, drain)),
        2 => (0..HOSTS, 0..3_u8).prop_map(|(host, verdict)| Step::Verdict(host, verdict)),
        20 => any::<Option<u64>>().prop_map(Step::Pick),
        20 => (any::<usize>(), 0..6_u8, any::<u32>())
            .prop_map(|(call, end, load)| Step::Report(call, end, load)),
        10 => (any::<u32>(), any::<u32>()).prop_map(|(rif, us)| Step::ProbeAnswer(rif, us)),
        5 => (0..5000_u64).prop_map(Step::Wait),
        1 => (0..600_000_u64).prop_map(Step::Wait),
        1 => (0..60_000_u64).prop_map(Step::Back),
    ]
}

fn end_of(number: u8) -> CallEnd {
    [
        CallEnd::Ok,
        CallEnd::Failed,
        CallEnd::Overloaded,
        CallEnd::Refused,
        CallEnd::TimedOut,
        CallEnd::Cancelled,
    ][usize::from(number)]
}

struct World {
    balancer: Balancer,
    now: Moment,
    calls: Vec<HostName>,
    probes: Vec<HostName>,
}

impl World {
    fn new(policy: usize) -> Self {
        let config = BalancerConfig {
            locality: Locality {
                site: Some(Label::new("a").unwrap()),
                zone: Some(Label::new("a1").unwrap()),
            },
            ..BalancerConfig::default()
        };
        Self {
            balancer: Balancer::new(config, policies().swap_remove(policy), 3),
            now: START,
            calls: Vec::new(),
            probes: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::View(all, drain) => {
                let hosts = (0..HOSTS)
                    .filter(|host| all & (1 << host) != 0)
                    .map(|host| {
                        let zone = ["a1", "a2", "b1"][host as usize % 3];
                        let mut one = in_zone(host, &zone[..1], zone);
                        if drain & all & (1 << host) & 0b11 != 0 {
                            one.state = State::Draining;
                        }
                        one
                    });
                self.balancer.handle_view(now, &view_of(hosts));
            }
            Step::Verdict(host, verdict) => {
                let verdict = [Verdict::Use, Verdict::Suspect, Verdict::Gone][usize::from(verdict)];
                self.balancer.handle_verdict(now, &id(host), verdict);
            }
            Step::Pick(key) => self.pick(key),
            Step::Report(call, end, load) => {
                if !self.calls.is_empty() {
                    let name = self.calls.swap_remove(call % self.calls.len());
                    let load = Load {
                        in_flight: load & 0xff,
                        latency_us: load,
                    };
                    let outcome = ended(end_of(end)).with_load(load);
                    let is_there = self.balancer.table().entry(name).is_some();
                    let result = self.balancer.report(now, name, &outcome);
                    assert_eq!(result.is_ok(), is_there);
                }
            }
            Step::ProbeAnswer(in_flight, latency_us) => {
                if let Some(name) = self.probes.pop() {
                    let load = Load {
                        in_flight,
                        latency_us,
                    };
                    self.balancer.handle_probe_answered(now, name, load);
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.balancer.handle_timeout(self.now);
            }
            Step::Back(ms) => self.now = Moment(now.0.saturating_sub(ms * 1_000_000)),
        }
        self.check();
    }

    fn pick(&mut self, key: Option<u64>) {
        let explained = self.balancer.explain(self.now, key);
        let picked = self.balancer.pick(self.now, key);
        assert_eq!(explained.result, picked, "a pick goes as it was explained");
        let takers = self.balancer.table().entries();
        let some_take_calls = takers.filter(|entry| entry.takes_calls()).count() > 0;
        match picked {
            Ok(picked) => {
                let entry = self.balancer.table().entry(picked.name).unwrap();
                assert!(entry.takes_calls(), "who is gone or drains was picked");
                let is_suspect = entry.verdict != Verdict::Use;
                let ejection = self.balancer.ejection().unwrap();
                let is_out = ejection.is_out(picked.name.slot).is_some();
                assert!(picked.is_panic || !(is_suspect || is_out));
                self.calls.push(picked.name);
            }
            Err(NoPick::Overloaded) => assert_eq!(explained.choices[0].policy, "lars"),
            Err(_) => assert!(!some_take_calls, "somebody was there"),
        }
        while let Some(name) = self.balancer.poll_probe(self.now) {
            self.probes.push(name);
        }
    }

    fn check(&self) {
        let ejection = self.balancer.ejection().unwrap();
        let hosts = self.balancer.table().len();
        let out = self
            .balancer
            .table()
            .entries()
            .filter(|entry| ejection.is_out(entry.name.slot).is_some())
            .count();
        assert_eq!(out, ejection.out());
        for entry in self.balancer.table().entries() {
            let expect = self
                .calls
                .iter()
                .filter(|name| **name == entry.name)
                .count();
            let host = waystation_balance::Hosts::host(self.balancer.table(), entry.name.slot);
            assert_eq!(
                host.in_flight as usize, expect,
                "calls in flight are counted"
            );
            assert!(host.latency_ns.is_finite() && host.latency_ns >= 0.0);
            assert!((0.0..=1.0).contains(&host.error_share));
        }
        assert!(out <= hosts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_promise(
        policy in 0..7_usize,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(policy);
        world.step(&Step::View(0xfff, 0));
        for step in &steps {
            world.step(step);
        }
    }
}
