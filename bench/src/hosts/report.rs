//! What the runs came to, and whether the default is the best of them.

use waystation_balance::PolicyKind;

use super::load::Outcomes;
use super::{POLICIES, SLOW};
use crate::bars::Bars;
use crate::figures::{count, figure, percent, spread};
use crate::results::Block;
use crate::stats::{Summary, number, ratios, share};
use crate::table::{Align, Table};

/// By how much the share of failed calls may be above that of another policy.
const FAILED_MORE_MAX: f64 = 0.001;

/// All runs at one rate.
pub(super) struct Level {
    /// Calls a second.
    pub(super) rate: u32,
    /// What came of each round, by policy.
    pub(super) rounds: [Vec<Outcomes>; POLICIES.len()],
}

impl Level {
    pub(super) fn at(rate: u32) -> Self {
        Self {
            rate,
            rounds: POLICIES.map(|_| Vec::new()),
        }
    }

    fn of(&self, policy: PolicyKind) -> &[Outcomes] {
        let at = POLICIES.iter().position(|one| *one == policy);
        at.map_or(&[], |at| &self.rounds[at])
    }

    /// The p99 of each round.
    fn p99s(&self, policy: PolicyKind) -> Vec<f64> {
        let rounds = self.of(policy).iter();
        rounds.map(|one| one.clone().at_ms(990)).collect()
    }

    fn failed(&self, policy: PolicyKind) -> f64 {
        let (mut failed, mut calls) = (0, 0);
        for one in self.of(policy) {
            failed += one.failed;
            calls += one.calls();
        }
        share(number(failed), number(calls))
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("policy", Align::Left),
            ("calls", Align::Right),
            ("p50, ms", Align::Right),
            ("p99", Align::Right),
            ("p99 of rounds", Align::Right),
            ("p99.9", Align::Right),
            ("failed", Align::Right),
            ("at slowed hosts", Align::Right),
        ]);
        for policy in POLICIES {
            let mut all = Outcomes::default();
            self.of(policy).iter().for_each(|one| all.add(one));
            let slowed: u64 = all.by_host.iter().take(SLOW).sum();
            let answers: u64 = all.by_host.iter().sum();
            let rounds = Summary::of(&self.p99s(policy));
            table.row([
                policy.name().to_owned(),
                count(all.calls()),
                figure(all.at_ms(500)),
                figure(all.at_ms(990)),
                rounds.as_ref().map_or_else(String::new, spread),
                figure(all.at_ms(999)),
                count(all.failed),
                percent(share(number(slowed), number(answers))),
            ]);
        }
        table
    }

    /// One policy's p99 beside another's, round by round, and the word for it: it is
    /// not worse than the other if the median says so, and no more of its calls fail.
    fn beside(&self, one: PolicyKind, other: PolicyKind, bars: &mut Bars) -> String {
        let ratios = ratios(&self.p99s(one), &self.p99s(other));
        let Some(ratio) = Summary::of(&ratios) else {
            return String::new();
        };
        let names = format!("{} beside {}", one.name(), other.name());
        let fails_more = self.failed(one) > self.failed(other) + FAILED_MORE_MAX;
        let word = bars.word(
            format!("{names} at {}", self.rate),
            ratio.median <= 1.0 && !fails_more,
        );
        let (median, spread) = (figure(ratio.median), spread(&ratio));
        format!("{names} {median} ({spread}): {word}")
    }
}

/// The tables, and a paragraph of bars for each.
pub(super) fn blocks(levels: &mut [Level], bars: &mut Bars) -> Vec<Block> {
    let mut blocks = Vec::new();
    for level in levels {
        let heading = format!("{} calls a second", count(level.rate.into()));
        blocks.push(Block::Table(heading, level.table()));
        let others = POLICIES[1..].iter().map(|&other| (POLICIES[0], other));
        let pairs = others.chain([(PolicyKind::Prequal, PolicyKind::RoundRobin)]);
        let lines: Vec<String> = pairs
            .map(|(one, other)| level.beside(one, other, bars))
            .collect();
        let text = format!("p99 as a multiple, of rounds: {}.", lines.join("; "));
        blocks.push(Block::Text(text));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A round of calls that took so long each, and of which so many failed.
    fn round(ms: u64, failed: usize) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for number in 0..1_000 {
            let answer = (number >= failed).then_some(3);
            outcomes.note(Duration::from_millis(ms), answer);
        }
        outcomes
    }

    fn level(own: Vec<Outcomes>, other: &[Outcomes]) -> Level {
        let mut level = Level::at(100);
        level.rounds.fill(other.to_vec());
        level.rounds[0] = own;
        level
    }

    fn missed(level: Level) -> String {
        let mut bars = Bars::default();
        blocks(&mut [level], &mut bars);
        bars.finish()
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn the_default_is_as_good_as_another_that_is_not_better_in_most_rounds() {
        let other = [round(20, 0), round(20, 0), round(20, 0)];
        let own = |times: [u64; 3]| times.map(|ms| round(ms, 0)).into();
        assert_eq!(missed(level(own([10, 20, 90]), &other)), "");
        let worse = missed(level(own([10, 21, 21]), &other));
        for name in ["round-robin", "lars", "p2c", "prequal"] {
            let bar = format!("fresh beside {name} at 100");
            assert!(worse.contains(&bar), "{worse}");
        }
        assert!(!worse.contains("prequal beside round-robin"), "{worse}");
    }

    #[test]
    fn who_fails_is_not_better_for_being_fast() {
        let other = [round(20, 1)];
        assert_eq!(missed(level(vec![round(10, 2)], &other)), "");
        assert_ne!(missed(level(vec![round(10, 3)], &other)), "");
    }

    #[test]
    fn prequal_is_compared_with_round_robin() {
        let mut level = level(vec![round(10, 0)], &[round(20, 0)]);
        level.rounds[4] = vec![round(21, 0)];
        assert_eq!(missed(level), "missed: prequal beside round-robin at 100");
    }

    #[test]
    fn a_table_has_a_row_for_each_policy() {
        let text = level(vec![round(10, 0)], &[round(20, 5)])
            .table()
            .markdown();
        assert_eq!(text.lines().count(), 2 + POLICIES.len(), "{text}");
        assert!(text.contains("20.0–20.0"), "{text}");
    }
}
