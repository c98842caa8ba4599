//! Waits for the signals that end a process in order.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Blocks the calling thread until SIGTERM or SIGINT arrives, and names it.
/// Call it from a thread that runs no shard.
///
/// # Errors
/// What the system answers when handlers cannot be installed.
pub fn wait_for_termination() -> io::Result<&'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => Ok("SIGTERM"),
            _ = interrupt.recv() => Ok("SIGINT"),
        }
    })
}
