//! From `.proto` files to files in `OUT_DIR`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::check::{check, is_well_known};
use crate::comments::document;
use crate::error::{Error, compiler_faults};
use crate::{messages, modules};

/// What to compile and where to write it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    includes: Vec<PathBuf>,
    out_dir: Option<PathBuf>,
}

/// Generated code, before it is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generated {
    /// One file for each package, sorted by name; the first is `_mod.rs`, which includes the
    /// others.
    pub files: Vec<GeneratedFile>,
    /// Every `.proto` file that was read, imports too.
    pub inputs: Vec<PathBuf>,
}

/// A file of generated code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GeneratedFile {
    /// The file name, without a folder.
    pub name: String,
    /// The Rust code.
    pub code: String,
}

impl Config {
    /// A configuration without include folders that writes to `OUT_DIR`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder in which files and their imports are looked for, after those added before.
    /// Without any, the current folder is used: in a build script, that of the crate.
    #[must_use]
    pub fn include(mut self, dir: impl Into<PathBuf>) -> Self {
        self.includes.push(dir.into());
        self
    }

    /// Writes to `dir`, which must exist, instead of `OUT_DIR`.
    #[must_use]
    pub fn out_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(dir.into());
        self
    }

    /// Compiles `files` and what they import, writes the code, and tells Cargo on standard output
    /// to run the build script again when one of them changes. A file that would not change is not
    /// written, so that nothing is built again for it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::Unsupported`] list faults in the files, with their places;
    /// [`Error::NoOutDir`] and [`Error::Write`] concern the output.
    pub fn compile(&self, files: &[impl AsRef<Path>]) -> Result<(), Error> {
        let generated = self.generate(files)?;
        // After a fault Cargo runs the script again in any case.
        for input in &generated.inputs {
            println!("cargo:rerun-if-changed={}", input.display());
        }
        // Cargo gives build scripts their settings in the environment and in no other way.
        let out_dir = self.out_dir.clone();
        let out_dir = out_dir.or_else(|| std::env::var_os("OUT_DIR").map(PathBuf::from));
        let out_dir = out_dir.ok_or(Error::NoOutDir)?;
        for file in &generated.files {
            let path = out_dir.join(&file.name);
            let is_current = fs::read(&path).is_ok_and(|old| old == file.code.as_bytes());
            if !is_current {
                fs::write(&path, &file.code).map_err(|source| Error::Write { path, source })?;
            }
        }
        Ok(())
    }

    /// Compiles `files` and what they import without writing anything.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::Unsupported`] list faults in the files, with their places.
    pub fn generate(&self, files: &[impl AsRef<Path>]) -> Result<Generated, Error> {
        let mut includes = self.includes.clone();
        if includes.is_empty() {
            includes.push(PathBuf::from("."));
        }
        let invalid = |error: protox::Error| Error::Invalid(compiler_faults(&error, &includes));
        let mut compiler = protox::Compiler::new(&includes).map_err(invalid)?;
        compiler.include_imports(true).include_source_info(true);
        compiler.open_files(files).map_err(invalid)?;
        let inputs = compiler
            .files()
            .filter_map(|file| file.path().map(Path::to_path_buf))
            .collect();

        let mut descriptors = compiler.file_descriptor_set().file;
        descriptors.retain(|file| !is_well_known(file));
        let faults = check(&descriptors, &includes);
        if !faults.is_empty() {
            return Err(Error::Unsupported(faults));
        }
        descriptors.iter_mut().for_each(document);
        let packages = messages::generate(descriptors).map_err(Error::Generate)?;
        let tree = GeneratedFile {
            name: modules::TREE_FILE.to_owned(),
            code: modules::tree(packages.keys().map(String::as_str)),
        };
        let packages = packages.into_iter().map(|(package, code)| GeneratedFile {
            name: modules::file_name(&package),
            code,
        });
        Ok(Generated {
            files: std::iter::once(tree).chain(packages).collect(),
            inputs,
        })
    }
}

/// Compiles `files`, looking for them and their imports in `includes`, into `OUT_DIR`.
///
/// # Errors
///
/// Those of [`Config::compile`].
pub fn compile(files: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    includes
        .iter()
        .fold(Config::new(), |config, dir| config.include(dir.as_ref()))
        .compile(files)
}
