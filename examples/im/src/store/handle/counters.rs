//! What the store counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::error::StoreError;
use crate::store::operation::WriteOutcome;

/// The counters at one moment; all but `queue_length` only grow. Read one by one
/// while threads count on, so they may differ by what happened in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCounters {
    /// Batches that were tried, each in one transaction.
    pub commits: u64,
    /// Writes that the queue accepted.
    pub operations: u64,
    /// Sum of the batches' sizes; divided by `commits` it is the mean batch.
    pub batch_size_sum: u64,
    /// Largest batch so far.
    pub batch_size_max: u64,
    /// Writes waiting now.
    pub queue_length: u64,
    /// Appends that were answered as duplicates.
    pub duplicates: u64,
    /// Writes that were answered by an error, refusals included.
    pub errors: u64,
    /// Of `errors`, those for which the storage is to blame.
    pub storage_errors: u64,
    /// Batches in a row, up to the last, in which the storage failed a write.
    pub failing: u64,
    /// Reads that the queue accepted.
    pub reads: u64,
    /// Reads waiting now.
    pub read_queue_length: u64,
    /// Writes and reads refused because their queue was full.
    pub overloads: u64,
}

/// The living counters. They order nothing, so relaxed access is enough.
#[derive(Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    operations: AtomicU64,
    batch_size_sum: AtomicU64,
    batch_size_max: AtomicU64,
    duplicates: AtomicU64,
    errors: AtomicU64,
    storage_errors: AtomicU64,
    failing: AtomicU64,
    reads: AtomicU64,
    overloads: AtomicU64,
}

impl Counters {
    pub(super) fn count_accepted_write(&self) {
        add(&self.operations, 1);
    }

    pub(super) fn count_accepted_read(&self) {
        add(&self.reads, 1);
    }

    pub(super) fn count_refusal(&self, refusal: &StoreError) {
        if matches!(refusal, StoreError::Overloaded) {
            add(&self.overloads, 1);
        }
    }

    pub(super) fn count_batch(&self, results: &[Result<WriteOutcome, StoreError>]) {
        let size = results.len() as u64;
        add(&self.commits, 1);
        add(&self.batch_size_sum, size);
        self.batch_size_max.fetch_max(size, Ordering::Relaxed);
        let failed = |result: &_| matches!(result, Err(StoreError::Storage(_)));
        if results.iter().any(failed) {
            add(&self.failing, 1);
        } else {
            self.failing.store(0, Ordering::Relaxed);
        }
        for result in results {
            match result {
                Ok(WriteOutcome::Appended(appended)) if appended.duplicate => {
                    add(&self.duplicates, 1);
                }
                Ok(_) => {}
                Err(error) => {
                    add(&self.errors, 1);
                    if matches!(error, StoreError::Storage(_)) {
                        add(&self.storage_errors, 1);
                    }
                }
            }
        }
    }

    /// The counters now, beside what the queues hold.
    pub(super) fn snapshot(&self, queue_length: usize, read_queue_length: usize) -> StoreCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounters {
            commits: read(&self.commits),
            operations: read(&self.operations),
            batch_size_sum: read(&self.batch_size_sum),
            batch_size_max: read(&self.batch_size_max),
            queue_length: queue_length as u64,
            duplicates: read(&self.duplicates),
            errors: read(&self.errors),
            storage_errors: read(&self.storage_errors),
            failing: read(&self.failing),
            reads: read(&self.reads),
            read_queue_length: read_queue_length as u64,
            overloads: read(&self.overloads),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Das whose disk was full stayed healthy while every write failed.
    #[test]
    fn failing_batches_are_counted_until_one_succeeds() {
        let counters = Counters::default();
        let failing = || counters.snapshot(0, 0).failing;
        let storage = || Err(StoreError::from(rusqlite::Error::InvalidQuery));
        for expected in 1..=3 {
            counters.count_batch(&[storage(), storage()]);
            assert_eq!(failing(), expected);
        }
        counters.count_batch(&[Err(StoreError::Overloaded)]);
        assert_eq!(failing(), 0, "a refusal is not the storage's fault");
    }
}
