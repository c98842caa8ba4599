//! The directory of `up`: who owns it, and where the sockets stand.
//!
//! Two locks, both released by the kernel when their holders die. `DIR/lock`
//! belongs to the supervisor alone and refuses a second one. `DIR/run/roles.lock`
//! is inherited by every role process and so outlives a supervisor that was
//! killed: as long as it is held, one of its roles still drains.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::limits::SOCKET_PATH_BYTES_MAX;

/// The longest name of a socket below `DIR/run`.
const SOCKET_NAME_LONGEST: &str = "sync-site-a.control";

/// How often a lock that old roles hold is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Whether there is a folder for a file that somebody named: one that was typed
/// wrong is not made.
///
/// # Errors
/// Which one there is not, for people.
pub(crate) fn check_folder(file: &Path) -> Result<(), String> {
    let folder = file.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(format!("there is no folder {}", folder.display())),
        _ => Ok(()),
    }
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// Another supervisor runs on it. Stop that one, or use another directory.
    #[error("{} is in use by another `waystation up`, {}", path.display(), holder(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as far as it says.
        pid: Option<u32>,
    },
    /// Roles of a supervisor that was killed do not end. End them by hand.
    #[error(
        "processes of an earlier `waystation up` on {} still run after {waited:?}: {processes}",
        path.display()
    )]
    Predecessors {
        /// The directory.
        path: PathBuf,
        /// How long they were waited for.
        waited: Duration,
        /// Their roles and ids, as the earlier supervisor noted them.
        processes: String,
    },
    /// Sockets below it would have names that the kernel does not take. Use a
    /// shorter path.
    #[error(
        "{} is too long for Unix sockets: {bytes} bytes with their names, at most \
         {SOCKET_PATH_BYTES_MAX}; choose a shorter --dir",
        path.display()
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// The length of the longest socket's path.
        bytes: usize,
    },
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "process unknown".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// Where the sockets of a directory stand; needs no lock.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    run: PathBuf,
}

impl Sockets {
    /// The sockets below `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        Self {
            run: dir.join("run"),
        }
    }

    /// The directory of all sockets.
    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    /// Where `role` answers health, metrics and contexts.
    pub(crate) fn admin(&self, role: &str) -> PathBuf {
        self.run.join(format!("{role}.sock"))
    }
}

/// A directory that this process owns until the value is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    sockets: Sockets,
    _lock: File,
    roles: File,
}

impl DataDir {
    /// Creates the directory where it is missing and locks it.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::TooLong`] and [`Error::Io`].
    pub(crate) fn acquire(path: &Path) -> Result<Self, Error> {
        let sockets = Sockets::of(path);
        // Others reach them by their absolute paths.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let bytes = Sockets::of(&absolute)
            .run()
            .join(SOCKET_NAME_LONGEST)
            .as_os_str()
            .len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(Error::TooLong {
                path: path.to_owned(),
                bytes,
            });
        }
        create(path)?;
        create(sockets.run())?;
        let lock_path = path.join("lock");
        let mut lock = open(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = text_of(&mut lock).trim().parse().ok();
                return Err(Error::InUse {
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io {
                    operation: "lock",
                    path: lock_path,
                    source,
                });
            }
        }
        replace(&mut lock, &format!("{}\n", std::process::id())).map_err(|source| Error::Io {
            operation: "write",
            path: lock_path,
            source,
        })?;
        let roles = open(&sockets.run().join("roles.lock"))?;
        Ok(Self {
            path: path.to_owned(),
            sockets,
            _lock: lock,
            roles,
        })
    }

    /// Waits until no role of an earlier supervisor is left, then removes the
    /// sockets they left behind. `on_wait` is called once when there is
    /// something to wait for.
    ///
    /// # Errors
    /// [`Error::Predecessors`] after `timeout`; [`Error::Io`].
    pub(crate) async fn wait_for_predecessors(
        &mut self,
        timeout: Duration,
        on_wait: impl FnOnce(&str),
    ) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut on_wait = Some(on_wait);
        loop {
            match self.roles.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => {
                    let path = self.sockets.run().join("roles.lock");
                    return Err(Error::Io {
                        operation: "lock",
                        path,
                        source,
                    });
                }
            }
            let mut processes = || {
                let text = text_of(&mut self.roles);
                still_running(&text)
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::Predecessors {
                    processes: processes(),
                    path: self.path.clone(),
                    waited: timeout,
                });
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait(&processes());
            }
            tokio::time::sleep(RETRY).await;
        }
        self.remove_stale_sockets()
    }

    fn remove_stale_sockets(&self) -> Result<(), Error> {
        let run = self.sockets.run();
        let fault = |operation, source| Error::Io {
            operation,
            path: run.to_owned(),
            source,
        };
        for entry in fs::read_dir(run).map_err(|source| fault("list", source))? {
            let path = entry.map_err(|source| fault("list", source))?.path();
            if path
                .extension()
                .is_some_and(|end| ["sock", "rpc", "control"].iter().any(|one| end == *one))
            {
                remove_socket(&path)?;
            }
        }
        Ok(())
    }

    /// Notes which processes run, for the message of a later start that has to
    /// wait for them.
    pub(crate) fn note_roles<'a>(&mut self, roles: impl Iterator<Item = (&'a str, u32)>) {
        let mut text = String::new();
        for (role, pid) in roles {
            let _ = writeln!(text, "{role} (process {pid})");
        }
        if let Err(error) = replace(&mut self.roles, &text) {
            tracing::debug!("cannot note the roles: {error}");
        }
    }

    /// The lock that role processes inherit.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub(crate) fn roles_lock(&self) -> io::Result<Arc<OwnedFd>> {
        self.roles.as_fd().try_clone_to_owned().map(Arc::new)
    }

    /// Where its sockets stand.
    pub(crate) fn sockets(&self) -> &Sockets {
        &self.sockets
    }
}

