//! What goes wrong in a world, and who is told.

use std::sync::Arc;

use waystation_base::Epoch;
use waystation_membership::{InstanceId, State, ViewVersion};

use super::{Event, FAULTY, World};
use crate::balance::baselines::look;
use crate::balance::server::Condition;
use crate::balance::workload::Fault;

impl World<'_> {
    /// The first hosts of each speed, so that a share of the hosts is the same
    /// share of the capacity.
    pub(super) fn set_share(&mut self, share: f64, condition: Condition) {
        #[expect(clippy::cast_precision_loss, reason = "a count of hosts")]
        let count = share * self.workload.hosts as f64;
        for (host, server) in (0_u32..).zip(&mut self.servers) {
            if f64::from(host) < count {
                server.condition = condition;
            }
        }
    }

    pub(super) fn begin_fault(&mut self) {
        let Fault::One { condition, .. } = self.workload.fault else {
            return;
        };
        self.set_condition(FAULTY, condition);
        match condition {
            Condition::Dead => self.lose_calls(FAULTY, true),
            Condition::BlackHole => self.lose_calls(FAULTY, false),
            _ => {}
        }
    }

    /// What runs on the host is lost: callers are told, or wait in vain.
    pub(super) fn lose_calls(&mut self, host: usize, is_told: bool) {
        for call in self.servers[host].lose_all(self.now) {
            if is_told {
                let hop = self.hop();
                self.after(hop, Event::Cut { call, end: 0 });
            }
        }
    }

    pub(super) fn set_condition(&mut self, host: usize, condition: Condition) {
        self.servers[host].advance(self.now);
        self.servers[host].condition = condition;
        self.replan(host);
    }

    pub(super) fn set_state(&mut self, host: usize, state: State) {
        let id = InstanceId::new(&format!("host-{host}")).expect("a valid id");
        if let Some(one) = self.view.instances.get_mut(&id) {
            Arc::make_mut(one).state = state;
        }
        self.show_view();
    }

    pub(super) fn show_view(&mut self) {
        self.view.at = ViewVersion {
            epoch: Epoch(1),
            number: self.view.at.number + 1,
        };
        for caller in &mut self.callers {
            caller.handle_view(self.now, &self.view);
        }
    }

    pub(super) fn tell_truth(&mut self, host: usize) {
        let server = &self.servers[host];
        let speed = match server.condition {
            Condition::Well => server.speed,
            Condition::Slowed(times) => server.speed / times,
            _ => 0.0,
        };
        look(&self.truth).hosts[host] = (server.processors, speed);
    }

    /// gRPC's A58: answers a second against utilisation and failures, both
    /// smoothed over some 10 s.
    pub(super) fn weigh(&mut self) {
        let mut truth = look(&self.truth);
        let truth = &mut *truth;
        for (host, server) in self.servers.iter_mut().enumerate() {
            server.advance(self.now);
            #[expect(clippy::cast_precision_loss, reason = "counts of calls")]
            let sample = [
                server.used_ns / 1e9,
                server.served as f64,
                server.abandoned as f64,
            ];
            (server.used_ns, server.served, server.abandoned) = (0.0, 0, 0);
            for (smooth, sample) in self.use_of[host].iter_mut().zip(sample) {
                *smooth += (sample - *smooth) * 0.1;
            }
            let [used, served, failed] = self.use_of[host];
            let penalty = failed / (served + failed).max(f64::MIN_POSITIVE);
            truth.weights[host] = (served / (used + penalty).max(0.01)).max(0.1);
        }
    }
}
