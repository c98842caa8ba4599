//! Rules for each Rust file: its length, and that nothing is left open or left out.

use super::lexer::code_only;
use super::{Fault, TextFile};

/// From this length on a file says in its module documentation why it is not split.
const LINES_MAX: usize = 1000;

/// How the module documentation of a long file begins its reason.
const LONG_FILE_REASON: &str = "Long file:";

/// What may not stand in code, with the reason given to whoever wrote it.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        "#[ignore",
        "a test is never ignored: make it run, or name its component in its name",
    ),
    ("todo!(", "unfinished code stays out of the tree"),
    ("unimplemented!(", "unfinished code stays out of the tree"),
];

pub(super) fn check(file: &TextFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    let lines = file.text.lines().count();
    if lines >= LINES_MAX && !has_long_file_reason(&file.text) {
        let message =
            format!("{lines} lines: split it, or say why not in a `//! {LONG_FILE_REASON}` line");
        faults.push(Fault::new(&file.path, 0, message));
    }
    let code = code_only(&file.text);
    for (index, line) in code.lines().enumerate() {
        let found = FORBIDDEN
            .iter()
            .filter(|(pattern, _)| contains(line, pattern));
        faults.extend(found.map(|(pattern, reason)| {
            Fault::new(&file.path, index + 1, format!("`{pattern}`: {reason}"))
        }));
        if is_conditional_ignore(line) {
            faults.push(Fault::new(
                &file.path,
                index + 1,
                "a test is never ignored, on no condition",
            ));
        }
    }
    faults.extend(ignored_doc_tests(file));
    faults
}

fn has_long_file_reason(text: &str) -> bool {
    let documentation = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("//!"));
    documentation
        .into_iter()
        .any(|line| line.trim_start().starts_with(LONG_FILE_REASON))
}

/// A match that is not the tail of a longer name.
fn contains(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|one| one.is_alphanumeric() || one == '_')
    })
}

fn is_conditional_ignore(line: &str) -> bool {
    let words = line.split(|one: char| !(one.is_alphanumeric() || one == '_'));
    line.contains("cfg_attr(") && words.into_iter().any(|word| word == "ignore")
}

fn ignored_doc_tests(file: &TextFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let line = line.trim_start();
        let documentation = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        let fence = documentation.and_then(|text| text.trim_start().strip_prefix("```"));
        if fence.is_some_and(|info| info.split(',').any(|word| word.trim() == "ignore")) {
            let message = "an example is never ignored: use `no_run` or `text`, or make it run";
            faults.push(Fault::new(&file.path, index + 1, message));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::check;

    fn faults(text: &str) -> Vec<String> {
        printed(&check(&file("a.rs", text)))
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let long = "x\n".repeat(1000);
        assert_eq!(faults(&long).len(), 1);
        assert!(
            faults(&format!(
                "//! A table.\n//! Long file: generated once.\n{long}"
            ))
            .is_empty()
        );
        assert!(faults(&"x\n".repeat(999)).is_empty());
    }

    #[test]
    fn open_ends_in_code_are_faults_and_in_text_are_not() {
        assert!(faults("fn f() {\n    todo!()\n}")[0].starts_with("a.rs:2: `todo!(`"));
        assert_eq!(faults("unimplemented!(\"x\")").len(), 1);
        assert!(faults("// todo!()\nlet a = \"todo!()\"; my_todo!()").is_empty());
    }

    #[test]
    fn ignored_tests_are_faults() {
        assert_eq!(faults("#[test]\n#[ignore = \"slow\"]\nfn f() {}").len(), 1);
        assert_eq!(faults("#[cfg_attr(miri, ignore)]").len(), 1);
        assert!(faults("#[cfg_attr(miri, allow(ignored))]").is_empty());
    }

    #[test]
    fn ignored_examples_are_faults() {
        assert_eq!(faults("//! ```ignore\n/// ```rust,ignore\n").len(), 2);
        assert!(faults("/// ```no_run\n").is_empty());
    }
}
