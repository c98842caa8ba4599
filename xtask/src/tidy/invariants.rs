//! The invariants of ARCHITECTURE.md: numbered without a gap, each with a guard that exists.
//!
//! An invariant begins with `**I7.**`, in the section [`GUARDED`] or, as long as its code is not
//! there, in [`WAITING`]. What follows `Guards:` names files as `` `path/to/file.rs` `` and tests as
//! `` `path/to/file.rs::name_of_the_test` ``, from the root.

use super::lexer::code_only;
use super::{Fault, TextFile, find};

const FILE: &str = "ARCHITECTURE.md";
const GUARDED: &str = "Invariants";
const WAITING: &str = "Invariants whose guard arrives with its code";
const GUARDS: &str = "Guards:";

/// One invariant as it is written.
#[derive(Debug)]
struct Invariant {
    number: usize,
    line: usize,
    text: String,
    is_guarded: bool,
}

pub(super) fn check(files: &[TextFile]) -> Vec<Fault> {
    let Some(architecture) = find(files, FILE) else {
        return vec![Fault::new(FILE, 0, "missing")];
    };
    let invariants = parse(&architecture.text);
    let mut faults = Vec::new();
    if !invariants.iter().any(|invariant| invariant.is_guarded) {
        faults.push(Fault::new(
            FILE,
            0,
            format!("no invariant in a section `{GUARDED}`"),
        ));
    }
    faults.extend(check_numbers(&invariants));
    for invariant in &invariants {
        let guards = guards(&invariant.text);
        let message = match (invariant.is_guarded, guards.is_empty()) {
            (true, true) => Some(format!("I{} names no guard", invariant.number)),
            (false, false) => Some(format!(
                "I{} has guards: move it to `{GUARDED}`",
                invariant.number
            )),
            _ => None,
        };
        faults.extend(message.map(|message| Fault::new(FILE, invariant.line, message)));
        let missing = guards
            .iter()
            .filter_map(|guard| missing_guard(guard, files));
        faults.extend(missing.map(|what| {
            Fault::new(
                FILE,
                invariant.line,
                format!("I{}: {what}", invariant.number),
            )
        }));
    }
    faults
}

fn parse(text: &str) -> Vec<Invariant> {
    let mut invariants: Vec<Invariant> = Vec::new();
    let mut section = "";
    let mut is_in_item = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            section = line.trim_start_matches('#').trim();
            is_in_item = false;
        } else if let Some((number, rest)) =
            item_start(line).filter(|_| section == GUARDED || section == WAITING)
        {
            let is_guarded = section == GUARDED;
            invariants.push(Invariant {
                number,
                line: index + 1,
                text: rest.to_owned(),
                is_guarded,
            });
            is_in_item = true;
        } else if let Some(last) = invariants.last_mut().filter(|_| is_in_item) {
            last.text.push('\n');
            last.text.push_str(line);
        }
    }
    invariants
}

/// The number and the rest of a line such as `**I7.** A view is never…`, with or without a bullet.
fn item_start(line: &str) -> Option<(usize, &str)> {
    let line = line.trim_start();
    let line = line.strip_prefix("- ").unwrap_or(line);
    let (number, rest) = line.strip_prefix("**I")?.split_once(".**")?;
    Some((number.parse().ok()?, rest))
}

/// Each number from 1 on stands exactly once, over both sections.
fn check_numbers(invariants: &[Invariant]) -> Vec<Fault> {
    let mut numbers: Vec<(usize, usize)> = invariants
        .iter()
        .map(|one| (one.number, one.line))
        .collect();
    numbers.sort_unstable();
    let wrong = numbers
        .iter()
        .enumerate()
        .find(|(index, (number, _))| *number != index + 1);
    wrong
        .map(|(index, (number, line))| {
            Fault::new(
                FILE,
                *line,
                format!("I{number} stands where I{} belongs", index + 1),
            )
        })
        .into_iter()
        .collect()
}

/// What stands in backticks behind `Guards:`.
fn guards(text: &str) -> Vec<&str> {
    let Some((_, list)) = text.split_once(GUARDS) else {
        return Vec::new();
    };
    list.split('`').skip(1).step_by(2).collect()
}

