//! `cargo xtask tidy`: rules of the project that no compiler checks.
//!
//! Each check is a free function from data to faults, tested alone; this module collects the data
//! and prints what they find.

mod core_source;
mod formats;
mod fuzz;
mod invariants;
mod layers;
mod lexer;
mod machine_paths;
mod manifests;
mod rust_source;

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::environment;
use crate::metadata::Metadata;

pub(crate) use fuzz::{MANIFEST as FUZZ_MANIFEST, targets as fuzz_targets};

/// A file of the repository: its path from the root with `/`, and its text. Bytes that are not
/// UTF-8 are replaced, so that pictures can be searched too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TextFile {
    path: String,
    text: String,
}

/// A rule that is broken somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    path: String,
    /// 1 for the first line; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Fault {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Runs every check on the repository and prints each fault; true when there is none.
///
/// # Errors
/// Cargo or git cannot be run, or a file cannot be read.
pub(crate) fn run() -> Result<bool> {
    eprintln!("==> tidy");
    let root = environment::root();
    let metadata = Metadata::load()?;
    let files = files(&root)?;
    let mut faults = layers::check(&metadata);
    faults.extend(manifests::check(&metadata, &files, &root));
    faults.extend(core_source::check(
        &layers::core_folders(&metadata, &root),
        &files,
    ));
    for file in &files {
        faults.extend(machine_paths::check(file));
        if is_rust(&file.path) {
            faults.extend(rust_source::check(file));
        }
    }
    faults.extend(invariants::check(&files));
    faults.extend(formats::check(&files));
    faults.extend(fuzz::check(&files));
    for fault in &faults {
        eprintln!("{fault}");
    }
    eprintln!("tidy: {} files, {} faults", files.len(), faults.len());
    Ok(faults.is_empty())
}

fn is_rust(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs")
}

/// All files that git tracks or would track.
fn files(root: &Path) -> Result<Vec<TextFile>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run git ls-files")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        output.status
    );
    let listing = String::from_utf8_lossy(&output.stdout);
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        match std::fs::read(root.join(path)) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                files.push(TextFile {
                    path: path.to_owned(),
                    text,
                });
            }
            // Deleted in the working tree and not yet in the index.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files.dedup();
    Ok(files)
}

/// The file at this path, if the repository has it.
fn find<'a>(files: &'a [TextFile], path: &str) -> Option<&'a TextFile> {
    files.iter().find(|file| file.path == path)
}

#[cfg(test)]
mod test_support {
    use super::{Fault, TextFile};

    pub(super) fn file(path: &str, text: &str) -> TextFile {
        TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The faults as they are printed, one a line.
    pub(super) fn printed(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }
}
