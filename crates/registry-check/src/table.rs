//! Runs all cases for a backend, and prints what all backends did so far.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cases::{Case, cases};
use crate::fixture::{Ability, Fixture};
use crate::world::World;

/// What became of a case.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Passed(Duration),
    Failed,
    LeftOut,
}

type Column = BTreeMap<&'static str, Outcome>;

/// What backends of this process did, by name.
static TABLE: Mutex<BTreeMap<&'static str, Column>> = Mutex::new(BTreeMap::new());

/// Runs every case that the backend has the abilities for, several at once.
/// `program` is this crate's.
///
/// # Panics
/// When a case failed; all of them have run then, and are named.
pub fn conform<F: Fixture>(program: &Path) {
    let cases = cases::<F>();
    let next = AtomicUsize::new(0);
    let column = Mutex::new(Column::new());
    std::thread::scope(|scope| {
        for _ in 0..F::AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(program, case);
                    let mut column = column.lock().unwrap_or_else(PoisonError::into_inner);
                    column.insert(case.name, outcome);
                }
            });
        }
    });
    let column = column.into_inner().unwrap_or_else(PoisonError::into_inner);
    let is_failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed);
    let failed = column.iter().filter(|(_, outcome)| is_failed(outcome));
    let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    table.insert(F::NAME, column);
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    // Straight to standard error: what a test prints otherwise is not shown.
    let _ = std::io::stderr().write_all(print(&names, &table).as_bytes());
    drop(table);
    assert!(
        failed.is_empty(),
        "{}: {} failed",
        F::NAME,
        failed.join(", ")
    );
}

fn run<F: Fixture>(program: &Path, case: &Case<F>) -> Outcome {
    let can = |ability: &Ability| F::ABILITIES.contains(ability);
    if !case.needs.iter().all(can) {
        return Outcome::LeftOut;
    }
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::<F>::new(program, case.is_alone);
        (case.run)(&mut world)
    }));
    result.map_or(Outcome::Failed, Outcome::Passed)
}

fn print(cases: &[&str], table: &BTreeMap<&str, Column>) -> String {
    let width = cases.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut text = format!("\n{:<width$}", "case");
    for backend in table.keys() {
        let _ = write!(text, "  {backend:>12}");
    }
    for case in cases {
        let _ = write!(text, "\n{case:<width$}");
        for column in table.values() {
            let cell = match column.get(case) {
                Some(Outcome::Passed(took)) => format!("{:.1} ms", took.as_secs_f64() * 1e3),
                Some(Outcome::Failed) => "FAILED".to_owned(),
                Some(Outcome::LeftOut) | None => "-".to_owned(),
            };
            let _ = write!(text, "  {cell:>12}");
        }
    }
    text + "\n\n"
}
