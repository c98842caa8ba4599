//! Which file it is. One that is removed or replaced while it is open goes on being
//! written to, and nobody ever reads what is in it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::adapter::AdapterError;

/// A path, and the file that was there when it was opened.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// The file that is there now.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn of(path: &Path) -> Result<Self, AdapterError> {
        let metadata = metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Refuses to go on once the file is another one, or gone. Cost: a system call.
    ///
    /// # Errors
    /// [`AdapterError::Unavailable`]: it may come back.
    pub(super) fn check(&self) -> Result<(), AdapterError> {
        let found = metadata(&self.path)?;
        if (found.dev(), found.ino()) == (self.device, self.inode) {
            return Ok(());
        }
        Err(AdapterError::Unavailable(format!(
            "{} is another file now; start the site again to sync it",
            self.path.display()
        )))
    }
}

fn metadata(path: &Path) -> Result<Metadata, AdapterError> {
    let gone = |error: io::Error| AdapterError::Unavailable(format!("{}: {error}", path.display()));
    std::fs::metadata(path).map_err(gone)
}