/// Removes a socket that nobody listens on any more; a missing one is fine.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn remove_socket(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io {
            operation: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Only the owner may look inside: the sockets below answer whoever connects.
fn create(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Io {
            operation: "create",
            path: path.to_owned(),
            source,
        })
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| Error::Io {
            operation: "open",
            path: path.to_owned(),
            source,
        })
}

/// Those of the roles that were noted whose processes have not ended; all of them
/// where it is none, since somebody holds their lock.
fn still_running(noted: &str) -> String {
    let runs = |line: &&str| {
        let (_, rest) = line.rsplit_once("(process ")?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", rest.trim_end_matches(')'))).ok()?;
        // Behind the name, which may hold anything.
        let (_, state) = stat.rsplit_once(") ")?;
        (!state.starts_with(['Z', 'X'])).then_some(())
    };
    let running: Vec<&str> = noted.lines().filter(|line| runs(line).is_some()).collect();
    if running.is_empty() {
        return noted.lines().collect::<Vec<_>>().join(", ");
    }
    running.join(", ")
}

/// What a lock file says; empty when it cannot be read, since it is only used
/// in messages.
fn text_of(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(4096).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

fn replace(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_and_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::acquire(&path).unwrap();
        match DataDir::acquire(&path) {
            Err(Error::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("expected a refusal, got {other:?}"),
        }
        drop(first);
        DataDir::acquire(&path).unwrap();
    }

    #[test]
    fn a_path_that_no_socket_could_have_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(120));
        assert!(matches!(
            DataDir::acquire(&path),
            Err(Error::TooLong { .. })
        ));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn sockets_left_behind_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut dir = DataDir::acquire(folder.path()).unwrap();
        let (stale, kept) = (
            dir.sockets().admin("das-1"),
            dir.sockets().run().join("notes"),
        );
        fs::write(&stale, "").unwrap();
        fs::write(&kept, "").unwrap();
        dir.wait_for_predecessors(Duration::ZERO, |_| panic!("nothing to wait for"))
            .await
            .unwrap();
        assert!(!stale.exists());
        assert!(kept.exists());
    }

    /// Story: the supervisor was killed, its Das was still writing, and a new
    /// supervisor started a second Das on the same store.
    #[tokio::test]
    async fn a_start_waits_for_roles_that_outlive_their_supervisor() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = DataDir::acquire(folder.path()).unwrap();
        first
            .wait_for_predecessors(Duration::ZERO, |_| {})
            .await
            .unwrap();
        first.note_roles([("das-1", 4711)].into_iter());
        let inherited = first.roles_lock().unwrap();
        drop(first);

        let mut second = DataDir::acquire(folder.path()).unwrap();
        match second.wait_for_predecessors(Duration::ZERO, |_| {}).await {
            Err(Error::Predecessors { processes, .. }) => {
                assert_eq!(processes, "das-1 (process 4711)");
            }
            other => panic!("expected to be told of das-1, got {other:?}"),
        }
        // Who has ended is named no more.
        let own = std::process::id();
        let mut noted = "das-1 (process 4711)\n".to_owned();
        let _ = writeln!(noted, "logic-1 (process {own})");
        assert_eq!(still_running(&noted), format!("logic-1 (process {own})"));
        let long = Duration::from_mins(1);
        let mut inherited = Some(inherited);
        second
            .wait_for_predecessors(long, |_| drop(inherited.take()))
            .await
            .unwrap();
        assert!(inherited.is_none(), "it waited");
    }
}
