//! The threads behind a handle: one that writes, some that read.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::counters::Counters;
use super::queue::Queue;
use crate::store::error::StoreError;
use crate::store::operation::{ChatReader, ChatStore, WriteOperation, WriteOutcome};

/// A write and the caller who waits for it.
pub(super) struct WriteRequest {
    pub(super) operation: WriteOperation,
    pub(super) reply: oneshot::Sender<Result<WriteOutcome, StoreError>>,
}

/// A read, which answers its caller by itself.
pub(super) type ReadJob = Box<dyn FnOnce(&mut dyn ChatReader) + Send>;

/// What handles and threads share.
pub(super) struct Shared {
    pub(super) writes: Queue<WriteRequest>,
    pub(super) reads: Queue<ReadJob>,
    pub(super) counters: Counters,
    threads_running: Mutex<usize>,
    thread_ended: Condvar,
}

impl Shared {
    pub(super) fn new(writes: Queue<WriteRequest>, reads: Queue<ReadJob>) -> Self {
        Self {
            writes,
            reads,
            counters: Counters::default(),
            threads_running: Mutex::new(0),
            thread_ended: Condvar::new(),
        }
    }

    /// Refuses new work; what is queued is finished.
    pub(super) fn close(&self) {
        self.writes.close();
        self.reads.close();
    }

    /// Waits until all threads have ended; false if they had not within this time.
    pub(super) fn wait_for_threads(&self, within: Duration) -> bool {
        let (running, _) = self
            .thread_ended
            .wait_timeout_while(self.threads(), within, |running| *running > 0)
            .unwrap_or_else(PoisonError::into_inner);
        *running == 0
    }

    fn threads(&self) -> MutexGuard<'_, usize> {
        self.threads_running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by each thread for as long as it runs.
struct Running {
    shared: Arc<Shared>,
}

impl Running {
    fn new(shared: &Arc<Shared>) -> Self {
        *shared.threads() += 1;
        Self {
            shared: Arc::clone(shared),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            // Nobody may wait for a thread that is gone: close, and let go of the
            // queued requests, which answers their callers.
            self.shared.reads.abandon();
            self.shared.writes.abandon();
        }
        *self.shared.threads() -= 1;
        self.shared.thread_ended.notify_all();
    }
}

/// Starts the thread that owns the store.
pub(super) fn spawn_writer(
    shared: &Arc<Shared>,
    store: Box<dyn ChatStore>,
    batch_operations_max: usize,
) -> Result<(), StoreError> {
    let running = Running::new(shared);
    spawn("store-writer", move || {
        // Bound before the store and so dropped after it: when the thread counts as
        // ended, the file is closed.
        let running = running;
        let mut store = store;
        loop {
            let batch = running.shared.writes.pop_batch(batch_operations_max);
            if batch.is_empty() {
                return;
            }
            write_batch(&running.shared.counters, store.as_mut(), batch);
        }
    })
}

/// Starts a thread with a connection for reading.
pub(super) fn spawn_reader(
    shared: &Arc<Shared>,
    reader: Box<dyn ChatReader>,
) -> Result<(), StoreError> {
    let running = Running::new(shared);
    spawn("store-reader", move || {
        let running = running;
        let mut reader = reader;
        while let Some(job) = running.shared.reads.pop_batch(1).pop() {
            job(reader.as_mut());
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(StoreError::storage)
}

fn write_batch(counters: &Counters, store: &mut dyn ChatStore, batch: Vec<WriteRequest>) {
    let (operations, replies): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|request| (request.operation, request.reply))
        .unzip();
    let results = store.write(operations);
    assert_eq!(
        results.len(),
        replies.len(),
        "a store answers every operation of a batch"
    );
    // Counted before anyone is answered, so that a caller who has its answer finds
    // it in the counters.
    counters.count_batch(&results);
    for (reply, result) in replies.into_iter().zip(results) {
        // A caller who no longer waits is no fault: the write has taken place.
        drop(reply.send(result));
    }
}
