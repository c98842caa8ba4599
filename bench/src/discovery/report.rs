//! What was measured, as tables.

use std::time::Duration;

use super::bare::Turn;
use super::churn::{Churned, Use};
use super::servers::Backend;
use crate::figures::{count, figure, percent};
use crate::results::Block;
use crate::table::{Align, Table};

/// Times of all watchers in all rounds, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    all: Vec<f64>,
    /// Of the last watcher of each round.
    last: Vec<f64>,
}

/// One backend with so many watchers.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) backend: Backend,
    pub(crate) watchers: usize,
    pub(crate) come: Series,
    pub(crate) leave: Series,
    /// The same of bare watches.
    pub(crate) bare: Option<(BareSeries, BareSeries)>,
}

/// Times of bare watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct BareSeries {
    /// Until the event came.
    told: Series,
    /// Until what it is about was there, too.
    took: Series,
}

impl BareSeries {
    /// Adds the times of one round.
    pub(crate) fn add(&mut self, turn: &Turn) {
        self.told.add(&turn.told);
        self.took.add(&turn.took);
    }
}

/// How long killed processes stayed visible.
#[derive(Clone, Debug)]
pub(crate) struct Gone {
    pub(crate) backend: Backend,
    pub(crate) took: Vec<Duration>,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) gone: Vec<Gone>,
    pub(crate) churned: Option<Churned>,
}

impl Series {
    /// Adds the times of one round.
    pub(crate) fn add(&mut self, took: &[Duration]) {
        let took: Vec<f64> = took.iter().map(|one| one.as_secs_f64() * 1e3).collect();
        self.last
            .extend(took.iter().copied().max_by(f64::total_cmp));
        self.all.extend(took);
    }

    /// The value below which so many of a hundred are; nothing of nothing.
    fn percentile(&self, percent: usize) -> Option<f64> {
        percentile(&self.all, percent)
    }

    fn last(&self) -> Option<f64> {
        percentile(&self.last, 50)
    }
}

impl Row {
    /// Which bars are missed by the slowest of so many of a hundred, but for the embedded
    /// registry's own.
    fn misses(&self, percent: usize) -> Vec<String> {
        let mut missed = Vec::new();
        let ours = [("come", &self.come), ("leave", &self.leave)];
        if let Some((come, leave)) = &self.bare {
            for ((what, ours), bare) in ours.into_iter().zip([come, leave]) {
                let pair = ours.percentile(percent).zip(bare.took.percentile(percent));
                if pair.is_some_and(|(ours, bare)| ours > BESIDE_BARE * bare) {
                    missed.push(format!("{what} p{percent} beside bare"));
                }
            }
        }
        let is_late = |leave: &Series| leave.percentile(percent).is_some_and(|ms| ms >= LEAVE_MS);
        if is_late(&self.leave) {
            let is_bare_late = self.bare.as_ref().is_some_and(|bare| is_late(&bare.1.took));
            let beside = if is_bare_late { " (bare, too)" } else { "" };
            missed.push(format!("leave p{percent}{beside}"));
        }
        missed
    }
}

/// How many times as long as a bare watch ours may take.
const BESIDE_BARE: f64 = 1.5;

/// How long after a node left its watchers see that, in milliseconds.
const LEAVE_MS: f64 = 20.0;

fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), figure)
}

const HEAD: &[(&str, Align)] = &[
    ("backend", Align::Left),
    ("watchers", Align::Right),
    ("what", Align::Left),
    ("p50 ms", Align::Right),
    ("p99 ms", Align::Right),
    ("last ms", Align::Right),
    ("event p50", Align::Right),
    ("bare p50", Align::Right),
    ("bare p99", Align::Right),
    ("bare last", Align::Right),
    ("ratio p50", Align::Right),
    ("ratio p99", Align::Right),
];

impl Report {
    /// The tables, and what is to be held.
    pub(crate) fn blocks(&self, session: Duration) -> Vec<Block> {
        let mut blocks = Vec::new();
        if !self.rows.is_empty() {
            blocks.extend(self.latencies(session));
        }
        if let Some(churned) = &self.churned {
            blocks.extend(churned.blocks());
        }
        blocks
    }