fn missing_guard(guard: &str, files: &[TextFile]) -> Option<String> {
    let (path, test) = match guard.split_once("::") {
        Some((path, rest)) => (path, rest.rsplit("::").next()),
        None => (guard, None),
    };
    let Some(file) = find(files, path) else {
        return Some(format!("its guard {path} does not exist"));
    };
    let test = test?;
    (!has_test(&file.text, test)).then(|| format!("{path} has no test {test}"))
}

/// True when the source defines a function of this name under a test attribute.
fn has_test(source: &str, name: &str) -> bool {
    let code = code_only(source);
    let lines: Vec<&str> = code.lines().collect();
    lines
        .iter()
        .enumerate()
        .any(|(index, line)| defines(line, name) && has_test_attribute(&lines[..index]))
}

fn defines(line: &str, name: &str) -> bool {
    let words: Vec<&str> = line
        .split(|one: char| !(one.is_alphanumeric() || one == '_'))
        .collect();
    words
        .windows(2)
        .any(|pair| pair[0] == "fn" && pair[1] == name)
}

/// Looks at the lines directly above a function, up to the end of whatever stands before it.
/// Comments are blank here and passed over.
fn has_test_attribute(above: &[&str]) -> bool {
    above
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| !line.ends_with(['}', ';', '{']))
        .any(|line| {
            line.starts_with("#[test") || (line.starts_with("#[") && line.contains("::test"))
        })
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::*;

    const SOURCE: &str = "fn helper() {}\n\n/// Why.\n#[test]\n// note\nfn fires() {\n}\n\
        #[tokio::test(start_paused = true)]\nasync fn waits() {}\n// fn talked_about()\n";

    fn faults(architecture: &str) -> Vec<String> {
        printed(&check(&[
            file(FILE, architecture),
            file("crates/a/src/b.rs", SOURCE),
        ]))
    }

    fn guarded(guards: &str) -> Vec<String> {
        faults(&format!(
            "# A\n\n## Invariants\n\n**I1.** A rule.\nGuards: {guards}.\n\n## Other\n\n**I9.** Not one.\n"
        ))
    }

    #[test]
    fn guards_that_exist_pass() {
        assert!(
            guarded("`crates/a/src/b.rs::fires`, `crates/a/src/b.rs::tests::waits`").is_empty()
        );
        assert!(guarded("`crates/a/src/b.rs`").is_empty());
    }

    #[test]
    fn a_guard_whose_file_is_missing_is_a_fault() {
        assert_eq!(
            guarded("`crates/a/src/c.rs`"),
            ["ARCHITECTURE.md:5: I1: its guard crates/a/src/c.rs does not exist"]
        );
    }

    #[test]
    fn a_guard_that_is_no_test_is_a_fault() {
        for name in ["helper", "fire", "talked_about"] {
            let expected = format!("ARCHITECTURE.md:5: I1: crates/a/src/b.rs has no test {name}");
            assert_eq!(guarded(&format!("`crates/a/src/b.rs::{name}`")), [expected]);
        }
    }

    #[test]
    fn an_invariant_without_a_guard_is_a_fault() {
        assert_eq!(guarded("none"), ["ARCHITECTURE.md:5: I1 names no guard"]);
    }

    #[test]
    fn an_invariant_that_waits_for_its_code_has_no_guard_yet() {
        let text = "## Invariants\n**I1.** A. Guards: `crates/a/src/b.rs`.\n\n\
            ## Invariants whose guard arrives with its code\n**I2.** B.\n";
        assert!(faults(text).is_empty());
        let guarded = format!("{text}Guards: `crates/a/src/b.rs`\n");
        assert_eq!(
            faults(&guarded),
            ["ARCHITECTURE.md:5: I2 has guards: move it to `Invariants`"]
        );
    }

    #[test]
    fn numbers_have_no_gap_and_no_double() {
        for second in [1, 3] {
            let text = format!(
                "## Invariants\n**I1.** A. Guards: `crates/a/src/b.rs`.\n**I{second}.** B. Guards: `crates/a/src/b.rs`.\n"
            );
            assert_eq!(
                faults(&text),
                [format!(
                    "ARCHITECTURE.md:3: I{second} stands where I2 belongs"
                )]
            );
        }
    }

    #[test]
    fn a_document_without_invariants_is_a_fault() {
        assert_eq!(faults("# A\n").len(), 1);
        assert_eq!(check(&[]).len(), 1);
    }
}
