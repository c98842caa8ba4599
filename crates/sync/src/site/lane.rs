//! A thread that owns one lane of an adapter and does one job after another.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use crate::limits::LANE_JOBS_MAX;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The way to the thread. It ends, after the job at hand, when this is dropped.
pub(super) struct Lane<T: ?Sized> {
    jobs: SyncSender<Job<T>>,
    /// Gone with the thread.
    alive: Weak<()>,
}

impl<T: ?Sized + Send + 'static> Lane<T> {
    /// Starts the thread.
    pub(super) fn start(name: &str, mut target: Box<T>) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job<T>>(LANE_JOBS_MAX);
        let life = Arc::new(());
        let alive = Arc::downgrade(&life);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job(target.as_mut());
                }
                // Here, or when a job panics.
                drop(life);
            })?;
        Ok(Self { jobs, alive })
    }

    /// Whether its thread runs.
    pub(super) fn is_open(&self) -> bool {
        self.alive.strong_count() > 0
    }

    /// Has a job done. None when too many wait, or the thread has ended: a panic
    /// of the adapter ends it.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, waiter) = oneshot::channel();
        let job: Job<T> = Box::new(move |target| {
            // Whoever asked may be gone; the job is done all the same.
            let _ = answer.send(job(target));
        });
        self.jobs.try_send(job).ok()?;
        waiter.await.ok()
    }
}