    fn latencies(&self, session: Duration) -> [Block; 3] {
        let mut table = Table::new(HEAD);
        for row in &self.rows {
            let bare = row.bare.as_ref();
            line(&mut table, row, "come", &row.come, bare.map(|one| &one.0));
            line(&mut table, row, "leave", &row.leave, bare.map(|one| &one.1));
        }
        let mut gone = Table::new(&[
            ("backend", Align::Left),
            ("kills", Align::Right),
            ("min ms", Align::Right),
            ("p50 ms", Align::Right),
            ("max ms", Align::Right),
        ]);
        for one in self.gone.iter().filter(|one| !one.took.is_empty()) {
            let took: Vec<f64> = one.took.iter().map(|one| one.as_secs_f64() * 1e3).collect();
            gone.row([
                one.backend.name().to_owned(),
                took.len().to_string(),
                cell(percentile(&took, 0)),
                cell(percentile(&took, 50)),
                cell(percentile(&took, 100)),
            ]);
        }
        let bars = format!(
            "Bars: embedded come p99 under 5 ms at 100 watchers and 30 ms at 1,000; etcd and \
             ZooKeeper at most 1.5 times the bare watch, p50 and p99; leave under 20 ms, p50 and \
             p99; every killed process gone within {} ms. {}",
            figure(session.as_secs_f64() * 1e3 + 1e3),
            self.verdict(session)
        );
        [
            Block::Table("Until watchers see it".to_owned(), table),
            Block::Table("Until a killed process is gone".to_owned(), gone),
            Block::Text(bars),
        ]
    }

    /// Which bars are missed.
    fn verdict(&self, session: Duration) -> String {
        let mut missed = Vec::new();
        for row in &self.rows {
            let name = format!("{} at {}", row.backend.name(), row.watchers);
            let bar = match (row.backend, row.watchers) {
                (Backend::Embedded, 0..=100) => Some(5.0),
                (Backend::Embedded, 101..=1000) => Some(30.0),
                _ => None,
            };
            if let (Some(bar), Some(p99)) = (bar, row.come.percentile(99))
                && p99 >= bar
            {
                missed.push(format!("{name}: come p99"));
            }
            for percent in [50, 99] {
                let misses = row.misses(percent).into_iter();
                missed.extend(misses.map(|what| format!("{name}: {what}")));
            }
        }
        for one in &self.gone {
            if one
                .took
                .iter()
                .any(|took| *took >= session + Duration::from_secs(1))
            {
                missed.push(format!("{}: gone", one.backend.name()));
            }
        }
        if missed.is_empty() {
            return "All are held.".to_owned();
        }
        format!("Missed: {}.", missed.join("; "))
    }
}

impl Churned {
    fn blocks(&self) -> [Block; 3] {
        let settings = &self.settings;
        let text = format!(
            "{} instances of {} services at an embedded registry, and {} watchers of one service \
             each, all in this process over {} connections. After {} s without a change, {} of the \
             instances are replaced each second for {} s: {} left, and as many came. Every watcher \
             saw each of its own.",
            count(settings.instances as u64),
            settings.services,
            count(settings.watchers as u64),
            count((settings.services + settings.watchers) as u64),
            super::churn::REST.as_secs(),
            percent(settings.share),
            settings.time.as_secs(),
            count(self.replaced),
        );
        let mut latency = Table::new(&[
            ("what", Align::Left),
            ("p50 ms", Align::Right),
            ("p99 ms", Align::Right),
            ("last ms", Align::Right),
            ("max ms", Align::Right),
        ]);
        for (what, series) in [("come", &self.come), ("leave", &self.leave)] {
            latency.row([
                what.to_owned(),
                cell(series.percentile(50)),
                cell(series.percentile(99)),
                cell(series.last()),
                cell(series.percentile(100)),
            ]);
        }
        let mut taken = Table::new(&[
            ("process", Align::Left),
            ("CPU at rest", Align::Right),
            ("CPU under churn", Align::Right),
            ("MiB empty", Align::Right),
            ("MiB before churn", Align::Right),
            ("MiB at the end", Align::Right),
        ]);
        let both = [
            ("the registry", &self.registry),
            ("all nodes and watchers", &self.own),
        ];
        for (name, one) in both {
            taken.row(one.cells(name));
        }
        [
            Block::Text(text),
            Block::Table("Under churn, until watchers see it".to_owned(), latency),
            Block::Table("Under churn, of one CPU and of memory".to_owned(), taken),
        ]
    }
}

