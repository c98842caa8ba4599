//! The thread that writes to the store: one batch after the other, each until it
//! is written.

#[cfg(test)]
mod tests;

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use waystation_base::{Backoff, BackoffConfig, Clock as _, Moment, line_passes};
use waystation_net::{MonotonicClock, unix_time};

use crate::batch::{BUCKET_S, Batch, Retention, Standing};
use crate::ledger::Ledger;
use crate::limits::{
    ASKED_KEYS_MAX, CLOCK_WAIT, DELETE_STEPS_MAX, KEYS_MAX, LAST_FLUSH, STORE_RETRY,
};
use crate::store::{Store, StoreError};
use crate::timeline::Timeline;

/// How the store fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreState {
    /// Whether the last step was done.
    pub is_up: bool,
    /// Why the last step failed; none when it did not.
    pub fault: Option<String>,
    /// Batches written.
    pub written: u64,
    /// Steps that failed.
    pub failures: u64,
    /// Rows in the store that make no sense, found at the start.
    pub skipped_rows: u64,
    /// Rows that Lars' table could not hold.
    pub unstorable_rows: u64,
    /// How long the last batch took, in milliseconds.
    pub last_write_ms: u64,
}

/// Both clocks at once: the calendar's time since 1970, and the monotonic one's.
pub(crate) type Clocks = Box<dyn Fn() -> (Duration, Moment) + Send + Sync>;

/// The machine's clocks.
pub(crate) fn machine_clocks() -> (Duration, Moment) {
    (unix_time(), MonotonicClock.now())
}

/// What the server's threads share.
pub(crate) struct Shared {
    ledger: Mutex<Ledger>,
    state: Mutex<StoreState>,
    clocks: Clocks,
    timeline: Mutex<Timeline>,
}

impl Shared {
    pub(crate) fn new(ledger: Ledger, clocks: Clocks) -> Self {
        let (told, now) = clocks();
        Self {
            ledger: Mutex::new(ledger),
            state: Mutex::default(),
            clocks,
            timeline: Mutex::new(Timeline::new(told, now)),
        }
    }

    /// The present in unix seconds, as far as clocks are believed.
    pub(crate) fn now_s(&self) -> u64 {
        self.present().now_s
    }

    /// The present, and how far it is to be believed.
    fn present(&self) -> Present {
        let (told, now) = (self.clocks)();
        let mut timeline = self.timeline();
        Present {
            now_s: timeline.handle(told, now),
            may_expire: timeline.may_expire(now),
            is_steady: timeline.steady_for(now) >= CLOCK_WAIT,
        }
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts. Held for one turn of a connection, or one batch.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's work.
pub(crate) struct Writer {
    pub(crate) store: Box<dyn Store>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) flush: Duration,
    pub(crate) retention: Retention,
    /// Ends the thread when its other end is dropped.
    pub(crate) stop: Receiver<()>,
    /// Tells this server's batches from those of others: random.
    pub(crate) owner: u64,
    pub(crate) is_open: bool,
    pub(crate) folded: u64,
}

/// The present.
#[derive(Clone, Copy, Debug)]
struct Present {
    /// In unix seconds.
    now_s: u64,
    /// Whether history may be deleted by it.
    may_expire: bool,
    /// Whether it has lasted, however far from what was before.
    is_steady: bool,
}

impl Writer {
    /// Writes until it is stopped, then what is left, for a while.
    pub(crate) fn run(mut self) {
        let mut batch = None;
        let (base, max) = STORE_RETRY;
        let pauses = BackoffConfig {
            base,
            max,
            ..BackoffConfig::default()
        };
        let mut backoff = Backoff::new(pauses, self.owner);
        let mut deadline: Option<Moment> = None;
        loop {
            let stepped = self.step(&mut batch);
            self.tell(stepped.as_ref().err());
            let is_done = matches!(stepped, Ok(false));
            if let Some(deadline) = deadline
                && (is_done || MonotonicClock.now() >= deadline)
            {
                self.warn_of_rest(batch.as_ref());
                return;
            }
            let wait = match stepped {
                Ok(true) => Duration::ZERO,
                Ok(false) => {
                    backoff.reset();
                    self.flush
                }
                Err(_) => backoff.next_delay(),
            };
            let is_stopped = match self.stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => false,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            };
            if is_stopped && deadline.is_none() {
                deadline = Some(MonotonicClock.now() + LAST_FLUSH);
            } else if is_stopped && !wait.is_zero() {
                // The channel waits no more, so this does.
                std::thread::park_timeout(wait.min(STORE_RETRY.0));
            }
        }
    }

