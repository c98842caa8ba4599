//! The tables.

use crate::figures::{count, figure, spread};
use crate::results::Block;
use crate::stats::{Summary, ratios};
use crate::table::{Align, Table};

use super::rounds::{Figures, Measured, OPERATIONS, Plan};

/// One table for all operations, the timers of an operation together.
pub(super) fn blocks(plan: &Plan, measured: &Measured) -> Vec<Block> {
    let mut table = Table::new(&[
        ("operation", Align::Left),
        ("timer", Align::Left),
        ("CPU ns, median", Align::Right),
        ("min–max", Align::Right),
        ("times the wheel", Align::Right),
        ("min–max", Align::Right),
        ("wall / CPU", Align::Right),
    ]);
    for (index, operation) in OPERATIONS.iter().enumerate() {
        for timer in &measured.timers {
            if let Some(cells) = row(measured, timer, index) {
                let names = [(*operation).to_owned(), timer.name.to_owned()];
                table.row(names.into_iter().chain(cells));
            }
        }
    }
    let rounds = measured.timers[0].cpu_ns[0].len();
    let conditions = format!(
        "{} deadlines pending, spread over {} s; {rounds} rounds.",
        count(plan.pending as u64),
        figure(plan.spread.as_secs_f64()),
    );
    vec![
        Block::Text(conditions),
        Block::Table("Cost of one operation".to_owned(), table),
        Block::Table("Bars".to_owned(), bars(measured)),
    ]
}

/// What the wheel is to cost with all deadlines pending, in CPU nanoseconds.
const BARS: [(&str, f64); 4] = [
    ("insert, after in order", 5.0),
    ("insert, after random", 5.0),
    ("cancel, in order", 40.0),
    ("cancel, random", 40.0),
];

/// Whether the wheel's medians are below the bars.
fn bars(measured: &Measured) -> Table {
    let mut table = Table::new(&[
        ("operation of the wheel", Align::Left),
        ("CPU ns, median", Align::Right),
        ("bar", Align::Right),
        ("", Align::Left),
    ]);
    for (operation, bar) in BARS {
        let series = OPERATIONS
            .iter()
            .position(|name| *name == operation)
            .and_then(|index| Summary::of(&measured.timers[0].cpu_ns[index]));
        if let Some(cost) = series {
            let verdict = if cost.median < bar { "kept" } else { "MISSED" };
            let cells = [figure(cost.median), figure(bar), verdict.to_owned()];
            table.row(std::iter::once(operation.to_owned()).chain(cells));
        }
    }
    table
}

/// The figures of one timer's operation; none without rounds.
fn row(measured: &Measured, timer: &Figures, operation: usize) -> Option<[String; 5]> {
    let series = &timer.cpu_ns[operation];
    let cost = Summary::of(series)?;
    let wall = Summary::of(&timer.wall_to_cpu[operation])?;
    let wheel = &measured.timers[0];
    let (times, times_spread) = if timer.name == wheel.name {
        ("1".to_owned(), String::new())
    } else {
        let times = Summary::of(&ratios(series, &wheel.cpu_ns[operation]))?;
        (figure(times.median), spread(&times))
    };
    Some([
        figure(cost.median),
        spread(&cost),
        times,
        times_spread,
        figure(wall.median),
    ])
}
