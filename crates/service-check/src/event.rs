//! Things that happen on one thread and are waited for on another.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

/// How long tests wait for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test of a deadline that must pass while a handler runs, which a
/// machine under load may not even begin in time: with longer and longer
/// deadlines, until `test` says that the handler was begun.
///
/// # Panics
/// When it never was.
#[track_caller]
pub fn with_deadlines(test: impl Fn(Duration) -> bool) {
    let deadlines = [25, 250, 2500].map(Duration::from_millis);
    assert!(
        deadlines.into_iter().any(test),
        "no handler was begun in time"
    );
}

/// Something that happens, any number of times. Clones share it.
#[derive(Clone, Debug)]
pub struct Event {
    count: watch::Sender<u64>,
}

impl Default for Event {
    fn default() -> Self {
        Self {
            count: watch::Sender::new(0),
        }
    }
}

impl Event {
    /// It happens once more.
    pub fn raise(&self) {
        self.count.send_modify(|count| *count += 1);
    }

    /// How often it has happened.
    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until it has happened `count` times in all.
    pub async fn happened(&self, count: u64) {
        let mut changes = self.count.subscribe();
        let reached = changes.wait_for(|now| *now >= count).await;
        reached.expect("this event holds a sender itself");
    }

    /// Blocks this thread until it has happened `count` times in all.
    ///
    /// # Panics
    /// When it has not after [`PATIENCE`].
    #[track_caller]
    pub fn wait(&self, count: u64) {
        block_on(self.happened(count));
    }
}

/// Runs a test's own side to its end.
///
/// # Panics
/// When it has not ended after [`PATIENCE`].
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("an event loop for the test");
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
    ended.expect("what the test waits for happens in time")
}

/// Looks again and again until `look` sees something.
///
/// # Panics
/// When it has not after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    block_on(async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}
