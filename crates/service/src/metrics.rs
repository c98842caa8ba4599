//! What a process counts, as an `OpenMetrics` page.
//!
//! Source: `OpenMetrics` 1.0, text format. Names are base units with bounded
//! labels.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use waystation_net::{Counters, Kind, Sample};

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
        let help = escaped(help);
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    /// Adds a sample to the family begun last. `labels` is what stands
    /// between the braces, such as `shard="0"`; empty for none.
    pub fn sample(&mut self, name: &str, kind: Kind, labels: &str, value: u64) {
        self.write(name, kind, labels, format_args!("{value}"));
    }

    /// Like [`Page::sample`], for quantities with fractions, such as seconds.
    pub fn value(&mut self, name: &str, kind: Kind, labels: &str, value: f64) {
        self.write(name, kind, labels, format_args!("{value}"));
    }

    fn write(&mut self, name: &str, kind: Kind, labels: &str, value: fmt::Arguments<'_>) {
        let suffix = if kind == Kind::Counter { "_total" } else { "" };
        let (open, close) = if labels.is_empty() {
            ("", "")
        } else {
            ("{", "}")
        };
        let _ = writeln!(self.text, "{name}{suffix}{open}{labels}{close} {value}");
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

/// Writes what several of a kind tell, each family once. Of `lists`, all with the
/// same names in the same order, each has the value of `label` that says whose it
/// is.
pub fn families(page: &mut Page, label: &str, lists: &[(String, Vec<Sample>)]) {
    let Some((_, first)) = lists.first() else {
        return;
    };
    for (index, family) in first.iter().enumerate() {
        page.family(family.name, family.kind, family.help);
        for (whose, list) in lists {
            let labels = format!("{label}=\"{}\"", escaped(whose));
            if let Some(sample) = list.get(index) {
                page.sample(sample.name, sample.kind, &labels, sample.value);
            }
        }
    }
}

/// Text as it stands between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('\n', r"\n")
        .replace('"', r#"\""#)
}

/// Writes the counters of all shards.
pub(crate) fn net(page: &mut Page, shards: &[Arc<Counters>]) {
    let lists = shards.iter().enumerate();
    let lists = lists.map(|(shard, counters)| (shard.to_string(), counters.list()));
    families(page, "shard", &lists.collect::<Vec<_>>());
    let name = "waystation_net_closed";
    page.family(name, Kind::Counter, "Connections that ended, by reason.");
    for (shard, counters) in shards.iter().enumerate() {
        for (reason, count) in counters.closed.list() {
            let labels = format!("shard=\"{shard}\",reason=\"{reason}\"");
            page.sample(name, Kind::Counter, &labels, count);
        }
    }
}

/// One number that each shard tells.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&ShardFigures) -> f64,
}

macro_rules! families {
    ($($name:literal $kind:ident $help:literal $read:expr;)*) => {
        [$(Family { name: $name, kind: Kind::$kind, help: $help, read: $read }),*]
    };
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts stay far below 2^53, up to which a float holds every number"
)]
const fn number(count: u64) -> f64 {
    count as f64
}

const FAMILIES: [Family; 17] = families! {
    "waystation_requests_started" Counter "Requests admitted."
        |f| number(f.counts.started);
    "waystation_requests_answered" Counter "Requests answered well."
        |f| number(f.counts.answered);
    "waystation_requests_failed" Counter "Requests answered with an error."
        |f| number(f.counts.failed);
    "waystation_requests_cancelled" Counter "Requests whose caller gave up; they have no answer."
        |f| number(f.counts.cancelled);
    "waystation_requests_refused" Counter "Requests refused because too many were in progress."
        |f| number(f.counts.refused);
    "waystation_requests_refused_share" Counter "Requests refused because their caller had its share; they count as refused, too."
        |f| number(f.counts.refused_share);
    "waystation_calls_waited" Counter "Calls to others that waited for their turn."
        |f| number(f.counts.calls_waited);
    "waystation_requests_unreadable" Counter "Requests refused because they could not be read."
        |f| number(f.counts.unreadable);
    "waystation_requests_timeouts" Counter "Requests whose deadline passed; they count as failed, too."
        |f| number(f.counts.timeouts);
    "waystation_requests_retries" Counter "Steps that were tried again."
        |f| number(f.counts.retries);
    "waystation_requests_retries_refused" Counter "Steps that were not tried again, to spare the callee."
        |f| number(f.counts.retries_refused);
    "waystation_requests_in_flight" Gauge "Requests in progress."
        |f| number(f.requests as u64);
    "waystation_contexts" Gauge "Request contexts, those of parts and of background work included."
        |f| number(f.contexts as u64);
    "waystation_tasks" Gauge "Tasks of the shard."
        |f| number(f.tasks as u64);
    "waystation_timers" Gauge "Pending deadlines of the shard."
        |f| number(f.timers as u64);
    "waystation_offload_pending" Gauge "Jobs on the offload pool."
        |f| number(f.offload as u64);
    "waystation_latency_recent_seconds" Gauge "Median latency of the last 64 requests."
        |f| f64::from(f.latency_us) / 1e6;
};

/// Writes what shards tell of their requests.
pub(crate) fn service(page: &mut Page, shards: &[(usize, ShardFigures)]) {
    for Family {
        name,
        kind,
        help,
        read,
    } in FAMILIES
    {
        page.family(name, kind, help);
        for (shard, figures) in shards {
            page.value(name, kind, &format!("shard=\"{shard}\""), read(figures));
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

    #[test]
    fn families_stand_once_whatever_their_labels_say() {
        let list = |value| {
            let (name, help, kind) = ("waystation_y", "Others.", Kind::Counter);
            vec![Sample {
                name,
                help,
                kind,
                value,
            }]
        };
        let lists = [
            (r#"file:///a"b\c"#.to_owned(), list(1)),
            ("x\ny".to_owned(), list(2)),
        ];
        let mut page = Page::default();
        families(&mut page, "registry", &lists);
        let expected = "# TYPE waystation_y counter\n# HELP waystation_y Others.\n\
                        waystation_y_total{registry=\"file:///a\\\"b\\\\c\"} 1\n\
                        waystation_y_total{registry=\"x\\ny\"} 2\n# EOF\n";
        assert_eq!(page.finish(), expected);
    }
}
