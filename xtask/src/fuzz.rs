//! `cargo xtask fuzz`: every fuzz target for some time, one after another, and what came of it as a
//! results file.

use std::fs;
use std::io;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{environment, process, tidy};

/// Where the results go, from the root.
const RESULTS: &str = "bench/results/fuzz.md";

/// What the run of one target came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    target: String,
    /// Inputs that were run.
    runs: u64,
    seconds: u64,
    /// Inputs that each reach something that no other does.
    corpus: u64,
    /// Edges of the program that were reached.
    edges: u64,
    /// What stopped it; empty when nothing was found.
    findings: Vec<String>,
}

impl Report {
    fn of(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            ..Self::default()
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Takes one line that the fuzzer printed.
    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let behind = |word: &str| {
            let place = words.iter().position(|found| *found == word)?;
            let digits = words.get(place + 1)?.split('/').next()?;
            digits.parse::<u64>().ok()
        };
        if let ["Done", runs, "runs", "in", seconds, ..] = words[..] {
            self.runs = runs.parse().unwrap_or(self.runs);
            self.seconds = seconds.parse().unwrap_or(self.seconds);
        } else if line.starts_with('#') {
            self.corpus = behind("corp:").unwrap_or(self.corpus);
            self.edges = behind("cov:").unwrap_or(self.edges);
        } else if let Some(finding) = line.strip_prefix("SUMMARY: ") {
            self.findings.push(finding.to_owned());
        }
    }
}

/// Whether the nightly toolchain and cargo-fuzz are there; says so when they are not.
pub(crate) fn is_available() -> bool {
    let available = process::works(nightly().args(["fuzz", "--version"]));
    if !available {
        eprintln!("==> fuzzing needs the nightly toolchain and cargo-fuzz:");
        eprintln!("    rustup toolchain install nightly && cargo install --locked cargo-fuzz");
    }
    available
}

/// Runs each target for so long.
///
/// # Errors
/// The manifest cannot be read, or a program cannot be started.
pub(crate) fn run_all(seconds: u32) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for target in targets()? {
        reports.push(run_one(&target, seconds)?);
    }
    Ok(reports)
}

/// `cargo xtask fuzz`: runs the targets that are named, or all, and writes the results file after
/// each; true when nothing was found. A row stays until its target runs again.
///
/// # Errors
/// A name is no target; a tool is missing; a program cannot be started; the file cannot be read or
/// written.
pub(crate) fn run(seconds: u32, names: &[String]) -> Result<bool> {
    if !is_available() {
        bail!("a tool is missing");
    }
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("no fuzz target {unknown:?}: there are {}", all.join(", "));
    }
    let path = environment::root().join(RESULTS);
    let mut is_clean = true;
    for target in all
        .iter()
        .filter(|target| names.is_empty() || names.contains(target))
    {
        let circumstances = Circumstances::here();
        let report = run_one(target, seconds)?;
        is_clean &= report.is_clean();
        let earlier = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {RESULTS}"))?,
        };
        let text = results(&all, &earlier, &report, &circumstances);
        fs::write(&path, &text).with_context(|| format!("cannot write {RESULTS}"))?;
        println!("{}", row(&report, &circumstances));
    }
    Ok(is_clean)
}

/// The names of all targets, in the manifest's order.
fn targets() -> Result<Vec<String>> {
    let manifest = fs::read_to_string(environment::root().join(tidy::FUZZ_MANIFEST))
        .with_context(|| format!("cannot read {}", tidy::FUZZ_MANIFEST))?;
    let targets = tidy::fuzz_targets(&manifest)?;
    Ok(targets.into_iter().map(|target| target.name).collect())
}

/// Runs one target from its committed seeds; what it finds joins a corpus that is not committed.
fn run_one(name: &str, seconds: u32) -> Result<Report> {
    eprintln!("==> fuzz {name} for {seconds} s");
    let (corpus, seeds) = (format!("fuzz/corpus/{name}"), format!("fuzz/seeds/{name}"));
    let root = environment::root();
    fs::create_dir_all(root.join(&corpus)).with_context(|| format!("cannot make {corpus}"))?;
    let mut command = nightly();
    command.args(["fuzz", "run", name, &corpus]);
    if root.join(&seeds).is_dir() {
        command.arg(&seeds);
    }
    command.args(["--", &format!("-max_total_time={seconds}")]);
    let mut report = Report::of(name);
    let status = process::stream(&mut command, process::SILENCE_MAX, |origin, line| {
        report.read(line);
        process::echo(origin, line);
    })?;
    if !status.success() && report.is_clean() {
        report.findings.push(format!("it ended with {status}"));
    }
    Ok(report)
}

