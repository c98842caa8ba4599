//! The thread of captured writes: waits for new ones, reads and erases them.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use waystation_mailbox::{Receiver as MailReceiver, Sender as MailSender, mailbox};

use crate::adapter::{AdapterError, Capture};
use crate::limits::{LANE_JOBS_MAX, OUTBOX_READ_BYTES};

/// Longest wait for new writes before jobs are looked at.
const SLICE: Duration = Duration::from_millis(20);

/// After this a capture that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread tells.
pub(super) enum Captured {
    /// There are captured writes up to this number.
    Through(u64),
    /// Nothing is captured for now, and why.
    Stands(String),
    /// It is again.
    GoesOn,
}

enum Job {
    Read {
        after: u64,
        changes_max: usize,
        answer: oneshot::Sender<Result<Vec<Bytes>, AdapterError>>,
    },
    Erase(u64),
    /// The copy began anew, and its numbers with it.
    Reset,
}

/// The way to the thread.
pub(super) struct CaptureLane {
    jobs: SyncSender<Job>,
}

struct Thread {
    capture: Box<dyn Capture>,
    jobs: Receiver<Job>,
    captured: MailSender<Captured>,
    known: u64,
    /// Why it stands, as it was told.
    trouble: Option<String>,
    /// The hub has them; those above `erased` are still to be erased.
    erasable: u64,
    erased: u64,
}

impl CaptureLane {
    /// Starts the thread; the last captured number comes out of the mailbox
    /// whenever it grows, and why there is none.
    pub(super) fn start(capture: Box<dyn Capture>) -> io::Result<(Self, MailReceiver<Captured>)> {
        let (jobs, queue) = sync_channel(LANE_JOBS_MAX);
        let (captured, numbers) = mailbox(LANE_JOBS_MAX);
        let thread = Thread {
            capture,
            jobs: queue,
            captured,
            known: 0,
            trouble: None,
            erasable: 0,
            erased: 0,
        };
        std::thread::Builder::new()
            .name("sync capture".to_owned())
            .spawn(move || thread.run())?;
        Ok((Self { jobs }, numbers))
    }

    pub(super) fn read(
        &self,
        after: u64,
        changes_max: usize,
    ) -> oneshot::Receiver<Result<Vec<Bytes>, AdapterError>> {
        let (answer, waiter) = oneshot::channel();
        let read = Job::Read {
            after,
            changes_max,
            answer,
        };
        // Without room the waiter hears that nobody answers.
        let _ = self.jobs.try_send(read);
        waiter
    }

    pub(super) fn erase(&self, through: u64) {
        // Without room they stay, and the next one erases them too.
        let _ = self.jobs.try_send(Job::Erase(through));
    }

    pub(super) fn reset(&self) {
        let _ = self.jobs.try_send(Job::Reset);
    }
}

impl Thread {
    fn run(mut self) {
        loop {
            // With writes that the hub lacks, jobs are what matters.
            let is_behind = self.known > self.erased;
            let job = if is_behind {
                self.jobs.recv_timeout(SLICE)
            } else {
                self.jobs.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            match job {
                Ok(job) => self.perform(job),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.look(if is_behind { Duration::ZERO } else { SLICE });
                }
            }
        }
    }

    fn look(&mut self, wait: Duration) {
        self.erase();
        let found = self.capture.wait(self.known, wait);
        self.tell(found.as_ref().err().map(ToString::to_string));
        match found {
            Ok(last) if last > self.known => {
                if self.captured.try_send(Captured::Through(last)).is_ok() {
                    self.known = last;
                }
            }
            Ok(_) => {}
            Err(_) => {
                if let Ok(job) = self.jobs.recv_timeout(RETRY) {
                    self.perform(job);
                }
            }
        }
    }

    /// Tells why it stands, each reason once. Without room the next look does.
    fn tell(&mut self, trouble: Option<String>) {
        if trouble == self.trouble {
            return;
        }
        let told = if let Some(error) = &trouble {
            tracing::error!(error, "the capture of writes stands");
            Captured::Stands(error.clone())
        } else {
            tracing::info!("the capture of writes goes on");
            Captured::GoesOn
        };
        if self.captured.try_send(told).is_ok() {
            self.trouble = trouble;
        }
    }

    fn perform(&mut self, job: Job) {
        match job {
            Job::Read {
                after,
                changes_max,
                answer,
            } => {
                let read = self.capture.read(after, changes_max, OUTBOX_READ_BYTES);
                // Whoever asked may be gone.
                let _ = answer.send(read);
            }
            Job::Erase(through) => {
                self.erasable = self.erasable.max(through);
                self.erase();
            }
            Job::Reset => (self.known, self.erasable, self.erased) = (0, 0, 0),
        }
    }

    /// Erases what may go, if there is something; the next look tries again.
    fn erase(&mut self) {
        let through = self.erasable;
        if through <= self.erased {
            return;
        }
        match self.capture.erase(through) {
            Ok(()) => self.erased = through,
            Err(AdapterError::Unavailable(error)) => {
                tracing::debug!(error, "captured writes are erased later");
            }
            Err(error) => tracing::warn!(%error, "cannot erase captured writes"),
        }
    }
}
