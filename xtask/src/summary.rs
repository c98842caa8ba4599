//! The sum of what test programs report, read from their output.

use std::collections::VecDeque;
use std::fmt;

/// Lines that are kept of what a failed test printed: its last ones, where it says why.
const LINES_KEPT: usize = 60;

/// Results over all test programs of all runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Ignored by their programs, or left out, by themselves or because a component is missing.
    pub(crate) skipped: u64,
    /// The names of the tests that failed, as their programs printed them.
    pub(crate) failures: Vec<String>,
    /// What each failed test printed, as far as its program kept it: its last lines, so that the end
    /// of a long log says why a run failed.
    pub(crate) outputs: Vec<(String, VecDeque<String>)>,
    /// The tests that left themselves out, with the reason of each.
    pub(crate) left_out: Vec<String>,
    /// Lines belong to the last of the outputs.
    in_output: bool,
    /// Programs that reported at least one failure.
    programs_failed: u64,
    /// Programs that cargo counts as failed; one that died reports nothing itself.
    targets_failed: u64,
}

impl Summary {
    /// No results but these tests left out.
    pub(crate) fn with_skipped(skipped: usize) -> Self {
        Self {
            skipped: skipped as u64,
            ..Self::default()
        }
    }

    /// Takes one line of output into account; lines of another kind are passed over.
    pub(crate) fn handle_line(&mut self, line: &str) {
        let line = strip_colour(line);
        if self.handle_output(&line) {
            return;
        }
        let line = line.trim();
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += count(result, "passed");
            self.failed += count(result, "failed");
            self.skipped += count(result, "ignored");
            self.programs_failed += u64::from(result.starts_with("FAILED"));
        } else if let Some(left_out) = line.strip_prefix("left out: test ") {
            // Its program counts it as passed.
            self.left_out.push(left_out.to_owned());
        } else if let Some(name) = failed_test(line) {
            self.failures.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("error: ") {
            self.targets_failed += targets_failed(rest);
        }
    }

    /// Takes a line of what a failed test printed; false for all others.
    fn handle_output(&mut self, line: &str) -> bool {
        if let Some(test) = test_of_output(line) {
            self.outputs.push((test.to_owned(), VecDeque::new()));
            self.in_output = true;
            return true;
        }
        // The list of names behind the outputs, and the end whatever a test printed.
        if line == "failures:" || line.starts_with("test result: ") {
            self.in_output = false;
        }
        let Some((_, lines)) = self.outputs.last_mut().filter(|_| self.in_output) else {
            return false;
        };
        if !is_frame(line) {
            if lines.len() == LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(line.to_owned());
        }
        true
    }

    /// Ends one cargo run: a program that died counts as one failure, and so does a run that
    /// failed without any failure reported (it did not build, or was killed).
    pub(crate) fn handle_end(&mut self, succeeded: bool) {
        self.failed += self.targets_failed.saturating_sub(self.programs_failed);
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self.programs_failed = 0;
        self.targets_failed = 0;
        self.in_output = false;
        let left_out = self.left_out.len() as u64;
        self.passed = self.passed.saturating_sub(left_out);
        self.skipped += left_out;
    }

    /// Adds another run's results to these.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.outputs.extend(other.outputs);
        self.left_out.extend(other.left_out);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The number in front of `word` in `ok. 3 passed; 0 failed; …`; 0 when it is not there.
fn count(result: &str, word: &str) -> u64 {
    let words: Vec<&str> = result
        .split([' ', ';'])
        .filter(|part| !part.is_empty())
        .collect();
    words
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

/// The name in `test wheel::fires ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The name in `---- wheel::fires stdout ----`.
fn test_of_output(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// A line of a stack's frame, `  12: core::ops::call` or its `at ./src/lib.rs:7:5`, of which a stack
/// has more than are kept.
fn is_frame(line: &str) -> bool {
    let Some(line) = line.strip_prefix("  ") else {
        return false;
    };
    let line = line.trim_start();
    let number = line.split_once(": ").map(|(number, _)| number);
    line.starts_with("at ") || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The number in cargo's closing `2 targets failed:`.
fn targets_failed(rest: &str) -> u64 {
    let mut words = rest.split(' ');
    let number = words.next().and_then(|word| word.parse().ok());
    let is_count =
        matches!(words.next(), Some("target" | "targets")) && words.next() == Some("failed:");
    number.filter(|_| is_count).unwrap_or(0)
}

/// The line without its colour sequences (ESC `[` … letter).
fn strip_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            for skipped in characters.by_ref() {
                if skipped.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary_of(lines: &[&str], succeeded: bool) -> String {
        let mut summary = Summary::default();
        for line in lines {
            summary.handle_line(line);
        }
        summary.handle_end(succeeded);
        summary.to_string()
    }

    #[test]
    fn results_of_all_programs_are_summed() {
        let lines = [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.00s",
            "test result: ok. 39 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
        ];
        assert_eq!(summary_of(&lines, true), "42 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn coloured_results_count_too() {
        let line = "test result: \u{1b}[31mFAILED\u{1b}[m. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(summary_of(&[line], false), "1 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn failed_tests_are_named() {
        let mut summary = Summary::default();
        summary.handle_line("test wheel::fires ... \u{1b}[31mFAILED\u{1b}[0m");
        summary.handle_line("test wheel::stops ... ok");
        assert_eq!(summary.failures, ["wheel::fires"]);
    }

    /// A run failed once in a hundred, and the record of it, which holds the end of its log, said
    /// which test but not why.
    #[test]
    fn what_a_failed_test_printed_is_kept() {
        let mut summary = Summary::default();
        let told = ["failures:", "", "---- wheel::fires stdout ----"];
        let many = (0..LINES_KEPT).map(|n| format!("line {n}"));
        let end = [
            "it panicked",
            "   0: std::panicking::begin",
            "             at ./library/std/src/panicking.rs:698:5",
            "---- wheel::stops stdout ----",
            "so did it",
            "failures:",
            "    wheel::fires",
            "test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        let lines = told.map(str::to_owned).into_iter().chain(many);
        for line in lines.chain(end.map(str::to_owned)) {
            summary.handle_line(&line);
        }
        let (first, second) = (&summary.outputs[0], &summary.outputs[1]);
        assert_eq!(
            (first.0.as_str(), first.1.len()),
            ("wheel::fires", LINES_KEPT)
        );
        assert_eq!(first.1.back().unwrap(), "it panicked");
        assert_eq!(first.1.front().unwrap(), "line 1");
        assert_eq!(second.0, "wheel::stops");
        assert_eq!(second.1, ["so did it"]);
        assert_eq!(summary.failed, 2);
    }

    #[test]
    fn a_program_that_died_is_a_failure() {
        let lines = [
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "error: 2 targets failed:",
        ];
        assert_eq!(summary_of(&lines, false), "1 passed, 3 failed, 0 skipped");
    }

    #[test]
    fn a_run_that_did_not_build_is_a_failure() {
        assert_eq!(
            summary_of(&["error: could not compile `x`"], false),
            "0 passed, 1 failed, 0 skipped"
        );
    }

    /// Story: a machine without network namespaces passed a test that needs them.
    #[test]
    fn a_test_that_leaves_itself_out_is_skipped_and_not_passed() {
        let lines = [
            "left out: test ports: unshare: not permitted",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        assert_eq!(summary_of(&lines, true), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn what_a_test_prints_is_not_a_result() {
        assert_eq!(
            summary_of(
                &["the test result: 7 passed", "error: 3 things failed:"],
                true
            ),
            "0 passed, 0 failed, 0 skipped"
        );
    }
}
