//! The section of nodes' health.

use std::time::Duration;

use waystation_service::{ProbeConfig, ProbeKind};

use super::field::{Kind, section};

section! {
    /// The health of nodes as those who call them judge it: probes beside
    /// leases and what calls meet.
    struct Health as "health" {
        /// How Logics are asked for a sign of life: a native ping, a TCP
        /// connection, or HTTP.
        logic: String = Text("native"), Kind::Probe,
            "a connection each `interval_ms` from every thread that calls one";
        /// How Das is asked for a sign of life.
        das: String = Text("native"), Kind::Probe,
            "a connection each `interval_ms` from every thread that calls it";
        /// How often a node is probed.
        interval_ms: u64 = Integer(1_000), Kind::Integer { unit: "ms", min: 10, max: 600_000 },
            "a higher value finds nodes that hang later";
        /// How long the answer to a probe may take.
        timeout_ms: u64 = Integer(1_000), Kind::Integer { unit: "ms", min: 1, max: 600_000 },
            "a higher value finds nodes that hang later";
        /// Probes without an answer in a row after which a node has failed.
        failures: u32 = Integer(3), Kind::Integer { unit: "probes", min: 1, max: 1_000 },
            "a higher value finds nodes that hang later, a lower one suspects slow ones";
    }
}

impl Health {
    /// How Logics are probed.
    pub(crate) fn logic(&self) -> Option<ProbeConfig> {
        self.config(&self.logic)
    }

    /// How Das is probed.
    pub(crate) fn das(&self) -> Option<ProbeConfig> {
        self.config(&self.das)
    }

    fn config(&self, text: &str) -> Option<ProbeConfig> {
        // What is no kind of probe was refused when it was read.
        let kind: ProbeKind = text.parse().ok()?;
        Some(ProbeConfig {
            kind,
            interval: Duration::from_millis(self.interval_ms),
            wait: Duration::from_millis(self.timeout_ms),
            failures: self.failures,
        })
    }
}
