//! Manifests: licence, shared lints, and function lengths bounded for every crate.

use std::path::Path;

use super::{Fault, TextFile, find};
use crate::metadata::Metadata;

const LICENCE: &str = "MIT OR Apache-2.0";
const LICENCE_FILES: &[&str] = &["LICENSE-MIT", "LICENSE-APACHE"];

/// The longest function that clippy may be told to accept.
const FUNCTION_LINES_MAX: i64 = 70;
const FUNCTION_LINES_KEY: &str = "too-many-lines-threshold";

pub(super) fn check(metadata: &Metadata, files: &[TextFile], root: &Path) -> Vec<Fault> {
    let mut faults = Vec::new();
    for member in metadata.members() {
        if member.license.as_deref() != Some(LICENCE) {
            faults.push(Fault::new(
                &member.name,
                0,
                format!("its licence field must be {LICENCE}"),
            ));
        }
        let path = member
            .manifest_path
            .strip_prefix(root)
            .unwrap_or(&member.manifest_path);
        match find(files, &path.to_string_lossy()) {
            Some(manifest) => faults.extend(check_lints(manifest)),
            None => faults.push(Fault::new(
                &path.to_string_lossy(),
                0,
                "the manifest is not in the repository",
            )),
        }
    }
    for name in LICENCE_FILES
        .iter()
        .filter(|name| find(files, name).is_none())
    {
        faults.push(Fault::new(name, 0, "the licence text is missing"));
    }
    faults.extend(check_clippy(files));
    faults
}

/// The workspace's lints hold in every crate, or the bound on function lengths would not.
fn check_lints(manifest: &TextFile) -> Option<Fault> {
    let table = manifest.text.parse::<toml::Table>();
    let is_shared = table.is_ok_and(|table| {
        table
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    });
    (!is_shared).then(|| Fault::new(&manifest.path, 0, "add `[lints] workspace = true`"))
}

/// A crate's own clippy.toml replaces the root's, so each one repeats the bound.
fn check_clippy(files: &[TextFile]) -> Vec<Fault> {
    let is_clippy = |path: &str| path == "clippy.toml" || path.ends_with("/clippy.toml");
    let mut faults: Vec<Fault> = files
        .iter()
        .filter(|file| is_clippy(&file.path))
        .filter_map(check_function_bound)
        .collect();
    if find(files, "clippy.toml").is_none() {
        faults.push(Fault::new("clippy.toml", 0, "missing"));
    }
    faults
}

fn check_function_bound(file: &TextFile) -> Option<Fault> {
    let table = file.text.parse::<toml::Table>().ok();
    let bound = table.and_then(|table| {
        table
            .get(FUNCTION_LINES_KEY)
            .and_then(toml::Value::as_integer)
    });
    let is_bounded = bound.is_some_and(|lines| lines <= FUNCTION_LINES_MAX);
    let message = format!("set {FUNCTION_LINES_KEY} = {FUNCTION_LINES_MAX} or less");
    (!is_bounded).then(|| Fault::new(&file.path, 0, message))
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file, printed};
    use super::*;
    use crate::metadata::Package;

    fn member(licence: Option<&str>) -> Metadata {
        let package = Package {
            id: "net".to_owned(),
            name: "net".to_owned(),
            license: licence.map(str::to_owned),
            manifest_path: "/tree/net/Cargo.toml".into(),
            ..Package::default()
        };
        Metadata {
            packages: vec![package],
            workspace_members: vec!["net".to_owned()],
            ..Metadata::default()
        }
    }

    fn good() -> Vec<TextFile> {
        vec![
            file("LICENSE-APACHE", ""),
            file("LICENSE-MIT", ""),
            file("clippy.toml", "too-many-lines-threshold = 70"),
            file("net/Cargo.toml", "[lints]\nworkspace = true"),
        ]
    }

    fn faults(licence: Option<&str>, files: &[TextFile]) -> Vec<String> {
        printed(&check(&member(licence), files, Path::new("/tree")))
    }

    #[test]
    fn good_manifests_pass() {
        assert!(faults(Some(LICENCE), &good()).is_empty());
    }

    #[test]
    fn a_missing_or_other_licence_is_a_fault() {
        assert_eq!(faults(None, &good()).len(), 1);
        assert_eq!(faults(Some("MIT"), &good()).len(), 1);
        assert_eq!(
            faults(Some(LICENCE), &good()[1..]),
            ["LICENSE-APACHE: the licence text is missing"]
        );
    }

    #[test]
    fn a_crate_without_the_shared_lints_is_a_fault() {
        let mut files = good();
        files[3].text = "[package]".to_owned();
        assert_eq!(
            faults(Some(LICENCE), &files),
            ["net/Cargo.toml: add `[lints] workspace = true`"]
        );
    }

    #[test]
    fn a_raised_or_forgotten_bound_on_functions_is_a_fault() {
        let mut files = good();
        files[2].text = "too-many-lines-threshold = 200".to_owned();
        files.push(file("net/clippy.toml", "disallowed-methods = []"));
        assert_eq!(faults(Some(LICENCE), &files).len(), 2);
    }

    #[test]
    fn a_manifest_or_root_file_that_is_not_in_the_repository_is_a_fault() {
        assert_eq!(faults(Some(LICENCE), &good()[..2]).len(), 2);
    }
}
