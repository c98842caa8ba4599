//! What is checked and counted of a world.

use waystation_balance::{CallEnd, HostName, Outcome};
use waystation_base::Moment;
use waystation_membership::{InstanceId, State};

use super::{Call, FAULTY, World};
use crate::balance::figures::{Figures, time_to_drain, time_to_recover};
use crate::balance::server::Condition;
use crate::balance::workload::{FAULT_AT, Fault};

impl World<'_> {
    /// What holds for every pick, whatever the policy and what is around it.
    pub(super) fn check_pick(&self, caller: usize, name: HostName) {
        let balancer = &self.callers[caller];
        let entry = balancer.table().entry(name);
        let takes_calls = entry.is_some_and(|entry| {
            let shown = self.view.instances.get(&entry.instance.id);
            let is_there = shown.is_some_and(|one| one.owner == entry.instance.owner);
            is_there && shown.is_some_and(|one| one.state == State::Serving)
        });
        assert!(takes_calls, "a host that left was picked");
        if let Some(ejection) = balancer.ejection() {
            let hosts = balancer.table().len();
            let out_max = (hosts / 10).max(1).min(hosts - 1);
            assert!(ejection.out() <= out_max, "too many hosts are ejected");
            let is_out = ejection.is_out(name.slot).is_some();
            assert!(!is_out || balancer.is_panic(), "an ejected host was picked");
        }
    }

    pub(super) fn count(&mut self, call: Call, outcome: &Outcome) {
        if !call.is_measured {
            return;
        }
        let condition = self.servers[call.host].condition;
        let figures = &mut self.figures;
        match outcome.end {
            CallEnd::Refused => figures.refused += 1,
            CallEnd::Failed => figures.failed += 1,
            CallEnd::TimedOut if matches!(condition, Condition::Stalled | Condition::BlackHole) => {
                figures.black_holed += 1;
            }
            CallEnd::TimedOut => figures.timed_out += 1,
            _ => {}
        }
        if outcome.end.is_error() && call.host == FAULTY {
            self.fault_failures += 1;
        }
        if matches!(outcome.end, CallEnd::Ok | CallEnd::TimedOut) {
            let micros = outcome.latency.unwrap_or_default().as_micros();
            let micros = u32::try_from(micros).unwrap_or(u32::MAX);
            self.figures.latencies_us.push(micros);
        }
    }

    /// Counts ejections of hosts with which nothing is wrong.
    pub(super) fn judge_ejections(&mut self, caller: usize) {
        let ejected = self.callers[caller].counters().ejected;
        if std::mem::replace(&mut self.ejected_seen[caller], ejected) == ejected {
            return;
        }
        let balancer = &self.callers[caller];
        let Some(ejection) = balancer.ejection() else {
            return;
        };
        for host in 0..self.servers.len() {
            let id = format!("host-{host}");
            let name = balancer
                .table()
                .find(&InstanceId::new(&id).expect("a valid id"));
            let is_out = name.is_some_and(|entry| ejection.is_out(entry.name.slot).is_some());
            let is_new = is_out && self.out_seen.insert((caller, host));
            if !is_out {
                self.out_seen.remove(&(caller, host));
            }
            if is_new && !self.servers[host].condition.is_faulty() {
                self.figures.wrong_ejections += 1;
            }
        }
    }

    pub(super) fn finish(mut self) -> Figures {
        let most = self.servers.iter().map(|server| server.in_flight_max);
        self.figures.in_flight_max = most.max().unwrap_or(0);
        if let Fault::One { lasts, .. } = self.workload.fault {
            let began = Moment::from_millis(1) + FAULT_AT;
            let ended = (began + lasts).min(self.end);
            #[expect(clippy::cast_precision_loss, reason = "a count of hosts")]
            let share = self.workload.rate() / self.workload.hosts as f64;
            self.figures.fault_failures.push(self.fault_failures);
            let sent = &self.sent_to_faulty;
            self.figures
                .drained
                .push(time_to_drain(sent, began, ended, share));
            if ended < self.end {
                self.figures
                    .recovered
                    .push(time_to_recover(sent, ended, share));
            }
        }
        self.figures
    }
}
