//! Policies beside each other, in worlds of callers that do not see each other's
//! load.

mod baselines;
mod caller;
mod contenders;
mod figures;
mod pairs;
mod report;
mod server;
#[cfg(test)]
mod tests;
mod workload;
mod world;

use std::path::Path;
use std::process::ExitCode;

use figures::Figures;
use report::Results;
use workload::Workload;

/// How to call it.
pub(crate) const USAGE: &str =
    "balance [--seeds COUNT] [--workload NAME] [--policy NAME] [--save FILE]";

/// Worlds of each workload; their figures are taken together.
const SEEDS_DEFAULT: u64 = 2;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    seeds: u64,
    /// Only workloads and policies whose name has this in it.
    workload: String,
    policy: String,
    save: Option<String>,
}

/// Runs what the arguments behind `balance` say.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let Some(options) = parse(arguments) else {
        eprintln!("usage: waystation-sim {USAGE}");
        return ExitCode::from(2);
    };
    let mut text = String::new();
    let mut results = Results::new();
    for workload in workload::all() {
        if workload.name.contains(&options.workload) {
            let rows = rows(&workload, &options);
            let table = report::table(&workload, &rows);
            print!("{table}");
            text.push_str(&table);
            results.push((workload, rows));
        }
    }
    let bars = report::bars(&results);
    let mut ending = report::bars_table(&bars);
    if options.workload.is_empty() && options.policy.is_empty() {
        ending.push_str(&pairs::table(0));
    }
    print!("{ending}");
    if let Some(file) = &options.save {
        let seeds = format!(
            "\nSeeds 0 to {}, taken together: `cargo xtask sim balance --seeds {}`.\n",
            options.seeds - 1,
            options.seeds
        );
        let whole = [report::ABOUT, &seeds, &text, &ending].concat();
        if let Err(error) = std::fs::write(Path::new(file), whole) {
            eprintln!("cannot write {file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if bars.iter().all(|bar| bar.is_kept || !bar.is_promised) {
        ExitCode::SUCCESS
    } else {
        eprintln!("a promise is not kept");
        ExitCode::FAILURE
    }
}

fn rows(workload: &Workload, options: &Options) -> Vec<report::Row> {
    let mut rows = Vec::new();
    for contender in contenders::all() {
        if contender.name.contains(&options.policy) {
            let mut figures = Figures::default();
            for seed in 0..options.seeds {
                figures.add(world::run(workload, &contender, seed));
            }
            rows.push((contender.name, figures));
        }
    }
    rows
}

/// What the arguments mean; `None` when they make no sense.
fn parse(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        seeds: SEEDS_DEFAULT,
        workload: String::new(),
        policy: String::new(),
        save: None,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seeds" => options.seeds = value.parse().ok().filter(|&count| count > 0)?,
            "--workload" => options.workload.clone_from(value),
            "--policy" => options.policy.clone_from(value),
            "--save" => options.save = Some(value.clone()),
            _ => return None,
        }
    }
    Some(options)
}
