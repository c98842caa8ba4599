//! An embedded registry's directory: its lock and its epoch.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use waystation_base::Epoch;

use crate::error::ServeError;
use crate::replace::replace_file;

/// The directory of a registry, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
    /// How often peers told that they had seen more than what stood here.
    went_back: AtomicU64,
}

impl Folder {
    /// Makes the directory if there is none, and locks it. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, ServeError> {
        let fault = |source| ServeError::Directory {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(fault)?;
        let lock = File::create(path.join("lock")).map_err(fault)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
                went_back: AtomicU64::new(0),
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Locked {
                path: path.to_owned(),
            }),
            Err(error) => Err(fault(error.into())),
        }
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("instances.jsonl")
    }

    fn epoch(&self) -> PathBuf {
        self.path.join("epoch")
    }

    /// Stores an epoch above that of every start before, and gives it. Blocks.
    pub(super) fn next_epoch(&self) -> Result<Epoch, ServeError> {
        let path = self.epoch();
        let fault = |source| ServeError::Directory {
            path: self.epoch(),
            source,
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => "0".to_owned(),
            Err(error) => return Err(fault(error)),
        };
        let epoch = text.trim().parse::<u64>().ok();
        let epoch = epoch.and_then(|epoch| epoch.checked_add(1));
        let epoch = epoch.ok_or_else(|| ServeError::Epoch {
            path,
            text: text.chars().take(64).collect(),
        })?;
        self.store_epoch(Epoch(epoch)).map_err(fault)?;
        Ok(Epoch(epoch))
    }

    /// What stood here was an old state.
    pub(super) fn note_went_back(&self) {
        self.went_back.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was found.
    pub(super) fn went_back(&self) -> u64 {
        self.went_back.load(Ordering::Relaxed)
    }

    /// Stores an epoch; durable when this returns. Blocks.
    pub(super) fn store_epoch(&self, epoch: Epoch) -> io::Result<()> {
        replace_file(&self.epoch(), |out| writeln!(out, "{epoch}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_higher_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry");
        for number in 1..4 {
            let folder = Folder::open(&path).unwrap();
            assert_eq!(folder.next_epoch().unwrap(), Epoch(number));
        }
        let folder = Folder::open(&path).unwrap();
        folder.store_epoch(Epoch(70)).unwrap();
        assert_eq!(folder.next_epoch().unwrap(), Epoch(71));
    }

    #[test]
    fn a_directory_has_one_registry() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Folder::open(dir.path()).unwrap();
        let second = Folder::open(dir.path());
        assert!(matches!(second, Err(ServeError::Locked { .. })));
    }

    #[test]
    fn an_epoch_that_is_none_is_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        fs::write(dir.path().join("epoch"), "soon").unwrap();
        let error = folder.next_epoch().unwrap_err();
        assert!(matches!(error, ServeError::Epoch { text, .. } if text == "soon"));
    }
}
