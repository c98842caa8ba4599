//! The tables.

use std::collections::BTreeMap;

use crate::figures::{count, figure, percent, spread};
use crate::results::Block;
use crate::stats::{Summary, number, share};
use crate::table::{Align, Table};

use super::search::{self, Verdict};
use super::step::{Layers, Step};
use super::{Args, Measured};

/// Everything that was measured.
pub(super) fn blocks(args: &Args, measured: &Measured) -> Vec<Block> {
    let conditions = format!(
        "{} clients; each run sends for {} s; {} rounds of the fixed rates.",
        count(args.clients.into()),
        args.seconds,
        args.rounds
    );
    let mut blocks = vec![
        Block::Text(conditions),
        Block::Table("Messages".to_owned(), messages(measured)),
    ];
    if let Some(answer) = highest(args, measured) {
        blocks.push(Block::Text(answer));
    }
    let heading = "CPU for an acknowledged message, in µs".to_owned();
    blocks.push(Block::Table(heading, cpu(measured)));
    let heading = "Time by layer, in ms".to_owned();
    blocks.push(Block::Table(heading, time(measured)));
    blocks
}

/// The steps of each row: those of a fixed rate, or one of the search with its verdict.
fn rows(measured: &Measured) -> impl Iterator<Item = (String, Vec<&Step>)> {
    let rate = |step: &Step| count(step.rate.into());
    let fixed = measured.fixed.iter().filter_map(move |steps| {
        let first = steps.first()?;
        Some((rate(first), steps.iter().collect()))
    });
    let search = measured.search.iter();
    fixed.chain(search.map(move |(step, verdict)| {
        let name = match verdict {
            Verdict::Sustained => format!("search {}", rate(step)),
            _ => format!("search {}: {verdict}", rate(step)),
        };
        (name, vec![step])
    }))
}

/// The median of a figure over a row's steps. A row has a step, so there is one.
fn median(steps: &[&Step], read: impl Fn(&Step) -> f64) -> f64 {
    summary(steps, read).map_or(0.0, |summary| summary.median)
}

fn summary(steps: &[&Step], read: impl Fn(&Step) -> f64) -> Option<Summary> {
    let values: Vec<f64> = steps.iter().map(|step| read(step)).collect();
    Summary::of(&values)
}

/// The median, and the extremes where there is more than one value.
fn with_spread(steps: &[&Step], read: impl Fn(&Step) -> f64) -> String {
    match summary(steps, read) {
        Some(summary) if steps.len() > 1 => {
            format!("{} ({})", figure(summary.median), spread(&summary))
        }
        Some(summary) => figure(summary.median),
        None => String::new(),
    }
}

fn total(steps: &[&Step], read: impl Fn(&Step) -> u64) -> String {
    count(steps.iter().map(|step| read(step)).sum())
}

fn messages(measured: &Measured) -> Table {
    let mut table = Table::new(&[
        ("messages/s asked", Align::Left),
        ("acked/s", Align::Right),
        ("deliveries/s", Align::Right),
        ("delivery p50 ms", Align::Right),
        ("p99 ms", Align::Right),
        ("ack p50 ms", Align::Right),
        ("p99 ms", Align::Right),
        ("lost", Align::Right),
        ("duplicated", Align::Right),
        ("out of order", Align::Right),
        ("given up", Align::Right),
        ("sent late", Align::Right),
    ]);
    for (name, steps) in rows(measured) {
        let steps = steps.as_slice();
        let per_second = |read: fn(&Step) -> u64| {
            let each = |step: &Step| number(read(step)) / step.report.seconds;
            figure(median(steps, each))
        };
        table.row([
            name,
            per_second(|step| step.report.acknowledged),
            per_second(|step| step.report.delivered),
            with_spread(steps, |step| number(step.report.p50_us) / 1000.0),
            with_spread(steps, |step| number(step.report.p99_us) / 1000.0),
            with_spread(steps, |step| number(step.report.ack_p50_us) / 1000.0),
            with_spread(steps, |step| number(step.report.ack_p99_us) / 1000.0),
            total(steps, |step| step.report.lost),
            total(steps, |step| step.report.duplicated),
            total(steps, |step| step.report.out_of_order),
            total(steps, |step| step.report.errors),
            total(steps, |step| step.report.late_sends),
        ]);
    }
    table
}

