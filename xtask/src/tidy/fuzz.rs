//! Fuzz targets and their files agree.

use anyhow::{Context as _, Result};

use super::{Fault, TextFile, find, is_rust};

/// The manifest of the fuzz targets, from the root.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

const FOLDER: &str = "fuzz/";
const TARGETS_FOLDER: &str = "fuzz/fuzz_targets/";

/// One fuzz target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FuzzTarget {
    pub(crate) name: String,
    /// Its file, from the manifest's folder.
    pub(crate) path: String,
}

/// The targets that a fuzz manifest declares.
///
/// # Errors
/// The manifest is no TOML, or a `[[bin]]` has no name or no path.
pub(crate) fn targets(manifest: &str) -> Result<Vec<FuzzTarget>> {
    let table: toml::Table = manifest.parse().context("the fuzz manifest is no TOML")?;
    let binaries = table.get("bin").and_then(toml::Value::as_array);
    let text = |binary: &toml::Value, key| {
        let value = binary
            .get(key)
            .and_then(toml::Value::as_str)
            .map(str::to_owned);
        value.with_context(|| format!("a fuzz target has no {key}"))
    };
    let binaries = binaries.into_iter().flatten();
    binaries
        .map(|one| {
            Ok(FuzzTarget {
                name: text(one, "name")?,
                path: text(one, "path")?,
            })
        })
        .collect()
}

pub(super) fn check(files: &[TextFile]) -> Vec<Fault> {
    // What stands in folders below is shared by targets, as their modules.
    let is_source = |file: &&TextFile| {
        let name = file.path.strip_prefix(TARGETS_FOLDER);
        name.is_some_and(|name| is_rust(name) && !name.contains('/'))
    };
    let sources: Vec<&TextFile> = files.iter().filter(is_source).collect();
    let Some(manifest) = find(files, MANIFEST) else {
        return sources
            .iter()
            .map(|file| Fault::new(&file.path, 0, format!("{MANIFEST} is missing")))
            .collect();
    };
    let targets = match targets(&manifest.text) {
        Ok(targets) => targets,
        Err(error) => return vec![Fault::new(MANIFEST, 0, format!("{error:#}"))],
    };
    let paths: Vec<String> = targets
        .iter()
        .map(|target| format!("{FOLDER}{}", target.path))
        .collect();
    let without_file = targets
        .iter()
        .zip(&paths)
        .filter(|(_, path)| find(files, path).is_none());
    let without_file = without_file.map(|(target, path)| {
        Fault::new(
            MANIFEST,
            0,
            format!("target {} has no file {path}", target.name),
        )
    });
    let without_target = sources.iter().filter(|file| !paths.contains(&file.path));
    let without_target = without_target
        .map(|file| Fault::new(&file.path, 0, format!("no target in {MANIFEST} uses it")));
    without_file.chain(without_target).collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::*;

    const TWO: &str = "[[bin]]\nname = \"a\"\npath = \"fuzz_targets/a.rs\"\n\
        [[bin]]\nname = \"b\"\npath = \"fuzz_targets/b.rs\"\n";

    #[test]
    fn a_target_without_a_file_and_a_file_without_a_target_are_faults() {
        let files = [
            file(MANIFEST, TWO),
            file("fuzz/fuzz_targets/a.rs", ""),
            file("fuzz/fuzz_targets/c.rs", ""),
            file("fuzz/fuzz_targets/support/mod.rs", ""),
        ];
        assert_eq!(
            printed(&check(&files)),
            [
                "fuzz/Cargo.toml: target b has no file fuzz/fuzz_targets/b.rs",
                "fuzz/fuzz_targets/c.rs: no target in fuzz/Cargo.toml uses it",
            ]
        );
    }

    #[test]
    fn targets_with_their_files_pass() {
        let files = [
            file(MANIFEST, TWO),
            file("fuzz/fuzz_targets/a.rs", ""),
            file("fuzz/fuzz_targets/b.rs", ""),
        ];
        assert!(check(&files).is_empty());
        assert!(check(&[]).is_empty());
    }

    #[test]
    fn a_broken_manifest_is_a_fault() {
        assert_eq!(check(&[file(MANIFEST, "[[bin")]).len(), 1);
        assert_eq!(check(&[file(MANIFEST, "[[bin]]\nname = \"a\"")]).len(), 1);
        assert_eq!(check(&[file("fuzz/fuzz_targets/a.rs", "")]).len(), 1);
    }
}
