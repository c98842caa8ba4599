//! No file names a folder of the machine it was written on.

use super::{Fault, TextFile};

/// Put together here, so that this file does not hold them itself.
const FORBIDDEN: &[&str] = &[concat!("/wo", "rk/"), concat!("/tmp/", "target")];

pub(super) fn check(file: &TextFile) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for path in FORBIDDEN
            .iter()
            .filter(|path| contains_absolute(line, path))
        {
            faults.push(Fault::new(
                &file.path,
                index + 1,
                format!("the absolute path {path} of one machine"),
            ));
        }
    }
    faults
}

/// A match that begins an absolute path: `docs/work/` is none.
fn contains_absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|one| one.is_alphanumeric() || matches!(one, '_' | '-' | '.' | '/' | '}'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::{FORBIDDEN, check};

    #[test]
    fn a_machines_own_folder_is_a_fault() {
        for path in FORBIDDEN {
            let found = check(&file("a.md", &format!("one\nsee `{path}x`")));
            assert_eq!(
                printed(&found),
                [format!("a.md:2: the absolute path {path} of one machine")]
            );
        }
    }

    #[test]
    fn a_relative_folder_is_not() {
        assert!(check(&file("a.md", &format!("docs{}a", FORBIDDEN[0]))).is_empty());
    }
}