/// Cargo on the nightly toolchain, past the toolchain that this repository pins.
pub(crate) fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo"])
        .current_dir(environment::root());
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

/// Where and when a target ran.
struct Circumstances {
    date: String,
    revision: String,
    compiler: String,
}

impl Circumstances {
    fn here() -> Self {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program)
                .args(arguments)
                .current_dir(environment::root())
                .output();
            let text = output.ok().filter(|output| output.status.success());
            text.map_or_else(
                || "unknown".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )
        };
        let compiler = said("rustup", &["run", "nightly", "rustc", "--version"]);
        Self {
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            revision: said("git", &["rev-parse", "--short=12", "HEAD"]),
            compiler: compiler.split(" (").next().unwrap_or_default().to_owned(),
        }
    }
}

/// A target's line of the table.
fn row(report: &Report, circumstances: &Circumstances) -> String {
    let findings = if report.is_clean() {
        "none".to_owned()
    } else {
        report.findings.join("; ")
    };
    format!(
        "| `{}` | {} | {} | {} | {} | {findings} | {} | {} | {} |",
        report.target,
        report.runs,
        report.seconds,
        report.corpus,
        report.edges,
        circumstances.date,
        circumstances.revision,
        circumstances.compiler,
    )
}

/// The results file with the new row, and those of the file before for all other targets there are.
fn results(
    all: &[String],
    earlier: &str,
    report: &Report,
    circumstances: &Circumstances,
) -> String {
    let mut text = String::from(
        "# `cargo xtask fuzz`\n\nEvery decoder of outside bytes, and every core that is driven by lists \
         of operations, under\nlibFuzzer and the address sanitizer: one target after another, each on \
         one core, at the lowest\npriority beside other work. The targets and what each asserts stand \
         in `fuzz/README.md`. A row is\nthe last run of its target.\n\n\
         | target | runs | seconds | inputs in the corpus | edges reached | findings | date | revision \
         | compiler |\n| --- | ---: | ---: | ---: | ---: | --- | --- | --- | --- |\n",
    );
    for target in all {
        let head = format!("| `{target}` |");
        let line = if *target == report.target {
            Some(row(report, circumstances))
        } else {
            let mut lines = earlier.lines();
            lines
                .find(|line| line.starts_with(&head))
                .map(str::to_owned)
        };
        if let Some(line) = line {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances() -> Circumstances {
        Circumstances {
            date: "today".to_owned(),
            revision: "abc".to_owned(),
            compiler: "rustc 1".to_owned(),
        }
    }

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::of("walk");
        for line in lines {
            report.read(line);
        }
        report
    }

    #[test]
    fn the_figures_are_those_of_the_last_lines() {
        let clean = report(&[
            "INFO: Running with entropic power schedule (0xFF, 100).",
            "#2\tINITED cov: 11 ft: 12 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#900\tDONE   cov: 21 ft: 33 corp: 7/145Kb lim: 4096 exec/s: 15 rss: 41Mb",
            "Done 900 runs in 61 second(s)",
        ]);
        let figures = (clean.runs, clean.seconds, clean.corpus, clean.edges);
        assert_eq!(figures, (900, 61, 7, 21));
        assert!(clean.is_clean());
        assert_eq!(
            row(&clean, &circumstances()),
            "| `walk` | 900 | 61 | 7 | 21 | none | today | abc | rustc 1 |"
        );
    }

    #[test]
    fn a_row_stays_until_its_target_runs_again() {
        let all = ["first", "walk", "last"].map(str::to_owned);
        let earlier = "# head\n| `gone` | 1 |\n| `walk` | old |\n| `last` | kept |\n";
        let text = results(&all, earlier, &Report::of("walk"), &circumstances());
        assert!(text.ends_with("rustc 1 |\n| `last` | kept |\n"), "{text}");
        assert!(!text.contains("old") && !text.contains("gone"), "{text}");
    }

    #[test]
    fn a_finding_is_named() {
        let found = report(&["SUMMARY: libFuzzer: deadly signal"]);
        assert!(!found.is_clean());
        let row = row(&found, &circumstances());
        assert!(row.contains("| libFuzzer: deadly signal |"), "{row}");
    }
}