    /// Does the next thing; true when there may be more at once.
    fn step(&mut self, under_way: &mut Option<Batch>) -> Result<bool, StoreError> {
        if !self.is_open {
            self.open(under_way.as_mut())?;
        }
        if under_way.is_none() {
            self.look_up()?;
            self.begin_anew()?;
            let now_s = self.shared.now_s();
            *under_way = self.shared.ledger().poll_batch(now_s, self.owner);
        }
        if let Some(batch) = under_way {
            let began = MonotonicClock.now();
            self.store
                .write(batch)
                .inspect_err(|_| self.is_open = false)?;
            let took = MonotonicClock.now().saturating_since(began);
            let mut state = self.shared.state();
            state.written += 1;
            state.last_write_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            state.unstorable_rows = self.store.unstorable();
            drop(state);
            *under_way = None;
        }
        let (complete, is_behind) = {
            let now_s = self.shared.now_s();
            let mut ledger = self.shared.ledger();
            (ledger.complete_before(now_s), ledger.is_behind())
        };
        self.tidy(complete)?;
        Ok(is_behind)
    }

    /// Asks the store for keys that were forgotten here, and come again.
    fn look_up(&mut self) -> Result<(), StoreError> {
        let asked = self.shared.ledger().poll_unknown(ASKED_KEYS_MAX);
        if asked.is_empty() {
            return Ok(());
        }
        let found = self.store.find(&asked);
        let found = found.inspect_err(|_| self.is_open = false)?;
        let now_s = self.shared.now_s();
        let mut ledger = self.shared.ledger();
        ledger.handle_found(now_s, &asked, found);
        Ok(())
    }

    /// Lets counts go to the present again after the clock was ahead for long.
    fn begin_anew(&mut self) -> Result<(), StoreError> {
        let present = self.shared.present();
        if !present.is_steady || !self.shared.ledger().is_ahead(present.now_s) {
            return Ok(());
        }
        let start = present.now_s / BUCKET_S * BUCKET_S;
        tracing::warn!(
            start,
            "history is ahead of the clock; counts go to the present again"
        );
        let begun = self.store.begin_anew(start);
        begun.inspect_err(|_| self.is_open = false)?;
        self.shared.ledger().handle_begun_anew(start);
        self.folded = start;
        Ok(())
    }

    /// Sums up complete buckets and deletes old ones, once a bucket.
    fn tidy(&mut self, complete_before: u64) -> Result<(), StoreError> {
        if complete_before <= self.folded {
            return Ok(());
        }
        let tidied = self.fold_and_expire(complete_before);
        self.is_open = tidied.is_ok();
        tidied
    }

    fn fold_and_expire(&mut self, complete_before: u64) -> Result<(), StoreError> {
        self.store.fold(complete_before)?;
        self.folded = complete_before;
        let present = self.shared.present();
        for _ in 0..DELETE_STEPS_MAX {
            if !present.may_expire || !self.store.expire(present.now_s, &self.retention)? {
                break;
            }
        }
        Ok(())
    }

    fn open(&mut self, under_way: Option<&mut Batch>) -> Result<(), StoreError> {
        let standing = self.store.open()?;
        if self.shared.ledger().is_loaded() {
            self.go_on(standing, under_way);
        } else {
            let loaded = self.store.load(KEYS_MAX)?;
            if loaded.skipped > 0 {
                tracing::warn!(
                    rows = loaded.skipped,
                    "rows in the store make no sense; they are left alone"
                );
            }
            self.shared.state().skipped_rows = loaded.skipped;
            self.shared.timeline().handle_last(standing.folded);
            let now_s = self.shared.now_s();
            self.shared.ledger().handle_loaded(now_s, loaded);
        }
        self.folded = standing.folded;
        self.is_open = true;
        Ok(())
    }

    /// The batch under way is in the store already, or is written behind what is.
    fn go_on(&self, standing: Standing, under_way: Option<&mut Batch>) {
        let mut ledger = self.shared.ledger();
        let Some(batch) = under_way else {
            ledger.handle_standing(standing);
            return;
        };
        if (standing.seq, standing.owner) != (batch.seq, batch.owner) {
            if batch.seq != standing.seq + 1 {
                tracing::warn!(
                    found = standing.seq,
                    ours = batch.seq,
                    "another report server wrote to the store meanwhile"
                );
            }
            batch.seq = standing.seq + 1;
            batch.start = batch.start.max(standing.folded);
        }
        ledger.handle_standing(Standing {
            seq: batch.seq,
            ..standing
        });
    }

    fn tell(&self, error: Option<&StoreError>) {
        let mut state = self.shared.state();
        state.is_up = error.is_none();
        state.fault = error.map(told);
        if let Some(error) = error {
            state.failures += 1;
            drop(state);
            if let Some(unsaid) = line_passes!(MonotonicClock.now()) {
                tracing::warn!(error = told(error), unsaid, "counts wait for the store");
            }
        }
    }

    fn warn_of_rest(&self, under_way: Option<&Batch>) {
        let waiting = self.shared.ledger().counters().waiting_cells;
        let waiting = waiting + under_way.map_or(0, |batch| batch.counts.len() as u64);
        if waiting > 0 {
            tracing::warn!(
                waiting,
                "counts could not be stored before the end; their callers tell them again"
            );
        }
    }
}

/// An error with its cause.
fn told(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) if !error.to_string().contains(&source.to_string()) => {
            format!("{error}: {source}")
        }
        _ => error.to_string(),
    }
}
