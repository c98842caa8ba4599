//! Starting a role process and signalling it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::io::FdFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};
use tokio::process::{Child, Command};

use super::vocabulary::Exit;

/// What is started for a role.
#[derive(Debug, Clone)]
pub(crate) struct ChildSpec {
    /// Role and number, such as `logic-2`.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Where it answers; removed before each start.
    pub(crate) admin_socket: PathBuf,
    /// When it drains; lower stages end first.
    pub(crate) stage: u8,
}

/// A process that was started. It is named by a file descriptor, so that a
/// signal never reaches a stranger who was given its id.
#[derive(Debug)]
pub(crate) struct Handle {
    fd: OwnedFd,
    /// Its process id.
    pub(crate) pid: u32,
}

impl Handle {
    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the process.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.fd, signal) {
            // It has ended and the report is on its way.
            tracing::debug!("cannot signal process {}: {error}", self.pid);
        }
    }
}

/// Starts `spec` so that it does not outlive this process: it is asked to end
/// (SIGTERM) when the supervisor dies, however that happens.
///
/// It gets a process group of its own, so that Ctrl-C reaches the supervisor
/// alone and the roles drain in order; it holds `inherited` for as long as it
/// lives; its standard output goes to standard error, because that of the
/// supervisor belongs to the line that says ready.
///
/// # Errors
/// What the operating system says: no such program, no memory, no descriptors.
pub(crate) fn start(spec: &ChildSpec, inherited: Arc<OwnedFd>) -> io::Result<(Handle, Child)> {
    let parent = getpid();
    let stdout = io::stderr().as_fd().try_clone_to_owned()?;
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::inherit())
        .process_group(0)
        .kill_on_drop(false);
    let between_fork_and_exec = move || prepare_child(parent, &inherited);
    #[allow(
        unsafe_code,
        reason = "the parent's death signal can be set only there"
    )]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed.
    // `prepare_child` makes three plain system calls and neither allocates nor
    // locks; what it refers to lives in memory that the fork copied.
    unsafe {
        command.pre_exec(between_fork_and_exec);
    }
    let child = command.spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other("the process ended at once"))?;
    let fd = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("not a process id"))
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
    match fd {
        Ok(fd) => Ok((Handle { fd, pid }, child)),
        Err(error) => {
            // Nobody could end it any more; dropping it also reaps it.
            let mut child = child;
            let _ = child.start_kill();
            Err(error)
        }
    }
}

fn prepare_child(parent: Pid, inherited: &OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have died before that call took effect.
    if getppid() != Some(parent) {
        return Err(io::Error::from(rustix::io::Errno::SRCH));
    }
    rustix::io::fcntl_setfd(inherited, FdFlags::empty())?;
    Ok(())
}

/// How a process ended.
pub(crate) fn exit_of(status: io::Result<ExitStatus>) -> Exit {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::NotStarted(status.to_string()),
        },
        Err(error) => Exit::NotStarted(error.to_string()),
    }
}
