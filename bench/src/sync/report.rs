//! What was measured, as tables.

use super::Load;
use super::capture::{Triggers, WRITES};
use super::publish::Figures;
use super::stores::Store;
use crate::figures::{count, figure, spread};
use crate::results::Block;
use crate::stats::{Summary, ratios};
use crate::table::{Align, Table};

/// All stores under one load, round by round.
pub(crate) struct Publishes {
    load: Load,
    pub(crate) stores: [Vec<Figures>; Store::ALL.len()],
    pub(crate) fdatasync: Vec<f64>,
}

impl Publishes {
    pub(crate) fn of(load: Load) -> Self {
        Self {
            load,
            stores: Default::default(),
            fdatasync: Vec::new(),
        }
    }

    fn rates(&self, side: usize) -> Vec<f64> {
        self.stores[side].iter().map(|one| one.per_second).collect()
    }

    /// What our log does beside the best of the others, round by round.
    fn ratio(&self) -> Option<Summary> {
        let others: Vec<Vec<f64>> = (1..Store::ALL.len()).map(|side| self.rates(side)).collect();
        let rounds = self.fdatasync.len();
        let best: Vec<f64> = (0..rounds)
            .map(|round| {
                others
                    .iter()
                    .map(|one| one[round])
                    .fold(f64::MIN_POSITIVE, f64::max)
            })
            .collect();
        Summary::of(&ratios(&self.rates(0), &best))
    }

    /// What our log does beside the bare sync of one record.
    fn of_disk(&self) -> Option<Summary> {
        Summary::of(&ratios(&self.rates(0), &self.fdatasync))
    }
}

/// From publish to applied at a rate, in milliseconds.
pub(crate) struct Applied {
    pub(crate) per_second: u64,
    pub(crate) took: Vec<f64>,
}

impl Applied {
    fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.took.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

/// Ours and its peer, round by round.
#[derive(Default)]
pub(crate) struct Pair {
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
}

impl Pair {
    fn ratio(&self) -> Option<Summary> {
        Summary::of(&ratios(&self.ours, &self.peer))
    }
}

/// Everything.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) publishes: Vec<Publishes>,
    pub(crate) applied: Vec<Applied>,
    pub(crate) catch_up: Pair,
    pub(crate) join: Pair,
    /// Rows a second of each kind of write, round by round, with each kind of triggers.
    pub(crate) captured: [Vec<[f64; 3]>; Triggers::ALL.len()],
}

fn cell(summary: Option<Summary>) -> String {
    summary.map_or_else(|| "-".to_owned(), |one| figure(one.median))
}

fn cell_with_spread(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |one| format!("{} ({})", figure(one.median), spread(&one)),
    )
}

