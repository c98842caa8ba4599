//! The tables: each case with all sides together, ours first.

use crate::figures::{count, figure, spread};
use crate::results::Block;
use crate::stats::{Summary, ratios};
use crate::table::{Align, Table};

use super::load::Measured;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) question: &'static str,
    pub(crate) connections: usize,
    pub(crate) pipeline: usize,
}

/// What one side is to reach for a CPU second, in times another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    side: &'static str,
    against: &'static str,
    pipeline: usize,
    times: f64,
}

impl Bar {
    pub(crate) const fn new(
        side: &'static str,
        against: &'static str,
        pipeline: usize,
        times: f64,
    ) -> Self {
        Self {
            side,
            against,
            pipeline,
            times,
        }
    }
}

/// Connections at which bars hold: with one the server mostly waits, and with thousands the kernel
/// decides.
const BAR_CONNECTIONS: &[usize] = &[50, 500];

/// All figures of a run, by case, side and round.
#[derive(Debug)]
pub(crate) struct Sides {
    names: Vec<&'static str>,
    cases: Vec<(Case, Vec<Vec<Measured>>)>,
}

impl Sides {
    pub(crate) fn new(names: impl Iterator<Item = &'static str>) -> Self {
        Self {
            names: names.collect(),
            cases: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, side: usize, case: Case, measured: Measured) {
        let place = self.cases.iter().position(|(known, _)| *known == case);
        let place = place.unwrap_or_else(|| {
            self.cases.push((case, vec![Vec::new(); self.names.len()]));
            self.cases.len() - 1
        });
        self.cases[place].1[side].push(measured);
    }

    /// A table of all cases, and one of the bars.
    pub(crate) fn blocks(&self, bars: &[Bar]) -> Vec<Block> {
        vec![
            Block::Table(
                "Requests for a CPU second of the server".to_owned(),
                self.table(),
            ),
            Block::Table("Bars".to_owned(), self.bars(bars)),
        ]
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("load", Align::Left),
            ("connections", Align::Right),
            ("pipeline", Align::Right),
            ("server", Align::Left),
            ("requests/CPU s", Align::Right),
            ("min–max", Align::Right),
            (self.names[0], Align::Right),
            ("min–max", Align::Right),
            ("requests/s", Align::Right),
            ("p99 ms", Align::Right),
        ]);
        for (case, sides) in &self.cases {
            for (name, series) in self.names.iter().zip(sides) {
                let column =
                    |of: fn(&Measured) -> f64| -> Vec<f64> { series.iter().map(of).collect() };
                let (Some(per_cpu), Some(rate), Some(p99)) = (
                    Summary::of(&column(|one| one.requests_per_cpu_second)),
                    Summary::of(&column(|one| one.requests_per_second)),
                    Summary::of(&column(|one| one.p99_ms)),
                ) else {
                    continue;
                };
                let (times, times_spread) = match times(&sides[0], series) {
                    Some(times) if *name != self.names[0] => {
                        (format!("{} times it", figure(times.median)), spread(&times))
                    }
                    _ => Default::default(),
                };
                table.row([
                    case.question.to_owned(),
                    count(case.connections as u64),
                    count(case.pipeline as u64),
                    (*name).to_owned(),
                    figure(per_cpu.median),
                    spread(&per_cpu),
                    times,
                    times_spread,
                    figure(rate.median),
                    figure(p99.median),
                ]);
            }
        }
        table
    }

    fn bars(&self, bars: &[Bar]) -> Table {
        let mut table = Table::new(&[
            ("load", Align::Left),
            ("connections", Align::Right),
            ("pipeline", Align::Right),
            ("side", Align::Left),
            ("against", Align::Left),
            ("bar", Align::Right),
            ("reached, median", Align::Right),
            ("min–max", Align::Right),
            ("", Align::Left),
        ]);
        for (case, sides) in &self.cases {
            for bar in bars.iter().filter(|bar| bar.pipeline == case.pipeline) {
                let place = |side: &str| self.names.iter().position(|name| *name == side);
                let places = place(bar.side).zip(place(bar.against));
                let times = places.and_then(|(side, other)| times(&sides[side], &sides[other]));
                let (Some(times), true) = (times, BAR_CONNECTIONS.contains(&case.connections))
                else {
                    continue;
                };
                let verdict = if times.median >= bar.times {
                    "met"
                } else {
                    "MISSED"
                };
                table.row([
                    case.question.to_owned(),
                    count(case.connections as u64),
                    count(case.pipeline as u64),
                    bar.side.to_owned(),
                    bar.against.to_owned(),
                    figure(bar.times),
                    figure(times.median),
                    spread(&times),
                    verdict.to_owned(),
                ]);
            }
        }
        table
    }
}

/// A side in times another, for a CPU second, round by round.
fn times(side: &[Measured], other: &[Measured]) -> Option<Summary> {
    let of = |series: &[Measured]| -> Vec<f64> {
        let per_cpu = series.iter().map(|one| one.requests_per_cpu_second);
        per_cpu.collect()
    };
    (side.len() == other.len()).then_some(())?;
    Summary::of(&ratios(&of(side), &of(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(per_cpu: f64) -> Measured {
        Measured {
            requests_per_second: 1.0,
            requests_per_cpu_second: per_cpu,
            p99_ms: 1.0,
        }
    }

    #[test]
    fn bars_compare_round_by_round_and_say_what_is_missed() {
        let mut sides = Sides::new(["ours", "theirs"].into_iter());
        for (ours, theirs) in [(2.0, 1.0), (30.0, 20.0), (4.0, 2.0)] {
            for pipeline in [1, 16] {
                let case = Case {
                    question: "PING",
                    connections: 50,
                    pipeline,
                };
                sides.add(0, case, measured(ours));
                sides.add(1, case, measured(theirs));
            }
        }
        let bars = [
            Bar::new("ours", "theirs", 1, 2.0),
            Bar::new("ours", "theirs", 16, 2.5),
        ];
        let text = sides.bars(&bars).to_string();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                [
                    "PING",
                    "50",
                    "1",
                    "ours",
                    "theirs",
                    "2.00",
                    "2.00",
                    "1.50–2.00",
                    "met"
                ],
                [
                    "PING",
                    "50",
                    "16",
                    "ours",
                    "theirs",
                    "2.50",
                    "2.00",
                    "1.50–2.00",
                    "MISSED"
                ],
            ]
        );
    }
}
