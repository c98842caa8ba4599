//! Files that are replaced as a whole.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

/// Puts what `write` writes in the place of a file; durable when this returns. A new
/// file that was not finished is never taken for it, after a power loss neither.
/// Blocks.
///
/// # Errors
/// What the system says; then the file is what it was.
pub fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut out = BufWriter::new(File::create(&new)?);
    write(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    // Before its name is the other's: else the name may be there and the bytes not.
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
