//! What a run did.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::Options;

/// What a run did; that it ended without an error says that all copies were equal.
#[derive(Clone, Debug)]
pub struct Report {
    seed: u64,
    base_rows: u32,
    /// Kills by role: in all, and while a copy was on its way.
    kills: BTreeMap<&'static str, (u32, u32)>,
    /// Copies that were begun anew.
    pub copies: u32,
    /// Proofs of equality, all but the last under load.
    pub proofs: u32,
    /// Transactions of the program that writes to the master's file.
    pub written: u64,
    /// Publishes that were acknowledged.
    pub published: u64,
    /// Rows that the checker compared in each file.
    pub rows: u64,
    /// How often a process ended by itself and was started again.
    pub ended: u32,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            seed: options.seed,
            base_rows: options.rows,
            kills: BTreeMap::new(),
            copies: 0,
            proofs: 0,
            written: 0,
            published: 0,
            rows: 0,
            ended: 0,
            took: Duration::ZERO,
        }
    }

    pub(crate) fn note_kill(&mut self, role: &'static str, is_copying: bool) {
        let (all, copying) = self.kills.entry(role).or_default();
        *all += 1;
        *copying += u32::from(is_copying);
    }

    /// How many processes were killed.
    pub fn kills(&self) -> u32 {
        self.kills.values().map(|(all, _)| all).sum()
    }

    /// A table, and what was compared.
    pub fn text(&self) -> String {
        let mut text =
            String::from("| killed | times | while a copy was on its way |\n|---|--:|--:|\n");
        // Writing to a text does not fail.
        for (role, (all, copying)) in &self.kills {
            let _ = writeln!(text, "| {role} | {all} | {copying} |");
        }
        let copying: u32 = self.kills.values().map(|(_, copying)| copying).sum();
        let _ = writeln!(text, "| all | {} | {copying} |\n", self.kills());
        let _ = writeln!(
            text,
            "{} transactions were captured and {} statements published in {} s; {} copies were \
             begun anew; {} processes ended by themselves and were started again. {} proofs of \
             equality of all four held, all but the last under load. The checker compared {} rows of each \
             of the four files: no difference, no publish lost, none applied twice.",
            self.written,
            self.published,
            self.took.as_secs(),
            self.copies,
            self.ended,
            self.proofs,
            self.rows,
        );
        text
    }

    /// The file of results.
    pub fn markdown(&self) -> String {
        format!(
            "# Sync under SIGKILL\n\n\
             `cargo xtask crash sync` wrote this file. A hub and four sites run as processes: the \
             master, whose file a program writes to; `donor`, from which copies are taken, as they are from the master; \
             `applier`; and `joiner`, which takes its copy anew again and again. At random moments \
             one of them is killed with SIGKILL and started again, {} times. In the end `verify` \
             and a checker that reads every row of every table in the order of keys agree; so do \
             counters to which each publish adds one, under a key, until it is acknowledged.\n\n\
             Seed {}, {} rows of base data, {} profile.\n\n{}",
            self.kills(),
            self.seed,
            self.base_rows,
            // Both are built alike.
            if cfg!(debug_assertions) {
                "dev"
            } else {
                "release"
            },
            self.text()
        )
    }
}
