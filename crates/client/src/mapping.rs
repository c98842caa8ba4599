//! Memory shared by descriptor: memfds that their maker seals.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
    memfd_create, open,
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use waystation_segment::{Memory, Word};

/// Most words that are mapped at a time: 128 MiB.
const WORDS_MAX: usize = 16 * 1024 * 1024;

/// What one may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load words.
    Read,
    /// Load and store words.
    Write,
}

/// Words that other processes may map, too. Unmapped when it is dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<Word>,
    words: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and its words are
// atomic.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes a memfd of so many zero words that nobody can make shorter or
    /// longer, and maps it for writing. With `Access::Read` for others nobody
    /// else can map it for writing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(name: &str, words: usize, others: Access) -> io::Result<(Self, OwnedFd)> {
        if words == 0 || words > WORDS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create(name, flags)?;
        ftruncate(&file, (words * size_of::<Word>()) as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        let mapping = Self::map(file.as_fd(), words, Access::Write)?;
        let mut last = SealFlags::SEAL;
        if others == Access::Read {
            // What is mapped already stays writable.
            last |= SealFlags::FUTURE_WRITE;
        }
        fcntl_add_seals(&file, last)?;
        let file = match others {
            Access::Write => file,
            Access::Read => reopened(&file)?,
        };
        Ok((mapping, file))
    }

    /// Maps a memfd that another process made.
    ///
    /// # Errors
    /// It is not sealed against shrinking, which could end this process at any
    /// load; it is empty or too large; or what the kernel says.
    pub fn attach(file: BorrowedFd<'_>, access: Access) -> io::Result<Self> {
        if !fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
            let text = "memory is not sealed against shrinking";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let bytes = usize::try_from(fstat(file)?.st_size).unwrap_or(0);
        let words = bytes / size_of::<Word>();
        if words == 0 || words > WORDS_MAX {
            let text = format!("memory of {bytes} bytes is no segment");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Self::map(file, words, access)
    }

    #[expect(unsafe_code, reason = "shared memory")]
    fn map(file: BorrowedFd<'_>, words: usize, access: Access) -> io::Result<Self> {
        let allowed = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let bytes = words * size_of::<Word>();
        // SAFETY: the kernel chooses a place that is free, and the file cannot
        // become shorter than what is mapped of it.
        let start = unsafe { mmap(null_mut(), bytes, allowed, MapFlags::SHARED, file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words })
    }
}

impl Memory for Mapping {
    #[inline]
    #[expect(unsafe_code, reason = "shared memory")]
    fn words(&self) -> &[Word] {
        // SAFETY: so many words are mapped from there until this is dropped, at
        // the beginning of a page. All processes use them as atomic numbers, for
        // which every bit pattern is valid. Loads of a mapping for reading are
        // relaxed ones of 8 bytes, which read-only memory allows.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "shared memory")]
    fn drop(&mut self) {
        let bytes = self.words * size_of::<Word>();
        // SAFETY: this is the whole of what was mapped, and no reference to it
        // outlives `self`.
        let _gone = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), bytes) };
    }
}

/// The same file, opened for reading only: who gets it cannot write.
fn reopened(file: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Tells a process from the one it was forked from, without a system call.
#[derive(Debug)]
pub struct ForkMark {
    page: NonNull<Word>,
}

// SAFETY: as for `Mapping`.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Send for ForkMark {}
// SAFETY: as for `Mapping`.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for ForkMark {}

/// Bytes of the page; the kernel rounds up.
const PAGE: usize = 4096;

impl ForkMark {
    /// Marks this process.
    ///
    /// # Errors
    /// What the kernel says.
    #[expect(unsafe_code, reason = "memory that a fork wipes")]
    pub fn new() -> io::Result<Self> {
        let allowed = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a place that is free.
        let start = unsafe { mmap_anonymous(null_mut(), PAGE, allowed, MapFlags::PRIVATE)? };
        let page = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mark = Self { page };
        // SAFETY: the page was mapped just now, and is wiped in children only.
        unsafe { madvise(start, PAGE, Advice::LinuxWipeOnFork)? };
        mark.word().store(1, std::sync::atomic::Ordering::Relaxed);
        Ok(mark)
    }

    /// Whether this is a child of the process that was marked.
    #[inline]
    pub fn is_child(&self) -> bool {
        self.word().load(std::sync::atomic::Ordering::Relaxed) == 0
    }

    #[inline]
    #[expect(unsafe_code, reason = "memory that a fork wipes")]
    fn word(&self) -> &Word {
        // SAFETY: the page is mapped until this is dropped, and zeros are a word.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for ForkMark {
    #[expect(unsafe_code, reason = "memory that a fork wipes")]
    fn drop(&mut self) {
        // SAFETY: this is the whole of what was mapped.
        let _gone = unsafe { munmap(self.page.as_ptr().cast::<c_void>(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_share_their_words() {
        let (mine, file) = Mapping::create("test", 100, Access::Read).unwrap();
        let its = Mapping::attach(file.as_fd(), Access::Read).unwrap();
        mine.words()[99].store(7, Ordering::Relaxed);
        assert_eq!(its.words()[99].load(Ordering::Relaxed), 7);
        assert!(its.words().len() >= 100);
    }

    /// A caller that could write would decide for all others.
    #[test]
    fn nobody_else_writes_a_route_segment_or_cuts_it() {
        let (_mine, file) = Mapping::create("test", 100, Access::Read).unwrap();
        assert!(Mapping::attach(file.as_fd(), Access::Write).is_err());
        assert!(ftruncate(&file, 0).is_err());
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        if let Ok(again) = open(path, OFlags::RDWR, Mode::empty()) {
            assert!(Mapping::attach(again.as_fd(), Access::Write).is_err());
            assert!(rustix::io::write(&again, &[1]).is_err());
        }
        let (_ledger, file) = Mapping::create("test", 100, Access::Write).unwrap();
        assert!(Mapping::attach(file.as_fd(), Access::Write).is_ok());
        assert!(ftruncate(&file, 8).is_err());
    }

    /// A file that is cut while it is mapped ends the process that reads it.
    #[test]
    fn memory_that_can_shrink_is_refused() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, 4096).unwrap();
        let error = Mapping::attach(file.as_fd(), Access::Read).unwrap_err();
        assert_eq!(error.to_string(), "memory is not sealed against shrinking");
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        assert!(Mapping::attach(file.as_fd(), Access::Read).is_ok());
    }

    #[test]
    fn a_process_is_not_its_own_child() {
        assert!(!ForkMark::new().unwrap().is_child());
    }
}
