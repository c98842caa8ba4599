//! The log's thread: appends a batch, trims, and opens the log anew when it failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use waystation_base::{Clock as _, Seq};
use waystation_mailbox::Sender;
use waystation_net::MonotonicClock;
use waystation_replica::{AppendFault, Batch};

use super::letters::Done;
use super::tail::Tail;
use super::vigil::Vigil;
use super::{HubOptions, fresh_epoch};
use crate::log::{AppendError, Files, Log, LogError, LogStore, random};

/// How often the thread looks whether something may be trimmed, or tries to open
/// the log again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Writer<F: Files> {
    pub(super) log: Option<Log<F>>,
    /// Opens the log's folder.
    pub(super) files: Box<dyn Fn() -> io::Result<F> + Send>,
    /// What keeps entries in the log's place, in a benchmark.
    pub(super) store: Option<Box<dyn LogStore + Send>>,
    pub(super) options: HubOptions,
    pub(super) batches: Receiver<Batch>,
    /// Entries up to here may go.
    pub(super) trim: Arc<AtomicU64>,
    pub(super) done: Sender<Done>,
    pub(super) tail: Arc<Tail>,
    /// For the next batch.
    pub(super) vigil: Vigil,
}

impl<F: Files> Writer<F>
where
    F::File: Send + Sync + 'static,
{
    /// Ends when the desk is gone.
    pub(super) fn run(mut self) {
        loop {
            match self.next() {
                Ok(batch) => {
                    self.append(&batch);
                    self.vigil.begin(MonotonicClock.now(), batch.entries.len());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.log.is_none() {
                self.reopen();
            }
            self.trim();
        }
    }

    /// Waits for the next batch.
    fn next(&mut self) -> Result<Batch, RecvTimeoutError> {
        while self.vigil.is_on(|| MonotonicClock.now()) {
            match self.batches.try_recv() {
                Ok(batch) => {
                    self.vigil.end();
                    return Ok(batch);
                }
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            }
        }
        self.batches.recv_timeout(LOOK_EVERY)
    }

    fn append(&mut self, batch: &Batch) {
        let appended = match (&mut self.store, &mut self.log) {
            (Some(store), _) => store.append(batch),
            (None, Some(log)) => log.append(batch),
            (None, None) => {
                let error = "the log is closed".to_owned();
                return self.tell(Done::Failed(AppendFault::Unknown, error));
            }
        };
        let Err(error) = appended else {
            self.tail.push(&batch.entries);
            return self.tell(Done::Durable);
        };
        let source = std::error::Error::source(&error);
        let reason = source.map_or_else(|| error.to_string(), |one| format!("{error}: {one}"));
        tracing::error!(%reason, "a batch was not stored");
        let fault = match error {
            AppendError::NotStored(_) => AppendFault::NotStored,
            AppendError::Unknown(_) | AppendError::Failed => {
                self.log = None;
                AppendFault::Unknown
            }
        };
        self.tell(Done::Failed(fault, reason));
    }

    /// Tries to open the log; the next look tries again.
    fn reopen(&mut self) {
        match self.open() {
            Ok(mut log) => {
                let restored = log.restored(MonotonicClock.now(), random() >> 1);
                self.tail.reset(Arc::new(log.reader()));
                tracing::info!(end = %restored.end, "opened the log anew");
                self.log = Some(log);
                self.tell(Done::Reopened(Box::new(restored)));
            }
            Err(error) => tracing::error!(%error, "cannot open the log anew; will try again"),
        }
    }

    fn open(&self) -> Result<Log<F>, LogError> {
        let files = (self.files)()?;
        Log::open(files, self.options.log.clone(), fresh_epoch())
    }

    fn trim(&mut self) {
        let through = Seq(self.trim.load(Ordering::Relaxed));
        if let Some(log) = &mut self.log
            && through > log.start()
            && let Err(error) = log.trim(through)
        {
            tracing::warn!(%error, "cannot trim; will try again");
        }
    }

    fn tell(&self, done: Done) {
        // One batch is on its way at a time, so that there is room; without a
        // desk nobody wants to know.
        let _ = self.done.try_send(done);
    }
}
