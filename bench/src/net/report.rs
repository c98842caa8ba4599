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

/// What a bar is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// Requests for a CPU second: so many times the other's, or more.
    PerCpuSecond,
    /// The 99th percentile of latency: lower than so many times the other's.
    P99,
}

/// What one side is to reach, in times another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    figure: Figure,
    side: &'static str,
    against: &'static str,
    pipeline: usize,
    times: f64,
}

impl Bar {
    /// At least so many requests for a CPU second, in times the other's.
    pub(crate) const fn new(
        side: &'static str,
        against: &'static str,
        pipeline: usize,
        times: f64,
    ) -> Self {
        Self {
            figure: Figure::PerCpuSecond,
            side,
            against,
            pipeline,
            times,
        }
    }

    /// A lower p99 than the other's.
    pub(crate) const fn lower_p99(
        side: &'static str,
        against: &'static str,
        pipeline: usize,
    ) -> Self {
        Self {
            figure: Figure::P99,
            times: 1.0,
            ..Self::new(side, against, pipeline, 1.0)
        }
    }

    /// What was reached, round by round.
    fn reached(&self, side: &[Measured], other: &[Measured]) -> Option<Summary> {
        match self.figure {
            Figure::PerCpuSecond => times(side, other),
            Figure::P99 => times_of(side, other, |one| one.p99_ms),
        }
    }

    fn what(&self) -> (&'static str, String) {
        match self.figure {
            Figure::PerCpuSecond => ("requests/CPU s", format!("≥ {}", figure(self.times))),
            Figure::P99 => ("p99", format!("< {}", figure(self.times))),
        }
    }

    fn is_kept(&self, reached: f64) -> bool {
        match self.figure {
            Figure::PerCpuSecond => reached >= self.times,
            Figure::P99 => reached < self.times,
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

    /// A table of all cases, and one of the bars. `by` says who put the load.
    pub(crate) fn blocks(&self, by: &str, bars: &[Bar]) -> Vec<Block> {
        vec![
            Block::Table(
                format!("Requests for a CPU second of the server, {by}"),
                self.table(),
            ),
            Block::Table(format!("Bars, {by}"), self.bars(bars)),
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
            ("figure", Align::Left),
            ("bar, times it", Align::Right),
            ("reached, median", Align::Right),
            ("min–max", Align::Right),
            ("", Align::Left),
        ]);
        for (case, sides) in &self.cases {
            for bar in bars.iter().filter(|bar| bar.pipeline == case.pipeline) {
                let place = |side: &str| self.names.iter().position(|name| *name == side);
                let places = place(bar.side).zip(place(bar.against));
                let times =
                    places.and_then(|(side, other)| bar.reached(&sides[side], &sides[other]));
                let (Some(times), true) = (times, BAR_CONNECTIONS.contains(&case.connections))
                else {
                    continue;
                };
                let verdict = if bar.is_kept(times.median) {
                    "kept"
                } else {
                    "MISSED"
                };
                let (what, limit) = bar.what();
                table.row([
                    case.question.to_owned(),
                    count(case.connections as u64),
                    count(case.pipeline as u64),
                    bar.side.to_owned(),
                    bar.against.to_owned(),
                    what.to_owned(),
                    limit,
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
    times_of(side, other, |one| one.requests_per_cpu_second)
}

fn times_of(
    side: &[Measured],
    other: &[Measured],
    figure: fn(&Measured) -> f64,
) -> Option<Summary> {
    let of = |series: &[Measured]| -> Vec<f64> { series.iter().map(figure).collect() };
    (side.len() == other.len()).then_some(())?;
    Summary::of(&ratios(&of(side), &of(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(per_cpu: f64, p99_ms: f64) -> Measured {
        Measured {
            requests_per_second: 1.0,
            requests_per_cpu_second: per_cpu,
            p99_ms,
        }
    }

    /// The cells of a table, without its head.
    fn cells(table: &Table) -> Vec<Vec<String>> {
        let text = table.to_string();
        let lines = text.lines().skip(1);
        lines
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect()
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
                sides.add(0, case, measured(ours, 1.0));
                sides.add(1, case, measured(theirs, 2.0));
            }
        }
        let bars = [
            Bar::new("ours", "theirs", 1, 2.0),
            Bar::new("ours", "theirs", 16, 2.5),
        ];
        let expected = [
            "PING 50 1 ours theirs requests/CPU s ≥ 2.00 2.00 1.50–2.00 kept",
            "PING 50 16 ours theirs requests/CPU s ≥ 2.50 2.00 1.50–2.00 MISSED",
        ];
        let lines: Vec<String> = cells(&sides.bars(&bars))
            .iter()
            .map(|line| line.join(" "))
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_latency_is_to_be_lower() {
        let mut sides = Sides::new(["ours", "theirs"].into_iter());
        let case = Case {
            question: "GET",
            connections: 500,
            pipeline: 1,
        };
        sides.add(0, case, measured(1.0, 1.0));
        sides.add(1, case, measured(1.0, 2.0));
        let kept = Bar::lower_p99("ours", "theirs", 1);
        let missed = Bar::lower_p99("theirs", "ours", 1);
        let lines = cells(&sides.bars(&[kept, missed]));
        let ends: Vec<&str> = lines
            .iter()
            .map(|line| line[line.len() - 1].as_str())
            .collect();
        assert_eq!(ends, ["kept", "MISSED"]);
    }
}
