//! What was measured, as tables.

use std::time::Duration;

use super::load::Plan;
use crate::bars::Bars;
use crate::figures::{count, figure, percent};
use crate::results::Block;
use crate::stats::number;
use crate::table::{Align, Table};

/// Until a result is seen, at most.
const SEEN_MS_MAX: u64 = 2_000;

/// The share of the results asked for that must be taken in: a run lasts until the
/// last message is out, which may be a little late.
const RATE_MIN: f64 = 0.99;

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Results a second by a statement each.
    pub(crate) bare: f64,
    pub(crate) took: Duration,
    pub(crate) results: u64,
    pub(crate) late_ms: u64,
    /// CPUs used: the report server, `MariaDB`, the agents.
    pub(crate) cpu: [f64; 3],
    /// Ages of the oldest row.
    pub(crate) seen_ms: Vec<u64>,
    /// Memory of the report server, second by second.
    pub(crate) memory_kib: Vec<u64>,
    pub(crate) batches: u64,
    pub(crate) rows: u64,
    pub(crate) stored: u64,
}

impl Figures {
    /// The tables.
    pub(crate) fn blocks(&self, plan: &Plan, judge: &mut Bars) -> Vec<Block> {
        let rate = number(self.results) / self.took.as_secs_f64();
        let mut table = Table::new(&[("figure", Align::Left), ("value", Align::Right)]);
        let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
        line("results a second", count_of(rate));
        line("results", count(self.results));
        line("keys", count(plan.keys()));
        line(
            "one statement a result, results a second",
            count_of(self.bare),
        );
        line("ratio", figure(rate / self.bare));
        line("latest message behind its time, ms", count(self.late_ms));
        line("seen after, p50 ms", self.seen(50));
        line("seen after, p99 ms", self.seen(99));
        line("seen after, most ms", self.seen(100));
        line("batches", count(self.batches));
        line("rows written", count(self.rows));
        for (name, share) in ["report server", "MariaDB", "agents"].iter().zip(self.cpu) {
            line(&format!("CPU of the {name}, of one"), percent(share));
        }
        line("memory after 5 s, MiB", self.memory(Some(5)));
        line("memory, most MiB", self.memory(None));
        line("calls in history, as told", count(self.stored));
        let mut bars = Table::new(&[
            ("bar", Align::Left),
            ("wanted", Align::Right),
            ("reached", Align::Right),
            ("", Align::Left),
        ]);
        let wanted = RATE_MIN * f64::from(plan.rate);
        let mut row = |name: &str, wanted: String, reached: String, is_kept: bool| {
            let word = judge.word(name, is_kept).to_owned();
            bars.row([name.to_owned(), wanted, reached, word]);
        };
        let name = format!(
            "results a second, {} of {}",
            percent(RATE_MIN),
            count(plan.rate.into())
        );
        row(&name, count_of(wanted), count_of(rate), rate >= wanted);
        let most = self.seen_ms.iter().copied().max();
        let is_kept = most.is_some_and(|most| most <= SEEN_MS_MAX);
        row(
            "seen after, most ms",
            count(SEEN_MS_MAX),
            self.seen(100),
            is_kept,
        );
        let settled = self.memory_kib.get(5).copied().unwrap_or_default();
        let most = self.memory_kib.iter().copied().max().unwrap_or_default();
        let reached = percent(crate::stats::share(number(most), number(settled)));
        let name = "memory, most of that after 5 s";
        row(name, "150 %".to_owned(), reached, 2 * most <= 3 * settled);
        vec![
            Block::Table("Results into MariaDB".to_owned(), table),
            Block::Table("Bars".to_owned(), bars),
        ]
    }

    fn seen(&self, percent: usize) -> String {
        let mut sorted = self.seen_ms.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        let value = sorted.get(rank - 1).copied();
        value.map_or_else(|| "-".to_owned(), count)
    }

    fn memory(&self, at: Option<usize>) -> String {
        let kib = match at {
            Some(at) => self.memory_kib.get(at).copied(),
            None => self.memory_kib.iter().copied().max(),
        };
        kib.map_or_else(|| "-".to_owned(), |kib| figure(number(kib) / 1024.0))
    }
}

fn count_of(value: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate, never negative"
    )]
    let whole = value.round() as u64;
    count(whole)
}