impl Use {
    fn cells(&self, name: &str) -> [String; 6] {
        let mib = |bytes: u64| figure(crate::stats::number(bytes) / f64::from(1 << 20));
        [
            name.to_owned(),
            percent(self.cpu_at_rest),
            percent(self.cpu),
            mib(self.empty_bytes),
            mib(self.full_bytes),
            mib(self.end_bytes),
        ]
    }
}

fn line(table: &mut Table, row: &Row, what: &str, ours: &Series, bare: Option<&BareSeries>) {
    let told = bare.map(|bare| &bare.told);
    let bare = bare.map(|bare| &bare.took);
    let ratio = |percent| {
        let bare = bare?.percentile(percent)?;
        Some(ours.percentile(percent)? / bare.max(f64::MIN_POSITIVE))
    };
    table.row([
        row.backend.name().to_owned(),
        count(row.watchers as u64),
        what.to_owned(),
        cell(ours.percentile(50)),
        cell(ours.percentile(99)),
        cell(ours.last()),
        cell(told.and_then(|told| told.percentile(50))),
        cell(bare.and_then(|bare| bare.percentile(50))),
        cell(bare.and_then(|bare| bare.percentile(99))),
        cell(bare.and_then(Series::last)),
        cell(ratio(50)),
        cell(ratio(99)),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::number;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(number).collect();
        assert_eq!(percentile(&values, 50), Some(100.0));
        assert_eq!(percentile(&values, 99), Some(198.0));
        assert_eq!(percentile(&values, 100), Some(200.0));
        assert_eq!(percentile(&values, 0), Some(1.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_missed_bar_is_named() {
        let mut come = Series::default();
        come.add(&[Duration::from_millis(6)]);
        let row = Row {
            backend: Backend::Embedded,
            watchers: 100,
            leave: come.clone(),
            come,
            bare: None,
        };
        let mut report = Report {
            rows: vec![row],
            ..Report::default()
        };
        let session = Duration::from_secs(4);
        assert_eq!(
            report.verdict(session),
            "Missed: embedded at 100: come p99."
        );
        report.rows[0].watchers = 1000;
        assert_eq!(report.verdict(session), "All are held.");
        let series = |ms: u64, slow_ms: u64| {
            let mut series = Series::default();
            let mut took = vec![Duration::from_millis(ms); 98];
            took.extend([Duration::from_millis(slow_ms); 2]);
            series.add(&took);
            series
        };
        let turn = |ms, slow_ms| BareSeries {
            told: Series::default(),
            took: series(ms, slow_ms),
        };
        report.rows[0] = Row {
            backend: Backend::Etcd,
            watchers: 1,
            come: series(3, 7),
            leave: series(4, 6),
            bare: Some((turn(2, 4), turn(2, 4))),
        };
        assert_eq!(
            report.verdict(session),
            "Missed: etcd at 1: leave p50 beside bare; etcd at 1: come p99 beside bare."
        );
        report.rows[0].leave = series(5, 30);
        report.rows[0].bare = Some((turn(2, 5), turn(4, 25)));
        assert_eq!(
            report.verdict(session),
            "Missed: etcd at 1: leave p99 (bare, too)."
        );
        report.rows.clear();
        report.gone.push(Gone {
            backend: Backend::Etcd,
            took: vec![Duration::from_secs(5)],
        });
        assert_eq!(report.verdict(session), "Missed: etcd: gone.");
    }
}
