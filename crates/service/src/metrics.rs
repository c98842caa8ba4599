//! What a process counts, as an OpenMetrics page.
//!
//! Source: OpenMetrics 1.0, text format. Names are base units with bounded
//! labels.

use std::fmt::Write as _;
use std::sync::Arc;

use waystation_net::{Counters, Kind};

use crate::contexts::RequestCounts;

/// The content type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics being written: each family once, its samples together.
#[derive(Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a family. `name` is without `_total`.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    /// Adds a sample to the family begun last. `labels` is what stands
    /// between the braces.
    pub fn sample(&mut self, name: &str, kind: Kind, labels: &str, value: u64) {
        let suffix = if kind == Kind::Counter { "_total" } else { "" };
        let _ = writeln!(self.text, "{name}{suffix}{{{labels}}} {value}");
    }

    /// The page with its end mark.
    pub fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

/// A source of metrics beside those of the framework.
pub type Source = Arc<dyn Fn(&mut Page) + Send + Sync>;

/// What one shard tells for the page.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ShardFigures {
    pub(crate) counts: RequestCounts,
    pub(crate) requests: usize,
    pub(crate) contexts: usize,
    pub(crate) tasks: usize,
    pub(crate) timers: usize,
    pub(crate) offload: usize,
    pub(crate) latency_us: u32,
}

/// Writes the counters of all shards.
pub(crate) fn net(page: &mut Page, shards: &[Arc<Counters>]) {
    let lists: Vec<_> = shards.iter().map(|counters| counters.list()).collect();
    let Some(first) = lists.first() else { return };
    for (index, sample) in first.iter().enumerate() {
        page.family(sample.name, sample.kind, sample.help);
        for (shard, list) in lists.iter().enumerate() {
            page.sample(
                sample.name,
                sample.kind,
                &format!("shard=\"{shard}\""),
                list[index].value,
            );
        }
    }
    let name = "waystation_net_closed";
    page.family(name, Kind::Counter, "Connections that ended, by reason.");
    for (shard, counters) in shards.iter().enumerate() {
        for (reason, count) in counters.closed.list() {
            let labels = format!("shard=\"{shard}\",reason=\"{reason}\"");
            page.sample(name, Kind::Counter, &labels, count);
        }
    }
}

/// Writes what shards tell of their requests.
pub(crate) fn service(page: &mut Page, shards: &[(usize, ShardFigures)]) {
    type Read = fn(&ShardFigures) -> u64;
    let wide = |value: usize| value as u64;
    let _ = wide;
    let families: [(&str, Kind, &str, Read); 13] = [
        (
            "waystation_requests_started",
            Kind::Counter,
            "Requests admitted.",
            |f| f.counts.started,
        ),
        (
            "waystation_requests_answered",
            Kind::Counter,
            "Requests answered well.",
            |f| f.counts.answered,
        ),
        (
            "waystation_requests_failed",
            Kind::Counter,
            "Requests answered with an error.",
            |f| f.counts.failed,
        ),
        (
            "waystation_requests_refused",
            Kind::Counter,
            "Requests refused because too many were in progress.",
            |f| f.counts.refused,
        ),
        (
            "waystation_requests_timeouts",
            Kind::Counter,
            "Requests whose deadline passed.",
            |f| f.counts.timeouts,
        ),
        (
            "waystation_requests_cancelled",
            Kind::Counter,
            "Requests that their caller gave up.",
            |f| f.counts.cancelled,
        ),
        (
            "waystation_requests_retries",
            Kind::Counter,
            "Steps that were tried again.",
            |f| f.counts.retries,
        ),
        (
            "waystation_requests_in_flight",
            Kind::Gauge,
            "Requests in progress.",
            |f| f.requests as u64,
        ),
        (
            "waystation_contexts",
            Kind::Gauge,
            "Request contexts, those of parts included.",
            |f| f.contexts as u64,
        ),
        (
            "waystation_tasks",
            Kind::Gauge,
            "Tasks of the shard.",
            |f| f.tasks as u64,
        ),
        (
            "waystation_timers",
            Kind::Gauge,
            "Pending deadlines of the shard.",
            |f| f.timers as u64,
        ),
        (
            "waystation_offload_pending",
            Kind::Gauge,
            "Jobs on the offload pool.",
            |f| f.offload as u64,
        ),
        (
            "waystation_latency_recent_microseconds",
            Kind::Gauge,
            "Median latency of the last 64 requests.",
            |f| u64::from(f.latency_us),
        ),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for (shard, figures) in shards {
            page.sample(name, kind, &format!("shard=\"{shard}\""), read(figures));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_open_metrics() {
        let mut page = Page::default();
        page.family("waystation_x", Kind::Counter, "Things.");
        page.sample("waystation_x", Kind::Counter, "shard=\"0\"", 7);
        let expected = "# TYPE waystation_x counter\n# HELP waystation_x Things.\n\
                        waystation_x_total{shard=\"0\"} 7\n# EOF\n";
        assert_eq!(page.finish(), expected);
    }
}