impl Report {
    /// The tables, and what is to be held.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let has_pairs = !self.catch_up.ours.is_empty() || !self.join.ours.is_empty();
        let parts = [
            (
                !self.publishes.is_empty(),
                "Durable publishes a second",
                Self::publish_table as fn(&Self) -> Table,
            ),
            (
                !self.applied.is_empty(),
                "Publish to applied",
                Self::applied_table,
            ),
            (has_pairs, "Catch-up and join", Self::pair_table),
            (
                !self.captured[0].is_empty(),
                "Captured writes, rows a second",
                Self::captured_table,
            ),
        ];
        let is_whole = parts.iter().all(|(is_there, ..)| *is_there);
        let there = parts.into_iter().filter(|(is_there, ..)| *is_there);
        let tables = there.map(|(_, name, table)| Block::Table(name.to_owned(), table(self)));
        // About a part of it nothing is said.
        let verdict = is_whole.then(|| Block::Text(self.verdict()));
        tables.chain(verdict).collect()
    }

    fn captured_table(&self) -> Table {
        let mut table = Table::new(&[
            ("write", Align::Left),
            ("not captured", Align::Right),
            ("captured", Align::Right),
            ("triggers with NEW.*", Align::Right),
            ("captured ÷ not", Align::Right),
            ("captured ÷ NEW.*", Align::Right),
        ]);
        for (index, write) in WRITES.into_iter().enumerate() {
            let rates = |side: usize| -> Vec<f64> {
                let rounds = self.captured[side].iter();
                rounds.map(|one| one[index]).collect()
            };
            let [plain, ours, said] = [rates(0), rates(1), rates(2)];
            table.row([
                write.to_owned(),
                cell(Summary::of(&plain)),
                cell(Summary::of(&ours)),
                cell(Summary::of(&said)),
                cell_with_spread(Summary::of(&ratios(&ours, &plain))),
                cell_with_spread(Summary::of(&ratios(&ours, &said))),
            ]);
        }
        table
    }

    fn publish_table(&self) -> Table {
        let mut head = vec![("connections × outstanding", Align::Left)];
        head.extend(Store::ALL.map(|store| (store.name(), Align::Right)));
        head.extend([
            ("log p50 µs", Align::Right),
            ("log p99 µs", Align::Right),
            ("log ÷ best other", Align::Right),
            ("fdatasync", Align::Right),
            ("log ÷ fdatasync", Align::Right),
        ]);
        let mut table = Table::new(&head);
        for row in &self.publishes {
            let of_log = |value: fn(&Figures) -> f64| {
                let values: Vec<f64> = row.stores[0].iter().map(value).collect();
                cell(Summary::of(&values))
            };
            let mut cells = vec![row.load.to_string()];
            cells.extend((0..Store::ALL.len()).map(|side| cell(Summary::of(&row.rates(side)))));
            cells.extend([
                of_log(|one| one.p50_us),
                of_log(|one| one.p99_us),
                cell_with_spread(row.ratio()),
                cell(Summary::of(&row.fdatasync)),
                cell_with_spread(row.of_disk()),
            ]);
            table.row(cells);
        }
        table
    }

    fn applied_table(&self) -> Table {
        let mut table = Table::new(&[
            ("publishes a second", Align::Right),
            ("publishes", Align::Right),
            ("p50 ms", Align::Right),
            ("p99 ms", Align::Right),
            ("max ms", Align::Right),
        ]);
        for row in &self.applied {
            let at = |percent| {
                row.percentile(percent)
                    .map_or_else(|| "-".to_owned(), figure)
            };
            table.row([
                count(row.per_second),
                count(row.took.len() as u64),
                at(50),
                at(99),
                at(100),
            ]);
        }
        table
    }

    fn pair_table(&self) -> Table {
        let mut table = Table::new(&[
            ("what", Align::Left),
            ("ours", Align::Right),
            ("peer", Align::Right),
            ("ratio", Align::Right),
        ]);
        for (what, pair) in [
            ("catch-up, rows/s", &self.catch_up),
            ("join, MB/s", &self.join),
        ] {
            table.row([
                what.to_owned(),
                cell(Summary::of(&pair.ours)),
                cell(Summary::of(&pair.peer)),
                cell_with_spread(pair.ratio()),
            ]);
        }
        table
    }

    /// Which bars are missed.
    fn verdict(&self) -> String {
        let mut missed = Vec::new();
        let mut hold = |what: &str, value: Option<f64>, bar: f64| {
            if value.is_some_and(|value| value < bar) {
                missed.push(what.to_owned());
            }
        };
        let median = |summary: Option<Summary>| summary.map(|one| one.median);
        for row in &self.publishes {
            match (row.load.connections, row.load.outstanding) {
                (64, 16) => hold("publishes at 64 × 16", median(row.ratio()), 1.5),
                (1, 1) => hold("publishes at 1 × 1", median(row.of_disk()), 0.8),
                _ => {}
            }
        }
        for row in &self.applied {
            let what = format!("publish to applied at {}/s", row.per_second);
            hold(&what, row.percentile(99).map(|p99| 10.0 / p99), 1.0);
        }
        hold("catch-up", median(self.catch_up.ratio()), 0.7);
        hold("join", median(self.join.ratio()), 0.5);
        let bars = "Bars: at 64 × 16 the log does 1.5 times the best other store, at 1 × 1 at least \
            0.8 of the bare sync; publish to applied p99 under 10 ms; catch-up at least 0.7 and join at \
            least 0.5 of the peer.";
        if missed.is_empty() {
            return format!("{bars} All are held.");
        }
        format!("{bars} Missed: {}.", missed.join("; "))
    }
}