/// What all steps together say of the highest rate; none when it was not searched for.
fn highest(args: &Args, measured: &Measured) -> Option<String> {
    if measured.search.is_empty() {
        return None;
    }
    let fixed = measured.fixed.iter().flatten();
    let search = measured.search.iter().map(|(step, _)| step);
    let mut rates: BTreeMap<u32, Verdict> = BTreeMap::new();
    for step in fixed.chain(search) {
        let verdict = search::judge(&step.report, args.p99_max());
        let best = rates.entry(step.rate).or_insert(verdict);
        *best = verdict.min(*best);
    }
    let is_good = |verdict: &Verdict| *verdict == Verdict::Sustained;
    // Above a rate that failed nothing counts.
    let failed = rates.iter().find(|(_, verdict)| !is_good(verdict));
    let sustained = rates
        .iter()
        .take_while(|(_, verdict)| is_good(verdict))
        .last();
    let bound = args.p99_max;
    let rate = |found: Option<(&u32, &Verdict)>| {
        found.map_or("none".to_owned(), |(&rate, _)| count(rate.into()))
    };
    Some(format!(
        "The highest rate that was sustained in one of its runs (delivery p99 at most {bound} ms, \
         acks complete, the generator in time), in messages/s: {}. The lowest that was not: {}.",
        rate(sustained),
        rate(failed)
    ))
}

/// The shares of the layers in their sum: `43 / 30 / 27`.
fn shares(layers: Layers) -> String {
    let sum = layers.sum();
    let parts = [layers.entry, layers.logic, layers.das];
    parts.map(|part| percent(share(part, sum))).join(" / ")
}

fn cpu(measured: &Measured) -> Table {
    let mut table = Table::new(&[
        ("messages/s asked", Align::Left),
        ("Entry", Align::Right),
        ("Logic", Align::Right),
        ("Das", Align::Right),
        ("all three", Align::Right),
        ("Entry / Logic / Das", Align::Right),
        ("messages per CPU s", Align::Right),
        ("supervisor", Align::Right),
        ("generator", Align::Right),
    ]);
    for (name, steps) in rows(measured) {
        let steps = steps.as_slice();
        let layers = Layers {
            entry: median(steps, |step| step.cpu_us.layers.entry),
            logic: median(steps, |step| step.cpu_us.layers.logic),
            das: median(steps, |step| step.cpu_us.layers.das),
        };
        table.row([
            name,
            with_spread(steps, |step| step.cpu_us.layers.entry),
            with_spread(steps, |step| step.cpu_us.layers.logic),
            with_spread(steps, |step| step.cpu_us.layers.das),
            with_spread(steps, |step| step.cpu_us.layers.sum()),
            shares(layers),
            figure(share(1e6, layers.sum())),
            figure(median(steps, |step| step.cpu_us.supervisor)),
            figure(median(steps, |step| step.cpu_us.generator)),
        ]);
    }
    table
}

