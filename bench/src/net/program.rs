//! The programs under load, each a process of its own.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

/// No answer of a program takes longer, or it hangs.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Looks at a program that starts, a hundredth of a second apart.
const LOOKS: u32 = 1_000;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: Option<TempDir>,
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a program that takes `--listen ADDR` and prints `listening on ADDR`.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn listening(name: &'static str, program: &Path, args: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let out = child.stdout.take().context("the child has no output")?;
        let mut program = Self {
            name,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            child,
            _folder: None,
        };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ");
        let address = address.with_context(|| format!("{name} says {line:?}"))?;
        program.address = address.parse()?;
        Ok(program)
    }

    /// This benchmark's own program in one of its other roles.
    ///
    /// # Errors
    /// As [`Program::listening`].
    pub(crate) fn own(name: &'static str, args: &[&str]) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find the running benchmark")?;
        Self::listening(name, &own, &[&["serve"], args].concat())
    }

    /// A Redis server without persistence.
    ///
    /// # Errors
    /// It is not installed or does not answer.
    pub(crate) fn redis() -> Result<Self> {
        let address = free_address()?;
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let child = installed(&["redis-server"])?
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--maxclients", "16384"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server; on Debian: apt-get install redis-server")?;
        Self::ready("redis-server", address, child, folder)
    }

    /// twemproxy, with its defaults but for the protocol, before this server.
    ///
    /// # Errors
    /// It is not installed or does not answer.
    pub(crate) fn nutcracker(upstream: SocketAddr) -> Result<Self> {
        let (address, stats) = (free_address()?, free_address()?);
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let settings =
            format!("bench:\n  listen: {address}\n  redis: true\n  servers:\n   - {upstream}:1\n");
        fs::write(folder.path().join("nutcracker.yml"), settings)?;
        let child = installed(&["nutcracker", "/usr/sbin/nutcracker"])?
            .args(["-c", "nutcracker.yml", "-o", "log", "-a", "127.0.0.1", "-s"])
            .arg(stats.port().to_string())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nutcracker; on Debian: apt-get install nutcracker")?;
        Self::ready("nutcracker", address, child, folder)
    }

    fn ready(
        name: &'static str,
        address: SocketAddr,
        child: Child,
        folder: TempDir,
    ) -> Result<Self> {
        let program = Self {
            name,
            address,
            child,
            _folder: Some(folder),
        };
        program.until_answer("*2\r\n$3\r\nGET\r\n$4\r\nnone\r\n", "$-1\r\n")?;
        Ok(program)
    }

    /// Waits until it gives this answer.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn until_answer(&self, request: &str, answer: &str) -> Result<()> {
        for _ in 0..LOOKS {
            if self
                .ask(request, answer.len())
                .is_ok_and(|got| got == answer)
            {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        bail!("{} does not answer {request:?} by {answer:?}", self.name)
    }

    fn ask(&self, request: &str, length: usize) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Keeps all its threads on one CPU.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn pin(&self, cpu: usize) -> Result<()> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let id = thread?.file_name().to_string_lossy().parse()?;
            pin(Pid::from_raw(id), cpu)?;
        }
        Ok(())
    }

    /// CPU nanoseconds of all its threads so far, in the kernel's work for them too.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let folder = format!("/proc/{}/task", self.pid());
        let mut total = 0;
        for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            // A thread may end meanwhile.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            total += on_cpu_ns(&text).unwrap_or(0);
        }
        ensure!(total > 0, "{folder} has no CPU times");
        Ok(total)
    }
}

/// Keeps a thread, or this one, on one CPU.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn pin(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(thread, &set).with_context(|| format!("cannot pin to CPU {cpu}"))
}

/// Lets this thread run on every CPU again.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).context("cannot unpin")
}

/// The first number of a `schedstat`: nanoseconds on a CPU.
fn on_cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// The first of these programs that can be found.
fn installed(names: &[&str]) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in names {
        let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
        if let Some(program) = places.find(|place| place.is_file()) {
            return Ok(Command::new(program));
        }
    }
    bail!("{} is not installed", names[0])
}

/// A port that is free now. Another program may take it; then its user says so.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    listener.local_addr().context("the port has no address")
}

/// Builds an example in the release profile, into the target folder of this benchmark, and
/// returns its path.
///
/// # Errors
/// It cannot be built.
pub(crate) fn build(package: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running benchmark")?;
    let folder = own.parent().context("the benchmark lies in no folder")?;
    let target = folder
        .parent()
        .context("the benchmark lies in no target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", package])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "{package} cannot be built: {status}");
    let program = target.join("release").join(package);
    ensure!(
        program.is_file(),
        "cargo did not build {}",
        program.display()
    );
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_a_cpu_is_the_first_number() {
        assert_eq!(on_cpu_ns("123 45 6\n"), Some(123));
        assert_eq!(on_cpu_ns(""), None);
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = installed(&["no-such-program"]).unwrap_err();
        assert!(error.to_string().contains("no-such-program"));
        assert!(installed(&["no-such-program", "/bin/sh"]).is_ok());
    }
}
