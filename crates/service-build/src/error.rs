//! What can go wrong, with the place in the `.proto` file.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, SourceCode};

/// One fault in a `.proto` file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The file, as a path from where the build script runs; `None` when the fault is in no file.
    pub file: Option<PathBuf>,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// The column, counted from 1, in bytes.
    pub column: Option<usize>,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
                if let Some(column) = self.column {
                    write!(f, "{column}:")?;
                }
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why no code was generated.
///
/// `Debug` prints the same text as `Display`: a build script that returns the error from `main`
/// is shown by its `Debug` form, and a reader wants the file and the line there.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is missing, unreadable or not valid protobuf. Correct the file, or add the folder
    /// of the import with [`Config::include`](crate::Config::include).
    #[error("cannot compile protobuf{}", list(.0))]
    Invalid(Vec<Fault>),
    /// A file is valid protobuf but asks for something that is not generated, or two names would
    /// become one in Rust. Each fault says what to write instead.
    #[error("cannot generate services{}", list(.0))]
    Unsupported(Vec<Fault>),
    /// A code generator gave up on descriptors that were checked before: a fault of this crate.
    #[error("cannot generate code for the messages")]
    Generate(#[source] io::Error),
    /// `OUT_DIR` is not set. Cargo sets it for build scripts; elsewhere name the folder with
    /// [`Config::out_dir`](crate::Config::out_dir).
    #[error("OUT_DIR is not set: call this from a build script or set `out_dir`")]
    NoOutDir,
    /// A generated file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        match std::error::Error::source(self) {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error {
    /// The faults in the `.proto` files, in the order of the files; empty for other errors.
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Invalid(faults) | Self::Unsupported(faults) => faults,
            Self::Generate(_) | Self::NoOutDir | Self::Write { .. } => &[],
        }
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().fold(String::new(), |mut text, fault| {
        let _ = write!(text, "\n  {fault}");
        text
    })
}

/// Everything that the compiler has to say about one failed compilation.
pub(crate) fn compiler_faults(error: &protox::Error, includes: &[PathBuf]) -> Vec<Fault> {
    let mut faults = Vec::new();
    collect(error, error.file(), None, includes, &mut faults);
    faults
}

fn collect(
    diagnostic: &dyn Diagnostic,
    file: Option<&str>,
    source: Option<&dyn SourceCode>,
    includes: &[PathBuf],
    faults: &mut Vec<Fault>,
) {
    let source = diagnostic.source_code().or(source);
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let place = source.zip(label).and_then(|(source, label)| {
        let contents = source.read_span(label.inner(), 0, 0).ok()?;
        Some((contents.line() + 1, contents.column() + 1))
    });
    let mut message = diagnostic.to_string();
    let mut cause = std::error::Error::source(diagnostic);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    if let Some(help) = diagnostic.help() {
        message = format!("{message} ({help})");
    }
    faults.push(Fault {
        file: file.map(|name| path_of(name, includes)),
        line: place.map(|(line, _)| line),
        column: place.map(|(_, column)| column),
        message,
    });
    for related in diagnostic.related().into_iter().flatten() {
        collect(related, file, source, includes, faults);
    }
}

/// The path of a file that protobuf knows by its name below one of the include folders.
pub(crate) fn path_of(name: &str, includes: &[PathBuf]) -> PathBuf {
    includes
        .iter()
        .map(|include| include.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| Path::new(name).to_path_buf())
}
