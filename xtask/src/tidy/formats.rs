//! Each described format is reachable: ARCHITECTURE.md or a crate's documentation names its file.

use super::{Fault, TextFile};

const FOLDER: &str = "docs/formats/";

pub(super) fn check(files: &[TextFile]) -> Vec<Fault> {
    let formats = files.iter().filter(|file| file.path.starts_with(FOLDER));
    let unnamed = formats.filter(|format| {
        !files
            .iter()
            .any(|file| is_overview(&file.path) && file.text.contains(&format.path))
    });
    unnamed
        .map(|format| {
            Fault::new(
                &format.path,
                0,
                "named neither in ARCHITECTURE.md nor in a lib.rs",
            )
        })
        .collect()
}

fn is_overview(path: &str) -> bool {
    path == "ARCHITECTURE.md" || path.ends_with("/lib.rs")
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::check;

    #[test]
    fn a_format_that_nobody_names_is_a_fault() {
        let format = file("docs/formats/frame.md", "docs/formats/frame.md");
        let faults = check(&[format.clone(), file("README.md", "docs/formats/frame.md")]);
        assert_eq!(
            printed(&faults),
            ["docs/formats/frame.md: named neither in ARCHITECTURE.md nor in a lib.rs"]
        );
        for overview in ["ARCHITECTURE.md", "crates/wire/src/lib.rs"] {
            assert!(
                check(&[
                    format.clone(),
                    file(overview, "see `docs/formats/frame.md`")
                ])
                .is_empty()
            );
        }
    }
}
