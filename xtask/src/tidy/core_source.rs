//! Core crates use the standard library's clocks, sockets, files and threads in tests only.
//!
//! The dependency graph cannot show this, since the standard library is no dependency.

use super::lexer::code_only;
use super::{Fault, TextFile, is_rust};

/// Names that bring the outside world into a core.
const FORBIDDEN: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "RandomState",
];

/// Checks the files below `src/` of each folder in `core_folders` (paths from the root).
pub(super) fn check(core_folders: &[String], files: &[TextFile]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for folder in core_folders {
        let sources = format!("{folder}/src/");
        for file in files
            .iter()
            .filter(|file| file.path.starts_with(&sources) && is_library(&file.path))
        {
            faults.extend(check_file(file));
        }
    }
    faults
}

/// True for a Rust file that is not a test module kept beside the code (`tests.rs`, `x_tests.rs`).
fn is_library(path: &str) -> bool {
    let is_tests =
        path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/");
    is_rust(path) && !is_tests
}

fn check_file(file: &TextFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in without_tests(&code_only(&file.text)).lines().enumerate() {
        for name in FORBIDDEN.iter().filter(|name| contains_path(line, name)) {
            let message =
                format!("`{name}` in a core crate: it comes in as an argument, from a shell");
            faults.push(Fault::new(&file.path, index + 1, message));
        }
    }
    faults
}

/// The code with each item behind `#[cfg(test)]` cut out; line breaks stay. An item ends with its
/// closing brace, or with a semicolon before any brace.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let end = at + MARK.len() + item_length(&rest[at + MARK.len()..]);
        kept.extend(rest[at..end].chars().filter(|&one| one == '\n'));
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (index, character) in code.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return index + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return index + 1,
            _ => {}
        }
    }
    code.len()
}

fn contains_path(line: &str, name: &str) -> bool {
    let is_word = |one: Option<char>| one.is_some_and(|one| one.is_alphanumeric() || one == '_');
    line.match_indices(name).any(|(at, _)| {
        !is_word(line[..at].chars().next_back()) && !is_word(line[at + name.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::check;

    fn faults(text: &str) -> Vec<String> {
        printed(&check(
            &["crates/base".to_owned()],
            &[file("crates/base/src/a.rs", text)],
        ))
    }

    #[test]
    fn a_core_that_reads_a_clock_is_a_fault() {
        let found = faults("use std::time::Duration;\nlet now = std::time::Instant::now();");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/base/src/a.rs:2: `Instant`"));
    }

    #[test]
    fn a_core_that_opens_a_socket_is_a_fault() {
        assert_eq!(faults("std::net::TcpStream::connect(address)").len(), 1);
        assert!(faults("use std::net::SocketAddr; struct InstantName;").is_empty());
    }

    #[test]
    fn tests_of_a_core_may_use_threads() {
        assert!(
            faults("fn a() {}\n#[cfg(test)]\nmod tests { fn b() { std::thread::spawn(f); } }")
                .is_empty()
        );
        assert!(faults("#[cfg(test)]\nuse std::thread;\nfn a() {}").is_empty());
        assert_eq!(
            faults("#[cfg(test)]\nmod tests { fn b() {} }\nfn c() { std::thread::spawn(f); }")
                .len(),
            1
        );
    }

    #[test]
    fn other_crates_and_tests_folders_are_left_alone() {
        let text = "use std::thread;";
        let others = [
            "crates/net/src/a.rs",
            "crates/base/tests/a.rs",
            "crates/base/src/wheel/tests.rs",
            "crates/base/src/slots_tests.rs",
        ];
        let others = others.map(|path| file(path, text));
        assert!(check(&["crates/base".to_owned()], &others).is_empty());
    }
}
