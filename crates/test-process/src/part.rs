//! A test's own program once more, as another process that plays a part in it.

use std::io::Read as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::Watchdog;

/// Holds what the process is given.
const GIVEN: &str = "WAYSTATION_TEST_PART";

/// A process of a test that runs the same test, which asks [`Part::given`] first and
/// then plays its part: what a test kills or stops must not be the test itself. It is
/// killed when this is dropped, and when the test ends in whatever way.
///
/// Cost: two processes, see [`Watchdog`].
#[derive(Debug)]
pub struct Part {
    child: Child,
    input: Option<ChildStdin>,
    _watchdog: Watchdog,
}

impl Part {
    /// Starts it for the test of that path within its program, such as `module::name`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(test: &str, given: &str) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args([test, "--exact"])
            .env(GIVEN, given)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program starts once more");
        let input = child.stdin.take();
        Self {
            _watchdog: Watchdog::over(&child),
            child,
            input,
        }
    }

    /// What this process was given, if it plays a part.
    pub fn given() -> Option<String> {
        let given = std::env::var_os(GIVEN)?;
        Some(given.to_string_lossy().into_owned())
    }

    /// In the process that plays a part: waits until the test has it [end](Part::end).
    pub fn wait_for_the_end() {
        // At an error there is nobody left to wait for.
        let _ended = std::io::stdin().read(&mut [0]);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has it end by itself, and waits for that.
    ///
    /// # Panics
    /// When it failed.
    pub fn end(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it can be waited for");
        assert!(status.success(), "its part failed: {status}");
    }

    /// Ends it by SIGKILL, and waits until it is gone.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // One that has ended is gone.
        let _killed = self.child.kill();
        let _gone = self.child.wait();
    }
}