fn time(measured: &Measured) -> Table {
    let mut table = Table::new(&[
        ("messages/s asked", Align::Left),
        ("Entry", Align::Right),
        ("Logic", Align::Right),
        ("Das", Align::Right),
        ("Entry to ack, mean", Align::Right),
        ("Entry / Logic / Das", Align::Right),
        ("client: ack p50", Align::Right),
        ("delivery p50", Align::Right),
    ]);
    for (name, steps) in rows(measured) {
        let steps = steps.as_slice();
        let own_ms =
            |step: &Step, layer: fn(Layers) -> f64| layer(step.in_role_us.own_parts()) / 1000.0;
        let layers = Layers {
            entry: median(steps, |step| own_ms(step, |own| own.entry)),
            logic: median(steps, |step| own_ms(step, |own| own.logic)),
            das: median(steps, |step| own_ms(step, |own| own.das)),
        };
        table.row([
            name,
            with_spread(steps, |step| own_ms(step, |own| own.entry)),
            with_spread(steps, |step| own_ms(step, |own| own.logic)),
            with_spread(steps, |step| own_ms(step, |own| own.das)),
            with_spread(steps, |step| step.in_role_us.entry / 1000.0),
            shares(layers),
            figure(median(steps, |step| {
                number(step.report.ack_p50_us) / 1000.0
            })),
            figure(median(steps, |step| number(step.report.p50_us) / 1000.0)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use waystation_im::load::Report;

    use super::super::step::CpuUs;
    use super::*;

    fn step(rate: u32, p50_us: u64) -> Step {
        let mut report = Report::default();
        (report.sent, report.acknowledged, report.delivered) = (1_000, 1_000, 4_000);
        (report.seconds, report.p50_us, report.p99_us) = (2.0, p50_us, 10 * p50_us);
        let layers = |entry, logic, das| Layers { entry, logic, das };
        Step {
            rate,
            report,
            cpu_us: CpuUs {
                layers: layers(50.0, 30.0, 20.0),
                supervisor: 1.0,
                generator: 15.0,
            },
            in_role_us: layers(1_500.0, 1_000.0, 700.0),
        }
    }

    fn has(table: &Table, expected: &[&str]) {
        let text = table.markdown();
        for cell in expected {
            assert!(
                text.contains(&format!(" {cell} ")),
                "{cell} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_row_shows_the_median_of_its_rounds_and_their_extremes() {
        let measured = Measured {
            fixed: vec![vec![step(500, 3_000), step(500, 2_000), step(500, 9_000)]],
            search: vec![(step(1_000, 4_000), Verdict::Slow)],
        };
        let table = messages(&measured);
        has(
            &table,
            &["500", "2,000", "3.00 (2.00–9.00)", "30.0 (20.0–90.0)"],
        );
        has(
            &table,
            &["search 1,000: delivery p99 too long", "4.00", "40.0"],
        );
        has(
            &cpu(&measured),
            &["100 (100–100)", "50.0 % / 30.0 % / 20.0 %", "10,000"],
        );
    }

    #[test]
    fn a_layers_time_is_without_that_of_the_layers_below() {
        let measured = Measured {
            fixed: vec![vec![step(500, 2_000), step(500, 2_000)]],
            search: Vec::new(),
        };
        let expected = ["0.50 (0.50–0.50)", "0.30 (0.30–0.30)", "0.70 (0.70–0.70)"];
        has(&time(&measured), &expected);
        has(
            &time(&measured),
            &["1.50 (1.50–1.50)", "33.3 % / 20.0 % / 46.7 %", "2.00"],
        );
    }

    #[test]
    fn nothing_above_a_rate_that_failed_counts() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let args = Cli::parse_from(["bench"]).args;
        // 1 ms of p50 is 10 ms of p99, 20 ms are 200.
        let mut measured = Measured {
            fixed: vec![
                vec![step(2_000, 1_000)],
                vec![step(4_000, 1_000), step(4_000, 1_000)],
            ],
            search: vec![(step(8_000, 20_000), Verdict::Slow)],
        };
        let answer = highest(&args, &measured).unwrap();
        assert!(
            answer.contains(": 4,000. The lowest that was not: 8,000."),
            "{answer}"
        );
        // One bad round of two is the machine's.
        measured.fixed[1][0] = step(4_000, 20_000);
        assert_eq!(highest(&args, &measured).unwrap(), answer);
        measured.fixed[1][1] = step(4_000, 20_000);
        let answer = highest(&args, &measured).unwrap();
        assert!(
            answer.contains(": 2,000. The lowest that was not: 4,000."),
            "{answer}"
        );
        measured.fixed[0][0] = step(2_000, 20_000);
        let answer = highest(&args, &measured).unwrap();
        assert!(
            answer.contains(": none. The lowest that was not: 2,000."),
            "{answer}"
        );
        measured.search.clear();
        assert_eq!(highest(&args, &measured), None);
    }
}
