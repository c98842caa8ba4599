//! `cargo xtask fuzz`: every fuzz target for some time, one after another, and what came of it as a
//! results file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
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
    let manifest = fs::read_to_string(environment::root().join(tidy::FUZZ_MANIFEST))
        .with_context(|| format!("cannot read {}", tidy::FUZZ_MANIFEST))?;
    let mut reports = Vec::new();
    for target in tidy::fuzz_targets(&manifest)? {
        eprintln!("==> fuzz {} for {seconds} s", target.name);
        reports.push(run_one(&target.name, seconds)?);
    }
    Ok(reports)
}

/// `cargo xtask fuzz`: runs all targets and writes the results file; true when nothing was found.
///
/// # Errors
/// As [`run_all`]; a tool is missing; the file cannot be written.
pub(crate) fn run(seconds: u32) -> Result<bool> {
    if !is_available() {
        bail!("a tool is missing");
    }
    let facts = facts(seconds);
    let reports = run_all(seconds)?;
    let text = results(&facts, &reports);
    let path = environment::root().join(RESULTS);
    fs::write(&path, &text).with_context(|| format!("cannot write {RESULTS}"))?;
    println!("{text}");
    Ok(reports.iter().all(Report::is_clean))
}

/// Runs one target from its committed seeds; what it finds joins a corpus that is not committed.
fn run_one(name: &str, seconds: u32) -> Result<Report> {
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
fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo"])
        .current_dir(environment::root());
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

fn facts(seconds: u32) -> Vec<(&'static str, String)> {
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
    let cpu = fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |text| text.trim_start_matches(['\t', ' ', ':']));
    vec![
        ("command", format!("`cargo xtask fuzz --seconds {seconds}`")),
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        (
            "revision",
            said("git", &["rev-parse", "--short=12", "HEAD"]),
        ),
        ("CPU", model.to_owned()),
        (
            "compiler",
            said("rustup", &["run", "nightly", "rustc", "--version"]),
        ),
    ]
}

/// The results file.
fn results(facts: &[(&str, String)], reports: &[Report]) -> String {
    let mut text = String::from(
        "# `cargo xtask fuzz`\n\nEvery decoder of outside bytes, and every core that is driven by lists \
         of operations, under\nlibFuzzer and the address sanitizer: one target after another, on one \
         core. The targets and what\neach asserts stand in `fuzz/README.md`. The last run is below; it \
         replaces the one before.\n\n| fact | value |\n| --- | --- |\n",
    );
    // Writing to a string does not fail.
    for (name, value) in facts {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text.push_str(
        "\n| target | runs | seconds | inputs in the corpus | edges reached | findings |\n\
         | --- | ---: | ---: | ---: | ---: | --- |\n",
    );
    for report in reports {
        let findings = if report.is_clean() {
            "none".to_owned()
        } else {
            report.findings.join("; ")
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {findings} |",
            report.target, report.runs, report.seconds, report.corpus, report.edges
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = results(&[("date", "today".to_owned())], &[clean]);
        assert!(
            text.ends_with("| `walk` | 900 | 61 | 7 | 21 | none |\n"),
            "{text}"
        );
        assert!(text.contains("| date | today |"), "{text}");
    }

    #[test]
    fn a_finding_is_named() {
        let found = report(&["SUMMARY: libFuzzer: deadly signal"]);
        assert!(!found.is_clean());
        assert!(results(&[], &[found]).ends_with("| libFuzzer: deadly signal |\n"));
    }
}
