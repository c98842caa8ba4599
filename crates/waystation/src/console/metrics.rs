//! `/metrics`: the supervisor's own families and those of every role.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use waystation_base::Clock;

use super::gather::Answer;
use super::openmetrics::{Exposition, Merged};
use super::{Console, Counters};

impl Console {
    /// One valid exposition of everything; a role that does not answer has its
    /// `waystation_scrape_success` at 0.
    pub(super) async fn metrics(&self) -> String {
        let answers = self.ask("/metrics").await;
        self.merged_metrics(&answers)
    }

    fn merged_metrics(&self, answers: &[Answer<'_>]) -> String {
        let mut merged_roles = Vec::new();
        let mut success = Vec::new();
        for Answer { role, body } in answers {
            let text = body
                .as_ref()
                .ok()
                .and_then(|body| std::str::from_utf8(body).ok());
            success.push((*role, text.is_some()));
            merged_roles.extend(text.map(|text| (*role, Exposition::parse(text))));
        }
        let own = self.own_metrics(&success);
        let mut merged = Merged::default();
        merged.add(None, Exposition::parse(&own));
        let mut rejected = 0;
        for (role, exposition) in merged_roles {
            rejected += exposition.rejected;
            rejected += merged.add(Some(role), exposition);
        }
        Counters::add(&self.counters.rejected_lines, rejected);
        merged.render()
    }

    fn own_metrics(&self, success: &[(&str, bool)]) -> String {
        let mut text = String::new();
        self.write_roles(&mut text);
        let help = "Whether the role answered in time.";
        family(&mut text, "waystation_scrape_success", "gauge", help);
        for (role, success) in success {
            sample(
                &mut text,
                "waystation_scrape_success",
                role,
                u8::from(*success),
            );
        }
        self.counters.write(&mut text);
        text
    }

    fn write_roles(&self, text: &mut String) {
        let now = self.clock.now();
        let snapshot = self.snapshots.borrow();
        family(
            text,
            "waystation_role_healthy",
            "gauge",
            "Whether the role serves.",
        );
        for process in &snapshot.processes {
            sample(
                text,
                "waystation_role_healthy",
                &process.role,
                u8::from(process.healthy),
            );
        }
        let help = "How often the role was started again.";
        family(text, "waystation_role_restarts", "counter", help);
        for process in &snapshot.processes {
            sample(
                text,
                "waystation_role_restarts_total",
                &process.role,
                process.restarts,
            );
        }
        let uptime = "waystation_role_uptime_seconds";
        family(text, uptime, "gauge", "Age of the role's process.");
        let _ = writeln!(text, "# UNIT {uptime} seconds");
        for process in &snapshot.processes {
            let age = process
                .started_at
                .map_or(0.0, |at| now.saturating_since(at).as_secs_f64());
            sample(text, uptime, &process.role, age);
        }
    }
}

impl Counters {
    fn write(&self, text: &mut String) {
        let open = self.connections.load(Ordering::Relaxed);
        family(
            text,
            "waystation_console_connections",
            "gauge",
            "Connections to the console.",
        );
        let _ = writeln!(text, "waystation_console_connections {open}");
        let counters = [
            (
                "accepted",
                "Connections accepted by the console.",
                &self.accepted,
            ),
            (
                "refused",
                "Connections closed because there were too many.",
                &self.refused,
            ),
            (
                "accept_failures",
                "Failed accepts, as without descriptors.",
                &self.accept_failures,
            ),
            ("requests", "Requests to the console.", &self.requests),
            (
                "rejected_lines",
                "Metrics of roles that were left out.",
                &self.rejected_lines,
            ),
        ];
        for (name, help, counter) in counters {
            let name = format!("waystation_console_{name}");
            family(text, &name, "counter", help);
            let _ = writeln!(text, "{name}_total {}", counter.load(Ordering::Relaxed));
        }
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
}

fn sample(text: &mut String, name: &str, role: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name}{{role=\"{role}\"}} {value}");
}
