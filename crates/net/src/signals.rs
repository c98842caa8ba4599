//! Waits for the signals that end a process in order.

use std::io;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals SIGTERM and SIGINT, from now on: one that arrives before
/// [`Termination::wait`] is not lost, and does not end the process.
pub struct Termination {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Begins to catch the signals. Call it before the process says that it
    /// is ready.
    ///
    /// # Errors
    /// What the system answers when handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (terminate, interrupt) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )
        };
        Ok(Self {
            runtime,
            terminate,
            interrupt,
        })
    }

    /// Blocks the calling thread until one arrives, and names it. Call it
    /// from a thread that runs no shard, and again for the next one.
    pub fn wait(&mut self) -> &'static str {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            }
        })
    }
}
