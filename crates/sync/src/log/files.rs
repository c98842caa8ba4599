//! The few calls that a log makes on files, so that tests can record them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

/// A folder of files.
pub trait Files {
    /// An open file.
    type File: LogFile;

    /// The names of all files.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of this many zero bytes, in place of one of the same name.
    ///
    /// # Errors
    /// There is no room, or the folder cannot be written.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Says that a file of this name and length will be made soon. What that takes may
    /// begin beside the caller; whatever comes of it, [`Files::create`] answers. Until
    /// then the file may be there in part. By default nothing is done.
    fn prepare(&self, name: &str, bytes: u64) {
        let _ = (name, bytes);
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    /// It is not there, or cannot be opened.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name.
    ///
    /// # Errors
    /// The folder cannot be written.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The folder cannot be written.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// The disk failed.
    fn sync_folder(&self) -> io::Result<()>;
}

/// A file that is written and read at offsets.
pub trait LogFile {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    fn length(&self) -> io::Result<u64>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Part of it may be written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// The file ends before, or cannot be read.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Nobody knows what is durable.
    fn sync(&self) -> io::Result<()>;

    /// Writes all of `data` at `offset` and makes it durable.
    ///
    /// # Errors
    /// Part of it may be written, and durable.
    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)?;
        self.sync()
    }
}

/// A folder of the file system. It is locked as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    handle: File,
    /// The file that is made beside the caller.
    ahead: Mutex<Option<Ahead>>,
}

/// A file that a thread of its own makes: a commit that had to wait for tens of
/// megabytes of zeros would take a hundred times as long as others.
#[derive(Debug)]
struct Ahead {
    name: String,
    bytes: u64,
    is_unwanted: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<File>>,
}

impl Ahead {
    /// Waits until its thread has ended.
    fn end(self) -> io::Result<File> {
        let made = self.thread.join();
        made.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    }

    fn give_up(self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
        let _ = self.end();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // While the folder is locked: who opens it next may use that file.
        if let Some(ahead) = self.ahead().take() {
            ahead.give_up();
        }
    }
}

impl Folder {
    /// Opens a folder, making it if need be, and locks it.
    ///
    /// # Errors
    /// It cannot be made or opened; [`ErrorKind::WouldBlock`] when another
    /// process has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let folder = File::open(path)?;
        // Its own name must be durable before anything in it is. A folder above it
        // that may not be read cannot be synced.
        let above = path.parent().filter(|one| !one.as_os_str().is_empty());
        if let Ok(above) = File::open(above.unwrap_or(Path::new("."))) {
            above.sync_all()?;
        }
        flock(&folder, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io::Error::new(io::Error::from(error).kind(), locked(path)))?;
        let path = path.to_path_buf();
        let ahead = Mutex::default();
        Ok(Self {
            path,
            handle: folder,
            ahead,
        })
    }

    fn ahead(&self) -> MutexGuard<'_, Option<Ahead>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a file of zeros that is durable. One that is made beside commits may become
/// unwanted.
fn create(path: &Path, bytes: u64, is_unwanted: Option<&AtomicBool>) -> io::Result<File> {
    // Small pieces: the system keeps each in memory as one, and a small write into a
    // piece of a megabyte takes 5 % longer until it is durable (ext4, Linux 6.18).
    const PIECE: usize = 16 << 10;
    const SYNC_EVERY: u64 = 1 << 20;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.open(path)?;
    // Written, not only reserved: a later write then changes no metadata,
    // and a full disk shows here.
    let zeros = vec![0; PIECE];
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(PIECE);
        let piece = &zeros[..left.min(PIECE)];
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
        if let Some(is_unwanted) = is_unwanted
            && offset.is_multiple_of(SYNC_EVERY)
        {
            // A commit that is synced meanwhile waits for no more than this.
            file.sync_data()?;
            if is_unwanted.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
        }
    }
    file.sync_all()?;
    Ok(file)
}

fn locked(path: &Path) -> String {
    format!("another hub uses the log in {}", path.display())
}

impl Files for Folder {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for item in fs::read_dir(&self.path)? {
            names.extend(item?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<File> {
        let ahead = self.ahead().take();
        match ahead {
            Some(ahead) if ahead.name == name && ahead.bytes >= bytes => {
                if let Ok(file) = ahead.end() {
                    return Ok(file);
                }
            }
            Some(ahead) => ahead.give_up(),
            None => {}
        }
        create(&self.path.join(name), bytes, None)
    }

    fn prepare(&self, name: &str, bytes: u64) {
        let path = self.path.join(name);
        let is_unwanted = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_unwanted);
        let thread = std::thread::Builder::new()
            .name("sync log file".to_owned())
            .spawn(move || {
                let made = create(&path, bytes, Some(&until));
                made.inspect_err(|_| {
                    // A part of it would only take room.
                    let _ = fs::remove_file(&path);
                })
            });
        // Without a thread it is made when it is needed.
        let Ok(thread) = thread else { return };
        let ahead = Ahead {
            name: name.to_owned(),
            bytes,
            is_unwanted,
            thread,
        };
        let before = self.ahead().replace(ahead);
        if let Some(before) = before {
            before.give_up();
        }
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.path.join(name);
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl LogFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // One call in place of two.
        let mut done = 0;
        while done < data.len() {
            let rest = IoSlice::new(&data[done..]);
            match pwritev2(self, &[rest], offset + done as u64, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                // An older kernel, or a file system that does not know the flag.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    LogFile::write_at(self, offset, data)?;
                    return self.sync();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
